package hsm

import (
	"context"
	"crypto"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/miekg/pkcs11"

	"github.com/octo-sts/appliance/signer/signertest"
)

// softToken makes a SoftHSM token that the test's own process can load. SoftHSM reads its configuration from the
// environment of the process, so such tests cannot run in parallel.
func softToken(t *testing.T) (*signertest.SoftHSM, TokenConfig) {
	t.Helper()
	soft, err := signertest.InitSoftHSM(t.Context(), t.TempDir(), "hsm-test", "1234")
	if err != nil {
		t.Fatal(err)
	}
	t.Setenv("SOFTHSM2_CONF", soft.ConfigFile)
	return soft, TokenConfig{Module: soft.Module, TokenLabel: soft.TokenLabel, PIN: soft.PIN, MaxSessions: 4}
}

func openToken(t *testing.T, c TokenConfig) *Token {
	t.Helper()
	token, err := Open(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := token.Close(); err != nil {
			t.Error(err)
		}
	})
	return token
}

func newKey(t testing.TB, bits int) *rsa.PrivateKey {
	t.Helper()
	key, err := rsa.GenerateKey(rand.Reader, bits)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func TestImportedKeySignsAndCannotLeave(t *testing.T) {
	_, config := softToken(t)
	token := openToken(t, config)
	private := newKey(t, 2048)

	imported, err := token.Import("app-1", private)
	if err != nil {
		t.Fatal(err)
	}
	if !private.PublicKey.Equal(imported.Info().Public) {
		t.Error("the token shows another public key")
	}
	signature, err := crypto.SignMessage(imported, nil, []byte("something"), crypto.SHA256)
	if err != nil {
		t.Fatal(err)
	}
	digest := sha256.Sum256([]byte("something"))
	if err := rsa.VerifyPKCS1v15(&private.PublicKey, crypto.SHA256, digest[:], signature); err != nil {
		t.Error(err)
	}

	// Every attribute as it is in the token, read by the PKCS#11 calls themselves.
	want := map[uint]bool{
		pkcs11.CKA_TOKEN: true, pkcs11.CKA_PRIVATE: true, pkcs11.CKA_SENSITIVE: true, pkcs11.CKA_EXTRACTABLE: false,
		pkcs11.CKA_SIGN: true, pkcs11.CKA_SIGN_RECOVER: false, pkcs11.CKA_DECRYPT: false, pkcs11.CKA_UNWRAP: false,
		pkcs11.CKA_DERIVE: false, pkcs11.CKA_LOCAL: false, pkcs11.CKA_NEVER_EXTRACTABLE: false,
	}
	err = token.sessions.with(func(session pkcs11.SessionHandle) error {
		handles, err := token.find(session, class(pkcs11.CKO_PRIVATE_KEY))
		if err != nil || len(handles) != 1 {
			t.Fatalf("%d private keys, %v", len(handles), err)
		}
		for attribute, value := range want {
			got, err := token.flag(session, handles[0], attribute, !value)
			if err != nil || got != value {
				t.Errorf("attribute %#x is %t (%v), want %t", attribute, got, err, value)
			}
		}
		if values, err := token.module.attributes(session, handles[0], pkcs11.CKA_PRIVATE_EXPONENT); err == nil && len(values[0]) > 0 {
			t.Error("the private exponent could be read")
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
}

func TestKeysMakeOneKindOfSignature(t *testing.T) {
	_, config := softToken(t)
	token := openToken(t, config)
	appKey, err := token.Import("app-1", newKey(t, 2048))
	if err != nil {
		t.Fatal(err)
	}
	checkpointKey, err := token.GenerateCheckpointKey("checkpoint")
	if err != nil {
		t.Fatal(err)
	}
	for name, try := range map[string]struct {
		key     *Key
		options crypto.SignerOpts
	}{
		"RSA, PSS":             {appKey, &rsa.PSSOptions{Hash: crypto.SHA256}},
		"RSA, SHA-512":         {appKey, crypto.SHA512},
		"RSA, no hash":         {appKey, crypto.Hash(0)},
		"RSA, no options":      {appKey, nil},
		"Ed25519, SHA-512":     {checkpointKey, crypto.SHA512},
		"Ed25519 with context": {checkpointKey, &ed25519.Options{Context: "x"}},
	} {
		if _, err := try.key.SignMessage(nil, []byte("x"), try.options); err == nil {
			t.Errorf("%s: signed", name)
		}
	}
	// A token that hashes by itself cannot sign what was hashed already.
	digest := sha256.Sum256(nil)
	if _, err := appKey.Sign(nil, digest[:], crypto.SHA256); err == nil {
		t.Error("a digest was signed")
	}
}

func TestImportRefuses(t *testing.T) {
	_, config := softToken(t)
	token := openToken(t, config)
	first := newKey(t, 2048)
	if _, err := token.Import("taken", first); err != nil {
		t.Fatal(err)
	}
	for name, try := range map[string]struct {
		label string
		key   *rsa.PrivateKey
		want  error
	}{
		"a label that is taken":       {"taken", newKey(t, 2048), ErrLabelInUse},
		"the same key, another label": {"other", first, ErrLabelInUse},
		"an empty label":              {"", newKey(t, 2048), nil},
		"a label too long":            {strings.Repeat("x", MaxLabel+1), newKey(t, 2048), nil},
		"a short key":                 {"short", newKey(t, 1024), nil},
	} {
		_, err := token.Import(try.label, try.key)
		if err == nil || try.want != nil && !errors.Is(err, try.want) {
			t.Errorf("%s: %v, want %v", name, err, try.want)
		}
	}
	if keys, err := token.Keys(); err != nil || len(keys) != 1 {
		t.Errorf("after the refusals the token has %d keys (%v), want 1", len(keys), err)
	}
}

func TestFailedImportLeavesNothing(t *testing.T) {
	_, config := softToken(t)
	token := openToken(t, config)
	key := newKey(t, 2048)
	created, err := token.place("app-1", key)
	if err != nil || len(created) != 2 {
		t.Fatalf("%d objects, %v", len(created), err)
	}
	cause := errors.New("the cause")
	if err := token.undo(created, cause); err != cause {
		t.Errorf("undo: %v", err)
	}
	if err := token.undo(created, cause); err != cause {
		t.Errorf("undo of what is gone: %v", err)
	}
	// Nothing is in the way of another try.
	if _, err := token.Import("app-1", key); err != nil {
		t.Error(err)
	}
}

func TestOpenRefuses(t *testing.T) {
	soft, good := softToken(t)
	if err := soft.InitToken(t.Context(), "twin", "1234"); err != nil {
		t.Fatal(err)
	}
	if err := soft.InitToken(t.Context(), "twin", "1234"); err != nil {
		t.Fatal(err)
	}
	slot := uint(1 << 30)
	for name, test := range map[string]struct {
		change func(*TokenConfig)
		want   string
	}{
		"a wrong PIN":                {func(c *TokenConfig) { c.PIN = "4321" }, ErrPINRefused.Error()},
		"a PIN of impossible size":   {func(c *TokenConfig) { c.PIN = strings.Repeat("1", 300) }, ErrPINRefused.Error()},
		"an empty PIN":               {func(c *TokenConfig) { c.PIN = "" }, "empty PIN"},
		"a label that is not there":  {func(c *TokenConfig) { c.TokenLabel = "else" }, `no initialized token with token_label "else"; present: "`},
		"a label that two have":      {func(c *TokenConfig) { c.TokenLabel = "twin" }, "name it by token_serial"},
		"a serial that is not there": {func(c *TokenConfig) { c.TokenLabel, c.TokenSerial = "", "00" }, `token_serial "00"`},
		"a slot that is not there":   {func(c *TokenConfig) { c.TokenLabel, c.Slot = "", &slot }, "slot 1073741824"},
		"a URI of two tokens":        {func(c *TokenConfig) { c.TokenLabel, c.URI = "", "pkcs11:manufacturer=SoftHSM%20project" }, "3 tokens with uri"},
		"a URI of no token":          {func(c *TokenConfig) { c.TokenLabel, c.URI = "", "pkcs11:token=HSM-test" }, "no initialized token with uri"},
		"a URI with a PIN":           {func(c *TokenConfig) { c.TokenLabel, c.URI = "", "pkcs11:token=hsm-test?pin-value=1234" }, "pin_credential"},
		"a URI of another module":    {func(c *TokenConfig) { c.TokenLabel, c.URI = "", "pkcs11:token=hsm-test?module-path=/x.so" }, "not the same as module"},
		"two ways to name it":        {func(c *TokenConfig) { c.TokenSerial = "00" }, "exactly one of"},
		"no module":                  {func(c *TokenConfig) { c.Module = "" }, "no PKCS#11 module"},
		"a module that is none":      {func(c *TokenConfig) { c.Module = os.Args[0] }, "loading PKCS#11 module"},
		"too few sessions":           {func(c *TokenConfig) { c.MaxSessions = 2 }, "must be at least 3"},
	} {
		config := good
		test.change(&config)
		token, err := Open(t.Context(), config)
		if err == nil {
			_ = token.Close()
			t.Errorf("%s: opened", name)
			continue
		}
		if !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: %v, want %q", name, err, test.want)
		}
	}
	// None of it has left the module in a state in which the right configuration fails.
	info := openToken(t, good).Info()
	if info.TokenLabel != "hsm-test" || info.Manufacturer != "SoftHSM" || info.TokenSerial == "" {
		t.Errorf("unexpected %+v", info)
	}
}

func TestTokenBySerialSlotOrURI(t *testing.T) {
	soft, config := softToken(t)
	if err := soft.InitToken(t.Context(), "other", "1234"); err != nil {
		t.Fatal(err)
	}
	info := locateOnly(t, config)
	for name, change := range map[string]func(*TokenConfig){
		"serial":            func(c *TokenConfig) { c.TokenSerial = info.TokenSerial },
		"slot":              func(c *TokenConfig) { c.Slot = &info.Slot },
		"URI of the label":  func(c *TokenConfig) { c.URI = "pkcs11:token=hsm-test" },
		"URI of the serial": func(c *TokenConfig) { c.URI = "pkcs11:serial=" + info.TokenSerial },
		"URI of the slot":   func(c *TokenConfig) { c.URI = fmt.Sprintf("pkcs11:slot-id=%d", info.Slot) },
		"URI of all": func(c *TokenConfig) {
			c.URI = "pkcs11:manufacturer=SoftHSM%20project;model=SoftHSM%20v2;library-manufacturer=SoftHSM;token=hsm%2dtest"
		},
		"URI with its module": func(c *TokenConfig) { c.URI = "pkcs11:token=hsm-test?module-path=" + c.Module },
	} {
		c := config
		c.TokenLabel = ""
		change(&c)
		token, err := Open(t.Context(), c)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if got := token.Info(); got != info {
			t.Errorf("%s: %+v, want %+v", name, got, info)
		}
		if err := token.Close(); err != nil {
			t.Error(err)
		}
	}
}

func locateOnly(t *testing.T, c TokenConfig) Info {
	t.Helper()
	module, err := loadModule(c.Module, newClock())
	if err != nil {
		t.Fatal(err)
	}
	defer module.unload()
	token, err := locate(module, c)
	if err != nil {
		t.Fatal(err)
	}
	return token.Info
}

func TestTokenSaysThePINIsAtRisk(t *testing.T) {
	for flags, refuse := range map[uint]bool{
		0:                                 false,
		pkcs11.CKF_USER_PIN_COUNT_LOW:     false,
		pkcs11.CKF_USER_PIN_FINAL_TRY:     true,
		pkcs11.CKF_USER_PIN_LOCKED:        true,
		pkcs11.CKF_USER_PIN_TO_BE_CHANGED: false,
	} {
		err := safeToLogIn(flags)
		if (err != nil) != refuse || errors.Is(err, ErrPINRefused) {
			t.Errorf("flags %#x: %v", flags, err)
		}
	}
}

func TestReturnValueThroughWrappers(t *testing.T) {
	_, config := softToken(t)
	config.PIN = "wrong"
	_, err := Open(context.Background(), config)
	if rv, ok := returnValue(err); !ok || rv != pkcs11.CKR_PIN_INCORRECT {
		t.Errorf("%v, %t of %v", rv, ok, err)
	}
	if _, ok := returnValue(errors.New("no return value")); ok {
		t.Error("found one where there is none")
	}
}
