package appliance

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/pem"
	"errors"
	"fmt"
	"net/http"
	"time"

	"go.uber.org/zap"
)

// certificates is where listen.https gets its certificate from: two files, or a
// CA that is asked over ACME. With tls.mode: off there is none, and nil stands
// for it.
type certificates interface {
	// config is for the public listener. What it answers follows the certificate.
	config() *tls.Config

	// challenges wraps the handler of listen.http, where there is one, before
	// anything is served, and answers what a CA asks there.
	challenges(next http.Handler) http.Handler

	// run keeps the certificate until ctx is done.
	run(ctx context.Context)

	// reload looks at once, as after SIGHUP. Its error is for the log and for
	// STATUS=; the certificate in use stays in use then.
	reload() error

	// status says what is in use.
	status() certificateStatus
}

// certificateStatus is the certificate in use. The zero times mean that there is
// none.
type certificateStatus struct {
	notBefore, notAfter time.Time
	lastError           error // of the last attempt to get or to read one; nil after a success
	nextAttempt         time.Time
}

// newCertificates follows tls.mode. It is nil where that is off.
func newCertificates(c *Config, logger *zap.Logger) (certificates, error) {
	switch c.TLS.Mode {
	case "files":
		return newCertificateFiles(c.TLS.Files, c.Domain, logger)
	case "acme":
		return newACME(c, logger)
	}
	return nil, nil
}

// publicTLS is what every handshake at listen.https goes by, whatever the
// certificate's source. TLS 1.3 has no weak suites. Of TLS 1.2's, those are left
// that agree on a fresh key (ECDHE) and encrypt with authentication (AEAD): Go's
// own list without CBC and without RSA key exchange, which RFC 9325, sections
// 4.1 and 4.2, ask for. Curves and the order of suites are Go's.
func publicTLS(certificate func(*tls.ClientHelloInfo) (*tls.Certificate, error)) *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS12,
		CipherSuites: []uint16{
			tls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,
			tls.TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,
			tls.TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384,
			tls.TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384,
			tls.TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256,
			tls.TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256,
		},
		NextProtos:     []string{"h2", "http/1.1"},
		GetCertificate: certificate,
	}
}

// loadPair makes a certificate of its PEM, the server's own first, and its key's.
// The chain has to be whole: tls.X509KeyPair takes one that was cut off in the
// middle for a shorter one, which callers then cannot verify.
func loadPair(certificate, key []byte) (*tls.Certificate, error) {
	pair, err := tls.X509KeyPair(certificate, key)
	if err != nil {
		return nil, err
	}
	rest := certificate
	for block := (&pem.Block{}); block != nil; {
		block, rest = pem.Decode(rest)
	}
	if bytes.Contains(rest, []byte("---")) {
		return nil, errors.New("the certificate's chain ends in the middle of a PEM block")
	}
	return &pair, nil
}

// checkCertificate degrades while there is time for somebody to look, and fails
// when callers are turned away.
func checkCertificate(s certificateStatus, now time.Time) check {
	trouble := ""
	if s.lastError != nil {
		trouble = fmt.Sprintf("; last attempt: %v", s.lastError)
		if !s.nextAttempt.IsZero() {
			trouble += "; next attempt at " + s.nextAttempt.UTC().Format(time.RFC3339)
		}
	}
	left := s.notAfter.Sub(now)
	expiry := s.notAfter.UTC().Format(time.RFC3339)
	switch {
	case s.notAfter.IsZero():
		return check{"certificate", stateFailing, "there is none yet" + trouble}
	case left <= 0:
		return check{"certificate", stateFailing, "expired at " + expiry + trouble}
	case now.Before(s.notBefore):
		return check{"certificate", stateFailing, "not valid before " + s.notBefore.UTC().Format(time.RFC3339) + trouble}
	case s.lastError != nil:
		return check{"certificate", stateDegraded, "valid until " + expiry + trouble}
	case left < s.notAfter.Sub(s.notBefore)/4:
		return check{"certificate", stateDegraded, "less than a quarter of its life is left: valid until " + expiry}
	}
	return check{"certificate", stateReady, "valid until " + expiry}
}

// measureCertificate adds the certificate's figures to the metrics.
func measureCertificate(c certificates, m *metrics) {
	type now = certificateStatus
	m.registry.MustRegister(families[now]{c.status, []family[now]{
		gauge("octo_sts_certificate_expiration_timestamp_seconds", "When the certificate of listen.https expires, in Unix time. 0: there is none.",
			func(s now, sample sampler) { sample(unixTime(s.notAfter)) }),
		gauge("octo_sts_certificate_not_before_timestamp_seconds", "Since when the certificate of listen.https is valid, in Unix time. 0: there is none.",
			func(s now, sample sampler) { sample(unixTime(s.notBefore)) }),
		gauge("octo_sts_certificate_renewal_failing", "1 while the last attempt to get or to read a certificate failed.",
			func(s now, sample sampler) { sample(flag(s.lastError != nil)) }),
	}})
}
