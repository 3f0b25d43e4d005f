package idtoken

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"sync/atomic"
	"testing"
	"time"
)

func TestTLS(t *testing.T) {
	k := newKey(t, "EdDSA", "k")
	issuer := startIssuer(t, true, k)
	ca := writeFile(t, string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: issuer.Certificate().Raw})))
	listed := func(caFile string) Issuer {
		i := issuer.listed()
		i.CAFile = caFile
		return i
	}
	t.Run("the issuer's CA", func(t *testing.T) {
		check(t, newVerifier(t, newClock(), listed(ca)), k.sign(t, claims(issuer.URL, nil)), "")
	})
	t.Run("the system's CAs", func(t *testing.T) {
		contains(t, firstError(t, issuer.listed()), "certificate")
	})
	for _, c := range []struct {
		name  string
		host  net.IP
		until time.Duration
		want  string
	}{
		{"good", net.IPv4(127, 0, 0, 1), time.Hour, ""},
		{"expired", net.IPv4(127, 0, 0, 1), -time.Minute, "expired"},
		{"for another host", net.IPv4(127, 0, 0, 2), time.Hour, "certificate is valid for 127.0.0.2"},
	} {
		t.Run(c.name, func(t *testing.T) {
			certificate := selfSigned(t, c.host, c.until)
			other := httptest.NewUnstartedServer(text(jwks(t, k)))
			other.TLS = &tls.Config{Certificates: []tls.Certificate{certificate}}
			other.Config.ErrorLog = quiet()
			other.StartTLS()
			defer other.Close()
			ca := writeFile(t, string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: certificate.Certificate[0]})))
			i := Issuer{URL: issuerURL, JWKSURL: other.URL, CAFile: ca, Networks: loopback}
			if c.want == "" {
				check(t, newVerifier(t, newClock(), i), k.sign(t, claims(issuerURL, nil)), "")
				return
			}
			contains(t, firstError(t, i), c.want)
		})
	}
}

func selfSigned(t *testing.T, host net.IP, until time.Duration) tls.Certificate {
	t.Helper()
	private := must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "issuer"}, IPAddresses: []net.IP{host},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(until), IsCA: true, BasicConstraintsValid: true,
	}
	der := must(x509.CreateCertificate(rand.Reader, template, template, private.Public(), private))
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: private}
}

// A proxy is the operator's: it may be on a private address, and it is what gets to connect to the issuer.
func TestProxy(t *testing.T) {
	k := newKey(t, "EdDSA", "k")
	issuer := startIssuer(t, true, k)
	var connected atomic.Value
	proxy := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		connected.Store(r.Method + " " + r.Host)
		upstream, err := net.Dial("tcp", issuer.Listener.Addr().String())
		if err != nil {
			w.WriteHeader(http.StatusBadGateway)
			return
		}
		defer upstream.Close()
		w.WriteHeader(http.StatusOK)
		client, _, err := w.(http.Hijacker).Hijack()
		if err != nil {
			return
		}
		defer client.Close()
		go io.Copy(upstream, client)
		io.Copy(client, upstream)
	}))
	defer proxy.Close()
	ca := writeFile(t, string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: issuer.Certificate().Raw})))
	t.Setenv("HTTPS_PROXY", proxy.URL)
	t.Setenv("NO_PROXY", "inside.example.com")
	// httptest's certificate is for example.com, which nobody but the proxy resolves here.
	i := Issuer{URL: issuerURL, JWKSURL: "https://example.com/jwks", CAFile: ca}
	check(t, newVerifier(t, newClock(), i), k.sign(t, claims(issuerURL, nil)), "")
	if got := connected.Load(); got != "CONNECT example.com:443" {
		t.Errorf("the proxy was asked to %v", got)
	}
	t.Setenv("NO_PROXY", "example.com,127.0.0.0/8")
	i = Issuer{URL: issuerURL, JWKSURL: "https://127.0.0.1:1/jwks", CAFile: ca}
	contains(t, firstError(t, i), "no public address")
}
