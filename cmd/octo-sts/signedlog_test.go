package main

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/octo-sts/appliance/sts/audit"
	"github.com/octo-sts/appliance/sts/audit/checkpoint"
)

const testOrigin = "sts.example.com/audit"

// makeSignedLog makes, in dir, what the scripts about the audit log start from: log, with 600 entries of 2026-08-01 in
// several segments, a minute apart, of which 590 are covered; old.checkpoint of size 300; audit.vkey; and stranger.vkey, a
// key of the same name that signed nothing.
func makeSignedLog(t *testing.T, dir string) {
	t.Helper()
	public, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	stranger, _, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	for name, public := range map[string]ed25519.PublicKey{"audit.vkey": public, "stranger.vkey": stranger} {
		vkey, err := checkpoint.EncodeKey(testOrigin, public)
		if err == nil {
			err = os.WriteFile(filepath.Join(dir, name), []byte(vkey+"\n"), 0o644)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	log := filepath.Join(dir, "log")
	appendEntries(t, log, key, 0, 300)
	old, err := os.ReadFile(filepath.Join(log, "checkpoint"))
	if err == nil {
		err = os.WriteFile(filepath.Join(dir, "old.checkpoint"), old, 0o644)
	}
	if err != nil {
		t.Fatal(err)
	}
	appendEntries(t, log, key, 300, 590)
	appendEntries(t, log, nil, 590, 600)
}

// appendEntries appends entries from from to before to and, with a key, signs the log at the end.
func appendEntries(t *testing.T, dir string, key ed25519.PrivateKey, from, to int) {
	t.Helper()
	l, err := audit.Open(t.Context(), audit.Config{Directory: dir, SegmentSize: 32 << 10})
	if err != nil {
		t.Fatal(err)
	}
	for i := from; i < to; i++ {
		_, err := l.Append(t.Context(), audit.Entry{
			Time: time.Date(2026, 8, 1, 0, i, 0, 0, time.UTC), Kind: audit.Outcome, Decision: audit.DecisionGranted,
			RequestID: fmt.Sprintf("R%04d", i), Scope: "acme/app", Identity: "ci", Reason: fmt.Sprintf("<%d> & \"more\"", i),
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	if key == nil {
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
		return
	}
	c, err := audit.NewCheckpointer(t.Context(), audit.CheckpointerConfig{
		Log: l, Origin: testOrigin,
		Countersign: func(_ context.Context, r checkpoint.Request) ([]byte, error) {
			return checkpoint.Sign(r.Checkpoint, key)
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	// Closing the log ends Run, which has what is left signed first.
	if err := errors.Join(l.Close(), c.Run(t.Context())); err != nil {
		t.Fatal(err)
	}
}
