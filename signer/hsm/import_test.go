package hsm

import (
	"crypto/rsa"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/miekg/pkcs11"
)

// secretKeys counts the AES keys that a token shows.
func secretKeys(t *testing.T, token *Token) int {
	t.Helper()
	n := 0
	err := token.sessions.with(func(session pkcs11.SessionHandle) error {
		handles, err := token.find(session, class(pkcs11.CKO_SECRET_KEY))
		n = len(handles)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// The ways of an import, each forced by a module that refuses the ones before it. Whichever it was, the key is the same.
func TestImportGoesTheWayThatTheTokenAllows(t *testing.T) {
	shim, config := shimToken(t)
	token := openToken(t, config)
	const refuse = "C_CreateObject rv=%#x count=2" // with and without refusals
	for i, test := range []struct {
		name   string
		faults []string
		calls  map[string]int
	}{
		{"created", nil, map[string]int{"C_CreateObject": 2, "C_UnwrapKey": 0}},
		{"CBC_PAD under a key of the token's", []string{fmt.Sprintf(refuse, pkcs11.CKR_TEMPLATE_INCONSISTENT), "C_UnwrapKey emulate"},
			map[string]int{"C_CreateObject": 3, "C_GenerateKey": 1, "C_Encrypt": 2, "C_UnwrapKey": 1, "C_DestroyObject": 1}},
		// SoftHSM encrypts with CBC_PAD and does not unwrap with it.
		{"KEY_WRAP_PAD under a created key", []string{fmt.Sprintf(refuse, pkcs11.CKR_TEMPLATE_INCONSISTENT)},
			map[string]int{"C_CreateObject": 4, "C_GenerateKey": 2, "C_UnwrapKey": 3, "C_DestroyObject": 3}},
		{"no keys made in the token", []string{fmt.Sprintf(refuse, pkcs11.CKR_ACTION_PROHIBITED), "C_GenerateKey rv=0x54"},
			map[string]int{"C_CreateObject": 4, "C_UnwrapKey": 1, "C_DestroyObject": 1}},
		{"no function to create with", []string{fmt.Sprintf(refuse, pkcs11.CKR_FUNCTION_NOT_SUPPORTED), "C_UnwrapKey emulate"}, map[string]int{"C_UnwrapKey": 1}},
		{"an attribute that is not taken", []string{fmt.Sprintf(refuse, pkcs11.CKR_ATTRIBUTE_VALUE_INVALID)}, map[string]int{"C_UnwrapKey": 3}},
		{"a vendor's code", []string{fmt.Sprintf(refuse, uint(pkcs11.CKR_VENDOR_DEFINED)+0x123)}, map[string]int{"C_UnwrapKey": 3}},
	} {
		t.Run(test.name, func(t *testing.T) {
			set(t, shim, test.faults...)
			forget(t, shim)
			label, key := fmt.Sprintf("app-%d", i), newKey(t, 2048)
			if _, err := token.Import(label, key); err != nil {
				t.Fatal(err)
			}
			set(t, shim)
			got := counted(t, shim)
			for function, want := range test.calls {
				if got[function] != want {
					t.Errorf("%s was called %d times, want %d", function, got[function], want)
				}
			}
			checkImported(t, token, label, key)
			if n := secretKeys(t, token); n != 0 {
				t.Errorf("%d temporary keys are left", n)
			}
		})
	}
}

// checkImported reads every attribute of an imported key as it is in the token.
func checkImported(t *testing.T, token *Token, label string, key *rsa.PrivateKey) {
	t.Helper()
	imported, err := token.Key(label)
	if err != nil {
		t.Fatal(err)
	}
	if !key.PublicKey.Equal(imported.Public()) {
		t.Error("the token shows another public key")
	}
	err = token.sessions.with(func(session pkcs11.SessionHandle) error {
		for attribute, value := range map[uint]bool{
			pkcs11.CKA_TOKEN: true, pkcs11.CKA_PRIVATE: true, pkcs11.CKA_SENSITIVE: true, pkcs11.CKA_EXTRACTABLE: false,
			pkcs11.CKA_SIGN: true, pkcs11.CKA_SIGN_RECOVER: false, pkcs11.CKA_DECRYPT: false, pkcs11.CKA_UNWRAP: false,
			pkcs11.CKA_DERIVE: false, pkcs11.CKA_LOCAL: false, pkcs11.CKA_NEVER_EXTRACTABLE: false,
		} {
			got, err := token.flag(session, imported.info.private, attribute, !value)
			if err != nil || got != value {
				t.Errorf("attribute %#x is %t (%v), want %t", attribute, got, err, value)
			}
		}
		if values, err := token.module.attributes(session, imported.info.private, pkcs11.CKA_PRIVATE_EXPONENT); err == nil && len(values[0]) > 0 {
			t.Error("the private exponent could be read")
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
}

func TestImportThatFailsLeavesNothing(t *testing.T) {
	shim, config := shimToken(t)
	token := openToken(t, config)
	key := newKey(t, 2048)
	for name, test := range map[string]struct {
		faults []string
		want   []string
	}{
		"every way refused": {[]string{"C_CreateObject rv=0xd1", "C_UnwrapKey rv=0x70"},
			[]string{"C_CreateObject of", "CKM_AES_CBC_PAD", "CKM_AES_KEY_WRAP_KWP", "CKM_AES_KEY_WRAP_PAD", "does not list"}},
		"a fault, which is no refusal":      {[]string{"C_CreateObject rv=0x30 count=1"}, []string{"CKR_DEVICE_ERROR"}},
		"a fault in the middle":             {[]string{"C_CreateObject rv=0xd1 count=2", "C_UnwrapKey rv=0x30"}, []string{"CKR_DEVICE_ERROR"}},
		"no public half":                    {[]string{"C_CreateObject rv=0x30 after=1"}, []string{"public object"}},
		"a key that signs wrongly":          {[]string{"C_Sign corrupt"}, []string{ErrBadSignature.Error()}},
		"a temporary key that does not die": {[]string{"C_CreateObject rv=0xd1 count=2", "C_UnwrapKey emulate", "C_DestroyObject rv=0x30 count=1"}, []string{"temporary AES key"}},
	} {
		set(t, shim, test.faults...)
		_, err := token.Import("app-1", key)
		set(t, shim)
		for _, want := range test.want {
			if err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("%s: %v, want %q", name, err, want)
			}
		}
		if keys, err := token.Keys(); err != nil || len(keys) != 0 {
			t.Errorf("%s: %d keys are left (%v)", name, len(keys), err)
		}
		if n := secretKeys(t, token); n != 0 {
			t.Errorf("%s: %d temporary keys are left", name, n)
		}
	}
	if _, err := token.Import("app-1", key); err != nil {
		t.Error(err)
	}
}

// A token that does not know an attribute makes the key without it, and the key is looked at afterwards: SoftHSM gives keys
// every use that is not denied.
func TestKeyWithMoreUsesThanSigningIsNotKept(t *testing.T) {
	shim, config := shimToken(t)
	token := openToken(t, config)
	for name, test := range map[string]struct {
		fault string
		make  func() error
	}{
		"import":   {"C_CreateObject rv=0x12 count=1", func() error { _, err := token.Import("app-1", newKey(t, 2048)); return err }},
		"generate": {"C_GenerateKeyPair rv=0x12 count=1", func() error { _, err := token.GenerateCheckpointKey("checkpoint"); return err }},
	} {
		set(t, shim, test.fault) // CKR_ATTRIBUTE_TYPE_INVALID
		if err := test.make(); !errors.Is(err, ErrKeyUnfit) || !strings.Contains(err.Error(), "more uses than signing") {
			t.Errorf("%s: %v", name, err)
		}
		if keys, err := token.Keys(); err != nil || len(keys) != 0 {
			t.Errorf("%s: %d keys are left (%v)", name, len(keys), err)
		}
	}
}

func TestDestroyTakesBothHalvesAndNothingElse(t *testing.T) {
	_, config := softToken(t)
	token := openToken(t, config)
	key := newKey(t, 2048)
	for _, label := range []string{"app-1", "app-2"} {
		if _, err := token.Import(label, key); err != nil {
			t.Fatal(err)
		}
		key = newKey(t, 2048)
	}
	if err := token.Destroy("app-1"); err != nil {
		t.Fatal(err)
	}
	if _, err := token.Key("app-2"); err != nil {
		t.Errorf("the other key: %v", err)
	}
	for number, want := range map[uint]int{pkcs11.CKO_PRIVATE_KEY: 1, pkcs11.CKO_PUBLIC_KEY: 1} {
		err := token.sessions.with(func(session pkcs11.SessionHandle) error {
			handles, err := token.find(session, class(number))
			if len(handles) != want {
				t.Errorf("%d objects of class %d, want %d", len(handles), number, want)
			}
			return err
		})
		if err != nil {
			t.Error(err)
		}
	}
	if err := token.Destroy("app-1"); !errors.Is(err, ErrKeyNotFound) {
		t.Errorf("again: %v", err)
	}
	create(t, token, "twins", newKey(t, 2048), []byte("twin 1"), true, nil)
	create(t, token, "twins", newKey(t, 2048), []byte("twin 2"), true, nil)
	if err := token.Destroy("twins"); !errors.Is(err, ErrKeyUnfit) {
		t.Errorf("one of two: %v", err)
	}
}
