package main

import (
	"bytes"
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/octo-sts/appliance/signer"
	"github.com/octo-sts/appliance/signer/signertest"
	"github.com/octo-sts/appliance/sts/ststest"
)

// startRate starts exchanges at a steady rate, whether or not those before were answered.
func (r *rig) startRate(perSecond int, identity, scope string) *load {
	l := &load{stop: make(chan struct{}), status: map[int]int{}, refused: map[string]int{}}
	l.callers.Go(func() {
		tick := time.NewTicker(time.Second / time.Duration(perSecond))
		defer tick.Stop()
		for {
			select {
			case <-l.stop:
				return
			case <-tick.C:
			}
			l.callers.Go(func() { l.note(r.oneOfLoad(scope, identity)) })
		}
	})
	r.t.Cleanup(l.end)
	return l
}

// signerCommand runs octo-sts-signer beside the one that serves, with its configuration and its PIN.
func (r *rig) signerCommand(stdin []byte, args ...string) (string, error) {
	dir, err := rigPrograms()
	if err != nil {
		r.t.Fatal(err)
	}
	cmd := exec.CommandContext(r.t.Context(), filepath.Join(dir, "octo-sts-signer"), append(args, "--config", r.Signer.ConfigFile())...)
	cmd.Env = append(os.Environ(), r.Signer.Env()...)
	cmd.Stdin = bytes.NewReader(stdin)
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// newAppKey is a key generated for the App at GitHub, as the PEM that GitHub hands out.
func (r *rig) newAppKey() (*rsa.PublicKey, []byte) {
	r.t.Helper()
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		r.t.Fatal(err)
	}
	r.GitHub.AddApp(ststest.DefaultApp, &key.PublicKey, ststest.DefaultPermissions())
	return &key.PublicKey, pem.EncodeToMemory(&pem.Block{Type: "RSA PRIVATE KEY", Bytes: x509.MarshalPKCS1PrivateKey(key)})
}

// signedBy says whether the signer's next App JWT is signed with the private half of key.
func (r *rig) signedBy(key *rsa.PublicKey) bool {
	r.t.Helper()
	client := r.Signer.Client()
	defer client.Close()
	jwt, err := client.AppJWT(r.t.Context(), ststest.DefaultApp)
	if err != nil {
		r.t.Fatal(err)
	}
	input, encoded, _ := cutLast(jwt.JWT, ".")
	signature, err := base64.RawURLEncoding.DecodeString(encoded)
	if err != nil {
		r.t.Fatal(err)
	}
	digest := sha256.Sum256([]byte(input))
	return rsa.VerifyPKCS1v15(key, crypto.SHA256, digest[:], signature) == nil
}

func cutLast(s, sep string) (before, after string, found bool) {
	i := strings.LastIndex(s, sep)
	if i < 0 {
		return s, "", false
	}
	return s[:i], s[i+len(sep):], true
}

// An App's key is replaced, and the old one destroyed, while 100 exchanges a second go on: none fails.
func TestRotateUnderLoad(t *testing.T) {
	r := newRig(t, ststest.ServiceConfig{})
	old := r.Signer.PublicKey(ststest.DefaultApp)
	oldLabel := signertest.KeyLabel(ststest.DefaultApp)
	ca := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(ca, r.GitHub.CAPEM(), 0o600); err != nil {
		t.Fatal(err)
	}
	key, text := r.newAppKey()
	app := fmt.Sprint(ststest.DefaultApp)
	r.granted("acme/app", "reader")
	l := r.startRate(100, "reader", "acme/app")
	awaitGranted := func(more int) {
		t.Helper()
		from := l.granted()
		r.eventually("exchanges go on", func() bool { return l.granted() >= from+more })
	}
	awaitGranted(50)

	out, err := r.signerCommand(text, "key", "rotate", "--app", app, "--pem", "-", "--api-url", r.GitHub.URL(), "--ca-file", ca)
	if err != nil || !strings.Contains(out, "The running signer signs with it.") || !strings.Contains(out, signer.Fingerprint(key)) || !strings.Contains(out, "key retire --app "+app+" --key "+oldLabel) {
		t.Fatalf("key rotate: %v\n%s", err, out)
	}
	if !r.signedBy(key) || r.signedBy(old) {
		t.Error("after key rotate, the signer does not sign with the new key")
	}
	awaitGranted(50)

	// The owner deletes the old key at GitHub. A daemon whose App JWT the old key signed is refused once, and gets another:
	// so this holds even before the nine minutes are over that an operator waits.
	r.GitHub.RemoveAppKey(ststest.DefaultApp, old)
	awaitGranted(50)
	out, err = r.signerCommand(nil, "key", "retire", "--app", app, "--key", oldLabel, "--yes")
	if err != nil || !strings.Contains(out, "destroyed the key \""+oldLabel+"\"") {
		t.Fatalf("key retire: %v\n%s", err, out)
	}
	awaitGranted(50)
	l.allGranted(t)

	config, err := signer.LoadConfig(r.Signer.ConfigFile())
	if err != nil || len(config.Apps[0].Keys) != 1 || !strings.HasPrefix(config.Apps[0].Keys[0], oldLabel+"-") {
		t.Errorf("the App's keys are %+v, %v", config, err)
	}
	if out, err := r.signerCommand(nil, "key", "list", "--output", "json"); err != nil || strings.Contains(out, `"label": "`+oldLabel+`"`) || !strings.Contains(out, config.Apps[0].Keys[0]) {
		t.Errorf("key list: %v\n%s", err, out)
	}
	if err := r.Signer.Restart(t.Context()); err != nil || !r.signedBy(key) {
		t.Errorf("after a restart: %v", err)
	}
	if err := r.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	r.granted("acme/app", "reader")
}
