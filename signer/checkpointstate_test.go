package signer

import (
	"context"
	"crypto"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"go.uber.org/zap"

	"github.com/octo-sts/appliance/sts/audit/checkpoint"
)

func stateOf(t testing.TB, c checkpoint.Checkpoint, key crypto.Signer) string {
	t.Helper()
	signed, err := SignCheckpoint(c, key)
	if err != nil {
		t.Fatal(err)
	}
	return signed.Key + "\n" + string(signed.Note)
}

// A state that is missing or of no use is never taken for a new beginning. What says so names the remedy, which works
// without a restart.
func TestStateThatIsNotThere(t *testing.T) {
	key, log := newTestKey(t), &testLog{}
	good := stateOf(t, checkpoint.Empty(testOrigin), key)
	elsewhere := stateOf(t, checkpoint.Empty("elsewhere"), key)
	vkey, signed, _ := strings.Cut(good, "\n")
	for name, content := range map[string]string{
		"missing":                "",
		"without a key":          signed,
		"without a note":         vkey + "\n",
		"cut short":              good[:len(good)-1],
		"with something after":   good + "\n",
		"of zeros":               strings.Repeat("\x00", 512),
		"of another size":        strings.Replace(good, "\n0\n", "\n1\n", 1),
		"under another key":      strings.Split(stateOf(t, checkpoint.Empty(testOrigin), newTestKey(t)), "\n")[0] + "\n" + signed,
		"of another log":         elsewhere,
		"larger than any can be": good + strings.Repeat("— x AAAAAAAA\n", 1000),
	} {
		dir := t.TempDir()
		path := filepath.Join(dir, "checkpoint")
		if content != "" {
			if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		s, err := NewCountersigner(CountersignerConfig{
			Origin: testOrigin, Directory: dir, Logger: zap.NewNop(),
			UseKey: func(_ context.Context, use func(crypto.Signer) error) error { return use(key) },
		})
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if status := s.Status(); status.Ready || !strings.Contains(status.Error, "checkpoint restore") {
			t.Errorf("%s: %+v", name, status)
		}
		for _, r := range []checkpoint.Request{log.request(t, 0, 0), log.request(t, 0, 5), log.request(t, 5, 5)} {
			_, err = s.Countersign(t.Context(), r)
			if !errors.Is(err, ErrNoCheckpointState) || !strings.Contains(err.Error(), path) || !strings.Contains(err.Error(), "octo-sts-signer checkpoint restore") {
				t.Errorf("%s: %v", name, err)
			}
			if generate := strings.Contains(err.Error(), "key generate"); generate != (content == "") {
				t.Errorf("%s: the error names key generate: %t", name, generate)
			}
		}
		if data, err := os.ReadFile(path); content != "" && string(data) != content || content == "" && err == nil {
			t.Errorf("%s: the state became %q", name, data)
		}
		begin(t, dir, key)
		if _, err := s.Countersign(t.Context(), log.request(t, 0, 5)); err != nil {
			t.Errorf("%s, then made anew: %v", name, err)
		}
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	}
}

// No byte of the state can change without notice.
func TestEveryFlipOfTheStateIsFound(t *testing.T) {
	dir, key := t.TempDir(), newTestKey(t)
	begin(t, dir, key)
	state, err := OpenCheckpointState(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer state.Close()
	good, err := os.ReadFile(state.Path())
	if err != nil {
		t.Fatal(err)
	}
	for i := range good {
		for bit := range 8 {
			flipped := append([]byte(nil), good...)
			flipped[i] ^= 1 << bit
			if err := os.WriteFile(state.Path(), flipped, 0o600); err != nil {
				t.Fatal(err)
			}
			if last, err := state.Load(); err == nil {
				t.Errorf("bit %d of byte %d flipped: %+v", bit, i, last)
			}
		}
	}
}

// A lock whose file was removed keeps nobody out, so whoever held it stops signing.
func TestStateWhoseLockIsGone(t *testing.T) {
	dir := t.TempDir()
	state, err := OpenCheckpointState(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer state.Close()
	if err := os.Remove(filepath.Join(dir, "checkpoint.lock")); err != nil {
		t.Fatal(err)
	}
	for name, lock := range map[string]func() error{
		"removed":  func() error { return nil },
		"replaced": func() error { return os.WriteFile(filepath.Join(dir, "checkpoint.lock"), nil, 0o600) },
	} {
		if err := lock(); err != nil {
			t.Fatal(err)
		}
		if err := state.Save(SignedCheckpoint{}); err == nil || !strings.Contains(err.Error(), "restart it") {
			t.Errorf("%s: %v", name, err)
		}
		if _, err := os.Lstat(filepath.Join(dir, "checkpoint")); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%s: the state was written: %v", name, err)
		}
	}
}

// Two signers cannot share a state: the second does not start.
func TestStateIsLocked(t *testing.T) {
	dir, key := t.TempDir(), newTestKey(t)
	s := newCountersigner(t, dir, key)
	config := s.config
	if _, err := NewCountersigner(config); !errors.Is(err, ErrCheckpointStateLocked) {
		t.Errorf("the second: %v", err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	second, err := NewCountersigner(config)
	if err != nil {
		t.Fatalf("after the first: %v", err)
	}
	if err := second.Close(); err != nil {
		t.Error(err)
	}
	config.Directory = filepath.Join(dir, "missing")
	if _, err := NewCountersigner(config); err == nil || !strings.Contains(err.Error(), "state_directory must exist") {
		t.Errorf("without a directory: %v", err)
	}
}
