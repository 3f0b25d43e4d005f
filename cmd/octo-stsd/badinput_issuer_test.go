package main

import (
	"bytes"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"

	"github.com/octo-sts/appliance/sts/ststest"
)

// badIssuer is a listed issuer that misbehaves from the start.
type badIssuer struct {
	name      string
	tls       bool
	misbehave func(*ststest.Issuer) error
	why       string // what the operator reads
}

func (w *world) badIssuerRows() []badIssuer {
	discovery := func(m ststest.Misbehaviour) func(*ststest.Issuer) error {
		return func(i *ststest.Issuer) error { i.Misbehave(i.DiscoveryURL(), m); return nil }
	}
	keySet := func(m ststest.Misbehaviour) func(*ststest.Issuer) error {
		return func(i *ststest.Issuer) error { i.Misbehave(i.JWKSURL(), m); return nil }
	}
	says := func(member, value string) func(*ststest.Issuer) error {
		return discovery(ststest.Misbehaviour{Discovery: map[string]any{member: value}})
	}
	elsewhere := w.unlisted.URL()
	return []badIssuer{
		{"a cross-host redirect of discovery", false, discovery(ststest.Misbehaviour{RedirectTo: elsewhere + "/.well-known/openid-configuration"}), "redirect to another host"},
		{"a cross-host redirect of the key set", false, keySet(ststest.Misbehaviour{RedirectTo: elsewhere + "/jwks"}), "redirect to another host"},
		{"a redirect to a file", false, keySet(ststest.Misbehaviour{RedirectTo: "file:///etc/passwd"}), "keys_unavailable"},
		{"a redirect loop", false, func(i *ststest.Issuer) error {
			i.Misbehave(i.JWKSURL(), ststest.Misbehaviour{RedirectTo: i.JWKSURL()})
			return nil
		}, "redirects"},
		{"a discovery document that names another issuer", false, says("issuer", elsewhere), "keys_unavailable"},
		{"a discovery document that names the issuer with a slash", false, func(i *ststest.Issuer) error { return says("issuer", i.URL()+"/")(i) }, "keys_unavailable"},
		{"a jwks_uri elsewhere", false, says("jwks_uri", elsewhere+"/jwks"), "is on another host"},
		{"a jwks_uri at the machine's metadata", false, says("jwks_uri", "http://169.254.169.254/latest/meta-data"), "is http"},
		{"a jwks_uri that is a file", false, says("jwks_uri", "file:///etc/passwd"), "jwks_uri"},
		{"a body over the limit: discovery", false, discovery(ststest.Misbehaviour{Padding: 8 << 20}), "larger than 1 MiB"},
		{"a body over the limit: the key set", false, keySet(ststest.Misbehaviour{Padding: 64 << 20}), "larger than 1 MiB"},
		{"a gzip bomb", false, keySet(ststest.Misbehaviour{GzipBomb: 512 << 20}), "larger than 1 MiB"},
		{"a gzip bomb in discovery", false, discovery(ststest.Misbehaviour{GzipBomb: 512 << 20}), "larger than 1 MiB"},
		{"a storm of 500s", false, discovery(ststest.Misbehaviour{Status: http.StatusInternalServerError}), "500"},
		{"a storm of 500s for the key set", false, keySet(ststest.Misbehaviour{Status: http.StatusInternalServerError}), "500"},
		{"half a body", false, keySet(ststest.Misbehaviour{Truncate: true}), "unexpected EOF"},
		{"HTML", false, keySet(ststest.Misbehaviour{Body: []byte("<html>")}), "keys_unavailable"},
		{"no keys", false, func(i *ststest.Issuer) error { i.SetKeySet([]byte(`{"keys":[]}`)); return nil }, "no usable key"},
		{"10,000 keys", false, func(i *ststest.Issuer) error {
			many, err := ststest.ManyJWKs(10_000)
			i.PublishJWKs(many...)
			return err
		}, "larger than 1 MiB"},
		{"10,000 small keys", false, func(i *ststest.Issuer) error {
			i.SetKeySet([]byte(`{"keys":[{}` + strings.Repeat(`,{}`, 9_999) + `]}`))
			return nil
		}, "the limit is 256"},
		{"a deeply nested key set", false, func(i *ststest.Issuer) error {
			i.SetKeySet(bytes.Repeat([]byte(`{"keys":[`), 10_000))
			return nil
		}, "nested too deeply"},
		{"an expired certificate", true, (*ststest.Issuer).UseExpiredCertificate, "certificate has expired"},
		{"a certificate for another host", true, func(i *ststest.Issuer) error { return i.UseCertificateFor("issuer.example") }, "certificate"},
	}
}

// badIssuers starts them and returns their entries of the configuration.
func (w *world) badIssuers(t *testing.T) []any {
	var listed []any
	for n, b := range w.badIssuerRows() {
		i := newIssuer(t, ststest.IssuerConfig{TLS: b.tls, Alg: "ES256"})
		if err := b.misbehave(i); err != nil {
			t.Fatal(err)
		}
		more := map[string]any{}
		if b.tls {
			file := filepath.Join(t.TempDir(), fmt.Sprintf("issuer-%d.pem", n))
			if err := os.WriteFile(file, i.CAPEM(), 0o600); err != nil {
				t.Fatal(err)
			}
			more["ca_file"] = file
		}
		w.issuers[b.name] = i
		listed = append(listed, entry(i.URL(), more))
	}
	for _, url := range w.guardedURLs() {
		listed = append(listed, map[string]any{"url": url})
	}
	return listed
}

// guardedURLs are listed, and lead where nobody lists a network.
func (w *world) guardedURLs() []string {
	_, port, _ := net.SplitHostPort(w.unguarded.Addr().String())
	return []string{
		"https://169.254.169.254",                // the clouds' metadata
		"https://[fd00:ec2::254]",                // and one more of theirs
		"https://127.0.0.1:" + port,              // loopback
		"https://localhost:" + port,              // by name
		"https://[::ffff:127.0.0.1]:" + port,     // in another notation
		"https://[fe80::1]",                      // link-local
		"https://0.0.0.0:" + port,                // this machine, by another name
		"https://10.255.255.1/realms/production", // private
	}
}

func issuerRows(t *testing.T, w *world) {
	t.Run("Not listed", func(t *testing.T) { unlistedIssuers(t, w) })
	t.Run("Listed, and behind an address that no networks list", func(t *testing.T) {
		for _, url := range w.guardedURLs() {
			why := "refusing to connect to"
			raw := w.sign(t, w.Issuer, claims{"iss": url})
			w.try(t, row{url, ask(raw), codes.Unavailable, why})
		}
	})
	t.Run("Listed, and misbehaving", func(t *testing.T) {
		for _, b := range w.badIssuerRows() {
			w.try(t, row{b.name, ask(w.sign(t, w.issuers[b.name], nil)), codes.Unavailable, b.why})
		}
	})
	t.Run("a storm of 500s after a good start", func(t *testing.T) {
		i := w.issuers["stormy"]
		for _, url := range []string{i.DiscoveryURL(), i.JWKSURL()} {
			i.Misbehave(url, ststest.Misbehaviour{Status: http.StatusInternalServerError})
		}
		before, began := i.KeySetFetches()+i.Requests()["/.well-known/openid-configuration"], time.Now()
		unknown := func() string {
			return w.signWith(t, i, ststest.Signing{Header: map[string]any{"kid": "unknown"}})
		}
		for range 10 {
			a := w.overHTTP(t, ask(unknown()))
			if a.token != "" || a.code != codes.Unavailable && a.code != codes.Unauthenticated {
				t.Errorf("an unknown kid: %v %s", a.code, a.message)
			}
		}
		w.try(t, granted("the keys that are known (accepted)", w.sign(t, i, nil)))
		after := i.KeySetFetches() + i.Requests()["/.well-known/openid-configuration"]
		// A fetch is up to two requests: the key set, and discovery anew.
		if most := 2 * (1 + int(time.Since(began)/(10*time.Second))); after-before > most {
			t.Errorf("%d requests were made of the issuer, want at most %d", after-before, most)
		}
	})
}

// unlistedIssuers are refused for their name alone. That no packet left on their
// account, on any path, is checked at the end of everything.
func unlistedIssuers(t *testing.T, w *world) {
	listed := w.Issuer.URL()
	_, port, _ := net.SplitHostPort(strings.TrimPrefix(listed, "http://"))
	for name, iss := range map[string]string{
		"http":                "http://issuer.example",
		"https":               "https://issuer.example",
		"file":                "file:///etc/passwd",
		"gopher":              "gopher://127.0.0.1:" + port,
		"userinfo":            "http://user@127.0.0.1:" + port,
		"userinfo and secret": "http://user:secret@127.0.0.1:" + port,
		"fragment":            listed + "#x",
		"query":               listed + "?x=y",
		"trailing slash":      listed + "/",
		"trailing space":      listed + " ",
		"another path":        listed + "/other",
		"another case":        strings.Replace(listed, "http", "HTTP", 1),
		"another name of it":  "http://localhost:" + port,
		"no scheme":           "127.0.0.1:" + port,
		"metadata":            "http://169.254.169.254/latest/meta-data/iam",
		"an empty host":       "https://",
		"a local path":        "/etc/passwd",
	} {
		w.try(t, refused(name, w.sign(t, w.Issuer, claims{"iss": iss}), "unlisted_issuer"))
	}
	w.tryAll(t, []row{
		refused("no iss", w.sign(t, w.Issuer, claims{"iss": ststest.Omit}), "claims: iss is not"),
		refused("an iss that is a list", w.sign(t, w.Issuer, claims{"iss": []string{listed}}), "claims: iss is not"),
		refused("one that is not listed (zero packets leave): its own token", w.sign(t, w.unlisted, nil), "unlisted_issuer"),
		refused("one that is not listed, with a listed one's key", w.sign(t, w.Issuer, claims{"iss": w.unlisted.URL()}), "unlisted_issuer"),
		refused("one that is not listed, in a listed one's header", w.signWith(t, w.Issuer, ststest.Signing{Header: map[string]any{"jku": w.unlisted.JWKSURL(), "iss": w.unlisted.URL()}}), "malformed"),
		refused("one that is not listed, as a distributed claim", w.sign(t, w.Issuer, claims{
			"_claim_names": claims{"groups": "src"}, "_claim_sources": claims{"src": claims{"endpoint": w.unlisted.URL() + "/claims", "access_token": "x"}},
			"aud": "nobody", "sub": "",
		}), "claims: "),
		mismatched("one that is not listed, as the audience", anyone, w.sign(t, w.Issuer, claims{"aud": w.unlisted.URL()}), "mismatch: audience"),
	})
	w.tryOn(t, refused("one that is not listed, in a form", w.sign(t, w.unlisted, nil), "unlisted_issuer"), func(t *testing.T, r request) answer {
		body := url.Values{"scope": {r.scope}, "identity": {r.identity}, "identity_provider": {w.unlisted.URL()}, "aud": {w.unlisted.URL()}}.Encode()
		req, err := http.NewRequestWithContext(timeout(t), http.MethodPost, w.URL()+"/sts/exchange", strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		req.Header["Authorization"] = r.authorization
		req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		return w.do(t, req)
	})
}
