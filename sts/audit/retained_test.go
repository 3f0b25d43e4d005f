package audit

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/mod/sumdb/note"
)

// retainedLog is a log with tiles and checkpoints, as a daemon and a signer leave it, and the checkpoints that somebody kept.
type retainedLog struct {
	dir    string
	signer *testSigner
	// retained has the checkpoint that was signed at each of the sizes that were asked for.
	retained map[uint64][]byte
}

// newRetainedLog makes a log in dir that was signed at each of the given sizes, in segments of some 4 KiB, and that has
// uncovered entries beyond the last.
func newRetainedLog(t testing.TB, dir string, uncovered int, sizes ...uint64) *retainedLog {
	t.Helper()
	s := &retainedLog{dir: dir, signer: newTestSigner(t), retained: make(map[uint64][]byte)}
	l, err := Open(t.Context(), Config{Directory: dir, SegmentSize: 4 << 10})
	if err != nil {
		t.Fatal(err)
	}
	c := checkpointerOf(t, l, s.signer)
	stop := start(t, c)
	for _, size := range sizes {
		for l.Size() < size {
			appendIDs(t, l, fmt.Sprint("request ", l.Size()))
		}
		awaitCovered(t, c)
		if s.retained[size], err = os.ReadFile(filepath.Join(dir, checkpointName)); err != nil {
			t.Fatal(err)
		}
	}
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	for range uncovered {
		appendIDs(t, l, fmt.Sprint("request ", l.Size()))
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	return s
}

// config is what verifies the log, or a copy of it elsewhere, with its key and, of the retained checkpoints, those of the
// given sizes.
func (s *retainedLog) config(dir string, retained ...uint64) VerifyConfig {
	c := VerifyConfig{Directories: []string{dir}, Keys: []note.Verifier{s.signer.verify}}
	for _, size := range retained {
		c.Retained = append(c.Retained, RetainedCheckpoint{fmt.Sprint("retained ", size), s.retained[size]})
	}
	return c
}

func verifyTest(t testing.TB, c VerifyConfig) *Report {
	t.Helper()
	r, err := Verify(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	return r
}
