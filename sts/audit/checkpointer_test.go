package audit

import (
	"context"
	"crypto"
	"crypto/ed25519"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/mod/sumdb/note"

	"github.com/octo-sts/appliance/sts/audit/checkpoint"
)

const testOrigin = "sts.example.com/audit"

// testSigner countersigns as octo-sts-signer does, with its state in memory.
type testSigner struct {
	key    crypto.Signer
	verify note.Verifier

	mu    sync.Mutex
	last  checkpoint.Checkpoint // guarded by mu
	err   error                 // guarded by mu: the signer is away
	calls int                   // guarded by mu
}

func newTestSigner(t testing.TB) *testSigner {
	t.Helper()
	public, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	vkey, err := checkpoint.EncodeKey(testOrigin, public)
	if err != nil {
		t.Fatal(err)
	}
	verify, err := checkpoint.ParseKey(vkey)
	if err != nil {
		t.Fatal(err)
	}
	return &testSigner{key: key, verify: verify, last: checkpoint.Empty(testOrigin)}
}

func (s *testSigner) countersign(ctx context.Context, r checkpoint.Request) ([]byte, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.calls++
	if s.err != nil {
		return nil, s.err
	}
	if err := r.Extends(s.last); err != nil {
		return nil, err
	}
	s.last = r.Checkpoint
	return checkpoint.Sign(r.Checkpoint, s.key)
}

// away makes the signer fail with err, or work again where that is nil, and returns how often it was asked.
func (s *testSigner) away(err error) (calls int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.err = err
	return s.calls
}

// openSigned opens a log with a checkpointer and a new signer.
func openSigned(t testing.TB, dir string) (*Log, *Checkpointer, *testSigner) {
	t.Helper()
	l := openTest(t, Config{Directory: dir})
	s := newTestSigner(t)
	return l, checkpointerOf(t, l, s), s
}

// checkpointerOf makes a checkpointer that is quicker than the real one.
func checkpointerOf(t testing.TB, l *Log, s *testSigner) *Checkpointer {
	t.Helper()
	c, err := newCheckpointer(t.Context(), CheckpointerConfig{Log: l, Origin: testOrigin, Countersign: s.countersign}, 5*time.Millisecond)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// run has the checkpointer cover the log as it is, and ends it.
func run(t testing.TB, c *Checkpointer) {
	t.Helper()
	stop := start(t, c)
	awaitCovered(t, c)
	if err := stop(); err != nil {
		t.Fatal(err)
	}
}

// start runs the checkpointer. stop ends it, and returns what Run did.
func start(t testing.TB, c *Checkpointer) (stop func() error) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- c.Run(ctx) }()
	stop = sync.OnceValue(func() error {
		cancel()
		return <-done
	})
	t.Cleanup(func() { stop() })
	return stop
}

// await waits until the status is as wanted. The deadline is there for a test that hangs.
func await(t testing.TB, c *Checkpointer, what string, is func(CheckpointStatus) bool) CheckpointStatus {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(time.Millisecond) {
		s := c.Status()
		if is(s) {
			return s
		}
		if time.Now().After(deadline) {
			t.Fatalf("not %s: %+v", what, s)
		}
	}
}

func awaitCovered(t testing.TB, c *Checkpointer) {
	t.Helper()
	await(t, c, "covered", func(s CheckpointStatus) bool { return s.Uncovered == 0 && s.Err == nil })
}

// checkSigned looks whether the newest checkpoint in dir is signed, and covers all of the log as tlog computes it. Segments
// may also be in other directories.
func checkSigned(t testing.TB, dir string, s *testSigner, others ...string) {
	t.Helper()
	content, err := os.ReadFile(filepath.Join(dir, checkpointName))
	if err != nil {
		t.Fatal(err)
	}
	got, err := checkpoint.Open(content, s.verify)
	if err != nil {
		t.Fatal(err)
	}
	want := referenceOf(t, append(others, dir)...)
	if diff := cmp.Diff(checkpoint.Checkpoint{Origin: testOrigin, Size: want.size, Root: rootOf(t, want.size, want)}, got); diff != "" {
		t.Errorf("checkpoint (-want +got):\n%s", diff)
	}
	checkTiles(t, dir, want)
}

func TestCheckpointer(t *testing.T) {
	dir := t.TempDir()
	l := openTest(t, Config{Directory: dir, SegmentSize: 20_000})
	s := newTestSigner(t)
	var signed []string
	c, err := newCheckpointer(t.Context(), CheckpointerConfig{Log: l, Origin: testOrigin, Countersign: s.countersign,
		OnSigned: func(note []byte) { signed = append(signed, string(note)) }}, 5*time.Millisecond)
	if err != nil {
		t.Fatal(err)
	}
	stop := start(t, c)
	time.Sleep(20 * time.Millisecond)
	if status := c.Status(); status != (CheckpointStatus{Signed: checkpoint.Empty(testOrigin)}) || s.away(nil) != 0 {
		t.Errorf("of an empty log: %+v", status)
	}
	for round := range 20 {
		appendIDs(t, l, numbered(fmt.Sprint(round, "-"), 50)...)
		awaitCovered(t, c)
	}
	// Closing the log ends Run, and leaves nothing uncovered.
	appendIDs(t, l, "last")
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	checkSigned(t, dir, s)
	content, err := os.ReadFile(filepath.Join(dir, checkpointName))
	if err != nil || len(signed) < 20 || signed[len(signed)-1] != string(content) {
		t.Errorf("heard of %d checkpoints (%v)", len(signed), err)
	}
	if status := c.Status(); status.Signed.Size != 1001 || status.Uncovered != 0 || !status.Oldest.IsZero() || time.Since(status.SignedAt) > time.Minute {
		t.Errorf("%+v", status)
	}

	// The next start asks once, also with nothing new, and then goes on from there.
	l = openTest(t, Config{Directory: dir, SegmentSize: 20_000})
	c = checkpointerOf(t, l, s)
	if status := c.Status(); status.Signed.Size != 1001 || status.SignedAt.IsZero() {
		t.Errorf("after a restart: %+v", status)
	}
	before := s.away(nil)
	stop = start(t, c)
	await(t, c, "asked", func(CheckpointStatus) bool { return s.away(nil) > before })
	appendIDs(t, l, numbered("more", 10)...)
	awaitCovered(t, c)
	stop()
	checkSigned(t, dir, s)
}

// No checkpoint is asked for more often than the pace, however many entries come.
func TestCheckpointPace(t *testing.T) {
	l := openTest(t, Config{Directory: t.TempDir()})
	s := newTestSigner(t)
	c, err := newCheckpointer(t.Context(), CheckpointerConfig{Log: l, Origin: testOrigin, Countersign: s.countersign}, 100*time.Millisecond)
	if err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	start(t, c)
	calls := 0
	for i := 0; calls < 6; i++ {
		appendIDs(t, l, fmt.Sprint(i))
		calls = s.away(nil)
	}
	if took := time.Since(began); took < 500*time.Millisecond {
		t.Errorf("%d requests in %s", calls, took)
	}
}

// A signer that is away delays checkpoints and nothing else.
func TestSignerAway(t *testing.T) {
	dir := t.TempDir()
	l, c, s := openSigned(t, dir)
	appendIDs(t, l, "a")
	stop := start(t, c)
	awaitCovered(t, c)
	gone := errors.New("HSM removed")
	s.away(gone)
	before := time.Now().Truncate(time.Microsecond)
	appendIDs(t, l, numbered("b", 300)...)
	status := await(t, c, "failing", func(s CheckpointStatus) bool { return errors.Is(s.Err, gone) && s.Uncovered == 300 })
	if status.Contradiction || status.Signed.Size != 1 || status.Oldest.Before(before) || status.Oldest.After(time.Now()) {
		t.Errorf("%+v", status)
	}
	// The end tries once more and then gives up.
	if err := stop(); !errors.Is(err, gone) {
		t.Errorf("Run: %v", err)
	}

	c = checkpointerOf(t, l, s)
	start(t, c)
	status = await(t, c, "failing", func(s CheckpointStatus) bool { return errors.Is(s.Err, gone) })
	if status.Oldest.Before(before) || status.Oldest.After(time.Now()) {
		t.Errorf("after a restart, the oldest uncovered entry is from %s", status.Oldest)
	}
	s.away(nil)
	awaitCovered(t, c)
	checkSigned(t, dir, s)
}

// Signers that are wrong, or were taken over, get nothing into the directory.
func TestWrongAnswers(t *testing.T) {
	_, stranger, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	for name, test := range map[string]struct {
		answer func(checkpoint.Request) ([]byte, error)
		err    string
	}{
		"garbage":      {func(checkpoint.Request) ([]byte, error) { return []byte("ok"), nil }, "what the signer sent"},
		"nothing":      {func(checkpoint.Request) ([]byte, error) { return nil, nil }, "what the signer sent"},
		"another size": {func(r checkpoint.Request) ([]byte, error) { r.Size++; return checkpoint.Sign(r.Checkpoint, stranger) }, "the signer signed"},
		"another root": {func(r checkpoint.Request) ([]byte, error) {
			r.Root[0] ^= 1
			return checkpoint.Sign(r.Checkpoint, stranger)
		}, "the signer signed"},
		"another origin": {func(r checkpoint.Request) ([]byte, error) {
			r.Origin = "x"
			return checkpoint.Sign(r.Checkpoint, stranger)
		}, "the signer signed"},
		"another log's state": {func(r checkpoint.Request) ([]byte, error) {
			return nil, &checkpoint.Conflict{Last: checkpoint.Empty("elsewhere")}
		}, `the signer has checkpoints of the origin "elsewhere"`},
		"a conflict with what was proven": {func(r checkpoint.Request) ([]byte, error) {
			return nil, &checkpoint.Conflict{Last: checkpoint.Empty(testOrigin), Reason: "no reason"}
		}, "no reason"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			l := openTest(t, Config{Directory: dir})
			appendIDs(t, l, "a", "b")
			c, err := newCheckpointer(t.Context(), CheckpointerConfig{Log: l, Origin: testOrigin,
				Countersign: func(_ context.Context, r checkpoint.Request) ([]byte, error) { return test.answer(r) }}, time.Millisecond)
			if err != nil {
				t.Fatal(err)
			}
			start(t, c)
			status := await(t, c, "failing", func(s CheckpointStatus) bool { return s.Err != nil })
			if !strings.Contains(status.Err.Error(), test.err) || status.Contradiction {
				t.Errorf("%+v", status)
			}
			if _, err := os.Stat(filepath.Join(dir, checkpointName)); !errors.Is(err, os.ErrNotExist) {
				t.Errorf("there is a checkpoint: %v", err)
			}
		})
	}
}

// The signer may know more than the directory: a crash came between, the checkpoint file was lost, damaged or is an older
// one. A new proof is all that it takes.
func TestSignerIsAhead(t *testing.T) {
	for name, change := range map[string]func(t *testing.T, path string, old []byte){
		"lost":    func(t *testing.T, path string, old []byte) { removeAll(t, path) },
		"damaged": func(t *testing.T, path string, old []byte) { os.WriteFile(path, []byte("garbage"), 0o640) },
		"empty":   func(t *testing.T, path string, old []byte) { os.WriteFile(path, nil, 0o640) },
		"older":   func(t *testing.T, path string, old []byte) { os.WriteFile(path, old, 0o640) },
	} {
		for _, more := range []int{0, 100} {
			t.Run(fmt.Sprintf("%s, %d more entries", name, more), func(t *testing.T) {
				dir := t.TempDir()
				path := filepath.Join(dir, checkpointName)
				l, c, s := openSigned(t, dir)
				appendIDs(t, l, numbered("a", 200)...)
				run(t, c)
				old, err := os.ReadFile(path)
				if err != nil {
					t.Fatal(err)
				}
				appendIDs(t, l, numbered("b", 200)...)
				run(t, checkpointerOf(t, l, s))
				l.Close()
				change(t, path, old)
				l = openTest(t, Config{Directory: dir})
				appendIDs(t, l, numbered("c", more)...)
				c = checkpointerOf(t, l, s)
				start(t, c)
				await(t, c, "signed", func(s CheckpointStatus) bool { return s.Signed.Size == uint64(400+more) && s.Err == nil })
				checkSigned(t, dir, s)
			})
		}
	}
}

// What was appended shortly before the end is signed although the signer cannot at once.
func TestCheckpointerEndsWithAllSigned(t *testing.T) {
	dir, s := t.TempDir(), newTestSigner(t)
	l := openTest(t, Config{Directory: dir})
	appendIDs(t, l, "a", "b")
	asked := 0
	c, err := newCheckpointer(t.Context(), CheckpointerConfig{Log: l, Origin: testOrigin,
		Countersign: func(ctx context.Context, r checkpoint.Request) ([]byte, error) {
			if asked++; asked <= 4 {
				return nil, errors.New("too many checkpoints")
			}
			return s.countersign(ctx, r)
		}}, 4*time.Millisecond)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(l.Close(), c.Run(t.Context())); err != nil {
		t.Fatal(err)
	}
	checkSigned(t, dir, s)
	if status := c.Status(); status.Uncovered != 0 || asked != 5 {
		t.Errorf("asked %d times: %+v", asked, status)
	}
}
