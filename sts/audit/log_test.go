package audit

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

func TestAppendAndRead(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "log", "audit")
	l := openTest(t, Config{Directory: dir, Origin: "sts.example.com/audit"})
	for i, id := range []string{"a", "b\n<c>", "d"} {
		index, err := l.Append(t.Context(), Entry{Kind: Denied, RequestID: id})
		if err != nil || index != uint64(i) {
			t.Fatalf("append %d: index %d, error %v", i, index, err)
		}
	}
	if l.Size() != 3 || l.Err() != nil {
		t.Fatalf("size %d, err %v", l.Size(), l.Err())
	}
	if diff := cmp.Diff([]string{"a", "b\n<c>", "d"}, readIDs(t, Read(dir), 0)); diff != "" {
		t.Fatal(diff)
	}
	// The bytes on the disk are the lines, and nothing else.
	file, err := os.ReadFile(filepath.Join(dir, segmentName(0)))
	if err != nil {
		t.Fatal(err)
	}
	var lines strings.Builder
	for r := range Read(dir) {
		lines.Write(r.Line)
		lines.WriteByte('\n')
		if r.Entry.Time.IsZero() || time.Since(r.Entry.Time).Abs() > time.Minute {
			t.Errorf("time %v was not set", r.Entry.Time)
		}
	}
	if string(file) != lines.String() {
		t.Fatalf("file %q, lines %q", file, lines.String())
	}
	for path, want := range map[string]os.FileMode{dir: 0o750, filepath.Join(dir, segmentName(0)): 0o640} {
		if info, err := os.Stat(path); err != nil || info.Mode().Perm() != want {
			t.Errorf("%s: mode %v, want %v (%v)", path, info.Mode().Perm(), want, err)
		}
	}
}

func TestAppendFromManyGoroutines(t *testing.T) {
	dir := t.TempDir()
	l := openTest(t, Config{Directory: dir, SegmentSize: 10_000})
	const workers, each = 16, 50
	indices := make([][]uint64, workers)
	var wg sync.WaitGroup
	for w := range workers {
		wg.Go(func() {
			for i := range each {
				index, err := l.Append(context.Background(), Entry{Kind: Intent, RequestID: fmt.Sprintf("%d-%d", w, i)})
				if err != nil {
					t.Error(err)
				}
				indices[w] = append(indices[w], index)
			}
		})
	}
	wg.Wait()
	ids := readIDs(t, Read(dir), 0)
	if len(ids) != workers*each || l.Size() != workers*each {
		t.Fatalf("%d lines, size %d, want %d", len(ids), l.Size(), workers*each)
	}
	for w := range workers {
		for i, index := range indices[w] {
			if want := fmt.Sprintf("%d-%d", w, i); ids[index] != want {
				t.Errorf("index %d was given to %s, but holds %s", index, want, ids[index])
			}
		}
	}
	if n := len(segmentNames(t, dir)); n < 3 {
		t.Errorf("%d segments: not rotated", n)
	}
	for _, name := range segmentNames(t, dir) {
		if info, err := os.Stat(filepath.Join(dir, name)); err != nil || info.Size() > 10_000 {
			t.Errorf("%s: %d bytes (%v)", name, info.Size(), err)
		}
	}
}

func TestEveryOpenStartsASegment(t *testing.T) {
	dir := t.TempDir()
	for _, id := range []string{"a", "", "b", "", "c"} {
		l, err := Open(t.Context(), Config{Directory: dir})
		if err != nil {
			t.Fatal(err)
		}
		if id != "" {
			appendIDs(t, l, id, id)
		}
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
	}
	want := []string{segmentName(0), segmentName(2), segmentName(4)} // the empty ones were used
	if diff := cmp.Diff(want, segmentNames(t, dir)); diff != "" {
		t.Fatal(diff)
	}
	if diff := cmp.Diff([]string{"a", "a", "b", "b", "c", "c"}, readIDs(t, Read(dir), 0)); diff != "" {
		t.Fatal(diff)
	}
}

func TestOlderSegmentsMayBeMovedAway(t *testing.T) {
	dir := t.TempDir()
	for _, id := range []string{"a", "b"} {
		l := openTest(t, Config{Directory: dir})
		appendIDs(t, l, id, id)
		l.Close()
	}
	if err := os.Remove(filepath.Join(dir, segmentName(0))); err != nil {
		t.Fatal(err)
	}
	l := openTest(t, Config{Directory: dir})
	if l.Size() != 4 {
		t.Fatalf("size %d, want 4", l.Size())
	}
	if diff := cmp.Diff([]string{"b", "b"}, readIDs(t, Read(dir), 2)); diff != "" {
		t.Fatal(diff)
	}
}

func TestSecondOpenerIsLockedOut(t *testing.T) {
	dir := t.TempDir()
	l := openTest(t, Config{Directory: dir})
	if _, err := Open(t.Context(), Config{Directory: dir}); !errors.Is(err, ErrLocked) {
		t.Fatalf("second open in this process: %v", err)
	}
	out, err := childCommand(t, "steps", dir).Output()
	if err != nil || !strings.Contains(string(out), ErrLocked.Error()) {
		t.Fatalf("open in another process: %q, %v", out, err)
	}
	appendIDs(t, l, "still works")
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	openTest(t, Config{Directory: dir})
}

func TestClose(t *testing.T) {
	dir := t.TempDir()
	l := openTest(t, Config{Directory: dir})
	var wg sync.WaitGroup
	accepted := make([]bool, 200)
	for i := range accepted {
		wg.Go(func() {
			_, err := l.Append(context.Background(), Entry{Kind: Intent, RequestID: fmt.Sprint(i)})
			if accepted[i] = err == nil; err != nil && !errors.Is(err, ErrClosed) {
				t.Error(err)
			}
		})
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	wg.Wait()
	present := map[string]bool{}
	for _, id := range readIDs(t, Read(dir), 0) {
		present[id] = true
	}
	for i, ok := range accepted {
		if ok != present[fmt.Sprint(i)] {
			t.Errorf("entry %d: accepted %v, present %v", i, ok, present[fmt.Sprint(i)])
		}
	}
	if err := l.Err(); !errors.Is(err, ErrClosed) {
		t.Errorf("Err: %v", err)
	}
	if err := l.Close(); err != nil {
		t.Errorf("second Close: %v", err)
	}
}

func TestAppendRefuses(t *testing.T) {
	l := openTest(t, Config{Directory: t.TempDir()})
	for _, kind := range []Kind{"", "Intent", "a b", Kind(strings.Repeat("x", 33))} {
		if _, err := l.Append(t.Context(), Entry{Kind: kind}); err == nil {
			t.Errorf("kind %q was accepted", kind)
		}
	}
	done, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := l.Append(done, Entry{Kind: Intent}); !errors.Is(err, context.Canceled) {
		t.Errorf("with a context that is done: %v", err)
	}
	if l.Size() != 0 {
		t.Errorf("%d entries were written nonetheless", l.Size())
	}
}

// A queue is bounded: who finds it full waits as long as its context allows.
func TestFullQueue(t *testing.T) {
	l := &Log{wake: make(chan struct{}, 1)} // no writer: nothing ever leaves the queue by itself
	line := make([]byte, MaxLine)
	for range maxBatch / MaxLine {
		if _, _, err := l.enqueue(t.Context(), line); err != nil {
			t.Fatal(err)
		}
	}
	short, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if _, _, err := l.enqueue(short, line); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("a full queue took a line: %v", err)
	}
	entered := make(chan error)
	go func() {
		_, _, err := l.enqueue(context.Background(), line)
		entered <- err
	}()
	if b, _ := l.take(); b.entries != maxBatch/MaxLine {
		t.Fatalf("%d entries in the queue", b.entries)
	}
	if err := <-entered; err != nil {
		t.Fatal(err)
	}
}

func TestOpenRefusesConfiguration(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]Config{
		"no directory":   {},
		"a file":         {Directory: file},
		"negative size":  {Directory: t.TempDir(), SegmentSize: -1},
		"spaced origin":  {Directory: t.TempDir(), Origin: "sts example"},
		"origin of two":  {Directory: t.TempDir(), Origin: "sts\nexample"},
		"below no place": {Directory: "/proc/nothing/here"},
	} {
		if l, err := Open(t.Context(), c); err == nil {
			l.Close()
			t.Errorf("%s: opened", name)
		} else if !strings.HasPrefix(err.Error(), "opening audit log: ") {
			t.Errorf("%s: error does not say what was being done: %v", name, err)
		}
	}
}

// What an operator's other tools may do to the segment that is being written must not pass for a durable entry.
func TestSegmentChangedByOthers(t *testing.T) {
	for name, change := range map[string]func(path string) error{
		"removed": os.Remove,
		"renamed": func(p string) error { return os.Rename(p, p+".1") },
		// By a file as long as this one will be after the next append.
		"replaced": func(p string) error {
			content, err := os.ReadFile(p)
			return errors.Join(err, os.Rename(p, p+".1"), os.WriteFile(p, append(content, content...), 0o640))
		},
		"truncated": func(p string) error { return os.Truncate(p, 0) },
		"written to": func(p string) error {
			f, err := os.OpenFile(p, os.O_WRONLY|os.O_APPEND, 0)
			if err != nil {
				return err
			}
			_, err = f.WriteString("x\n")
			return errors.Join(err, f.Close())
		},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			l := openTest(t, Config{Directory: dir})
			appendIDs(t, l, "before")
			if err := change(filepath.Join(dir, segmentName(0))); err != nil {
				t.Fatal(err)
			}
			if _, err := l.Append(t.Context(), Entry{Kind: Intent, RequestID: "before"}); !errors.Is(err, ErrFailed) {
				t.Fatalf("append: %v", err)
			}
			if _, err := l.Append(t.Context(), Entry{Kind: Intent}); !errors.Is(err, ErrFailed) || !errors.Is(l.Err(), ErrFailed) {
				t.Fatalf("not latched: %v, %v", err, l.Err())
			}
		})
	}
}

func TestReadSince(t *testing.T) {
	dir := t.TempDir()
	l := openTest(t, Config{Directory: dir, SegmentSize: 1}) // a segment for each entry
	start := time.Date(2026, 8, 1, 0, 0, 0, 0, time.UTC)
	for hour := range 6 {
		if _, err := l.Append(t.Context(), Entry{Kind: Intent, RequestID: fmt.Sprint(hour), Time: start.Add(time.Duration(hour) * time.Hour)}); err != nil {
			t.Fatal(err)
		}
	}
	if diff := cmp.Diff([]string{"3", "4", "5"}, readIDs(t, ReadSince(dir, start.Add(3*time.Hour)), 3)); diff != "" {
		t.Error(diff)
	}
	if got := readIDs(t, ReadSince(dir, start.AddDate(1, 0, 0)), 0); got != nil {
		t.Errorf("in a year: %v", got)
	}
	// Segments that ended before are not opened at all: damage there goes unnoticed.
	if err := os.WriteFile(filepath.Join(dir, segmentName(1)), []byte("damage\n"), 0o640); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"3", "4", "5"}, readIDs(t, ReadSince(dir, start.Add(3*time.Hour)), 3)); diff != "" {
		t.Error(diff)
	}
	var last error
	for _, err := range Read(dir) {
		last = err
	}
	if last == nil || !strings.Contains(last.Error(), segmentName(1)+":1: ") {
		t.Errorf("reading all of it: %v", last)
	}
}

func TestReadOfNothing(t *testing.T) {
	if ids := readIDs(t, Read(t.TempDir()), 0); ids != nil {
		t.Errorf("an empty directory holds %v", ids)
	}
	for _, err := range Read(filepath.Join(t.TempDir(), "missing")) {
		if !errors.Is(err, unix.ENOENT) {
			t.Errorf("a missing directory: %v", err)
		}
	}
}

// A reader beside the writer sees whole lines, in order, and no error.
func TestReadWhileWriting(t *testing.T) {
	dir := t.TempDir()
	l := openTest(t, Config{Directory: dir, SegmentSize: 5_000})
	stop := make(chan struct{})
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for i := 0; ; i++ {
				select {
				case <-stop:
					return
				default:
					appendIDs(t, l, strings.Repeat("x", i%100))
				}
			}
		})
	}
	for l.Size() < 2000 {
		readIDs(t, Read(dir), 0)
	}
	close(stop)
	wg.Wait()
}

func TestFilter(t *testing.T) {
	e := Entry{Time: when, Kind: Denied, Scope: "Octo/Cat", Identity: "i", Issuer: "s", Subject: "u", RequestID: "r", Decision: "denied"}
	for _, test := range []struct {
		f    Filter
		want bool
	}{
		{Filter{}, true},
		{Filter{Scope: "octo/cat", Identity: "i", Issuer: "s", Subject: "u", RequestID: "r", Decision: "denied", Kind: Denied, Since: when, Until: when.Add(1)}, true},
		{Filter{Scope: "octo"}, false},
		{Filter{Identity: "I"}, false},
		{Filter{Issuer: "x"}, false},
		{Filter{Subject: "x"}, false},
		{Filter{RequestID: "x"}, false},
		{Filter{Decision: "granted"}, false},
		{Filter{Kind: Intent}, false},
		{Filter{Since: when.Add(1)}, false},
		{Filter{Until: when}, false},
	} {
		if got := test.f.Match(e); got != test.want {
			t.Errorf("%+v: %v, want %v", test.f, got, test.want)
		}
	}
}
