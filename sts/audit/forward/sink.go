package forward

import (
	"bytes"
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
	"strconv"
	"time"

	"github.com/cloudevents/sdk-go/v2/event"
	"golang.org/x/net/http/httpproxy"
)

const (
	dialTimeout = 5 * time.Second
	// A connection that a firewall forgot is found out by a ping, and not by waiting.
	pingAfter   = 15 * time.Second
	pingTimeout = 5 * time.Second
	// maxAnswer is how many bytes of an answer are read, so that its connection can be used again. What it says is of
	// no interest, and it might repeat the credential.
	maxAnswer = 64 << 10
	// drainLimit is for how long.
	drainLimit = time.Second
)

// sink is the peer that takes events.
type sink struct {
	url        string
	name       string // of the host, for logs: a URL's query may be a secret
	credential string
	client     *http.Client
}

func newSink(c EventsConfig) (*sink, error) {
	u, err := CheckSink(c.URL)
	if err != nil {
		return nil, err
	}
	for _, b := range []byte(c.Credential) {
		if b <= ' ' || b > '~' {
			return nil, errors.New("the credential has a space or a character that an HTTP header cannot carry")
		}
	}
	roots, err := loadRoots(c.CAFile)
	if err != nil {
		return nil, err
	}
	proxy := httpproxy.FromEnvironment().ProxyFunc()
	return &sink{
		url:        u.String(),
		name:       u.Host,
		credential: c.Credential,
		client: &http.Client{
			Transport: &http.Transport{
				Proxy:                  func(r *http.Request) (*url.URL, error) { return proxy(r.URL) },
				DialContext:            (&net.Dialer{Timeout: dialTimeout, KeepAlive: 30 * time.Second}).DialContext,
				TLSClientConfig:        &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12},
				TLSHandshakeTimeout:    dialTimeout,
				ForceAttemptHTTP2:      true,
				HTTP2:                  &http.HTTP2Config{SendPingTimeout: pingAfter, PingTimeout: pingTimeout},
				IdleConnTimeout:        90 * time.Second,
				MaxResponseHeaderBytes: 64 << 10,
			},
			// Entries and the credential go to the host that the operator named, and to no other. And of a POST that is
			// redirected a GET may be left, whose 200 would mean nothing.
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		},
	}, nil
}

// CheckSink parses the URL of a sink and says what is wrong with it, without repeating its query.
func CheckSink(raw string) (*url.URL, error) {
	u, err := url.Parse(raw)
	switch {
	case err != nil:
		return nil, errors.New("it is not a URL such as https://collector.example.com/")
	case u.Host == "" || u.Opaque != "" || u.Scheme != "https" && u.Scheme != "http":
		return nil, errors.New("it is not a URL such as https://collector.example.com/")
	case u.User != nil || u.Fragment != "":
		return nil, fmt.Errorf("the URL at %q has a user or a fragment: a secret belongs into a credential", u.Host)
	case u.Scheme == "http" && !isLoopback(u.Hostname()):
		return nil, fmt.Errorf("the URL at %q is not https, and not on a loopback address: entries would cross the network in the clear", u.Host)
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
		return nil, fmt.Errorf("reading the CA certificates for the sink: %w", err)
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("reading the CA certificates for the sink: %s holds no PEM certificate", file)
	}
	return roots, nil
}

// refusal is an answer that is not 2xx.
type refusal struct {
	status     int
	retryAfter time.Duration // 0: it did not say
}

func (r *refusal) Error() string {
	text := fmt.Sprintf("the sink answered %d %s", r.status, http.StatusText(r.status))
	if r.status >= 300 && r.status < 400 {
		text += ": redirects are not followed; configure the URL that it leads to"
	}
	return text
}

// isAboutContent says whether other events, or fewer, may be taken where these are not.
func (r *refusal) isAboutContent() bool {
	return r.status == http.StatusBadRequest || r.status == http.StatusRequestEntityTooLarge || r.status == http.StatusUnprocessableEntity
}

// post returns nil where the sink has taken the batch, a *refusal where it answered something else.
func (s *sink) post(ctx context.Context, body []byte) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, s.url, bytes.NewReader(body))
	if err != nil {
		return withoutURL(err)
	}
	request.Header.Set("Content-Type", event.ApplicationCloudEventsBatchJSON)
	if s.credential != "" {
		request.Header.Set("Authorization", "Bearer "+s.credential)
	}
	response, err := s.client.Do(request)
	if err != nil {
		s.client.CloseIdleConnections() // what is wrong may be wrong with this connection alone
		return withoutURL(err)
	}
	defer response.Body.Close()
	if response.StatusCode/100 != 2 {
		return &refusal{response.StatusCode, retryAfter(response.Header, time.Now())}
	}
	// Taken, whatever becomes of the rest of the answer. It is read for the connection's sake alone, and not for long.
	defer time.AfterFunc(drainLimit, cancel).Stop()
	_, _ = io.CopyN(io.Discard, response.Body, maxAnswer)
	return nil
}

// withoutURL leaves the URL out of an error of net/http, whose query may be a secret.
func withoutURL(err error) error {
	var withURL *url.Error
	if errors.As(err, &withURL) {
		err = withURL.Err
	}
	return fmt.Errorf("sending to the sink: %w", err)
}

// retryAfter reads RFC 9110, section 10.2.3: seconds, or a date.
func retryAfter(header http.Header, now time.Time) time.Duration {
	value := header.Get("Retry-After")
	if seconds, err := strconv.ParseUint(value, 10, 31); err == nil {
		return time.Duration(seconds) * time.Second
	}
	if date, err := http.ParseTime(value); err == nil {
		return max(0, date.Sub(now))
	}
	return 0
}
