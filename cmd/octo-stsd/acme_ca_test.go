package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/caddyserver/certmagic"
	"github.com/mholt/acmez/v3/acme"
	"golang.org/x/crypto/ocsp"
)

// account is the daemon's ACME account, with its key, and a client for its CA.
func (r *acmeRig) account() (*acme.Client, acme.Account) {
	r.t.Helper()
	files, err := filepath.Glob(filepath.Join(r.Dir, "state", "acme", "accounts", "*.json"))
	if err != nil || len(files) != 1 {
		r.t.Fatalf("accounts: %q, %v", files, err)
	}
	text, err := os.ReadFile(files[0])
	stored := struct {
		Account    acme.Account
		PrivateKey string `json:"private_key"`
	}{}
	if err := errors.Join(err, json.Unmarshal(text, &stored)); err != nil {
		r.t.Fatal(err)
	}
	if stored.Account.PrivateKey, err = certmagic.PEMDecodePrivateKey([]byte(stored.PrivateKey)); err != nil {
		r.t.Fatal(err)
	}
	roots, err := os.ReadFile(r.ca.rootsOfItsAPI)
	if err != nil {
		r.t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(roots)
	return &acme.Client{Directory: "https://" + r.ca.at(r.ca.api) + "/dir",
		HTTPClient: &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool}}}}, stored.Account
}

// lookNow has the daemon look after its certificate at once.
func (r *acmeRig) lookNow() {
	r.t.Helper()
	if err := r.Signal(syscall.SIGHUP); err != nil {
		r.t.Fatal(err)
	}
}

// forceRenewal does what docs/tls.md says: it takes the stored certificate away.
func (r *acmeRig) forceRenewal() {
	r.t.Helper()
	if err := os.RemoveAll(filepath.Join(r.Dir, "state", "acme", "certificates")); err != nil {
		r.t.Fatal(err)
	}
	r.lookNow()
}

// An account that was deactivated, or that a CA set up afresh does not know, is
// replaced by a new one.
func TestAccountThatIsGone(t *testing.T) {
	ca := newPebble(t, nil)
	r := newACMERig(t, ca, nil)
	leaf := r.obtained(nil)
	client, first := r.account()

	deactivated := first
	deactivated.Status = acme.StatusDeactivated
	if _, err := client.UpdateAccount(t.Context(), deactivated); err != nil {
		t.Fatal(err)
	}
	r.forceRenewal()
	leaf = r.obtained(leaf)
	_, second := r.account()
	if second.Location == first.Location || !strings.Contains(r.Logs(), "so there will be a new one") {
		t.Errorf("the account is still %s", second.Location)
	}

	ca.stop()
	ca.start()
	r.forceRenewal()
	r.obtained(leaf)
	if _, third := r.account(); third.Location == second.Location {
		t.Errorf("the account is still %s", third.Location)
	}
}

// With an external account binding: none, a wrong key, the right one, taken from a
// credential.
func TestExternalAccountBinding(t *testing.T) {
	const right = "zWNDZM6eQGHWpSRTPal5eIUYFTu7EajVIoguysqZ9wG44nMEtx3MUAsUDkMTQ12W"
	ca := newPebble(t, map[string]any{"externalAccountBindingRequired": true, "externalAccountMACKeys": map[string]any{"kid-1": right}})
	credentials := t.TempDir()
	r := newACMERig(t, ca, nil, "CREDENTIALS_DIRECTORY="+credentials)
	says := func(what string) {
		t.Helper()
		r.certificateCheck(what, func(_ int, check string) bool {
			return strings.HasPrefix(check, "failing: there is none yet; last attempt: making an ACME account at ") && strings.Contains(check, what)
		})
	}
	says("externalAccountRequired")

	bind := func(key string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(credentials, "eab"), []byte(key+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		r.reconfigure(func(config map[string]any) {
			acme := config["tls"].(map[string]any)["acme"].(map[string]any)
			acme["eab"] = map[string]any{"key_id": "kid-1", "hmac_credential": "eab"}
		})
	}
	bind("b10lLJs8l1GPIzsLP0s6pMt8O0XVGnfTaCeROxQM0BIt2XrJMDHJZBM5NuQmQJQH")
	says("unauthorized")
	bind(right + "=") // some CAs pad it
	r.obtained(nil)

	for where, text := range written(t, r.Service) {
		if strings.Contains(text, right) {
			t.Errorf("the HMAC key stands in %s", where)
		}
	}
	if err := os.WriteFile(filepath.Join(credentials, "eab"), []byte("not base64!"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := r.Restart(t.Context()); exitStatus(err) != 1 || !strings.Contains(err.Error(), "tls.acme.eab: credential eab: is not base64url") || strings.Contains(r.Logs(), "not base64!") {
		t.Errorf("started with a key that is none: %v", err)
	}
}

// responder is OpenSSL's OCSP responder for the CA's certificates: valid, but for
// what is revoked.
func (p *pebble) responder(port int, leaf *x509.Certificate, revoked bool) (stop func()) {
	p.t.Helper()
	expiry := leaf.NotAfter.UTC().Format("060102150405Z")
	line := fmt.Sprintf("V\t%s\t\t%X\tunknown\t/CN=x\n", expiry, leaf.SerialNumber)
	if revoked {
		line = fmt.Sprintf("R\t%s\t%s,keyCompromise\t%X\tunknown\t/CN=x\n", expiry, time.Now().UTC().Format("060102150405Z"), leaf.SerialNumber)
	}
	if err := errors.Join(
		os.WriteFile(filepath.Join(p.dir, "index"), []byte(line), 0o600),
		os.WriteFile(filepath.Join(p.dir, "ca.pem"), p.ask("/intermediates/0"), 0o600),
		os.WriteFile(filepath.Join(p.dir, "ca.key"), p.ask("/intermediate-keys/0"), 0o600)); err != nil {
		p.t.Fatal(err)
	}
	listener, err := net.Listen("tcp", p.at(port)) // OpenSSL itself would listen at every address
	if err != nil {
		p.t.Fatal(err)
	}
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		question, answer := filepath.Join(p.dir, "question"), filepath.Join(p.dir, "answer")
		body, err := io.ReadAll(r.Body)
		if err == nil {
			err = os.WriteFile(question, body, 0o600)
		}
		if err == nil {
			err = exec.Command("openssl", "ocsp", "-index", filepath.Join(p.dir, "index"), "-CA", filepath.Join(p.dir, "ca.pem"),
				"-rsigner", filepath.Join(p.dir, "ca.pem"), "-rkey", filepath.Join(p.dir, "ca.key"), "-nmin", "5", "-resp_no_certs", "-reqin", question, "-respout", answer).Run()
		}
		if err == nil {
			body, err = os.ReadFile(answer)
		}
		if err != nil {
			p.t.Errorf("the OCSP responder: %v", err)
			return
		}
		w.Header().Set("Content-Type", "application/ocsp-response")
		_, _ = w.Write(body)
	})}
	go func() { _ = server.Serve(listener) }()
	return func() { _ = server.Close() }
}

// A staple is fetched where the certificate names a responder, and a certificate
// that the responder calls revoked is replaced, with a new key.
func TestOCSP(t *testing.T) {
	if _, err := exec.LookPath("openssl"); err != nil {
		t.Skip("OpenSSL is not installed")
	}
	ca := newPebble(t, nil)
	port := ca.freePort()
	ca.stop()
	ca.config["ocspResponderURL"], ca.config["certificateValidityPeriod"] = "http://"+ca.at(port), 3600
	ca.start()
	r := newACMERig(t, ca, nil)
	leaf := r.obtained(nil)

	// Revoked while the responder is away, so that no good answer is kept.
	client, account := r.account()
	if err := client.RevokeCertificate(t.Context(), account, leaf, account.PrivateKey, acme.ReasonKeyCompromise); err != nil {
		t.Fatal(err)
	}
	stop := ca.responder(port, leaf, true)
	r.lookNow()
	next := r.obtained(leaf)
	if string(next.RawSubjectPublicKeyInfo) == string(leaf.RawSubjectPublicKeyInfo) {
		t.Error("the key of a compromised certificate is still in use")
	}
	stop()

	stop = ca.responder(port, next, false)
	defer stop()
	r.lookNow()
	r.eventually("a staple", func() bool {
		_, state, err := r.presented(&tls.Config{ServerName: "sts.example.com"})
		if err != nil || len(state.OCSPResponse) == 0 {
			return false
		}
		answer, err := ocsp.ParseResponse(state.OCSPResponse, nil)
		return err == nil && answer.Status == ocsp.Good && answer.SerialNumber.Cmp(next.SerialNumber) == 0
	})
}

// misbehavingCA serves in the CA's place, with its name and certificate.
func (p *pebble) misbehavingCA(handler http.HandlerFunc) (stop func()) {
	p.t.Helper()
	listener, err := net.Listen("tcp", p.at(p.api))
	if err != nil {
		p.t.Fatal(err)
	}
	server := &http.Server{Handler: handler}
	go func() { _ = server.ServeTLS(listener, p.rootsOfItsAPI, filepath.Join(p.dir, "api.key")) }()
	return func() { _ = server.Close() }
}

// What answers in the CA's place, or a CA gone mad, does no harm: it is named in
// /readyz, in few words, and when the CA is back there is a certificate.
func TestCAThatAnswersGarbage(t *testing.T) {
	ca := newPebble(t, nil)
	ca.stop()
	endless := strings.Repeat("all work and no play makes Jack a dull boy. ", 1<<10)
	stop := ca.misbehavingCA(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		for {
			if _, err := fmt.Fprint(w, endless); err != nil {
				return
			}
		}
	})
	r := newACMERig(t, ca, nil)
	says := func(what string) {
		t.Helper()
		r.certificateCheck(what, func(_ int, check string) bool {
			return strings.HasPrefix(check, "failing: there is none yet; last attempt: ") && strings.Contains(check, what) && len(check) < 1500
		})
	}
	says("too large")
	stop()
	for what, answer := range map[string]http.HandlerFunc{
		"invalid character": func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "application/json")
			_, _ = fmt.Fprint(w, "<html>"+endless)
		},
		"HTTP 403": func(w http.ResponseWriter, _ *http.Request) { http.Error(w, endless, http.StatusForbidden) },
		"redirects to another host": func(w http.ResponseWriter, req *http.Request) {
			http.Redirect(w, req, "https://127.0.0.1:1/dir", http.StatusFound)
		},
		"required directory fields are missing": func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "application/json")
			_, _ = fmt.Fprint(w, "{}")
		},
	} {
		stop := ca.misbehavingCA(answer)
		r.lookNow()
		says(what)
		stop()
	}

	// One that asks for patience gets it; SIGHUP is a person, who knows better.
	stop = ca.misbehavingCA(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Retry-After", strconv.Itoa(3600))
		w.Header().Set("Content-Type", "application/problem+json")
		w.WriteHeader(http.StatusTooManyRequests)
		_, _ = fmt.Fprint(w, `{"type":"urn:ietf:params:acme:error:rateLimited","detail":"too many certificates already issued","status":429}`)
	})
	r.lookNow()
	check := r.certificateCheck("too many certificates", func(_ int, check string) bool { return strings.Contains(check, "too many certificates") })
	_, at, _ := strings.Cut(check, "next attempt at ")
	if next, err := time.Parse(time.RFC3339, at); err != nil || time.Until(next) < 50*time.Minute {
		t.Errorf("it does not wait as long as it was asked to: %s", check)
	}
	stop()

	// One that takes the connection and says nothing blocks nobody.
	hangs, release := context.WithCancel(t.Context())
	stop = ca.misbehavingCA(func(http.ResponseWriter, *http.Request) { <-hangs.Done() })
	r.lookNow()
	time.Sleep(100 * time.Millisecond) // it has asked by now, or asks later: neither matters
	if status, _, _ := r.readiness(); status != http.StatusServiceUnavailable {
		t.Errorf("/readyz: %d", status)
	}
	if err := r.Restart(t.Context()); err != nil {
		t.Errorf("stopping and starting while the CA says nothing: %v", err)
	}
	release()
	stop()
	ca.start()
	r.lookNow()
	r.obtained(nil)
}
