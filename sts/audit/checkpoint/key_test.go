package checkpoint

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"fmt"
	"strings"
	"testing"
)

// The public key of sigstore's log, and the ID with which its checkpoints name it.
const (
	rekorKey = "MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAE2G2Y+2tabdTV5BcGiBIx0a9fAFwrkBbmLSGtks4L3qX6yYY0zufBnhC8Ur/iy55GhWP/9A/bY2LhC30M9+RYtw=="
	rekorID  = "c0d23d6a"
)

func TestECDSAKeyID(t *testing.T) {
	der, err := base64.StdEncoding.DecodeString(rekorKey)
	if err != nil {
		t.Fatal(err)
	}
	public, err := x509.ParsePKIXPublicKey(der)
	if err != nil {
		t.Fatal(err)
	}
	got, err := EncodeKey("rekor.sigstore.dev", public)
	want := "rekor.sigstore.dev+" + rekorID + "+" + base64.StdEncoding.EncodeToString(append([]byte{2}, der...))
	if err != nil || got != want {
		t.Errorf("got  %s, %v\nwant %s", got, err, want)
	}
}

func TestKeys(t *testing.T) {
	for kind, key := range bothKinds(t) {
		vkey, err := EncodeKey(origin, key.Public())
		if err != nil {
			t.Fatal(err)
		}
		v, err := ParseKey(vkey)
		if err != nil || v.Name() != origin || !strings.Contains(vkey, fmt.Sprintf("+%08x+", v.KeyHash())) {
			t.Errorf("%s: %v, %v", kind, v, err)
		}
		parts := strings.SplitN(vkey, "+", 3)
		for name, wrong := range map[string]string{
			"nothing":               "",
			"no ID":                 parts[0] + "+" + parts[2],
			"no name":               "+" + parts[1] + "+" + parts[2],
			"another name":          "sts.example.com/other+" + parts[1] + "+" + parts[2] + "A",
			"a name with a space":   "a b+" + parts[1] + "+" + parts[2],
			"another ID":            parts[0] + "+00000000+" + parts[2],
			"an ID in capitals":     parts[0] + "+" + strings.ToUpper(parts[1]) + "x+" + parts[2],
			"no key":                parts[0] + "+" + parts[1] + "+",
			"a short key":           parts[0] + "+" + parts[1] + "+" + parts[2][:8],
			"a key without its end": strings.TrimRight(vkey, "=")[:len(vkey)-4],
			"another type":          parts[0] + "+" + parts[1] + "+BA" + parts[2][2:],
			"a space after it":      vkey + " ",
			"a newline after it":    vkey + "\n",
			"too long":              strings.Repeat("a", 500) + vkey,
		} {
			if v, err := ParseKey(wrong); err == nil {
				t.Errorf("%s, %s: parsed as %v", kind, name, v)
			}
		}
	}
	for kind, generate := range map[string]func() (crypto.Signer, error){
		"RSA":   func() (crypto.Signer, error) { return rsa.GenerateKey(rand.Reader, 2048) },
		"P-384": func() (crypto.Signer, error) { return ecdsa.GenerateKey(elliptic.P384(), rand.Reader) },
	} {
		key, err := generate()
		if err != nil {
			t.Fatal(err)
		}
		if vkey, err := EncodeKey(origin, key.Public()); err == nil {
			t.Errorf("%s: encoded as %s", kind, vkey)
		}
		der, err := x509.MarshalPKIXPublicKey(key.Public())
		if err != nil {
			t.Fatal(err)
		}
		if v, err := ParseKey(origin + "+00000000+" + base64.StdEncoding.EncodeToString(append([]byte{2}, der...))); err == nil {
			t.Errorf("%s: parsed as %v", kind, v)
		}
	}
}

func FuzzParseKey(f *testing.F) {
	for _, key := range bothKinds(f) {
		vkey, err := EncodeKey(origin, key.Public())
		if err != nil {
			f.Fatal(err)
		}
		f.Add(vkey)
	}
	f.Fuzz(func(t *testing.T, vkey string) {
		v, err := ParseKey(vkey)
		if err != nil {
			return
		}
		if again, err := EncodeKey(v.Name(), v.(*verifier).public); again != vkey {
			t.Errorf("%q was read as %q, %v", vkey, again, err)
		}
	})
}
