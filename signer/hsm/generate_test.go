package hsm

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"encoding/asn1"
	"errors"
	"strings"
	"testing"

	"github.com/miekg/pkcs11"
)

func TestGenerateCheckpointKey(t *testing.T) {
	shim, config := shimToken(t)
	token := openToken(t, config)

	edwards, err := token.GenerateCheckpointKey("ed25519")
	if err != nil {
		t.Fatal(err)
	}
	public, ok := edwards.Public().(ed25519.PublicKey)
	if !ok {
		t.Fatalf("SoftHSM makes Ed25519 keys; this one is a %T", edwards.Public())
	}
	signature, err := crypto.SignMessage(edwards, nil, []byte("checkpoint"), crypto.Hash(0))
	if err != nil || !ed25519.Verify(public, []byte("checkpoint"), signature) {
		t.Errorf("%x does not verify (%v)", signature, err)
	}

	set(t, shim, "C_GenerateKeyPair rv=0x140 count=4") // CKR_CURVE_NOT_SUPPORTED for Ed25519 in either form
	checkP256(t, token, "refused")
	set(t, shim)
	delete(token.mechanisms, ckmEdDSA)
	checkP256(t, token, "not-listed")

	for _, label := range []string{"ed25519", "refused", "not-listed"} {
		checkGenerated(t, token, label)
	}
}

func checkP256(t *testing.T, token *Token, label string) {
	t.Helper()
	key, err := token.GenerateCheckpointKey(label)
	if err != nil {
		t.Fatal(err)
	}
	public, ok := key.Public().(*ecdsa.PublicKey)
	if !ok || public.Curve != elliptic.P256() {
		t.Fatalf("%s: not P-256 but %T", label, key.Public())
	}
	for range 20 { // so that some r and s are shorter than 32 bytes, or have their first bit set
		signature, err := crypto.SignMessage(key, nil, []byte("checkpoint"), crypto.SHA256)
		digest := sha256.Sum256([]byte("checkpoint"))
		if err != nil || !ecdsa.VerifyASN1(public, digest[:], signature) {
			t.Errorf("%s: %x does not verify (%v)", label, signature, err)
		}
	}
}

func checkGenerated(t *testing.T, token *Token, label string) {
	t.Helper()
	err := token.sessions.with(func(session pkcs11.SessionHandle) error {
		info, err := token.inspect(session, label)
		if err != nil {
			return err
		}
		for attribute, value := range map[uint]bool{
			pkcs11.CKA_TOKEN: true, pkcs11.CKA_PRIVATE: true, pkcs11.CKA_SENSITIVE: true, pkcs11.CKA_ALWAYS_SENSITIVE: true,
			pkcs11.CKA_EXTRACTABLE: false, pkcs11.CKA_NEVER_EXTRACTABLE: true, pkcs11.CKA_LOCAL: true, pkcs11.CKA_SIGN: true,
			pkcs11.CKA_SIGN_RECOVER: false, pkcs11.CKA_DECRYPT: false, pkcs11.CKA_UNWRAP: false, pkcs11.CKA_DERIVE: false,
		} {
			got, err := token.flag(session, info.private, attribute, !value)
			if err != nil || got != value {
				t.Errorf("%s: attribute %#x is %t (%v), want %t", label, attribute, got, err, value)
			}
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
}

func TestGenerateCheckpointKeyRefuses(t *testing.T) {
	shim, config := shimToken(t)
	token := openToken(t, config)
	if _, err := token.Import("taken", newKey(t, 2048)); err != nil {
		t.Fatal(err)
	}
	if _, err := token.GenerateCheckpointKey("taken"); !errors.Is(err, ErrLabelInUse) {
		t.Errorf("a label that is taken: %v", err)
	}
	if _, err := token.GenerateCheckpointKey(""); err == nil {
		t.Error("an empty label was taken")
	}
	for name, faults := range map[string][]string{
		"a fault":                  {"C_GenerateKeyPair rv=0x30"},
		"no kind of key":           {"C_GenerateKeyPair rv=0x70"},
		"a key that signs wrongly": {"C_Sign corrupt"},
	} {
		set(t, shim, faults...)
		if _, err := token.GenerateCheckpointKey("checkpoint"); err == nil {
			t.Errorf("%s: a key was made", name)
		}
		set(t, shim)
		if keys, err := token.Keys(); err != nil || len(keys) != 1 {
			t.Errorf("%s: %d keys (%v), want the one that was there", name, len(keys), err)
		}
	}
}

// A checkpoint key that somebody else may have is none.
func TestUnfitCheckpointKeysAreRefused(t *testing.T) {
	_, config := softToken(t)
	token := openToken(t, config)
	generate := func(label string, mechanism uint, params []byte, change map[uint]any) {
		t.Helper()
		private := append(staysAndSigns(label, []byte(label)), refusals()[0]...)
		for i, attribute := range private {
			if value, ok := change[attribute.Type]; ok {
				private[i] = pkcs11.NewAttribute(attribute.Type, value)
			}
		}
		err := token.sessions.with(func(session pkcs11.SessionHandle) error {
			_, _, err := token.module.generateKeyPair(session, mechanism, generatedPublic(label, []byte(label), params), private)
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	for _, test := range []struct {
		label string
		make  func(label string)
		want  string
	}{
		{"extractable", func(l string) {
			generate(l, ckmECEdwardsKeyPairGen, der(oidEd25519), map[uint]any{pkcs11.CKA_EXTRACTABLE: true})
		}, "CKA_EXTRACTABLE"},
		{"p-384", func(l string) {
			generate(l, pkcs11.CKM_EC_KEY_PAIR_GEN, der(asn1.ObjectIdentifier{1, 3, 132, 0, 34}), nil)
		}, "neither P-256 nor Ed25519"},
		{"ed448", func(l string) {
			generate(l, ckmECEdwardsKeyPairGen, der(asn1.ObjectIdentifier{1, 3, 101, 113}), nil)
		}, "neither P-256 nor Ed25519"},
		{"imported", func(l string) { importP256(t, token, l, generatedPublic(l, []byte(l), der(oidP256))) }, "CKA_LOCAL"},
		{"mixed", func(l string) { importP256(t, token, l, publicTemplate(l, []byte(l), &newKey(t, 2048).PublicKey)) }, "of type RSA, the private key of type EC"},
		{"half", func(l string) { importP256(t, token, l, nil) }, "no public object"},
	} {
		test.make(test.label)
		_, err := token.Key(test.label)
		if !errors.Is(err, ErrKeyUnfit) || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: %v, want ErrKeyUnfit with %q", test.label, err, test.want)
		}
	}
}

// importP256 creates a P-256 private key that was made outside, with a public object that is given its point where it
// lacks a class, or with none.
func importP256(t *testing.T, token *Token, label string, public []*pkcs11.Attribute) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	scalar, err := key.Bytes()
	if err != nil {
		t.Fatal(err)
	}
	point, err := key.PublicKey.Bytes()
	if err != nil {
		t.Fatal(err)
	}
	private := append(privateTemplate(label, []byte(label)),
		pkcs11.NewAttribute(pkcs11.CKA_EC_PARAMS, der(oidP256)), pkcs11.NewAttribute(pkcs11.CKA_VALUE, scalar))
	private[1] = pkcs11.NewAttribute(pkcs11.CKA_KEY_TYPE, pkcs11.CKK_EC)
	if public != nil && public[0].Type != pkcs11.CKA_CLASS {
		public = append(public, class(pkcs11.CKO_PUBLIC_KEY),
			pkcs11.NewAttribute(pkcs11.CKA_KEY_TYPE, pkcs11.CKK_EC), pkcs11.NewAttribute(pkcs11.CKA_EC_POINT, der(point)))
	}
	err = token.sessions.with(func(session pkcs11.SessionHandle) error {
		if _, err := token.module.createObject(session, private); err != nil || public == nil {
			return err
		}
		_, err := token.module.createObject(session, public)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}
