package idtoken

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"time"

	"golang.org/x/net/http/httpproxy"
)

const (
	fetchTimeout  = 10 * time.Second // for discovery and keys together
	maxRedirects  = 3
	maxHeaderData = 64 << 10 // bytes of an answer's header
)

// readCA reads what Issuer.CAFile holds; nil where it is empty.
func readCA(file string) ([]byte, error) {
	if file == "" {
		return nil, nil
	}
	pem, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("reading CA file: %w", err)
	}
	if !x509.NewCertPool().AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("reading CA file: no PEM certificate in %s", file)
	}
	return pem, nil
}

// newClient makes the HTTP client for one issuer, which trusts ca alone where that is not nil. It keeps no connections:
// they would be used every five minutes.
func newClient(issuer Issuer, ca []byte) *http.Client {
	tlsConfig := &tls.Config{MinVersion: tls.VersionTLS12}
	if ca != nil {
		tlsConfig.RootCAs = x509.NewCertPool()
		tlsConfig.RootCAs.AppendCertsFromPEM(ca)
	}
	transport := func(dialer *net.Dialer, proxy func(*http.Request) (*url.URL, error)) *http.Transport {
		return &http.Transport{
			Proxy:                  proxy,
			DialContext:            dialer.DialContext,
			TLSClientConfig:        tlsConfig,
			TLSHandshakeTimeout:    5 * time.Second,
			DisableKeepAlives:      true,
			MaxResponseHeaderBytes: maxHeaderData,
		}
	}
	proxyFor := httpproxy.FromEnvironment().ProxyFunc()
	viaProxy := func(r *http.Request) (*url.URL, error) { return proxyFor(r.URL) }
	return &http.Client{
		Timeout:       fetchTimeout,
		CheckRedirect: checkRedirect,
		Transport: &boundedTransport{
			proxyFor: proxyFor,
			direct:   transport(guardedDialer(issuer.Networks), nil),
			// Where there is a proxy it is the operator's, it may well be in a private network, and what it connects to is its
			// own to judge: so no guard here.
			proxied: transport(&net.Dialer{Timeout: 5 * time.Second}, viaProxy),
		},
	}
}

// checkRedirect lets a server move things on itself, and nowhere else.
func checkRedirect(next *http.Request, via []*http.Request) error {
	if len(via) > maxRedirects {
		return fmt.Errorf("more than %d redirects", maxRedirects)
	}
	if !sameOrigin(next.URL, via[0].URL) {
		return fmt.Errorf("refusing a redirect to another host, %s://%s", next.URL.Scheme, shorten(next.URL.Host))
	}
	return nil
}

// boundedTransport chooses between the direct way and the proxy, and bounds what is read of an answer.
type boundedTransport struct {
	proxyFor        func(*url.URL) (*url.URL, error)
	direct, proxied http.RoundTripper
}

// RoundTrip implements http.RoundTripper.
func (t *boundedTransport) RoundTrip(request *http.Request) (*http.Response, error) {
	way := t.direct
	switch proxy, err := t.proxyFor(request.URL); {
	case err != nil:
		return nil, fmt.Errorf("reading the proxy settings: %w", err)
	case proxy != nil:
		way = t.proxied
	}
	response, err := way.RoundTrip(request)
	if err != nil {
		return nil, err
	}
	// The transport has undone any compression by here, so a small body that grows is bounded as well.
	response.Body = &boundedBody{ReadCloser: response.Body, left: maxKeySetSize}
	return response, nil
}

var errBodyTooLarge = errors.New("the answer is larger than 1 MiB")

// boundedBody fails once more than left bytes were read. It never just ends: half a document may be a valid one.
type boundedBody struct {
	io.ReadCloser
	left int
}

func (b *boundedBody) Read(p []byte) (int, error) {
	if len(p) > b.left+1 {
		p = p[:b.left+1]
	}
	n, err := b.ReadCloser.Read(p)
	if n > b.left {
		return b.left, errBodyTooLarge
	}
	b.left -= n
	return n, err
}
