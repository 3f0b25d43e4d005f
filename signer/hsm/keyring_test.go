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
	"sync"
	"testing"
	"time"

	"github.com/miekg/pkcs11"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"

	"github.com/octo-sts/appliance/signer/signertest"
)

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
			t.Error(err)
		}
	}
	if err := token.Close(); err != nil {
		t.Error(err)
	}
}

func startRing(t *testing.T, config TokenConfig, log *zap.Logger, labels ...string) *Keyring {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	ring, err := New(ctx, Config{Token: config, Labels: labels, Logger: log})
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
	digest := sha256.Sum256([]byte(label))
	signature, err := key.Sign(nil, digest[:], crypto.SHA256)
	if err != nil {
		return err
	}
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

// Callers that are in the middle of signing get a good signature or an error, and go on afterwards.
func TestKeyringRecoversUnderLoad(t *testing.T) {
	ring, _, config, keys := ringOn(t)
	eventually(t, "opening", ready(ring, "app-1"))
	var wg sync.WaitGroup
	stop := make(chan struct{})
	for range 4 {
		for label, key := range keys {
			wg.Go(func() {
				for {
					select {
					case <-stop:
						return
					default:
					}
					if err := signWith(ring, label, &key.PublicKey); errors.Is(err, rsa.ErrVerification) {
						t.Error("a wrong signature got out")
						return
					}
				}
			})
		}
	}
	for range 3 {
		sabotage(t, config.Module, logOutQuietly)
		time.Sleep(200 * time.Millisecond)
	}
	close(stop)
	wg.Wait()
	eventually(t, "signing again", func() error { return signWith(ring, "app-1", &keys["app-1"].PublicKey) })
}

// logOutQuietly does nothing while the Keyring happens to be between two openings.
func logOutQuietly(ctx *pkcs11.Ctx) error {
	_ = logOut(ctx)
	return nil
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
	_, config := softToken(t)
	config.PIN = "4321"
	core, logs := observer.New(zapcore.ErrorLevel)
	ring := startRing(t, config, zap.New(core), "app-1")
	eventually(t, "refusal", func() error {
		_, err := ring.Key("app-1")
		if !errors.Is(err, ErrPINRefused) || !errors.Is(err, ErrNotOpen) {
			return err
		}
		return nil
	})
	for range 3 * int(lastRetry/(100*time.Millisecond)) / 10 { // long enough for several retries, were there any
		_, _ = ring.Key("app-1")
		time.Sleep(100 * time.Millisecond)
	}
	if n := logs.Len(); n != 1 {
		t.Errorf("%d attempts were logged, want 1: %v", n, logs.All())
	}
	if s := ring.Status(); s.Open || !strings.Contains(s.Error, "CKR_PIN_INCORRECT") {
		t.Errorf("status %+v", s)
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
	digest := sha256.Sum256(nil)
	if _, err := held.Sign(nil, digest[:], crypto.SHA256); err == nil {
		t.Error("signed with a key that is not the one that was looked up")
	}
}
