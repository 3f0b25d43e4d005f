package hsm

import (
	"context"
	"crypto"
	"crypto/rsa"
	"crypto/sha256"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/miekg/pkcs11"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"

	"github.com/octo-sts/appliance/signer/signertest"
)

// testRetry keeps recovery short in tests.
const testRetry = 100 * time.Millisecond

// ringOn starts a Keyring over a fresh token that holds the keys app-1 and app-2.
func ringOn(t *testing.T) (*Keyring, *signertest.SoftHSM, TokenConfig, map[string]*rsa.PrivateKey) {
	t.Helper()
	soft, config := softToken(t)
	keys := map[string]*rsa.PrivateKey{"app-1": newKey(t, 2048), "app-2": newKey(t, 2048)}
	importKeys(t, config, keys)
	return startRing(t, config, zap.NewNop(), "app-1", "app-2"), soft, config, keys
}

func importKeys(t *testing.T, config TokenConfig, keys map[string]*rsa.PrivateKey) {
	t.Helper()
	token, err := Open(t.Context(), config)
	if err != nil {
		t.Fatal(err)
	}
	for label, key := range keys {
		if _, err := token.Import(label, key); err != nil {
			t.Fatal(err)
		}
	}
	if err := token.Close(); err != nil {
		t.Error(err)
	}
}

func startRing(t *testing.T, config TokenConfig, log *zap.Logger, labels ...string) *Keyring {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	ring, err := New(ctx, Config{Token: config, Labels: labels, Logger: log, Retry: testRetry, KeepAlive: time.Second})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cancel()
		ring.Wait()
	})
	return ring
}

// eventually polls until f gives no error; the deadline is for safety only.
func eventually(t *testing.T, what string, f func() error) {
	t.Helper()
	deadline := time.Now().Add(30 * time.Second)
	for {
		err := f()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s: %v", what, err)
		}
		time.Sleep(10 * time.Millisecond)
	}
}

func ready(ring *Keyring, label string) func() error {
	return func() error {
		_, err := ring.Key(label)
		return err
	}
}

func signWith(ring *Keyring, label string, want *rsa.PublicKey) error {
	key, err := ring.Key(label)
	if err != nil {
		return err
	}
	signature, err := crypto.SignMessage(key, nil, []byte(label), crypto.SHA256)
	if err != nil {
		return err
	}
	digest := sha256.Sum256([]byte(label))
	return rsa.VerifyPKCS1v15(want, crypto.SHA256, digest[:], signature)
}

// sabotage reaches into the process's Cryptoki behind the Keyring's back, as a device that resets would.
func sabotage(t *testing.T, module string, f func(*pkcs11.Ctx) error) {
	t.Helper()
	ctx := pkcs11.New(module)
	defer ctx.Destroy()
	if err := f(ctx); err != nil {
		t.Fatal(err)
	}
}

func TestKeyringRecovers(t *testing.T) {
	ring, _, config, keys := ringOn(t)
	eventually(t, "opening", ready(ring, "app-1"))
	closeAll := func(ctx *pkcs11.Ctx) error {
		slots, err := ctx.GetSlotList(true)
		if err != nil {
			return err
		}
		for _, slot := range slots {
			if err := ctx.CloseAllSessions(slot); err != nil {
				return err
			}
		}
		return nil
	}
	for name, fault := range map[string]func(*pkcs11.Ctx) error{
		"all sessions closed (CKR_SESSION_HANDLE_INVALID)":    closeAll,
		"Cryptoki finalized (CKR_CRYPTOKI_NOT_INITIALIZED)":   func(ctx *pkcs11.Ctx) error { return ctx.Finalize() },
		"logged out (CKR_USER_NOT_LOGGED_IN or a hidden key)": logOut,
	} {
		t.Run(name, func(t *testing.T) {
			sabotage(t, config.Module, fault)
			for label, key := range keys {
				eventually(t, "signing again with "+label, func() error { return signWith(ring, label, &key.PublicKey) })
			}
			if s := ring.Status(); !s.Open || s.Error != "" || s.TokenLabel != "hsm-test" {
				t.Errorf("status %+v", s)
			}
		})
	}
}

func logOut(ctx *pkcs11.Ctx) error {
	slots, err := ctx.GetSlotList(true)
	if err != nil {
		return err
	}
	session, err := ctx.OpenSession(slots[0], pkcs11.CKF_SERIAL_SESSION)
	if err != nil {
		return err
	}
	return ctx.Logout(session)
}

func TestKeyringWaitsForTokenAndKey(t *testing.T) {
	soft, config := softToken(t)
	config.TokenLabel = "later"
	ring := startRing(t, config, zap.NewNop(), "app-1")
	eventually(t, "saying why", func() error {
		if s := ring.Status(); s.Open || !strings.Contains(s.Error, `token_label "later"`) {
			return errors.New(s.Error)
		}
		return nil
	})
	if _, err := ring.Key("app-1"); !errors.Is(err, ErrNotOpen) {
		t.Errorf("Key without a token: %v", err)
	}

	if err := soft.InitToken(t.Context(), "later", "1234"); err != nil {
		t.Fatal(err)
	}
	eventually(t, "opening the token that came", func() error {
		if s := ring.Status(); !s.Open {
			return errors.New(s.Error)
		}
		return nil
	})
	if _, err := ring.Key("app-1"); !errors.Is(err, ErrKeyNotFound) {
		t.Errorf("Key before its import: %v", err)
	}
	if _, err := ring.Key("app-7"); !errors.Is(err, ErrKeyNotFound) {
		t.Errorf("Key that is not configured: %v", err)
	}
}

func TestKeyringLosesAndFindsTheToken(t *testing.T) {
	ring, soft, config, keys := ringOn(t)
	eventually(t, "opening", ready(ring, "app-1"))
	tokens := filepath.Join(filepath.Dir(soft.ConfigFile), "tokens")
	if err := os.Rename(tokens, tokens+".away"); err != nil {
		t.Fatal(err)
	}
	sabotage(t, config.Module, func(ctx *pkcs11.Ctx) error { return ctx.Finalize() })
	eventually(t, "noticing", func() error {
		if err := signWith(ring, "app-1", &keys["app-1"].PublicKey); err == nil {
			return errors.New("still signing")
		}
		if ring.Status().Open {
			return errors.New("still open")
		}
		return nil
	})
	if err := os.Rename(tokens+".away", tokens); err != nil {
		t.Fatal(err)
	}
	eventually(t, "signing again", func() error { return signWith(ring, "app-1", &keys["app-1"].PublicKey) })
}

// One attempt, whatever is asked of the Keyring afterwards, and a reason that says so.
func TestKeyringTriesAWrongPINOnce(t *testing.T) {
	shim, config := shimToken(t)
	config.PIN = "4321"
	forget(t, shim)
	ring := startRing(t, config, zap.NewNop(), "app-1")
	eventually(t, "refusal", func() error {
		_, err := ring.Key("app-1")
		if !errors.Is(err, ErrPINRefused) || !errors.Is(err, ErrNotOpen) {
			return err
		}
		return nil
	})
	for range 50 { // long enough for many retries, were there any
		_, _ = ring.Key("app-1")
		time.Sleep(testRetry / 5)
	}
	if n := counted(t, shim)["C_Login"]; n != 1 {
		t.Errorf("the PIN was tried %d times", n)
	}
	if s := ring.Status(); s.Open || !strings.Contains(s.Error, "CKR_PIN_INCORRECT") {
		t.Errorf("status %+v", s)
	}
}

// An outage of a week is one line in the log, not one for each attempt.
func TestKeyringLogsAnOutageOnce(t *testing.T) {
	_, config := softToken(t)
	config.TokenLabel = "nowhere"
	core, logs := observer.New(zapcore.ErrorLevel)
	startRing(t, config, zap.New(core), "app-1")
	eventually(t, "the line", func() error {
		if logs.Len() == 0 {
			return errors.New("none yet")
		}
		return nil
	})
	time.Sleep(5 * testRetry)
	if n := logs.Len(); n != 1 {
		t.Errorf("%d lines: %v", n, logs.All())
	}
}

// A key under the label of another one, after a token was exchanged: the signature of the new one must not pass for the
// old one's.
func TestKeyringNoticesAnotherKey(t *testing.T) {
	ring, _, _, keys := ringOn(t)
	eventually(t, "opening", ready(ring, "app-1"))
	held, err := ring.Key("app-1")
	if err != nil {
		t.Fatal(err)
	}
	held.(*ringKey).public = &keys["app-2"].PublicKey
	if _, err := crypto.SignMessage(held, nil, nil, crypto.SHA256); err == nil {
		t.Error("signed with a key that is not the one that was looked up")
	}
}
