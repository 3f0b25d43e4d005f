package hsm

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"slices"
	"testing"
)

// Vendors do not agree on how a public point is written down.
func TestPublicPointsInEveryForm(t *testing.T) {
	edwards, _, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	point, err := key.PublicKey.Bytes()
	if err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		name     string
		keyType  string
		params   []byte
		point    []byte
		wantType string // "" where the key cannot be used
	}{
		{"Ed25519 bare", typeEdwards, der(oidEd25519), edwards, typeEd25519},
		{"Ed25519 in an OCTET STRING", typeEdwards, der(oidEd25519), slices.Concat([]byte{4, 32}, edwards), typeEd25519},
		{"Ed25519 in a BIT STRING", typeEdwards, der(oidEd25519), slices.Concat([]byte{3, 33, 0}, edwards), typeEd25519},
		{"Ed25519 by the older identifier", typeEdwards, der(oidEdwards), edwards, typeEd25519},
		{"Ed25519 by name", typeEdwards, []byte("\x13\x0cedwards25519"), edwards, typeEd25519},
		{"P-256 bare", typeEC, der(oidP256), point, typeP256},
		{"P-256 in an OCTET STRING", typeEC, der(oidP256), slices.Concat([]byte{4, 65}, point), typeP256},
		{"P-256 in a BIT STRING", typeEC, der(oidP256), slices.Concat([]byte{3, 66, 0}, point), typeP256},
		{"a wrong tag", typeEdwards, der(oidEd25519), slices.Concat([]byte{5, 32}, edwards), ""},
		{"a wrong length", typeEdwards, der(oidEd25519), slices.Concat([]byte{4, 33}, edwards), ""},
		{"unused bits", typeEdwards, der(oidEd25519), slices.Concat([]byte{3, 33, 1}, edwards), ""},
		{"nothing", typeEdwards, der(oidEd25519), nil, ""},
		{"off the curve", typeEC, der(oidP256), append(bytes.Clone(point[:64]), point[64]^1), ""},
		{"compressed", typeEC, der(oidP256), append([]byte{2}, point[1:33]...), ""},
		{"a curve of the other kind", typeEC, der(oidEd25519), edwards, ""},
		{"no curve", typeEC, nil, point, ""},
	} {
		gotType, public, err := parseEC(test.keyType, test.params, test.point)
		if test.wantType == "" {
			if err == nil || public != nil {
				t.Errorf("%s: taken for %s %v", test.name, gotType, public)
			}
			continue
		}
		good := gotType == typeEd25519 && edwards.Equal(public) || gotType == typeP256 && key.PublicKey.Equal(public)
		if err != nil || gotType != test.wantType || !good {
			t.Errorf("%s: %s %v, %v", test.name, gotType, public, err)
		}
	}
}

// A module may say anything.
func FuzzParseEC(f *testing.F) {
	f.Add(true, der(oidEd25519), make([]byte, 34))
	f.Add(false, der(oidP256), make([]byte, 67))
	f.Fuzz(func(t *testing.T, edwards bool, params, point []byte) {
		keyType := typeEC
		if edwards {
			keyType = typeEdwards
		}
		if _, public, err := parseEC(keyType, params, point); (public == nil) != (err != nil) {
			t.Errorf("public half %v with error %v", public, err)
		}
	})
}
