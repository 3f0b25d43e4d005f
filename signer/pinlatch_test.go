package signer

import (
	"bytes"
	"crypto/pbkdf2"
	"crypto/sha256"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// step is one thing that happens to a latch. Each is done by a new PINLatch, as after a restart of the program.
type step struct {
	pin      string
	countLow bool
	want     error  // of Begin
	outcome  string // succeeded, refused, unclear, or crash: no verdict reaches the latch
}

// quickLatch does not spend the time that the hash is there to cost.
func quickLatch(directory string) *PINLatch {
	latch := NewPINLatch(directory, "pin-a")
	latch.iterations = 1
	return latch
}

func TestPINLatch(t *testing.T) {
	for _, test := range []struct {
		name  string
		steps []step
		left  bool // a note is left on the disk
	}{
		{"a good PIN leaves nothing", []step{{"1234", false, nil, "succeeded"}, {"1234", false, nil, "succeeded"}}, false},
		{"a refused PIN is tried once", []step{{"1234", false, nil, "refused"}, {"1234", false, ErrPINLatched, ""}, {"1234", true, ErrPINLatched, ""}}, true},
		{"another PIN is tried", []step{{"1234", false, nil, "refused"}, {"4321", true, nil, "succeeded"}, {"1234", false, nil, "succeeded"}}, false},
		{"and refused as well", []step{{"1234", false, nil, "refused"}, {"4321", true, nil, "refused"}, {"4321", true, ErrPINLatched, ""}}, true},
		{"a crash allows another try", []step{{"1234", false, nil, "crash"}, {"1234", false, nil, "crash"}, {"1234", false, nil, "succeeded"}}, false},
		{"unless the token counts a wrong PIN", []step{{"1234", false, nil, "crash"}, {"1234", true, ErrPINLatched, ""}, {"1234", false, nil, "succeeded"}}, false},
		{"taken for the PIN that is there", []step{{"1234", false, nil, "crash"}, {"4321", true, ErrPINLatched, ""}, {"1234", true, nil, "succeeded"}}, false},
		{"a wrong PIN of others does not matter", []step{{"1234", true, nil, "succeeded"}}, false},
		{"no verdict is like a crash", []step{{"1234", false, nil, "unclear"}, {"1234", true, ErrPINLatched, ""}, {"4321", true, nil, "unclear"}, {"4321", false, nil, "succeeded"}}, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			directory := t.TempDir()
			for i, s := range test.steps {
				latch := quickLatch(directory)
				if err := latch.Begin(s.pin, s.countLow); !errors.Is(err, s.want) || err != nil && !strings.Contains(err.Error(), latch.Path()) {
					t.Fatalf("step %d: %v, want %v and the file's name", i, err, s.want)
				}
				if s.want == nil {
					finish(t, latch, s.outcome)
				}
			}
			if _, err := os.Stat(filepath.Join(directory, "pin-a")); (err == nil) != test.left {
				t.Errorf("the note: %v, want it left: %t", err, test.left)
			}
		})
	}
}

func finish(t *testing.T, latch *PINLatch, outcome string) {
	t.Helper()
	var err error
	switch outcome {
	case "succeeded":
		err = latch.Succeeded()
	case "refused":
		err = latch.Refused()
	case "unclear":
		latch.Unclear()
	case "crash":
		latch.release() // as the kernel does
	}
	if err != nil {
		t.Fatal(err)
	}
}

// The operator's way out is to remove the file that the error names.
func TestPINLatchRemovedByHand(t *testing.T) {
	latch := quickLatch(t.TempDir())
	for range 2 {
		if err := errors.Join(latch.Begin("1234", false), latch.Refused()); err != nil {
			t.Fatal(err)
		}
		if err := latch.Begin("1234", false); !errors.Is(err, ErrPINLatched) {
			t.Fatal(err)
		}
		if err := os.Remove(latch.Path()); err != nil {
			t.Fatal(err)
		}
	}
}

// What cannot be read or written is not taken for permission.
func TestPINLatchFailsClosed(t *testing.T) {
	directory := t.TempDir()
	for _, content := range []string{"", "{}", `{"state":"accepted","salt":"","pbkdf2_sha256_600000":""}`, `{"state":"refused"}`, "\x00\x00"} {
		if err := os.WriteFile(filepath.Join(directory, "pin-a"), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := NewPINLatch(directory, "pin-a").Begin("1234", false); !errors.Is(err, ErrPINLatched) {
			t.Errorf("%q: %v", content, err)
		}
	}
	if err := NewPINLatch(filepath.Join(directory, "nowhere"), "pin-a").Begin("1234", false); err == nil || errors.Is(err, ErrPINLatched) {
		t.Errorf("without a state directory: %v", err)
	}
}

// A second program waits for the first one's verdict, and obeys it.
func TestPINLatchOfTwoPrograms(t *testing.T) {
	directory := t.TempDir()
	first, second := NewPINLatch(directory, "pin-a"), NewPINLatch(directory, "pin-a")
	if err := first.Begin("1234", false); err != nil {
		t.Fatal(err)
	}
	began := make(chan error)
	go func() { began <- second.Begin("1234", false) }()
	if err := first.Refused(); err != nil {
		t.Fatal(err)
	}
	if err := <-began; !errors.Is(err, ErrPINLatched) {
		t.Errorf("the second program: %v", err)
	}
	if err := NewPINLatch(directory, "pin-b").Begin("1234", false); err != nil {
		t.Errorf("another token's latch: %v", err)
	}
}

// The note is for the signer's user alone and does not hold the PIN; one file and the lock are all there ever is.
func TestPINLatchOnDisk(t *testing.T) {
	directory := t.TempDir()
	latch := NewPINLatch(directory, "pin-a")
	if err := errors.Join(latch.Begin("secret-pin", false), latch.Refused()); err != nil {
		t.Fatal(err)
	}
	entries, err := os.ReadDir(directory)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, entry := range entries {
		names = append(names, entry.Name())
		info, err := entry.Info()
		if err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s: %v, %v", entry.Name(), info.Mode(), err)
		}
		data, err := os.ReadFile(filepath.Join(directory, entry.Name()))
		if err != nil || strings.Contains(string(data), "secret-pin") {
			t.Errorf("%s: %q, %v", entry.Name(), data, err)
		}
	}
	if hash, err := pbkdf2.Key(sha256.New, "secret-pin", latch.mark.Salt, 600_000, sha256.Size); err != nil || !bytes.Equal(hash, latch.mark.Hash) {
		t.Errorf("the hash is not what the file's key says, %v", err)
	}
	if !slices.Equal(names, []string{"pin-a", "pin-a.lock"}) {
		t.Errorf("files: %v", names)
	}
}

func FuzzPINMarker(f *testing.F) {
	f.Add([]byte(`{"state":"refused","salt":"AAAAAAAAAAAAAAAAAAAAAA==","pbkdf2_sha256_600000":"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=","time":"2026-01-01T00:00:00Z"}`))
	f.Add([]byte(`{"state":"trying"}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		m, err := parsePINMarker(bytes.NewReader(data))
		if err == nil && (m.State != pinTrying && m.State != pinRefused || len(m.Hash) != 32 && (len(m.Hash) != 0 || m.State == pinRefused)) {
			t.Errorf("%+v", m)
		}
	})
}

// The signer's user, whom the directory belongs to, must not lead root, who runs a key command, to another file.
func TestPINLatchFollowsNoLink(t *testing.T) {
	for _, name := range []string{"pin-a", "pin-a.lock", "pin-a.tmp"} {
		directory, victim := t.TempDir(), filepath.Join(t.TempDir(), "shadow")
		if err := errors.Join(os.WriteFile(victim, []byte("root's"), 0o600), os.Symlink(victim, filepath.Join(directory, name))); err != nil {
			t.Fatal(err)
		}
		latch := quickLatch(directory)
		err := latch.Begin("1234", false)
		latch.release()
		if data, _ := os.ReadFile(victim); string(data) != "root's" {
			t.Errorf("%s: Begin (%v) wrote to another file: %q", name, err, data)
		}
		// The name under which the note is written is made anew; the others must be files.
		if (err == nil) != (name == "pin-a.tmp") {
			t.Errorf("%s: Begin: %v", name, err)
		}
	}
}
