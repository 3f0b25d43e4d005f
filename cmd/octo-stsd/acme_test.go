package main

import (
	"crypto/tls"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
)

// Each challenge alone is enough, at the daemon's own listeners.
func TestFirstCertificateByEachChallenge(t *testing.T) {
	t.Run("TLS-ALPN-01", func(t *testing.T) {
		ca := newPebble(t, nil)
		r := newACMERig(t, ca, func(config map[string]any) { delete(config["listen"].(map[string]any), "http") })
		leaf := r.obtained(nil)
		if !strings.Contains(ca.logs(), "acme-tls/1") && strings.Contains(ca.logs(), "HTTP-01") {
			t.Errorf("the CA asked otherwise: %s", ca.logs())
		}
		if leaf.VerifyHostname("sts.example.com") != nil || len(leaf.DNSNames) != 1 {
			t.Errorf("a certificate for %s", leaf.DNSNames)
		}
	})
	t.Run("HTTP-01", func(t *testing.T) {
		ca := newPebble(t, nil)
		ca.stop()
		ca.config["tlsPort"] = ca.freePort() // where nobody is
		ca.start()
		r := newACMERig(t, ca, nil)
		r.obtained(nil)
		// The port goes on redirecting, and what looks like a challenge and is none is not found.
		client := &http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
		for path, want := range map[string]int{"/sts/exchange": http.StatusPermanentRedirect, "/.well-known/acme-challenge/x": http.StatusNotFound} {
			if status, err := readWhole(client.Get("http://" + ca.at(ca.http) + path)); err != nil || status != want {
				t.Errorf("%s: %d, %v, want %d", path, status, err, want)
			}
		}
	})
}

// A restart takes the certificate from the disk and asks nobody.
func TestRestartAsksTheCANothing(t *testing.T) {
	ca := newPebble(t, nil)
	r := newACMERig(t, ca, nil)
	leaf := r.obtained(nil)
	before := ca.calls()
	if err := r.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	if now := r.inUse(); now == nil || !now.Equal(leaf) {
		t.Error("not the stored certificate")
	}
	r.certificateCheck("looked after", func(status int, check string) bool {
		return status == http.StatusOK && strings.HasPrefix(check, "ready: valid until ")
	})
	if n := ca.calls() - before; n != 0 {
		t.Errorf("the CA was asked %d times", n)
	}
	if metric := r.metric("octo_sts_certificate_expiration_timestamp_seconds"); metric != float64(leaf.NotAfter.Unix()) {
		t.Errorf("the metric says %f, the certificate %d", metric, leaf.NotAfter.Unix())
	}

	// Whatever name a caller asks for, or none: the one certificate, and no request to the CA.
	for _, name := range []string{"", "other.example.com", "STS.example.com"} {
		if got, _, err := r.presented(&tls.Config{ServerName: name}); err != nil || !got.Equal(leaf) {
			t.Errorf("server name %q: %v", name, err)
		}
	}
	if _, _, err := r.presented(&tls.Config{ServerName: "sts.example.com", NextProtos: []string{"acme-tls/1"}}); err == nil {
		t.Error("a challenge was answered that nobody asked")
	}
	if n := ca.calls() - before; n != 0 {
		t.Errorf("the CA was asked %d times", n)
	}

	// No key stands in any log.
	for line := range strings.Lines(r.Logs()) {
		if strings.Contains(line, "PRIVATE KEY") || !json.Valid([]byte(line)) {
			t.Errorf("in the log: %s", line)
		}
	}
}

// Short-lived certificates are renewed in time, and connections go on.
func TestRenewal(t *testing.T) {
	ca := newPebble(t, map[string]any{"certificateValidityPeriod": 6})
	r := newACMERig(t, ca, nil)
	leaf := r.obtained(nil)
	for range 2 {
		leaf = r.obtained(leaf)
	}
	if strings.Contains(r.Logs(), `"level":"error"`) {
		t.Error("there were errors")
	}
}

// With nonces refused all the time, and with authorizations that the CA knows
// already, a certificate comes all the same.
func TestCAThatRefusesNonces(t *testing.T) {
	r := newACMERig(t, newPebble(t, nil, "PEBBLE_WFE_NONCEREJECT=50"), nil)
	r.obtained(nil)
}

// A CA that is away keeps no daemon from starting and serving, and is asked again
// until it is back.
func TestCAOutage(t *testing.T) {
	ca := newPebble(t, nil)
	ca.stop()
	r := newACMERig(t, ca, nil)
	r.certificateCheck("there is none", func(status int, check string) bool {
		return status == http.StatusServiceUnavailable && strings.HasPrefix(check, "failing: there is none yet; last attempt: ") &&
			strings.Contains(check, "connection refused") && strings.Contains(check, "; next attempt at ")
	})
	if _, _, err := r.presented(&tls.Config{ServerName: "sts.example.com"}); err == nil {
		t.Error("a handshake without a certificate")
	}
	ca.start()
	leaf := r.obtained(nil)
	r.certificateCheck("it is looked after", func(status int, check string) bool { return strings.HasPrefix(check, "ready: ") })

	// With a certificate on the disk an outage is nobody's business.
	ca.stop()
	if err := r.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	if now := r.inUse(); now == nil || !now.Equal(leaf) {
		t.Error("not the stored certificate")
	}
	r.certificateCheck("it is well", func(status int, check string) bool {
		return status == http.StatusOK && strings.HasPrefix(check, "ready: ")
	})
	if err := r.Signal(syscall.SIGHUP); err != nil {
		t.Fatal(err)
	}
}

// Where the CA is behind a proxy, everything that is asked of it goes there.
func TestCABehindAProxy(t *testing.T) {
	ca := newPebble(t, nil)
	var tunnels atomic.Int32
	proxy := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodConnect || r.Host != "ca.example.test:443" {
			t.Errorf("the proxy is asked for %s %s", r.Method, r.Host)
			return
		}
		tunnels.Add(1)
		there, err := net.Dial("tcp", ca.at(ca.api)) // nobody but the proxy knows where that name is
		if err != nil {
			t.Error(err)
			return
		}
		defer there.Close()
		here, _, err := http.NewResponseController(w).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		defer here.Close()
		if _, err := io.WriteString(here, "HTTP/1.1 200 OK\r\n\r\n"); err != nil {
			return
		}
		go func() { _, _ = io.Copy(there, here); _ = there.Close() }()
		_, _ = io.Copy(here, there)
	}))
	t.Cleanup(proxy.Close)
	r := newACMERig(t, ca, func(config map[string]any) {
		config["tls"].(map[string]any)["acme"].(map[string]any)["directory"] = "https://ca.example.test/dir"
	}, "HTTPS_PROXY="+proxy.URL)
	r.obtained(nil)
	if tunnels.Load() == 0 {
		t.Error("nothing went through the proxy")
	}
}
