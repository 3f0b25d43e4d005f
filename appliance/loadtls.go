package appliance

import (
	"crypto/x509"
	"net"
	"net/mail"
	"net/url"
	"os"
	"strings"
)

// checkTLS checks tls, and that nothing stands there which the mode would ignore.
func (k *checker) checkTLS(c *Config) {
	switch c.TLS.Mode {
	case "acme":
		k.checkACME(c)
	case "files":
		k.checkFile("tls.files.certificate", c.TLS.Files.Certificate, true)
		k.checkFile("tls.files.key", c.TLS.Files.Key, true)
	case "off":
		if !isLocal(c.Listen.HTTPS) {
			k.wrong("tls.mode", "off is allowed only where listen.https is a loopback address or a unix socket, and it is %q", c.Listen.HTTPS)
		}
	default:
		k.wrong("tls.mode", "%q: want acme (a CA issues the certificate), files (a certificate and key on disk) or off (only on a loopback address or a unix socket)", c.TLS.Mode)
		return
	}
	if c.TLS.Mode != "files" && c.TLS.Files != (TLSFiles{}) {
		k.wrong("tls.files", "has no meaning with tls.mode: %s", c.TLS.Mode)
	}
	if c.TLS.Mode != "acme" && k.doc.Has("tls.acme") {
		k.wrong("tls.acme", "has no meaning with tls.mode: %s", c.TLS.Mode)
	}
}

func (k *checker) checkACME(c *Config) {
	a := c.TLS.ACME
	if u, err := url.Parse(a.Directory); err != nil || u.Host == "" || u.User != nil || u.Fragment != "" {
		k.wrong("tls.acme.directory", "%q is not a URL such as https://acme-v02.api.letsencrypt.org/directory", a.Directory)
	} else if u.Scheme != "https" {
		k.wrong("tls.acme.directory", "%q: it has to be https (RFC 8555, section 6.1)", a.Directory)
	}
	if a.Email != "" {
		if address, err := mail.ParseAddress(a.Email); err != nil || address.Address != a.Email {
			k.wrong("tls.acme.email", "%q is not an address such as ops@example.com", a.Email)
		}
	}
	if a.Roots != "" {
		k.checkFile("tls.acme.roots", a.Roots, false)
		if pem, err := os.ReadFile(a.Roots); err == nil && len(pem) > 0 && !x509.NewCertPool().AppendCertsFromPEM(pem) {
			k.wrong("tls.acme.roots", "%s holds no PEM certificate", a.Roots)
		}
	}
	switch {
	case a.EAB.KeyID == "" && a.EAB.HMACCredential == "":
	case a.EAB.KeyID == "" || a.EAB.HMACCredential == "":
		k.wrong("tls.acme.eab", "key_id and hmac_credential go together: the CA hands out both")
	default:
		k.checkCredential("tls.acme.eab.hmac_credential", a.EAB.HMACCredential)
	}
	if net.ParseIP(strings.Trim(c.Domain, "[]")) != nil {
		k.wrong("domain", "%q is an address, and the certificate is for a name, such as sts.example.com", c.Domain)
	}
}
