//go:build packages

package packaging_test

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/octo-sts/appliance/sts/ststest"
)

// distDir is where make packages and make repo put what they make.
const distDir = "../../dist"

// world is what the machine's operator finds on the internet: GitHub with its Actions, a certificate
// authority, and a web server with the packages. All but the authority, which is a real one, are
// stand-ins, at the addresses of the real ones.
type world struct {
	t      *testing.T
	gitHub *ststest.GitHub
	issuer *ststest.Issuer // of the ID tokens of GitHub's Actions
}

// newWorld goes on until the test ends. There is one at a time.
func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{t: t}
	var err error
	if w.gitHub, err = ststest.NewGitHub(t.Context(), ststest.GitHubConfig{Origin: "https://api.github.com"}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(w.gitHub.Close)
	if w.issuer, err = ststest.NewIssuer(t.Context(), ststest.IssuerConfig{Origin: "https://token.actions.githubusercontent.com", Audience: domain}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(w.issuer.Close)
	w.serve()
	return w
}

// serve answers at every name of hostsFile that is the world's.
func (w *world) serve() {
	w.t.Helper()
	everything := http.NewServeMux()
	everything.Handle("api.github.com/", proxyTo("https://"+w.gitHub.Address(), w.gitHub.CAPEM()))
	everything.Handle("github.com/", proxyTo("https://"+w.gitHub.Address(), w.gitHub.CAPEM()))
	everything.Handle("token.actions.githubusercontent.com/", proxyTo("http://"+w.issuer.Address(), nil))
	everything.HandleFunc("token.actions.githubusercontent.com/request", w.giveIDTokens)
	everything.Handle("acme-v02.api.letsencrypt.org/", letsEncrypt())
	everything.Handle("packages.example.com/", http.FileServer(http.Dir(packagesSite)))
	server := &http.Server{
		Handler:           everything,
		TLSConfig:         &tls.Config{Certificates: []tls.Certificate{authority.certificate}, MinVersion: tls.VersionTLS12},
		ReadHeaderTimeout: 30 * time.Second,
		ErrorLog:          log.New(&bytes.Buffer{}, "", 0), // callers that were killed are none of our business
	}
	listener, err := net.Listen("tcp", worldAddress+":443")
	if err != nil {
		w.t.Fatal(err)
	}
	go func() {
		if err := server.ServeTLS(listener, "", ""); !errors.Is(err, http.ErrServerClosed) {
			panic(fmt.Sprintf("the world ended: %v", err))
		}
	}()
	w.t.Cleanup(func() { _ = server.Close() })
}

// proxyTo passes requests on as they are. It trusts the roots, where there are any.
func proxyTo(address string, roots []byte) *httputil.ReverseProxy {
	target, err := url.Parse(address)
	if err != nil {
		panic(err)
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(roots)
	return &httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) { r.Out.URL.Scheme, r.Out.URL.Host = target.Scheme, target.Host },
		Transport: &http.Transport{
			// The servers know themselves by their addresses.
			TLSClientConfig:     &tls.Config{RootCAs: pool, ServerName: target.Hostname()},
			MaxIdleConnsPerHost: 200, ForceAttemptHTTP2: true,
		},
		ErrorLog: log.New(&bytes.Buffer{}, "", 0),
	}
}

// letsEncrypt is Pebble, where Let's Encrypt would be.
func letsEncrypt() http.Handler {
	pebble := proxyTo("https://"+pebbleAddress, authority.pem)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		r.URL.Path = strings.Replace(r.URL.Path, "/directory", "/dir", 1)
		pebble.ServeHTTP(w, r)
	})
}

// trust has the machine trust the world's authority, as it would trust the real ones.
func (m *machine) trust() {
	m.t.Helper()
	roots, err := os.ReadFile(worldRoots)
	if err != nil {
		m.t.Fatal(err)
	}
	for i, root := range bytes.SplitAfter(bytes.TrimSpace(roots), []byte("-----END CERTIFICATE-----")) {
		if len(root) > 0 {
			m.write(fmt.Sprintf("/usr/local/share/ca-certificates/world-%d.crt", i), strings.TrimSpace(string(root))+"\n", 0o644)
		}
	}
	m.run("update-ca-certificates")
}
