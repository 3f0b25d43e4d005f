package signer

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"io"
	"strings"
	"testing"
	"time"
)

func TestAppJWTIsExactlyThis(t *testing.T) {
	key := newRSAKey(t, 2048)
	now := time.Date(2026, 8, 1, 12, 0, 0, 987654321, time.FixedZone("", 7200))
	got, err := SignAppJWT(key, 1234, now)
	if err != nil {
		t.Fatal(err)
	}
	parts := strings.Split(got.JWT, ".")
	if len(parts) != 3 {
		t.Fatalf("%d parts", len(parts))
	}
	for i, want := range []string{
		`{"alg":"RS256","typ":"JWT"}`,
		`{"iat":1785578340,"exp":1785578940,"iss":"1234"}`,
	} {
		text, err := base64.RawURLEncoding.DecodeString(parts[i])
		if err != nil || string(text) != want {
			t.Errorf("part %d is %s (%v), want %s", i, text, err, want)
		}
	}
	signature, err := base64.RawURLEncoding.DecodeString(parts[2])
	if err != nil {
		t.Fatal(err)
	}
	digest := sha256.Sum256([]byte(parts[0] + "." + parts[1]))
	if err := rsa.VerifyPKCS1v15(&key.PublicKey, crypto.SHA256, digest[:], signature); err != nil {
		t.Error(err)
	}
	if want := time.Date(2026, 8, 1, 10, 9, 0, 0, time.UTC); !got.Expiry.Equal(want) {
		t.Errorf("expiry %v, want %v", got.Expiry, want)
	}
}

// twisted signs with one key and shows the public half of another, or fails.
type twisted struct {
	*rsa.PrivateKey
	public crypto.PublicKey
	err    error
}

func (k twisted) Public() crypto.PublicKey { return k.public }

func (k twisted) Sign(r io.Reader, digest []byte, options crypto.SignerOpts) ([]byte, error) {
	if k.err != nil {
		return nil, k.err
	}
	return k.PrivateKey.Sign(r, digest, options)
}

func TestAppJWTIsWithheld(t *testing.T) {
	a, b := newRSAKey(t, 2048), newRSAKey(t, 2048)
	ecKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	for name, test := range map[string]struct {
		key  crypto.Signer
		want string
	}{
		"wrong signature": {twisted{a, &b.PublicKey, nil}, "does not verify"},
		"failing key":     {twisted{a, &a.PublicKey, errors.New("device removed")}, "device removed"},
		"EC key":          {ecKey, "not RSA"},
	} {
		got, err := SignAppJWT(test.key, 1, time.Now())
		if err == nil || !strings.Contains(err.Error(), test.want) || got.JWT != "" {
			t.Errorf("%s: %q, %v", name, got.JWT, err)
		}
	}
}
