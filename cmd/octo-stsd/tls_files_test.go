package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/octo-sts/appliance/sts/ststest"
)

// makePair makes a certificate that signed itself, and its key, as PEM.
func makePair(t *testing.T, serial int64, notBefore, notAfter time.Time) (certificate, key []byte) {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(serial), Subject: pkix.Name{CommonName: "by hand"}, DNSNames: []string{"sts.example.com"},
		NotBefore: notBefore, NotAfter: notAfter,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, private.Public(), private)
	keyDER, keyErr := x509.MarshalPKCS8PrivateKey(private)
	if err := errors.Join(err, keyErr); err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER})
}

// Pairs are replaced in every way that renewers have. What cannot be used changes
// nothing, and /readyz says so until it is mended.
func TestCertificateFilesAreReplaced(t *testing.T) {
	now := time.Now()
	live := t.TempDir() // as certbot's live/NAME: links that are replaced
	link := func(name, target string) error {
		return errors.Join(os.Symlink(target, filepath.Join(live, name+".new")), os.Rename(filepath.Join(live, name+".new"), filepath.Join(live, name)))
	}
	write := func(dir string, certificate, key []byte) {
		t.Helper()
		if err := errors.Join(os.MkdirAll(dir, 0o700), os.WriteFile(filepath.Join(dir, "cert.pem"), certificate, 0o600), os.WriteFile(filepath.Join(dir, "key.pem"), key, 0o600)); err != nil {
			t.Fatal(err)
		}
	}
	versions := t.TempDir()
	certificate, key := makePair(t, 1, now.Add(-time.Hour), now.Add(time.Hour))
	write(filepath.Join(versions, "1"), certificate, key)
	if err := errors.Join(link("..data", filepath.Join(versions, "1")), link("cert.pem", "..data/cert.pem"), link("key.pem", "..data/key.pem")); err != nil {
		t.Fatal(err)
	}
	r := newRig(t, ststest.ServiceConfig{TLS: true, Edit: func(config map[string]any) {
		config["tls"].(map[string]any)["files"] = map[string]any{"certificate": filepath.Join(live, "cert.pem"), "key": filepath.Join(live, "key.pem")}
	}, Unready: true})
	ca := &pebble{t: t}
	a := &acmeRig{r, ca}
	serves := func(serial string) {
		t.Helper()
		r.eventually("certificate "+serial, func() bool { return a.serialUnverified() == serial })
	}
	refuses := func(why string) {
		t.Helper()
		if err := r.Signal(syscall.SIGHUP); err != nil { // not to wait for the next look
			t.Fatal(err)
		}
		a.certificateCheck("refuses: "+why, func(status int, check string) bool {
			return status == 200 && strings.HasPrefix(check, "degraded: valid until ") && strings.Contains(check, why)
		})
	}
	serves("1")

	// As Kubernetes does: one link leads to both files, and is replaced.
	certificate, key = makePair(t, 2, now.Add(-time.Hour), now.Add(time.Hour))
	write(filepath.Join(versions, "2"), certificate, key)
	if err := link("..data", filepath.Join(versions, "2")); err != nil {
		t.Fatal(err)
	}
	serves("2")

	// Half written, in place; a stranger's key; gone; not valid yet; not valid any more.
	inUse := filepath.Join(versions, "2")
	write(inUse, certificate[:len(certificate)/2], key)
	refuses("loading certificate")
	write(inUse, certificate, strangersKey(t))
	refuses("private key does not match public key")
	if err := os.Remove(filepath.Join(inUse, "cert.pem")); err != nil {
		t.Fatal(err)
	}
	refuses("no such file or directory")
	early, earlyKey := makePair(t, 3, now.Add(time.Hour), now.Add(2*time.Hour))
	write(inUse, early, earlyKey)
	refuses("it is valid from ")
	late, lateKey := makePair(t, 4, now.Add(-2*time.Hour), now.Add(-time.Hour))
	write(inUse, late, lateKey)
	refuses("it is valid from ")
	if a.serialUnverified() != "2" {
		t.Error("not the old one any more")
	}

	// As certbot does: each link by itself. And a key that anybody may read.
	certificate, key = makePair(t, 5, now.Add(-time.Hour), now.Add(time.Hour))
	write(filepath.Join(versions, "5"), certificate, key)
	if err := errors.Join(os.Chmod(filepath.Join(versions, "5", "key.pem"), 0o644), link("key.pem", filepath.Join(versions, "5", "key.pem")), link("cert.pem", filepath.Join(versions, "5", "cert.pem"))); err != nil {
		t.Fatal(err)
	}
	serves("5")
	a.certificateCheck("well again", func(_ int, check string) bool { return strings.HasPrefix(check, "ready: valid until ") })
	if !strings.Contains(r.Logs(), "every user of this machine may read the certificate's key") {
		t.Error("no warning of a key that anybody may read")
	}

	// At a start an expired certificate is better than none: /readyz says so.
	write(filepath.Join(versions, "5"), late, lateKey)
	if err := r.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	a.certificateCheck("expired", func(status int, check string) bool {
		return status == 503 && strings.HasPrefix(check, "failing: expired at ")
	})
}
