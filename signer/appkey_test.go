package signer

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

func newRSAKey(t testing.TB, bits int) *rsa.PrivateKey {
	t.Helper()
	key, err := rsa.GenerateKey(rand.Reader, bits)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func pkcs1PEM(key *rsa.PrivateKey) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "RSA PRIVATE KEY", Bytes: x509.MarshalPKCS1PrivateKey(key)})
}

func pkcs8PEM(t testing.TB, key any) []byte {
	t.Helper()
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})
}

func TestParsePrivateKeyAccepts(t *testing.T) {
	key := newRSAKey(t, 2048)
	for name, text := range map[string][]byte{
		"PKCS #1":           pkcs1PEM(key),
		"PKCS #8":           pkcs8PEM(t, key),
		"blank lines":       append(append([]byte("\n\n"), pkcs1PEM(key)...), "\n \n"...),
		"CRLF":              bytes.ReplaceAll(pkcs1PEM(key), []byte("\n"), []byte("\r\n")),
		"no newline at end": bytes.TrimSpace(pkcs1PEM(key)),
	} {
		got, err := ParsePrivateKey(text)
		if err != nil || !got.Equal(key) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestParsePrivateKeyRefuses(t *testing.T) {
	key := newRSAKey(t, 2048)
	ecKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	ecDER, err := x509.MarshalECPrivateKey(ecKey)
	if err != nil {
		t.Fatal(err)
	}
	publicDER, err := x509.MarshalPKIXPublicKey(&key.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	block := func(kind string, der []byte) []byte {
		return pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})
	}
	good := pkcs1PEM(key)
	unsound := *key
	unsound.D = key.Primes[0]
	for name, test := range map[string]struct {
		text []byte
		want string
	}{
		"nothing":               {nil, "empty"},
		"white space":           {[]byte(" \n"), "empty"},
		"DER":                   {x509.MarshalPKCS1PrivateKey(key), "does not begin with -----BEGIN"},
		"text before":           {append([]byte("Bag Attributes\n"), good...), "does not begin with -----BEGIN"},
		"text after":            {append(bytes.Clone(good), "garbage"...), "something follows"},
		"two keys":              {append(bytes.Clone(good), good...), "something follows"},
		"cut off":               {good[:len(good)/2], "damaged"},
		"bad base64":            {bytes.Replace(good, []byte("\nMII"), []byte("\nM*I"), 1), "damaged"},
		"RFC 1421 encryption":   {bytes.Replace(good, []byte("-----\n"), []byte("-----\nProc-Type: 4,ENCRYPTED\nDEK-Info: AES-128-CBC,00\n\n"), 1), "encrypted"},
		"PKCS #8 encryption":    {block("ENCRYPTED PRIVATE KEY", []byte{1}), "encrypted"},
		"EC":                    {block("EC PRIVATE KEY", ecDER), "GitHub Apps have RSA keys"},
		"EC in PKCS #8":         {pkcs8PEM(t, ecKey), "GitHub Apps have RSA keys"},
		"certificate":           {block("CERTIFICATE", []byte{1}), "not a private key"},
		"public key":            {block("PUBLIC KEY", publicDER), "not a private key"},
		"OpenSSH":               {block("OPENSSH PRIVATE KEY", []byte{1}), `"OPENSSH PRIVATE KEY"`},
		"PKCS #8 named PKCS #1": {bytes.ReplaceAll(pkcs8PEM(t, key), []byte("PRIVATE KEY"), []byte("RSA PRIVATE KEY")), "no sound PKCS #1"},
		"garbage within":        {block("RSA PRIVATE KEY", []byte("garbage")), "no sound PKCS #1"},
		"unsound numbers":       {pkcs1PEM(&unsound), "sound"},
		"1024 bits":             {pkcs1PEM(newRSAKey(t, 1024)), "1024 bits, at least 2048"},
		"too long":              {bytes.Repeat([]byte("A"), MaxPEM+1), "more than 65536 bytes"},
	} {
		_, err := ParsePrivateKey(test.text)
		if err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: %v, want %q", name, err, test.want)
		}
	}
}

// FuzzParsePrivateKey: no panic, and whatever is accepted is a key that signs.
func FuzzParsePrivateKey(f *testing.F) {
	key := newRSAKey(f, 2048)
	f.Add(pkcs1PEM(key))
	f.Add(pkcs8PEM(f, key))
	f.Add([]byte("-----BEGIN RSA PRIVATE KEY-----\n-----END RSA PRIVATE KEY-----\n"))
	f.Add([]byte("-----BEGIN PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\n\nAAAA\n-----END PRIVATE KEY-----\n"))
	f.Fuzz(func(t *testing.T, text []byte) {
		key, err := ParsePrivateKey(text)
		if (key == nil) == (err == nil) {
			t.Fatalf("key %v and error %v", key, err)
		}
		if err == nil && key.N.BitLen() < MinRSABits {
			t.Errorf("accepted %d bits", key.N.BitLen())
		}
	})
}

// The fingerprint is what the three commands of GitHub's documentation print.
func TestFingerprintIsGitHubs(t *testing.T) {
	if _, err := exec.LookPath("openssl"); err != nil {
		t.Fatal("openssl is not installed: run packaging/prerequisites")
	}
	key := newRSAKey(t, 2048)
	path := filepath.Join(t.TempDir(), "key.pem")
	if err := os.WriteFile(path, pkcs1PEM(key), 0o600); err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command("sh", "-c", `openssl rsa -in "$1" -pubout -outform DER 2>/dev/null | openssl sha256 -binary | openssl base64`, "sh", path).Output()
	if err != nil {
		t.Fatal(err)
	}
	want := "SHA256:" + strings.TrimSpace(string(out))
	if got := Fingerprint(&key.PublicKey); got != want || len(want) != len("SHA256:")+base64.StdEncoding.EncodedLen(sha256.Size) {
		t.Errorf("got %s, want %s", got, want)
	}
}
