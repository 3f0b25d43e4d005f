package hsm

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/octo-sts/appliance/signer"
)

// A process that is started again and again with a wrong PIN tries it once in all. Then the operator corrects the
// credential, or removes the note.
func TestWrongPINIsTriedOnceOverRestarts(t *testing.T) {
	shim, good := shimToken(t)
	wrong := good
	wrong.PIN = "4321"
	directory := t.TempDir()
	attempt := func(c TokenConfig) error {
		c.Latch = signer.NewPINLatch(directory, "pin") // of a new process
		token, err := Open(t.Context(), c)
		if err != nil {
			return err
		}
		return token.Close()
	}
	forget(t, shim)
	for range 3 {
		if err := attempt(wrong); !errors.Is(err, ErrPINRefused) {
			t.Fatalf("a wrong PIN: %v", err)
		}
	}
	if n := counted(t, shim)["C_Login"]; n != 1 {
		t.Errorf("the wrong PIN was tried %d times", n)
	}
	err := attempt(wrong)
	if !errors.Is(err, signer.ErrPINLatched) || !strings.Contains(err.Error(), filepath.Join(directory, "pin")) {
		t.Errorf("the error must name the file to remove: %v", err)
	}
	if err := attempt(good); err != nil {
		t.Errorf("another PIN: %v", err)
	}
	if err := attempt(wrong); !errors.Is(err, ErrPINRefused) {
		t.Errorf("the wrong PIN after a good one: %v", err)
	}
	if err := os.Remove(filepath.Join(directory, "pin")); err != nil {
		t.Fatal(err)
	}
	forget(t, shim)
	_ = attempt(wrong)
	if n := counted(t, shim)["C_Login"]; n != 1 {
		t.Errorf("after the note was removed the PIN was tried %d times, want once more", n)
	}
}

// A login that ends without a verdict may be tried again, unless the token counts a wrong PIN since.
func TestLoginWithoutVerdict(t *testing.T) {
	shim, config := shimToken(t)
	config.Latch = signer.NewPINLatch(t.TempDir(), "pin")
	set(t, shim, "C_Login rv=0x30")
	for range 2 {
		if _, err := Open(t.Context(), config); err == nil || errors.Is(err, ErrPINRefused) {
			t.Fatalf("a device error is no verdict: %v", err)
		}
	}
	set(t, shim)
	wrongPIN := exec.CommandContext(t.Context(), "pkcs11-tool", "--module", config.Module, "--token-label", config.TokenLabel, "--login", "--pin", "9999", "-O")
	if output, err := wrongPIN.CombinedOutput(); err == nil {
		t.Fatalf("a wrong PIN was taken: %s", output)
	}
	forget(t, shim)
	if _, err := Open(t.Context(), config); !errors.Is(err, signer.ErrPINLatched) {
		t.Errorf("with CKF_USER_PIN_COUNT_LOW: %v", err)
	}
	if n := counted(t, shim)["C_Login"]; n != 0 {
		t.Error("the PIN was tried")
	}
	// The operator finds out that the PIN is good: the token's count is cleared, and all goes on.
	rightPIN := exec.CommandContext(t.Context(), "pkcs11-tool", "--module", config.Module, "--token-label", config.TokenLabel, "--login", "--pin", config.PIN, "-O")
	if output, err := rightPIN.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, output)
	}
	openToken(t, config)
}

// A module that says that somebody is logged in already has not looked at the PIN.
func TestLoginThatDidNotLookAtThePIN(t *testing.T) {
	shim, config := shimToken(t)
	set(t, shim, "C_Login rv=0x100")
	if token, err := Open(context.Background(), config); err == nil {
		_ = token.Close()
		t.Error("CKR_USER_ALREADY_LOGGED_IN was taken for a good PIN")
	}
}
