package idtoken

import (
	"bytes"
	"compress/gzip"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"testing"
)

// firstError is what the first fetch from an issuer fails with.
func firstError(t *testing.T, issuer Issuer) string {
	t.Helper()
	v := newVerifier(t, newClock(), issuer)
	eventually(t, "the first attempt fails", func() bool { return v.Status()[0].LastError != nil })
	if status := v.Status()[0]; status.Usable || status.Keys != 0 {
		t.Errorf("status %+v", status)
	}
	k := newKey(t, "EdDSA", "k")
	check(t, v, k.sign(t, claims(issuer.URL, nil)), ReasonKeysUnavailable)
	return v.Status()[0].LastError.Error()
}

func contains(t *testing.T, text, want string) {
	t.Helper()
	if !strings.Contains(text, want) {
		t.Errorf("error %q, want one with %q", text, want)
	}
	if len(text) > 1100 {
		t.Errorf("error of %d bytes", len(text))
	}
}

func TestBadKeySetAnswers(t *testing.T) {
	k := newKey(t, "EdDSA", "k")
	elsewhere := newTestIssuer(t, k)
	for _, c := range []struct {
		name   string
		answer http.HandlerFunc
		want   string
	}{
		{"500", status(http.StatusInternalServerError), "500"},
		{"404", status(http.StatusNotFound), "404"},
		{"204", status(http.StatusNoContent), "204"},
		{"HTML", text("<html>"), "not a JSON object"},
		{"empty", text(""), "not a JSON object"},
		{"truncated", text(jwks(t, k)[:40]), "JSON"},
		{"shorter than announced", func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", "1000")
			fmt.Fprint(w, jwks(t, k))
		}, "unexpected EOF"},
		{"10,000 keys", text(`{"keys":[` + strings.Repeat(`{},`, 9_999) + `{}]}`), "10000 keys"},
		{"over 1 MiB", text(jwks(t, k) + strings.Repeat(" ", 1<<20)), "larger than 1 MiB"},
		{"a gzip bomb", bomb(jwks(t, k), 64<<20), "larger than 1 MiB"},
		{"endless", func(w http.ResponseWriter, _ *http.Request) {
			for {
				if _, err := w.Write(make([]byte, 64<<10)); err != nil {
					return
				}
			}
		}, "larger than 1 MiB"},
		{"an endless header", func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("X", strings.Repeat("a", 100<<10))
		}, "header"},
		{"a redirect to another host", redirect(elsewhere.URL + "/jwks"), "redirect to another host"},
		{"a redirect to another scheme", redirect("https://issuer.example/jwks"), "redirect to another host"},
		{"a redirect to a file", redirect("file:///etc/passwd"), "redirect to another host"},
		{"a redirect loop", redirect("/jwks"), "redirects"},
		{"closed at once", func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }, "EOF"},
	} {
		t.Run(c.name, func(t *testing.T) {
			issuer := newTestIssuer(t, k)
			issuer.respond(c.answer)
			contains(t, firstError(t, issuer.listed()), c.want)
			if n := issuer.fetches.Load(); n > maxRedirects+1 {
				t.Errorf("%d requests", n)
			}
		})
	}
	if n := elsewhere.connections.Load(); n != 0 {
		t.Errorf("%d connections to where a redirect pointed", n)
	}
}

func TestGoodKeySetAnswers(t *testing.T) {
	k := newKey(t, "EdDSA", "k")
	for name, answer := range map[string]http.HandlerFunc{
		"compressed":       bomb(jwks(t, k), 1000),
		"just under 1 MiB": text(jwks(t, k) + strings.Repeat(" ", 1<<20-len(jwks(t, k)))),
		"a redirect on the same host": func(w http.ResponseWriter, r *http.Request) {
			if hops := len(r.URL.Query().Get("hop")); hops < maxRedirects {
				http.Redirect(w, r, "/jwks?hop="+strings.Repeat("x", hops+1), http.StatusFound)
				return
			}
			fmt.Fprint(w, jwks(t, k))
		},
	} {
		t.Run(name, func(t *testing.T) {
			issuer := newTestIssuer(t, k)
			issuer.respond(answer)
			check(t, newVerifier(t, newClock(), issuer.listed()), k.sign(t, claims(issuer.URL, nil)), "")
		})
	}
}

func TestBadDiscovery(t *testing.T) {
	k := newKey(t, "EdDSA", "k")
	elsewhere := newTestIssuer(t, k)
	document := func(format string) func(string) string { // URL is where the issuer is
		return func(url string) string { return strings.ReplaceAll(format, "URL", url) }
	}
	for _, c := range []struct {
		name string
		body func(url string) string
		want string
	}{
		{"another issuer", document(`{"issuer":"https://other.example","jwks_uri":"URL/jwks"}`), "did not match"},
		{"the issuer with a slash", document(`{"issuer":"URL/","jwks_uri":"URL/jwks"}`), "did not match"},
		{"no issuer", document(`{"jwks_uri":"URL/jwks"}`), "did not match"},
		{"the issuer in another case only", document(`{"ISSUER":"URL","jwks_uri":"URL/jwks"}`), "another issuer"},
		{"two issuers", document(`{"issuer":"https://other.example","issuer":"URL","jwks_uri":"URL/jwks"}`), "duplicate"},
		{"no jwks_uri", document(`{"issuer":"URL"}`), "jwks_uri"},
		{"jwks_uri no string", document(`{"issuer":"URL","jwks_uri":null}`), "jwks_uri"},
		{"jwks_uri elsewhere", document(`{"issuer":"URL","jwks_uri":"` + elsewhere.URL + `/jwks"}`), "set the issuer's jwks_url"},
		{"jwks_uri on another host", document(`{"issuer":"URL","jwks_uri":"https://www.googleapis.com/oauth2/v3/certs"}`), "set the issuer's jwks_url"},
		{"jwks_uri with user information", document(`{"issuer":"URL","jwks_uri":"http://a@127.0.0.1/jwks"}`), "user information"},
		{"jwks_uri with a fragment", document(`{"issuer":"URL","jwks_uri":"URL/jwks#x"}`), "fragment"},
		{"jwks_uri relative", document(`{"issuer":"URL","jwks_uri":"/jwks"}`), "https://"},
		{"jwks_uri a file", document(`{"issuer":"URL","jwks_uri":"file:///etc/passwd"}`), "https://"},
		{"HTML", document(`<html>`), "discovery"},
		{"over 1 MiB", func(string) string { return strings.Repeat(" ", 1<<20+1) }, "larger than 1 MiB"},
	} {
		t.Run(c.name, func(t *testing.T) {
			issuer := newTestIssuer(t, k)
			issuer.respondMeta(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, c.body(issuer.URL)) })
			contains(t, firstError(t, issuer.listed()), c.want)
			if n := issuer.fetches.Load(); n != 0 {
				t.Errorf("keys were asked for %d times", n)
			}
		})
	}
	for name, answer := range map[string]http.HandlerFunc{
		"500 with a long body": func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(500)
			fmt.Fprint(w, strings.Repeat("x", 1<<19))
		},
		"a redirect to another host": redirect(elsewhere.URL + "/.well-known/openid-configuration"),
	} {
		t.Run(name, func(t *testing.T) {
			issuer := newTestIssuer(t, k)
			issuer.respondMeta(answer)
			contains(t, firstError(t, issuer.listed()), "discovery")
		})
	}
	if n := elsewhere.connections.Load(); n != 0 {
		t.Errorf("%d connections to another host", n)
	}
}

func TestKeysFromJWKSURL(t *testing.T) {
	k := newKey(t, "EdDSA", "k")
	keys := newTestIssuer(t, k)
	v := newVerifier(t, newClock(), Issuer{URL: issuerURL, JWKSURL: keys.URL + "/jwks?version=1", Networks: loopback})
	check(t, v, k.sign(t, claims(issuerURL, nil)), "")
	if n := keys.discoveries.Load(); n != 0 {
		t.Errorf("%d discoveries although the URL of the keys is given", n)
	}
}

func TestDialGuard(t *testing.T) {
	k := newKey(t, "EdDSA", "k")
	issuer := newTestIssuer(t, k)
	_, port, _ := net.SplitHostPort(strings.TrimPrefix(issuer.URL, "http://"))
	for name, url := range map[string]string{
		"a loopback address":                "https://127.0.0.1:" + port,
		"a name that leads to loopback":     "https://localhost:" + port,
		"loopback as an IPv6 address":       "https://[::ffff:127.0.0.1]:" + port,
		"the metadata address":              "https://169.254.169.254",
		"the metadata address through IPv6": "https://[fd00:ec2::254]",
	} {
		t.Run(name, func(t *testing.T) {
			contains(t, firstError(t, Issuer{URL: url}), "no public address")
		})
	}
	t.Run("networks that list another address", func(t *testing.T) {
		other := []netip.Prefix{netip.MustParsePrefix("127.9.9.9/32")}
		contains(t, firstError(t, Issuer{URL: "https://127.0.0.1:" + port, Networks: other}), "no public address")
	})
	if n := issuer.connections.Load(); n != 0 {
		t.Errorf("%d connections", n)
	}
}

func status(code int) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(code) }
}

func text(body string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, body) }
}

func redirect(to string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Location", to)
		w.WriteHeader(http.StatusFound)
	}
}

// bomb answers with body and padding, compressed.
func bomb(body string, padding int) http.HandlerFunc {
	var compressed bytes.Buffer
	w := gzip.NewWriter(&compressed)
	io.WriteString(w, body)
	w.Write(bytes.Repeat([]byte(" "), padding))
	w.Close()
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Encoding", "gzip")
		w.Write(compressed.Bytes())
	}
}
