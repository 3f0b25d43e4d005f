package hsm

import (
	"context"
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"errors"
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
	if !imported.Info().Public.Equal(&private.PublicKey) {
		t.Error("the token shows another public key")
	}
	digest := sha256.Sum256([]byte("something"))
	signature, err := imported.Sign(nil, digest[:], crypto.SHA256)
	if err != nil {
		t.Fatal(err)
	}
	if err := rsa.VerifyPKCS1v15(&private.PublicKey, crypto.SHA256, digest[:], signature); err != nil {
		t.Error(err)
	}

	// Every attribute as it is in the token, read by the PKCS#11 calls themselves.
	want := map[uint]bool{
		pkcs11.CKA_TOKEN: true, pkcs11.CKA_PRIVATE: true, pkcs11.CKA_SENSITIVE: true, pkcs11.CKA_EXTRACTABLE: false,
		pkcs11.CKA_SIGN: true, pkcs11.CKA_SIGN_RECOVER: false, pkcs11.CKA_DECRYPT: false, pkcs11.CKA_UNWRAP: false,
		pkcs11.CKA_DERIVE: false, pkcs11.CKA_LOCAL: false, pkcs11.CKA_NEVER_EXTRACTABLE: false,
	}
	err = token.withSession(func(session pkcs11.SessionHandle) error {
		handles, err := token.find(session, pkcs11.NewAttribute(pkcs11.CKA_CLASS, pkcs11.CKO_PRIVATE_KEY))
		if err != nil || len(handles) != 1 {
			t.Fatalf("%d private keys, %v", len(handles), err)
		}
		for attribute, value := range want {
			got, err := token.flag(session, handles[0], attribute, !value)
			if err != nil || got != value {
				t.Errorf("attribute %#x is %t (%v), want %t", attribute, got, err, value)
			}
		}
		values, err := token.module.GetAttributeValue(session, handles[0], []*pkcs11.Attribute{pkcs11.NewAttribute(pkcs11.CKA_PRIVATE_EXPONENT, nil)})
		if err == nil && len(values[0].Value) > 0 {
			t.Error("the private exponent could be read")
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
}

func TestSignRefusesOtherSchemes(t *testing.T) {
	_, config := softToken(t)
	key, err := openToken(t, config).Import("app-1", newKey(t, 2048))
	if err != nil {
		t.Fatal(err)
	}
	for name, try := range map[string]struct {
		digest  []byte
		options crypto.SignerOpts
	}{
		"PSS":          {make([]byte, 32), &rsa.PSSOptions{Hash: crypto.SHA256}},
		"SHA-512":      {make([]byte, 64), crypto.SHA512},
		"no hash":      {make([]byte, 32), crypto.Hash(0)},
		"no options":   {make([]byte, 32), nil},
		"short digest": {make([]byte, 31), crypto.SHA256},
	} {
		if _, err := key.Sign(nil, try.digest, try.options); err == nil {
			t.Errorf("%s: signed", name)
		}
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
	var created []pkcs11.ObjectHandle
	err := token.withSession(func(session pkcs11.SessionHandle) error {
		var err error
		created, err = token.create(session, "app-1", key)
		return err
	})
	if err != nil || len(created) != 2 {
		t.Fatalf("%d objects, %v", len(created), err)
	}
	cause := errors.New("the cause")
	if err := token.undo(created, cause); err != cause {
		t.Errorf("undo: %v", err)
	}
	if err := token.undo(created, cause); !errors.Is(err, cause) || err == cause {
		t.Errorf("undo of what is gone must say so: %v", err)
	}
	// Nothing is in the way of another try.
	if _, err := token.Import("app-1", key); err != nil {
		t.Error(err)
	}
}

// create puts a key pair into the token with attributes that Import would never choose.
func create(t *testing.T, token *Token, label string, key *rsa.PrivateKey, id []byte, withPublic bool, change map[uint]bool) {
	t.Helper()
	private := privateTemplate(label, id, key)
	for i, attribute := range private {
		if value, ok := change[attribute.Type]; ok {
			private[i] = pkcs11.NewAttribute(attribute.Type, value)
		}
	}
	err := token.withSession(func(session pkcs11.SessionHandle) error {
		if _, err := token.module.CreateObject(session, private); err != nil {
			return err
		}
		if !withPublic {
			return nil
		}
		_, err := token.module.CreateObject(session, publicTemplate(label, id, &key.PublicKey))
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

func TestUnfitKeysAreRefused(t *testing.T) {
	_, config := softToken(t)
	token := openToken(t, config)
	a, b := newKey(t, 2048), newKey(t, 2048)
	for _, test := range []struct {
		label string
		make  func(label string)
		want  string
	}{
		{"extractable", func(l string) { create(t, token, l, a, []byte(l), true, map[uint]bool{pkcs11.CKA_EXTRACTABLE: true}) }, "CKA_EXTRACTABLE"},
		{"readable", func(l string) { create(t, token, l, a, []byte(l), true, map[uint]bool{pkcs11.CKA_SENSITIVE: false}) }, "CKA_SENSITIVE"},
		{"cannot-sign", func(l string) { create(t, token, l, a, []byte(l), true, map[uint]bool{pkcs11.CKA_SIGN: false}) }, "CKA_SIGN"},
		{"lonely", func(l string) { create(t, token, l, a, []byte(l), false, nil) }, "no public object"},
		{"short", func(l string) { create(t, token, l, newKey(t, 1024), []byte(l), true, nil) }, "1024 bits"},
		{"no-id", func(l string) { create(t, token, l, a, nil, true, nil) }, "no CKA_ID"},
		{"twins", func(l string) {
			create(t, token, l, a, []byte("twin 1"), true, nil)
			create(t, token, l, b, []byte("twin 2"), true, nil)
		}, `2 private keys are labelled "twins"`},
		{"shared-id", func(l string) {
			create(t, token, l, a, []byte("shared"), true, nil)
			create(t, token, l+" too", b, []byte("shared"), true, nil)
		}, "shares its CKA_ID"},
	} {
		test.make(test.label)
		_, err := token.Key(test.label)
		if !errors.Is(err, ErrKeyUnfit) || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: %v, want ErrKeyUnfit with %q", test.label, err, test.want)
		}
	}
	if _, err := token.Key("nowhere"); !errors.Is(err, ErrKeyNotFound) {
		t.Errorf("a missing key: %v", err)
	}
}

// A public object that is not the private key's: the token signs happily, and the signature must not get out.
func TestSignatureThatDoesNotVerifyIsWithheld(t *testing.T) {
	_, config := softToken(t)
	token := openToken(t, config)
	a, b := newKey(t, 2048), newKey(t, 2048)
	create(t, token, "crossed", a, []byte("crossed"), false, nil)
	err := token.withSession(func(session pkcs11.SessionHandle) error {
		_, err := token.module.CreateObject(session, publicTemplate("crossed", []byte("crossed"), &b.PublicKey))
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := token.Key("crossed"); !errors.Is(err, ErrBadSignature) {
		t.Errorf("got %v, want ErrBadSignature", err)
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

func TestTokenByItsSerial(t *testing.T) {
	_, config := softToken(t)
	info := locateOnly(t, config)
	config.TokenLabel, config.TokenSerial = "", info.TokenSerial
	if got := openToken(t, config).Info(); got != info {
		t.Errorf("by serial: %+v, want %+v", got, info)
	}
}

func locateOnly(t *testing.T, c TokenConfig) Info {
	t.Helper()
	module, err := loadModule(c.Module)
	if err != nil {
		t.Fatal(err)
	}
	defer module.Destroy()
	info, err := locate(module, c)
	if err != nil {
		t.Fatal(err)
	}
	return info
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
