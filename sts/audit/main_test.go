package audit

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// The tests run this binary again as another process, to kill it or to have strace fail its system calls.
func TestMain(m *testing.M) {
	switch os.Getenv("AUDIT_TEST_CHILD") {
	case "":
		os.Exit(m.Run())
	case "load":
		childLoad()
	case "steps":
		childSteps()
	case "descriptors":
		childDescriptors()
	case "signed":
		childSigned()
	case "signed load":
		childSignedLoad()
	}
}

// childLoad appends from 16 goroutines until it is killed, and prints "index id" for each entry that was acknowledged.
func childLoad() {
	dir, life := os.Getenv("AUDIT_TEST_DIR"), os.Getenv("AUDIT_TEST_LIFE")
	l, err := Open(context.Background(), Config{Directory: dir, SegmentSize: 20_000})
	if err != nil {
		fmt.Println("error", err)
		os.Exit(1)
	}
	var wg sync.WaitGroup
	for worker := range 16 {
		wg.Go(func() {
			for i := 0; ; i++ {
				id := fmt.Sprintf("%s-%d-%d", life, worker, i)
				index, err := l.Append(context.Background(), Entry{Kind: Intent, RequestID: id, Reason: strings.Repeat("r", i%500)})
				if err != nil {
					fmt.Println("error", err)
					os.Exit(1)
				}
				// One write(2) to the pipe: a kill leaves it whole or undone.
				os.Stdout.WriteString(fmt.Sprintf("%d %s\n", index, id))
			}
		})
	}
	wg.Wait()
}

// childSteps appends three entries one after the other and prints what became of each, and what Err says then.
func childSteps() {
	stall, err := time.ParseDuration(os.Getenv("AUDIT_TEST_STALL"))
	if err != nil {
		stall = stallLimit
	}
	l, err := open(context.Background(), Config{Directory: os.Getenv("AUDIT_TEST_DIR")}, stall)
	if err != nil {
		fmt.Println("open:", err)
		return
	}
	for i := range 3 {
		index, err := l.Append(context.Background(), Entry{Kind: Intent, RequestID: fmt.Sprint("child", i)})
		fmt.Printf("append: %s %d\n", nameOf(err), index)
		fmt.Printf("err: %s\n", nameOf(l.Err()))
	}
	if os.Getenv("AUDIT_TEST_AWAIT") != "" {
		// strace counts calls by thread, so another thread of the writer may be delayed once more.
		for err := ErrStalled; err != nil; {
			for l.Err() != nil {
				time.Sleep(10 * time.Millisecond)
			}
			_, err = l.Append(context.Background(), Entry{Kind: Intent, RequestID: "afterwards"})
		}
		fmt.Println("afterwards: ok")
	}
	fmt.Println("close:", l.Close())
}

// childDescriptors appends with segments of one entry each, in between without a file descriptor to spare, and prints
// what became of each. A limit of 0 leaves open files alone and lets no other be opened.
func childDescriptors() {
	l, err := Open(context.Background(), Config{Directory: os.Getenv("AUDIT_TEST_DIR"), SegmentSize: 1})
	if err != nil {
		fmt.Println("open:", err)
		return
	}
	step := func(id string) {
		index, err := l.Append(context.Background(), Entry{Kind: Intent, RequestID: id})
		fmt.Printf("%s: %s %d\n", id, nameOf(err), index)
	}
	var limit unix.Rlimit
	limitTo := func(n uint64) {
		err := unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: n, Max: limit.Max})
		if err != nil {
			fmt.Println("setrlimit:", err)
		}
	}
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		fmt.Println("getrlimit:", err)
	}
	for round := range 3 {
		step(fmt.Sprint("before", round))
		limitTo(0)
		step(fmt.Sprint("without", round))
		time.Sleep(2 * probeInterval) // the probe finds nothing better
		fmt.Println(l.Err())
		limitTo(limit.Cur)
		for deadline := time.Now().Add(30 * time.Second); l.Err() != nil && time.Now().Before(deadline); {
			time.Sleep(time.Millisecond)
		}
		step(fmt.Sprint("after", round))
	}
	fmt.Println("close:", l.Close())
}

func nameOf(err error) string {
	switch {
	case err == nil:
		return "ok"
	case errors.Is(err, ErrFull):
		return "full"
	case errors.Is(err, ErrStalled):
		return "stalled"
	case errors.Is(err, ErrFailed):
		return "failed"
	}
	return err.Error()
}

// childCommand runs this binary as the given child, under wrapper (strace and its options) where there is one.
func childCommand(t testing.TB, child, dir string, wrapper ...string) *exec.Cmd {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	args := append(wrapper, self)
	cmd := exec.CommandContext(t.Context(), args[0], args[1:]...)
	cmd.Env = append(os.Environ(), "AUDIT_TEST_CHILD="+child, "AUDIT_TEST_DIR="+dir)
	cmd.Stderr = os.Stderr
	return cmd
}

func openTest(t testing.TB, c Config) *Log {
	t.Helper()
	l, err := Open(context.Background(), c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := l.Close(); err != nil {
			t.Error(err)
		}
	})
	return l
}

// appendIDs appends one entry for each request ID.
func appendIDs(t testing.TB, l *Log, ids ...string) {
	t.Helper()
	for _, id := range ids {
		if _, err := l.Append(context.Background(), Entry{Kind: Intent, RequestID: id}); err != nil {
			t.Fatal(err)
		}
	}
}

// readIDs returns the request IDs of all records and checks that indices run on without gaps from first.
func readIDs(t testing.TB, records iter.Seq2[Record, error], first uint64) []string {
	t.Helper()
	var ids []string
	for r, err := range records {
		if err != nil {
			t.Fatal(err)
		}
		if r.Index != first+uint64(len(ids)) {
			t.Fatalf("entry %q has index %d, want %d", r.Entry.RequestID, r.Index, first+uint64(len(ids)))
		}
		ids = append(ids, r.Entry.RequestID)
	}
	return ids
}

func segmentNames(t testing.TB, dir string) []string {
	t.Helper()
	paths, err := filepath.Glob(filepath.Join(dir, "*.jsonl"))
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, p := range paths {
		names = append(names, filepath.Base(p))
	}
	return names
}
