package githubapp_test

import (
	"context"
	"encoding/pem"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/octo-sts/appliance/sts/githubapp"
	"github.com/octo-sts/appliance/sts/ststest"
)

func TestConfig(t *testing.T) {
	t.Parallel()
	good := func() githubapp.Config {
		return githubapp.Config{
			APIURL: "https://api.github.com",
			Apps:   []githubapp.App{{ID: 1, Organizations: []string{"*"}}},
			AppJWT: func(context.Context, int64) (string, time.Time, error) { return "", time.Time{}, io.EOF },
		}
	}
	for _, c := range []struct {
		name   string
		change func(*githubapp.Config)
		words  []string // none: it is accepted
	}{
		{"api.github.com", func(c *githubapp.Config) {}, nil},
		{"a GitHub Enterprise Server", func(c *githubapp.Config) { c.APIURL = "https://ghe.example/api/v3/" }, nil},
		{"http on loopback", func(c *githubapp.Config) { c.APIURL = "http://127.0.0.1:1" }, nil},
		{"http on loopback, IPv6", func(c *githubapp.Config) { c.APIURL = "http://[::1]:1" }, nil},
		{"http elsewhere", func(c *githubapp.Config) { c.APIURL = "http://ghe.example/api/v3" }, []string{"not https"}},
		{"http on a name that looks like loopback", func(c *githubapp.Config) { c.APIURL = "http://127.0.0.1.example" }, []string{"not https"}},
		{"no URL", func(c *githubapp.Config) { c.APIURL = "" }, []string{"https://api.github.com"}},
		{"no host", func(c *githubapp.Config) { c.APIURL = "https:///api" }, []string{"https://HOST/api/v3"}},
		{"another scheme", func(c *githubapp.Config) { c.APIURL = "file:///etc" }, []string{"https://HOST/api/v3"}},
		{"a user", func(c *githubapp.Config) { c.APIURL = "https://u:hunter2@ghe.example/" }, []string{"a user"}},
		{"a query", func(c *githubapp.Config) { c.APIURL = "https://ghe.example/?x=y" }, []string{"a query"}},
		{"no CA file", func(c *githubapp.Config) { c.CAFile = "/nonexistent/ca.pem" }, []string{"/nonexistent/ca.pem"}},
		{"a CA file without a certificate", func(c *githubapp.Config) { c.CAFile = "transport_test.go" }, []string{"holds no PEM certificate"}},
		{"everything wrong at once", func(c *githubapp.Config) {
			*c = githubapp.Config{APIURL: "ftp://x", CAFile: "/nonexistent", PolicyMaxAge: -1, Apps: []githubapp.App{
				{ID: 0, Organizations: []string{"acme", "Acme", "a/b"}}, {ID: 7}, {ID: 7, Organizations: []string{"*"}}}}
		}, []string{"ftp://x", "/nonexistent", "negative", "App JWTs", "0 is not an App ID", "twice", `"a/b"`, "App 7 serves no organization", "App 7 is configured twice"}},
		{"no App", func(c *githubapp.Config) { c.Apps = nil }, []string{"no App is configured"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			config := good()
			c.change(&config)
			_, err := githubapp.New(t.Context(), config)
			if (err == nil) != (len(c.words) == 0) {
				t.Fatalf("got %v", err)
			}
			for _, word := range c.words {
				if !strings.Contains(err.Error(), word) {
					t.Errorf("%q does not say %q", err, word)
				}
			}
			if err != nil && strings.Contains(err.Error(), "hunter2") {
				t.Error("the error repeats a password")
			}
		})
	}
}

// TestEnterpriseServer: every path is under the API's.
func TestEnterpriseServer(t *testing.T) {
	t.Parallel()
	w := newWorld(t, func(o *options) { o.github.BasePath = "/api/v3" })
	w.wants(w.exchange(), "ok")
	inst := w.installation()
	_, err := w.client.File(w.ctx, inst, "app", "nothing")
	w.wants(err, "not found")
	minted, err := w.client.Mint(w.ctx, inst, readIssues)
	w.wants(err, "ok")
	w.wants(w.client.Revoke(w.ctx, minted.Token), "ok")
	if w.github.IsLive(minted.Token) {
		t.Error("the token lives")
	}
	if n := w.github.Calls()["unknown"]; n != 0 {
		t.Errorf("%d calls went beside the API", n)
	}
}

// TestUntrustedServer: the CA file stands in place of the system's roots.
func TestUntrustedServer(t *testing.T) {
	t.Parallel()
	other := httptest.NewTLSServer(nil)
	defer other.Close()
	w := newWorld(t, func(o *options) {
		o.config.CAFile = writeFile(t, "other.pem", pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: other.Certificate().Raw}))
	})
	_, err := w.client.Installation(w.ctx, "acme", "app")
	w.wants(err, "unavailable", "certificate")
	w.calls()
}

// TestRedirectsAreNotFollowed, above all not to another host with a JWT.
func TestRedirectsAreNotFollowed(t *testing.T) {
	t.Parallel()
	var followed atomic.Int64
	elsewhere := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { followed.Add(1) }))
	defer elsewhere.Close()
	w := newWorld(t)
	inst := w.installation()
	for _, status := range []int{301, 302, 303, 307, 308} {
		fault := w.github.Fail(ststest.Fault{Status: status, Header: map[string]string{"Location": elsewhere.URL}})
		_, err := w.client.Mint(w.ctx, inst, readIssues)
		w.wants(err, "refused", elsewhere.URL)
		w.wants(w.client.Revoke(w.ctx, "ghs_x"), "refused")
		_, err = w.client.Installation(w.ctx, "other", "app")
		w.wants(err, "refused", "renamed or moved")
		fault.Clear()
	}
	if n := followed.Load(); n != 0 {
		t.Errorf("%d redirects were followed", n)
	}
}

// TestProxy sends everything through a CONNECT proxy: HTTPS_PROXY and NO_PROXY
// are honoured. (No proxy is ever used for loopback addresses, so the fake must
// pass for example.com, for which httptest has a certificate.)
func TestProxy(t *testing.T) {
	w := newWorld(t)
	server := httptest.NewUnstartedServer(w.github)
	server.EnableHTTP2 = true
	server.StartTLS()
	defer server.Close()
	var connects atomic.Int64
	proxy := httptest.NewServer(connectProxy(t, &connects, server.Listener.Addr().String()))
	defer proxy.Close()

	config := githubapp.Config{
		APIURL: "https://example.com",
		CAFile: writeFile(t, "example.pem", pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw})),
		Apps:   []githubapp.App{{ID: appID, Organizations: []string{"*"}}},
		AppJWT: w.signer.appJWT,
	}
	t.Setenv("HTTPS_PROXY", proxy.URL)
	through, err := githubapp.New(t.Context(), config)
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, "the App is proven", func() bool { return !through.Status()[0].Proven.IsZero() })
	w.github.ResetCalls()
	for range 3 {
		_, err = through.Installation(t.Context(), "acme", "app")
		w.wants(err, "ok")
	}
	if n := connects.Load(); n != 1 {
		t.Errorf("%d connections through the proxy, want 1 that is kept", n)
	}
	w.calls(ststest.RepoInstallRoute)

	t.Setenv("NO_PROXY", "github.invalid")
	config.APIURL = "https://github.invalid"
	past, err := githubapp.New(t.Context(), config)
	if err != nil {
		t.Fatal(err)
	}
	_, err = past.Installation(t.Context(), "acme", "app") // RFC 6761: never resolves
	w.wants(err, "unavailable")
	if n := connects.Load(); n != 1 {
		t.Errorf("NO_PROXY is not honoured: the proxy saw %d connections", n)
	}
}

// connectProxy tunnels every CONNECT to example.com to address.
func connectProxy(t *testing.T, connects *atomic.Int64, address string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodConnect || r.Host != "example.com:443" {
			t.Errorf("the proxy got %s %s", r.Method, r.Host)
			w.WriteHeader(http.StatusForbidden)
			return
		}
		connects.Add(1)
		upstream, err := net.Dial("tcp", address)
		if err != nil {
			t.Error(err)
			return
		}
		defer upstream.Close()
		w.WriteHeader(http.StatusOK)
		downstream, buffered, err := w.(http.Hijacker).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		defer downstream.Close()
		go io.Copy(upstream, buffered)
		io.Copy(downstream, upstream)
	}
}
