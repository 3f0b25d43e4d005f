package audit

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

// smallDisk mounts a file system of the given size, in bytes, and returns a directory on it.
func smallDisk(t *testing.T, size int) string {
	t.Helper()
	dir := t.TempDir()
	if err := unix.Mount("none", dir, "tmpfs", 0, fmt.Sprintf("size=%d", size)); err != nil {
		t.Skipf("a small file system cannot be mounted here (%v): run as root to test a full disk", err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	return dir
}

// fill takes all the room that is left on dir's file system, and returns what gives it back.
func fill(t *testing.T, dir string) (free func()) {
	t.Helper()
	path := filepath.Join(dir, "ballast")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for err == nil {
		_, err = f.Write(make([]byte, 4096))
	}
	if !errors.Is(err, unix.ENOSPC) {
		t.Fatal(err)
	}
	return func() {
		if err := os.Remove(path); err != nil {
			t.Error(err)
		}
	}
}

// awaitErr waits until the log's state is what is wanted. The deadline is there for a test that hangs.
func awaitErr(t *testing.T, l *Log, want error) {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); !errors.Is(l.Err(), want); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("err is %v, not %v", l.Err(), want)
		}
	}
}

func TestFullDisk(t *testing.T) {
	dir := smallDisk(t, 1<<20)
	l := openTest(t, Config{Directory: dir})
	appendIDs(t, l, "before")
	free := fill(t, dir)

	// Append until there is no room; what was acknowledged counts.
	var want []string
	for i := 0; ; i++ {
		id := fmt.Sprint("filling ", i)
		_, err := l.Append(t.Context(), Entry{Kind: Intent, RequestID: id, Reason: strings.Repeat("r", 900)})
		if err != nil {
			if !errors.Is(err, ErrFull) || !errors.Is(err, unix.ENOSPC) {
				t.Fatal(err)
			}
			break
		}
		want = append(want, id)
	}
	if !errors.Is(l.Err(), ErrFull) {
		t.Fatalf("Err: %v", l.Err())
	}
	if _, err := l.Append(t.Context(), Entry{Kind: Intent}); !errors.Is(err, ErrFull) {
		t.Fatalf("while full: %v", err)
	}
	// What the short write left was cut off, so the file ends with a whole line.
	content, err := os.ReadFile(filepath.Join(dir, segmentName(0)))
	if err != nil || !bytes.HasSuffix(content, []byte("}\n")) {
		t.Fatalf("the segment ends with %q (%v)", content[max(0, len(content)-50):], err)
	}
	want = append([]string{"before"}, want...)
	if diff := cmp.Diff(want, readIDs(t, Read(dir), 0)); diff != "" {
		t.Fatal(diff)
	}

	free()
	awaitErr(t, l, nil)
	appendIDs(t, l, "after")
	if diff := cmp.Diff(append(want, "after"), readIDs(t, Read(dir), 0)); diff != "" {
		t.Fatal(diff)
	}
}

func TestFullDiskUnderLoad(t *testing.T) {
	dir := smallDisk(t, 1<<20)
	l := openTest(t, Config{Directory: dir, SegmentSize: 20_000})
	acknowledged := 0
	for round := range 5 {
		free := fill(t, dir)
		counts := make(chan int)
		const workers = 64
		for range workers {
			go func() {
				n := 0
				defer func() { counts <- n }()
				for {
					if _, err := l.Append(context.Background(), Entry{Kind: Intent, Reason: strings.Repeat("r", 900)}); errors.Is(err, ErrFull) {
						return
					} else if err != nil {
						t.Error(err)
						return
					}
					n++
				}
			}()
		}
		for range workers {
			acknowledged += <-counts
		}
		free()
		awaitErr(t, l, nil)
		appendIDs(t, l, fmt.Sprint("round ", round))
		acknowledged++
	}
	if n := len(readIDs(t, Read(dir), 0)); n != acknowledged || uint64(n) != l.Size() {
		t.Errorf("%d lines, but %d were acknowledged, and the size is %d", n, acknowledged, l.Size())
	}
}

// A disk that is full at the start, where not even a segment can be made, is waited for like any other.
func TestOpenOnAFullDisk(t *testing.T) {
	dir := smallDisk(t, 1<<20)
	l := openTest(t, Config{Directory: dir})
	appendIDs(t, l, "before")
	l.Close()
	// A tmpfs takes no block for an empty file, but it can run out of inodes.
	if err := unix.Mount("none", dir, "tmpfs", unix.MS_REMOUNT, "nr_inodes=5"); err != nil {
		t.Skip(err)
	}
	var ballast []string
	for i := 0; ; i++ {
		path := filepath.Join(dir, fmt.Sprint("ballast", i))
		if err := os.WriteFile(path, nil, 0o600); errors.Is(err, unix.ENOSPC) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		ballast = append(ballast, path)
	}
	l = openTest(t, Config{Directory: dir})
	if _, err := l.Append(t.Context(), Entry{Kind: Intent}); !errors.Is(err, ErrFull) || !errors.Is(l.Err(), ErrFull) {
		t.Fatalf("append: %v, err: %v", err, l.Err())
	}
	for _, path := range ballast {
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
	}
	awaitErr(t, l, nil)
	appendIDs(t, l, "after")
	if diff := cmp.Diff([]string{"before", "after"}, readIDs(t, Read(dir), 0)); diff != "" {
		t.Fatal(diff)
	}
}

// A new segment that cannot be opened, since other parts of the process use up all descriptors, is waited for like a full
// disk: nothing was written, so nothing is uncertain.
func TestNoDescriptors(t *testing.T) {
	dir := t.TempDir()
	out, err := childCommand(t, "descriptors", dir).Output()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	var want, entries []string
	for round := range 3 {
		name := filepath.Join(dir, segmentName(uint64(2*round+1)))
		want = append(want, fmt.Sprintf("before%d: ok %d", round, 2*round), fmt.Sprintf("without%d: full 0", round),
			"no room for the audit log: making "+name+", for want of file descriptors or memory and not of disk space: too many open files",
			fmt.Sprintf("after%d: ok %d", round, 2*round+1))
		entries = append(entries, fmt.Sprint("before", round), fmt.Sprint("after", round))
	}
	if diff := cmp.Diff(append(want, "close: <nil>"), strings.Split(strings.TrimSpace(string(out)), "\n")); diff != "" {
		t.Fatalf("what the child saw (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(entries, readIDs(t, Read(dir), 0)); diff != "" {
		t.Fatal(diff)
	}
}

// Real system calls that fail, by strace's fault injection, on the segment that the child makes and on the lock file, which
// is what probes a full disk.
func TestInjectedFaults(t *testing.T) {
	strace, err := exec.LookPath("strace")
	if err != nil {
		t.Fatal("strace is not installed: run packaging/prerequisites")
	}
	failed := []string{"append: failed 0", "err: failed", "append: failed 0", "err: failed", "append: failed 0", "err: failed", "close: <nil>"}
	full := []string{"append: full 0", "err: full", "append: full 0", "err: full", "append: full 0", "err: full", "close: <nil>"}
	for _, test := range []struct {
		name, inject string
		env          []string
		want         []string
		// survivors are the child's entries that a later reader finds; nobody relies on those that were not acknowledged.
		survivors []string
	}{
		{name: "sync fails with EIO", inject: "fdatasync:error=EIO", want: failed, survivors: []string{"child0"}},
		{name: "sync fails with ENOSPC", inject: "fdatasync:error=ENOSPC", want: failed, survivors: []string{"child0"}},
		{name: "write fails with EIO", inject: "write:error=EIO", want: failed},
		{name: "write fails with EROFS", inject: "write:error=EROFS", want: failed},
		{name: "write fails with EFBIG", inject: "write:error=EFBIG", want: failed},
		{name: "write fails with ENOSPC", inject: "write,pwrite64:error=ENOSPC", want: full},
		{name: "write fails with EDQUOT", inject: "write,pwrite64:error=EDQUOT", want: full},
		{name: "the segment is not made, ENFILE", inject: "openat:error=ENFILE", want: full},
		{name: "the segment is not made, ENOMEM", inject: "openat:error=ENOMEM", want: full},
		{name: "the segment is not made, ENOSPC", inject: "openat:error=ENOSPC", want: full},
		{name: "sync takes long", inject: "fdatasync:delay_enter=3000000:when=1", env: []string{"AUDIT_TEST_STALL=100ms", "AUDIT_TEST_AWAIT=1"},
			want: []string{"append: stalled 0", "err: stalled", "append: stalled 0", "err: stalled", "append: stalled 0", "err: stalled",
				"afterwards: ok", "close: <nil>"},
			survivors: []string{"child0", "afterwards"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			l := openTest(t, Config{Directory: dir})
			appendIDs(t, l, "a", "b")
			if err := l.Close(); err != nil {
				t.Fatal(err)
			}
			call, _, _ := strings.Cut(test.inject, ":")
			segment, lock := filepath.Join(dir, segmentName(2)), filepath.Join(dir, lockName)
			if call == "openat" {
				segment, lock = segmentName(2), segmentName(2) // as it is called in the directory
			}
			cmd := childCommand(t, "steps", dir, strace, "-f", "-qq", "-o", "/dev/null", "-e", "trace="+call, "-e", "inject="+test.inject,
				"-P", segment, "-P", lock)
			cmd.Env = append(cmd.Env, test.env...)
			out, err := cmd.Output()
			if err != nil {
				t.Fatalf("%v: %s", err, out)
			}
			if diff := cmp.Diff(test.want, strings.Split(strings.TrimSpace(string(out)), "\n")); diff != "" {
				t.Fatalf("what the child saw (-want +got):\n%s", diff)
			}
			again := openTest(t, Config{Directory: dir})
			appendIDs(t, again, "after")
			want := append(append([]string{"a", "b"}, test.survivors...), "after")
			if diff := cmp.Diff(want, slices.Compact(readIDs(t, Read(dir), 0))); diff != "" {
				t.Fatalf("after a restart (-want +got):\n%s", diff)
			}
			if len(test.survivors) > 0 && len(segmentNames(t, dir)) != 3 {
				t.Errorf("the suspect segment was appended to: %v", segmentNames(t, dir))
			}
		})
	}
}
