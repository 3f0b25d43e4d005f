package hsm

import (
	"crypto/rsa"
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/miekg/pkcs11"
)

// create puts a key pair into the token with attributes that Import would never choose.
func create(t *testing.T, token *Token, label string, key *rsa.PrivateKey, id []byte, withPublic bool, change map[uint]bool) {
	t.Helper()
	private := slices.Concat(privateTemplate(label, id), refusals()[0], privateValues(key))
	for i, attribute := range private {
		if value, ok := change[attribute.Type]; ok {
			private[i] = pkcs11.NewAttribute(attribute.Type, value)
		}
	}
	err := token.sessions.with(func(session pkcs11.SessionHandle) error {
		if _, err := token.module.createObject(session, private); err != nil {
			return err
		}
		if !withPublic {
			return nil
		}
		_, err := token.module.createObject(session, publicTemplate(label, id, &key.PublicKey))
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
	err := token.sessions.with(func(session pkcs11.SessionHandle) error {
		_, err := token.module.createObject(session, publicTemplate("crossed", []byte("crossed"), &b.PublicKey))
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := token.Key("crossed"); !errors.Is(err, ErrBadSignature) {
		t.Errorf("got %v, want ErrBadSignature", err)
	}
}
