package githubapp

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"strings"
	"time"

	"golang.org/x/net/http/httpproxy"
)

const (
	dialTimeout = 5 * time.Second

	// pingAfter of silence the connection is proven alive. Without that, a
	// connection that a firewall forgot would swallow calls until TCP gives up.
	pingAfter   = 15 * time.Second
	pingTimeout = 5 * time.Second

	// idleTimeout is long, so that an exchange seldom pays for a handshake.
	idleTimeout = 10 * time.Minute

	// maxIdle serves HTTP/1.1 proxies and servers; over HTTP/2 a connection
	// carries a hundred calls at once.
	maxIdle = 128
)

// parseAPIURL checks the root of the API and gives it the trailing slash that
// relative paths need.
func parseAPIURL(raw string) (*url.URL, error) {
	u, err := url.Parse(raw)
	if err != nil {
		return nil, fmt.Errorf("the API's URL: %w", err)
	}
	switch {
	case u.Host == "" || u.Scheme != "https" && u.Scheme != "http":
		return nil, fmt.Errorf("the API's URL %q is not of the form https://api.github.com or https://HOST/api/v3", raw)
	case u.User != nil || u.RawQuery != "" || u.ForceQuery || u.Fragment != "":
		return nil, fmt.Errorf("the API's URL at %q has a user, a query or a fragment: it must be a host and a path", u.Host)
	case u.Scheme == "http" && !isLoopback(u.Hostname()):
		return nil, fmt.Errorf("the API's URL %q is not https: App JWTs and tokens would cross the network in the clear", raw)
	}
	if !strings.HasSuffix(u.Path, "/") {
		u = u.JoinPath("/")
	}
	return u, nil
}

func isLoopback(host string) bool {
	if host == "localhost" {
		return true
	}
	address, err := netip.ParseAddr(host)
	return err == nil && address.IsLoopback()
}

// loadRoots returns nil, the system's roots, where there is no file.
func loadRoots(file string) (*x509.CertPool, error) {
	if file == "" {
		return nil, nil
	}
	pem, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("reading the CA certificates for GitHub: %w", err)
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("reading the CA certificates for GitHub: %s holds no PEM certificate", file)
	}
	return roots, nil
}

// newHTTPClient returns the one client for this peer. HTTPS_PROXY and NO_PROXY
// are read now, not at first use anywhere in the process.
func newHTTPClient(roots *x509.CertPool) *http.Client {
	proxy := httpproxy.FromEnvironment().ProxyFunc()
	dialer := &net.Dialer{Timeout: dialTimeout, KeepAlive: 30 * time.Second}
	transport := &http.Transport{
		Proxy:                  func(r *http.Request) (*url.URL, error) { return proxy(r.URL) },
		DialContext:            dialer.DialContext,
		TLSClientConfig:        &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12},
		TLSHandshakeTimeout:    dialTimeout,
		ForceAttemptHTTP2:      true,
		HTTP2:                  &http.HTTP2Config{SendPingTimeout: pingAfter, PingTimeout: pingTimeout},
		MaxIdleConns:           maxIdle,
		MaxIdleConnsPerHost:    maxIdle,
		IdleConnTimeout:        idleTimeout,
		MaxResponseHeaderBytes: 64 << 10,
	}
	return &http.Client{
		Transport: capped{transport},
		// A redirect is an answer, never an instruction: GitHub sends one where
		// a repository was renamed or moved, and a trust policy means the
		// repository that it names, not its successor.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}

// defaultBodyLimit bounds an answer, in bytes after decompression.
const defaultBodyLimit = 1 << 20

// bodyLimitKey is the context key under which a call keeps a limit of its own.
type bodyLimitKey struct{}

// capped bounds the body of every answer, that of an error too, which go-github
// would read whole.
type capped struct{ next *http.Transport }

func (c capped) RoundTrip(r *http.Request) (*http.Response, error) {
	response, err := c.next.RoundTrip(r)
	if err != nil {
		return nil, err
	}
	limit, ok := r.Context().Value(bodyLimitKey{}).(int64)
	if !ok {
		limit = defaultBodyLimit
	}
	response.Body = &cappedBody{body: response.Body, left: limit, limit: limit}
	return response, nil
}

// CloseIdleConnections is what http.Client's looks for.
func (c capped) CloseIdleConnections() { c.next.CloseIdleConnections() }

func withBodyLimit(ctx context.Context, limit int64) context.Context {
	if limit == 0 {
		return ctx
	}
	return context.WithValue(ctx, bodyLimitKey{}, limit)
}

var errBodyTooLarge = errors.New("the answer is larger than any that GitHub gives")

// cappedBody fails where more than limit bytes come, rather than ending there:
// what was cut off must not pass for what was sent.
type cappedBody struct {
	body        io.ReadCloser
	left, limit int64
}

func (b *cappedBody) Read(p []byte) (int, error) {
	// One byte more than is left is asked for, to tell the end from too much.
	if int64(len(p)) > b.left+1 {
		p = p[:b.left+1]
	}
	n, err := b.body.Read(p)
	if int64(n) > b.left {
		return 0, fmt.Errorf("%w: over %d bytes", errBodyTooLarge, b.limit)
	}
	b.left -= int64(n)
	return n, err
}

func (b *cappedBody) Close() error { return b.body.Close() }
