package probe

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"os"
	"time"
)

// certificate looks at the certificate that is really served, whatever the appliance
// thinks it serves, and returns when it expires. There is none without TLS.
func (r *run) certificate() (expiry time.Time) {
	if r.base.Scheme != "https" {
		return time.Time{}
	}
	host, port := r.base.Hostname(), r.base.Port()
	if port == "" {
		port = "443"
	}
	r.check("certificate", "a certificate for "+host+" with at least a quarter of its life left", func() (string, error) {
		dialer := &tls.Dialer{
			NetDialer: &net.Dialer{Timeout: requestTimeout},
			// What is served is verified below, where the reason can be told.
			Config: &tls.Config{ServerName: host, InsecureSkipVerify: true, MinVersion: tls.VersionTLS12},
		}
		conn, err := dialer.DialContext(r.ctx, "tcp", net.JoinHostPort(host, port))
		if err != nil {
			return "", failed("See whether octo-stsd runs, and whether its name, port and firewall lead to it.", "no connection: %v", err)
		}
		defer conn.Close()
		chain := conn.(*tls.Conn).ConnectionState().PeerCertificates
		if len(chain) == 0 {
			return "", failed("See what answers at this address.", "none")
		}
		expiry = chain[0].NotAfter
		return verify(chain, host, r.config.Roots, time.Now())
	})
	return expiry
}

// verify judges a chain as a client at that time would, and its age.
func verify(chain []*x509.Certificate, host string, roots *x509.CertPool, now time.Time) (string, error) {
	const renew = "Renew it: see docs/tls.md. Where the one in use is newer, something else answers at this address, such as a proxy."
	leaf := chain[0]
	between := x509.NewCertPool()
	for _, c := range chain[1:] {
		between.AddCert(c)
	}
	until := leaf.NotAfter.UTC().Format(time.RFC3339)
	_, err := leaf.Verify(x509.VerifyOptions{DNSName: host, Roots: roots, Intermediates: between, CurrentTime: now})
	var invalid x509.CertificateInvalidError
	var name x509.HostnameError
	switch {
	case errors.As(err, &invalid) && invalid.Reason == x509.Expired && now.After(leaf.NotAfter):
		return "", failed(renew, "one that expired at %s", until)
	case errors.As(err, &name):
		return "", failed("Have the certificate issued for the name that callers use.", "%v", err)
	case err != nil:
		return "", failed("Serve the whole chain, of an authority that callers trust: see docs/tls.md.", "%v", err)
	case leaf.NotAfter.Sub(now) < leaf.NotAfter.Sub(leaf.NotBefore)/4:
		return "", failed(renew, "one with less than a quarter of its life left: until %s", until)
	}
	return "valid until " + until, nil
}

// ReadRoots reads the PEM roots of a Config; nil, the system's, where no file is named.
func ReadRoots(file string) (*x509.CertPool, error) {
	if file == "" {
		return nil, nil
	}
	pem, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("%s holds no PEM certificate", file)
	}
	return roots, nil
}
