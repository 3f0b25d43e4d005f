package main

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"math/big"
	mathrand "math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"github.com/octo-sts/appliance/sts/ststest"
)

// pebble is a real ACME CA, Let's Encrypt's Pebble, with the DNS server that
// comes with it: every name is at address, where the daemon is to listen. Each
// start is a new CA, which knows no account.
type pebble struct {
	t                       *testing.T
	dir, address            string         // of a test's own, of 127.0.0.0/8
	api, admin, dns         int            // ports
	http, https             int            // where the CA looks for challenges
	config                  map[string]any // certificateValidityPeriod in seconds
	env                     []string
	running                 *exec.Cmd
	rootsOfItsAPI, logsFile string
}

// newPebble starts one; change changes its configuration, env its environment.
func newPebble(t *testing.T, change map[string]any, env ...string) *pebble {
	t.Helper()
	if _, err := exec.LookPath("pebble"); err != nil {
		t.Skip("Pebble is not installed, and Fedora has no package of it: no test with a CA")
	}
	p := &pebble{
		t: t, dir: t.TempDir(), env: append([]string{"PEBBLE_VA_NOSLEEP=1", "PEBBLE_WFE_NONCEREJECT=0", "PEBBLE_AUTHZREUSE=0"}, env...),
		address: fmt.Sprintf("127.%d.%d.%d", 1+mathrand.IntN(254), mathrand.IntN(256), 1+mathrand.IntN(254)),
	}
	p.rootsOfItsAPI, p.logsFile = filepath.Join(p.dir, "api.pem"), filepath.Join(p.dir, "log")
	for _, port := range []*int{&p.api, &p.admin, &p.dns, &p.http, &p.https} {
		*port = p.freePort()
	}
	p.makeAPICertificate()
	p.config = map[string]any{
		"listenAddress": p.at(p.api), "managementListenAddress": p.at(p.admin),
		"certificate": p.rootsOfItsAPI, "privateKey": filepath.Join(p.dir, "api.key"),
		"httpPort": p.http, "tlsPort": p.https,
	}
	for key, value := range change {
		p.config[key] = value
	}
	p.run("pebble-challtestsrv", "-management", "", "-dns01", p.at(p.dns), "-http01", "", "-https01", "", "-tlsalpn01", "",
		"-defaultIPv4", p.address, "-defaultIPv6", "")
	p.start()
	return p
}

func (p *pebble) at(port int) string { return net.JoinHostPort(p.address, strconv.Itoa(port)) }

// freePort is one that nobody else can take: the address is this test's own.
func (p *pebble) freePort() int {
	p.t.Helper()
	l, err := net.Listen("tcp", p.at(0))
	if err != nil {
		p.t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port
}

func (p *pebble) makeAPICertificate() {
	p.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		p.t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "the CA's API"}, IPAddresses: []net.IP{net.ParseIP(p.address)}, DNSNames: []string{"ca.example.test"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature,
	}
	certificate, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	der, keyErr := x509.MarshalPKCS8PrivateKey(key)
	if err := errors.Join(err, keyErr,
		os.WriteFile(p.rootsOfItsAPI, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: certificate}), 0o600),
		os.WriteFile(filepath.Join(p.dir, "api.key"), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), 0o600)); err != nil {
		p.t.Fatal(err)
	}
}

// run runs a program until the test ends, or stop.
func (p *pebble) run(name string, args ...string) *exec.Cmd {
	p.t.Helper()
	log, err := os.OpenFile(p.logsFile, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		p.t.Fatal(err)
	}
	cmd := exec.Command(name, args...)
	cmd.Env = append(os.Environ(), p.env...)
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		p.t.Fatal(err)
	}
	_ = log.Close() // the program has its own
	p.t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	return cmd
}

// start starts the CA, which is then ready.
func (p *pebble) start() {
	p.t.Helper()
	if seconds, ok := p.config["certificateValidityPeriod"]; ok { // as newer ones name it
		p.config["profiles"] = map[string]any{"default": map[string]any{"description": "default", "validityPeriod": seconds}}
	}
	file := filepath.Join(p.dir, "pebble.json")
	text, err := json.Marshal(map[string]any{"pebble": p.config})
	if err := errors.Join(err, os.WriteFile(file, text, 0o600)); err != nil {
		p.t.Fatal(err)
	}
	p.running = p.run("pebble", "-config", file, "-dnsserver", p.at(p.dns))
	for deadline := time.Now().Add(patience); ; time.Sleep(10 * time.Millisecond) {
		if conn, err := net.Dial("tcp", p.at(p.api)); err == nil {
			_ = conn.Close()
			return
		}
		if time.Now().After(deadline) {
			p.t.Fatalf("Pebble does not listen: %s", p.logs())
		}
	}
}

func (p *pebble) stop() { _ = p.running.Process.Kill(); _ = p.running.Wait() }

func (p *pebble) logs() string {
	text, err := os.ReadFile(p.logsFile)
	if err != nil {
		p.t.Fatal(err)
	}
	return string(text)
}

// calls is how often the CA was asked for anything.
func (p *pebble) calls() int { return bytes.Count([]byte(p.logs()), []byte("calling handler")) }

// ask asks the CA's management interface.
func (p *pebble) ask(path string) []byte {
	p.t.Helper()
	text, err := os.ReadFile(p.rootsOfItsAPI)
	if err != nil {
		p.t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(text)
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool}, DisableKeepAlives: true}}
	resp, err := client.Get("https://" + p.at(p.admin) + path)
	if err != nil {
		p.t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusOK {
		p.t.Fatalf("%s: %s %s %v", path, resp.Status, body, err)
	}
	return body
}

// tls is the section of octo-stsd.yaml that names this CA.
func (p *pebble) tls() map[string]any {
	return map[string]any{"mode": "acme", "acme": map[string]any{"directory": "https://" + p.at(p.api) + "/dir", "roots": p.rootsOfItsAPI}}
}

// acmeRig is a daemon that gets its certificate from a CA.
type acmeRig struct {
	*rig
	ca *pebble
}

// newACMERig starts one, and does not wait for its certificate. edit may change
// its configuration.
func newACMERig(t *testing.T, ca *pebble, edit func(config map[string]any), env ...string) *acmeRig {
	t.Helper()
	r := newRig(t, ststest.ServiceConfig{Unready: true, Env: env, Issuer: ststest.IssuerConfig{Alg: "ES256"}, Edit: func(config map[string]any) {
		config["tls"] = ca.tls()
		config["listen"] = map[string]any{"https": ca.at(ca.https), "http": ca.at(ca.http), "admin": "127.0.0.1:0"}
		if edit != nil {
			edit(config)
		}
	}})
	return &acmeRig{r, ca}
}

// presented is the certificate that a handshake gets.
func (r *acmeRig) presented(c *tls.Config) (*x509.Certificate, tls.ConnectionState, error) {
	c.InsecureSkipVerify = true // who signed it, trusted asks
	conn, err := tls.DialWithDialer(&net.Dialer{Timeout: patience}, "tcp", r.ca.at(r.ca.https), c)
	if err != nil {
		return nil, tls.ConnectionState{}, err
	}
	state := conn.ConnectionState()
	return state.PeerCertificates[0], state, conn.Close()
}

// inUse is the certificate in use; nil while there is none.
func (r *acmeRig) inUse() *x509.Certificate {
	leaf, _, err := r.presented(&tls.Config{ServerName: "sts.example.com"})
	if err != nil {
		return nil
	}
	return leaf
}

// obtained waits for a certificate other than old, which may be nil, and sees
// that a job that trusts the CA, as it is now, exchanges its ID token.
func (r *acmeRig) obtained(old *x509.Certificate) *x509.Certificate {
	r.t.Helper()
	var leaf *x509.Certificate
	r.eventually("a new certificate", func() bool {
		leaf = r.inUse()
		return leaf != nil && (old == nil || !leaf.Equal(old))
	})
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(r.ca.ask("/roots/0"))
	client := &http.Client{Transport: &http.Transport{
		TLSClientConfig: &tls.Config{RootCAs: pool, ServerName: "sts.example.com"}, DisableKeepAlives: true,
	}}
	req := r.exchangeRequest()
	req.URL.Scheme = "https"
	if status, err := readWhole(client.Do(req)); err != nil || status != http.StatusOK {
		r.t.Fatalf("an exchange by a job that trusts the CA: %d, %v", status, err)
	}
	return leaf
}

// certificateCheck waits until /readyz says this of the certificate.
func (r *acmeRig) certificateCheck(what string, says func(status int, check string) bool) string {
	r.t.Helper()
	check := ""
	r.eventually(what, func() bool {
		status, _, checks := r.readiness()
		check = checks["certificate"]
		return says(status, check)
	})
	return check
}

// metric is the value of a metric without labels.
func (r *rig) metric(name string) float64 {
	r.t.Helper()
	resp, err := r.Client().Get(r.AdminURL() + "/metrics")
	if err != nil {
		r.t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		r.t.Fatal(err)
	}
	for line := range bytes.Lines(body) {
		if value, ok := bytes.CutPrefix(line, []byte(name+" ")); ok {
			f, err := strconv.ParseFloat(string(bytes.TrimSpace(value)), 64)
			if err != nil {
				r.t.Fatal(err)
			}
			return f
		}
	}
	r.t.Fatalf("there is no metric %s", name)
	return 0
}

// serialUnverified is the serial number of what a handshake gets, whoever signed
// it; empty where there is no handshake.
func (r *rig) serialUnverified() string {
	conn, err := tls.DialWithDialer(&net.Dialer{Timeout: patience}, "tcp", r.Address(), &tls.Config{InsecureSkipVerify: true})
	if err != nil {
		return ""
	}
	defer conn.Close()
	return conn.ConnectionState().PeerCertificates[0].SerialNumber.String()
}
