package main

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/octo-sts/appliance/signer"
	"github.com/octo-sts/appliance/signer/signertest"
)

// latchFile is where the signer remembers that the first token refused a PIN.
func (s *subject) latchFile() string {
	h := signer.HSMConfig{Module: s.shim.Module, TokenLabel: signertest.TokenLabel(0)}
	return filepath.Join(s.signer.StateDirectory(), h.LatchName())
}

// logins counts how the token's logins ended, as the shim saw them.
func (s *subject) logins(t *testing.T, result string) int {
	t.Helper()
	calls, err := s.shim.Calls()
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for _, call := range calls {
		if call == (signertest.Call{Function: "C_Login", Result: result}) {
			n++
		}
	}
	return n
}

func (s *subject) command(args ...string) (string, error) {
	cmd := exec.Command(binary, append(args, "--config", s.signer.ConfigFile())...)
	cmd.Env = append(os.Environ(), s.signer.Env()...)
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// A wrong PIN is tried once in all, whatever happens and whatever the operator does, until the credential changes; then that
// is tried by itself. The token's own count agrees.
func TestWrongPINCostsOneAttempt(t *testing.T) {
	t.Parallel()
	s := newSubject(t, 1)
	if err := errors.Join(s.signer.WritePIN(0, "999999"), s.shim.ForgetCalls()); err != nil {
		t.Fatal(err)
	}
	latched := func() bool { return strings.Contains(hsmStatus(t, s.signer, 0).Error, "the PIN was refused") }
	for range 5 {
		if err := s.signer.RestartUnready(t.Context()); err != nil {
			t.Fatal(err)
		}
		eventually(t, "the PIN is refused", latched)
		if out, err := s.command("key", "list"); err == nil || !strings.Contains(out, s.latchFile()) {
			t.Errorf("key list: %v: %s", err, out)
		}
		if err := s.signer.Signal(syscall.SIGHUP); err != nil {
			t.Fatal(err)
		}
		worker := s.signer.WorkerPID(0)
		if err := syscall.Kill(worker, syscall.SIGSEGV); err != nil {
			t.Fatal(err)
		}
		awaitWorker(t, s.signer, 0, worker)
		eventually(t, "the PIN is still refused", latched)
	}
	if n, refused := len(slices.Collect(s.allLogins(t))), s.logins(t, "0xa0"); n != 1 || refused != 1 {
		t.Errorf("%d logins, %d of them refused, want 1 and 1", n, refused)
	}
	if flags := tokenFlags(t, s.signer); !strings.Contains(flags, "user PIN count low") {
		t.Errorf("the token has not counted an attempt: %s", flags)
	}
	if err := s.signer.WritePIN(0, s.signer.SoftHSM().PIN); err != nil {
		t.Fatal(err)
	}
	awaitApp(t, s.signer.Client(), 1)
	s.noLatch(t)
	if n, refused := len(slices.Collect(s.allLogins(t))), s.logins(t, "0xa0"); n != 2 || refused != 1 {
		t.Errorf("with the good PIN: %d logins, %d of them refused, want 2 and 1", n, refused)
	}
	if flags := tokenFlags(t, s.signer); strings.Contains(flags, "user PIN count low") {
		t.Errorf("the token still counts: %s", flags)
	}
}

// allLogins is the results of all logins.
func (s *subject) allLogins(t *testing.T) func(func(string) bool) {
	t.Helper()
	calls, err := s.shim.Calls()
	if err != nil {
		t.Fatal(err)
	}
	return func(yield func(string) bool) {
		for _, call := range calls {
			if call.Function == "C_Login" && !yield(call.Result) {
				return
			}
		}
	}
}

func (s *subject) noLatch(t *testing.T) {
	t.Helper()
	if _, err := os.Lstat(s.latchFile()); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a note of the PIN is left: %v", err)
	}
}

// A good PIN that crashes or hangs the module is no refused one, whether the token has heard of it or not: the signer goes
// on trying, and once the module is well it signs and has forgotten.
func TestGoodPINWhereTheModuleFailsAtLogin(t *testing.T) {
	t.Parallel()
	attempts := map[string]int{"crash-late": 3}
	if wholeMatrix() {
		attempts = map[string]int{"crash": 20, "crash-late": 20, "hang": 20}
	}
	for kind, n := range attempts {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			s := newSubject(t, 1)
			result, _, _ := strings.Cut(kind, "-")
			if err := errors.Join(s.shim.ForgetCalls(), s.shim.Set("C_Login "+kind), killWorker(s)); err != nil {
				t.Fatal(err)
			}
			for deadline := time.Now().Add(time.Duration(n) * 20 * time.Second); s.logins(t, result) < n; time.Sleep(20 * time.Millisecond) {
				if time.Now().After(deadline) {
					t.Fatalf("%d attempts only", s.logins(t, result))
				}
			}
			if err := s.shim.Clear(); err != nil {
				t.Fatal(err)
			}
			end := time.Now()
			awaitApp(t, s.signer.Client(), 1)
			took := time.Since(end)
			t.Logf("signing again %.2f s after the last of %d", took.Seconds(), s.logins(t, result))
			if took > recoveryLimit {
				t.Errorf("signing again took %v", took)
			}
			s.noLatch(t)
		})
	}
}

// A wrong PIN, and a module that crashes at login. Where the token has heard it, its count is low afterwards, and that is
// enough: one attempt. Where it has not, nothing is counted, and the first that it hears is the only one.
func TestWrongPINWhereTheModuleCrashesAtLogin(t *testing.T) {
	t.Parallel()
	for kind, more := range map[string]int{"crash": 3, "crash-late": 1} {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			s := newSubject(t, 1)
			if err := errors.Join(s.signer.WritePIN(0, "999999"), s.shim.ForgetCalls(), s.shim.Set("C_Login "+kind), killWorker(s)); err != nil {
				t.Fatal(err)
			}
			eventually(t, "attempts", func() bool { return s.logins(t, "crash") >= more })
			if kind == "crash-late" {
				eventually(t, "the PIN is refused", func() bool {
					return strings.Contains(hsmStatus(t, s.signer, 0).Error, "an attempt on") // was cut short
				})
				if err := s.signer.RestartUnready(t.Context()); err != nil {
					t.Fatal(err)
				}
			}
			if err := s.shim.Clear(); err != nil {
				t.Fatal(err)
			}
			eventually(t, "the PIN is refused", func() bool { return strings.Contains(hsmStatus(t, s.signer, 0).Error, "the PIN was refused") })
			if err := s.signer.RestartUnready(t.Context()); err != nil {
				t.Fatal(err)
			}
			eventually(t, "the PIN is refused", func() bool { return strings.Contains(hsmStatus(t, s.signer, 0).Error, "the PIN was refused") })
			heard := s.logins(t, "0xa0")
			if kind == "crash-late" {
				heard += s.logins(t, "crash")
			}
			t.Logf("%d logins in all, and the token heard of %d", len(slices.Collect(s.allLogins(t))), heard)
			if heard != 1 {
				t.Errorf("the token heard a wrong PIN %d times", heard)
			}
			if err := s.signer.WritePIN(0, s.signer.SoftHSM().PIN); err != nil {
				t.Fatal(err)
			}
			awaitApp(t, s.signer.Client(), 1)
			s.noLatch(t)
		})
	}
}
