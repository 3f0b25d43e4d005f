package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/octo-sts/appliance/sts/ststest"
)

// listenerAddress is where the daemon's last start listens, by a listener's name.
func (r *rig) listenerAddress(name string) string {
	r.t.Helper()
	address := ""
	for line := range strings.Lines(r.Logs()) {
		var entry struct{ Msg, Listener, Address string }
		if json.Unmarshal([]byte(line), &entry) == nil && entry.Msg == "listening" && entry.Listener == name {
			address = entry.Address
		}
	}
	if address == "" {
		r.t.Fatalf("the daemon does not say where %s listens", name)
	}
	return address
}

// handshake opens a connection of its own.
func (r *rig) handshake(c *tls.Config) (tls.ConnectionState, error) {
	c.RootCAs = r.Roots()
	conn, err := tls.DialWithDialer(&net.Dialer{Timeout: patience}, "tcp", r.Address(), c)
	if err != nil {
		return tls.ConnectionState{}, err
	}
	return conn.ConnectionState(), conn.Close()
}

// serial is the serial number of the certificate that a new connection gets.
func (r *rig) serial() string {
	r.t.Helper()
	state, err := r.handshake(&tls.Config{})
	if err != nil {
		r.t.Fatal(err)
	}
	return state.PeerCertificates[0].SerialNumber.String()
}

func TestTLSVersionsAndProtocols(t *testing.T) {
	r := newRig(t, ststest.ServiceConfig{TLS: true})
	for _, c := range []struct {
		name    string
		config  *tls.Config
		version uint16 // 0: refused
		alpn    string
	}{
		{"a browser", &tls.Config{NextProtos: []string{"h2", "http/1.1"}}, tls.VersionTLS13, "h2"},
		{"HTTP/1.1 alone", &tls.Config{NextProtos: []string{"http/1.1"}}, tls.VersionTLS13, "http/1.1"},
		{"no ALPN", &tls.Config{}, tls.VersionTLS13, ""},
		{"TLS 1.2", &tls.Config{NextProtos: []string{"h2"}, MaxVersion: tls.VersionTLS12}, tls.VersionTLS12, "h2"},
		{"TLS 1.1", &tls.Config{MinVersion: tls.VersionTLS10, MaxVersion: tls.VersionTLS11}, 0, ""},
		{"TLS 1.0", &tls.Config{MinVersion: tls.VersionTLS10, MaxVersion: tls.VersionTLS10}, 0, ""},
		{"a protocol that is not spoken", &tls.Config{NextProtos: []string{"smtp"}}, 0, ""},
	} {
		state, err := r.handshake(c.config)
		if state.Version != c.version || state.NegotiatedProtocol != c.alpn || (err != nil) != (c.version == 0) {
			t.Errorf("%s: %s %q, %v", c.name, tls.VersionName(state.Version), state.NegotiatedProtocol, err)
		}
	}
	for _, major := range []int{1, 2} {
		resp, err := r.clientOf(major).Do(r.exchangeRequest())
		if err != nil {
			t.Fatal(err)
		}
		_ = resp.Body.Close() // the status is all that counts
		if resp.ProtoMajor != major || resp.StatusCode != http.StatusOK {
			t.Errorf("HTTP/%d: %s %s", major, resp.Proto, resp.Status)
		}
	}
}

// clientOf speaks HTTP/1.1 or HTTP/2 and keeps its connection.
func (r *rig) clientOf(major int) *http.Client {
	protocols := new(http.Protocols)
	protocols.SetHTTP1(major == 1)
	protocols.SetHTTP2(major == 2)
	transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: r.Roots()}, Protocols: protocols}
	r.t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport}
}

func (r *rig) exchangeRequest() *http.Request {
	r.t.Helper()
	req, err := http.NewRequestWithContext(r.t.Context(), http.MethodGet, r.URL()+"/sts/exchange?scope=acme/app&identity=reader", nil)
	if err != nil {
		r.t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+r.job(nil))
	return req
}

// A certificate that was replaced is what new connections get; old ones go on.
func TestCertificateIsTakenUp(t *testing.T) {
	r := newRig(t, ststest.ServiceConfig{TLS: true, Issuer: ststest.IssuerConfig{Alg: "ES256"}})
	clients := []*http.Client{r.clientOf(1), r.clientOf(2)}
	exchange := func(reused bool) {
		t.Helper()
		for _, client := range clients {
			var got httptrace.GotConnInfo
			req := r.exchangeRequest()
			req = req.WithContext(httptrace.WithClientTrace(req.Context(), &httptrace.ClientTrace{GotConn: func(i httptrace.GotConnInfo) { got = i }}))
			status, err := readWhole(client.Do(req))
			if err != nil || status != http.StatusOK || got.Reused != reused {
				t.Errorf("%d, %v, on a connection that was there before: %t, want %t", status, err, got.Reused, reused)
			}
		}
	}
	exchange(false)
	l := r.startLoad(4, "issues", "acme/app")
	before := r.serial()
	if _, _, err := r.RenewCertificate(); err != nil {
		t.Fatal(err)
	}
	r.eventually("the new certificate", func() bool { return r.serial() != before })
	exchange(true)
	l.allGranted(t)
}

// readWhole reads an answer to its end, so that its connection is kept.
func readWhole(resp *http.Response, err error) (status int, _ error) {
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close()
	_, err = io.Copy(io.Discard, resp.Body)
	return resp.StatusCode, err
}

// A pair that does not fit together, or is no certificate, never replaces one
// that works; the next pair that fits does.
func TestCertificateThatCannotBeUsed(t *testing.T) {
	r := newRig(t, ststest.ServiceConfig{TLS: true})
	certificate, key := filepath.Join(r.Dir, "tls-certificate.pem"), filepath.Join(r.Dir, "tls-key.pem")
	before := r.serial()
	const kept = "certificate not reloaded, the old one stays in use"
	for i, spoil := range []func() error{
		func() error { return replaceFile(key, strangersKey(t)) },
		func() error { return replaceFile(certificate, []byte("no certificate")) },
		func() error { return os.Remove(certificate) },
	} {
		if err := spoil(); err != nil {
			t.Fatal(err)
		}
		r.eventually("the daemon says that it cannot use it", func() bool { return strings.Count(r.Logs(), kept) > i })
		if r.serial() != before {
			t.Errorf("spoilt in way %d: another certificate is in use", i)
		}
		r.granted("acme/app", "reader")
	}
	if _, _, err := r.RenewCertificate(); err != nil {
		t.Fatal(err)
	}
	r.eventually("a pair that fits", func() bool { return r.serial() != before })
	r.granted("acme/app", "reader")

	// At the start, it has to fit.
	if err := replaceFile(key, strangersKey(t)); err != nil {
		t.Fatal(err)
	}
	if err := r.Restart(t.Context()); exitStatus(err) != 1 || !strings.Contains(err.Error(), "loading certificate "+certificate+" and key "+key) {
		t.Errorf("started with a pair that does not fit: %v", err)
	}
}

func strangersKey(t *testing.T) []byte {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})
}

func replaceFile(file string, content []byte) error {
	return errors.Join(os.WriteFile(file+".new", content, 0o600), os.Rename(file+".new", file))
}

// SIGHUP makes the daemon look at once, and also where nothing about the files
// but their content has changed: same file, same size, same time.
func TestSIGHUPReloadsTheCertificate(t *testing.T) {
	r := newRig(t, ststest.ServiceConfig{TLS: true})
	files := []string{filepath.Join(r.Dir, "tls-certificate.pem"), filepath.Join(r.Dir, "tls-key.pem")}
	// Of one size, whatever the next pair's is: PEM may be followed by empty lines.
	padded := func() (contents [2][]byte) {
		if _, _, err := r.RenewCertificate(); err != nil {
			t.Fatal(err)
		}
		for i, file := range files {
			text, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			contents[i] = append(text, strings.Repeat("\n", 4096-len(text))...)
		}
		return contents
	}
	next, first := padded(), padded()
	for i, file := range files {
		if err := os.WriteFile(file, first[i], 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := r.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	before := r.serial()

	// Nobody looks while the files are changed and their times put back.
	if err := r.Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	for i, file := range files {
		info, err := os.Stat(file)
		if err := errors.Join(err, os.WriteFile(file, next[i], 0o600), os.Chtimes(file, info.ModTime(), info.ModTime())); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(r.Signal(syscall.SIGHUP), r.Signal(syscall.SIGCONT)); err != nil {
		t.Fatal(err)
	}
	r.eventually("the new certificate", func() bool { return r.serial() != before })
	r.granted("acme/app", "reader")
	if err := r.Stop(); err != nil {
		t.Errorf("after SIGHUP: %v", err)
	}
}

// The plain-text port redirects, and repeats nothing of the query.
func TestPlainTextPortRedirects(t *testing.T) {
	r := newRig(t, ststest.ServiceConfig{TLS: true, Edit: func(c map[string]any) {
		c["listen"].(map[string]any)["http"] = "127.0.0.1:0"
	}})
	plain := "http://" + r.listenerAddress("http")
	for _, method := range []string{http.MethodGet, http.MethodPost} {
		req := r.exchangeRequest()
		req.Method = method
		req.URL.Host, req.URL.Scheme = strings.TrimPrefix(plain, "http://"), "http"
		resp, err := r.Client().Do(req)
		if err != nil {
			t.Fatal(err)
		}
		_ = resp.Body.Close() // the header is all that counts
		if resp.StatusCode != http.StatusPermanentRedirect || resp.Header.Get("Location") != "https://sts.example.com/sts/exchange" {
			t.Errorf("%s: %s, Location %q", method, resp.Status, resp.Header.Get("Location"))
		}
	}
	if n := len(r.GitHub.Mints()); n != 0 {
		t.Errorf("%d tokens were minted for what came in the clear", n)
	}
	// And the TLS port serves nothing in the clear.
	if resp, err := http.Get("http://" + r.Address() + "/sts/exchange"); err == nil && resp.StatusCode != http.StatusBadRequest {
		t.Errorf("plain HTTP on the TLS port: %s", resp.Status)
	}
}
