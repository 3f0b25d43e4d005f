package appliance

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"strconv"
	"time"
)

// maxACMEAnswer bounds what a CA may send in one answer: a chain of certificates
// has some ten kilobytes.
const maxACMEAnswer = 1 << 20 // bytes

// newACMEHTTP is a client for a CA: through the proxy of $HTTPS_PROXY, within
// times, to one host. roots is a file of PEM roots, or empty for the system's;
// slowDown hears until when the CA wants to be left alone.
func newACMEHTTP(roots string, slowDown func(until time.Time)) (*http.Client, error) {
	var pool *x509.CertPool
	if roots != "" {
		text, err := os.ReadFile(roots)
		if err != nil {
			return nil, err
		}
		if pool = x509.NewCertPool(); !pool.AppendCertsFromPEM(text) {
			return nil, fmt.Errorf("%s holds no PEM certificate", roots)
		}
	}
	return &http.Client{
		Timeout: 45 * time.Second,
		Transport: &acmeTransport{slowDown: slowDown, next: &http.Transport{
			Proxy:                 http.ProxyFromEnvironment,
			DialContext:           (&net.Dialer{Timeout: 10 * time.Second}).DialContext,
			TLSClientConfig:       &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12},
			TLSHandshakeTimeout:   10 * time.Second,
			ResponseHeaderTimeout: 30 * time.Second,
			ForceAttemptHTTP2:     true,
		}},
		CheckRedirect: func(req *http.Request, via []*http.Request) error {
			if len(via) > 3 || req.URL.Host != via[0].URL.Host || req.URL.Scheme != via[0].URL.Scheme {
				return errors.New("the CA redirects to another host, or without end")
			}
			return nil
		},
	}, nil
}

// acmeTransport bounds answers, and notes when to come back.
type acmeTransport struct {
	next     *http.Transport
	slowDown func(until time.Time)
}

func (t *acmeTransport) RoundTrip(req *http.Request) (*http.Response, error) {
	resp, err := t.next.RoundTrip(req)
	if err != nil {
		return nil, err
	}
	resp.Body = http.MaxBytesReader(nil, resp.Body, maxACMEAnswer)
	if resp.StatusCode == http.StatusTooManyRequests || resp.StatusCode == http.StatusServiceUnavailable {
		if until := retryAfter(resp.Header.Get("Retry-After"), time.Now()); !until.IsZero() {
			t.slowDown(until)
		}
	}
	return resp, nil
}

// CloseIdleConnections is for http.Client's.
func (t *acmeTransport) CloseIdleConnections() { t.next.CloseIdleConnections() }

// retryAfter reads that header (RFC 9110, section 10.2.3): seconds, or a date.
func retryAfter(value string, now time.Time) time.Time {
	if seconds, err := strconv.ParseUint(value, 10, 31); err == nil {
		return now.Add(time.Duration(seconds) * time.Second)
	}
	until, _ := http.ParseTime(value) // zero where it is neither
	return until
}
