//go:build packages

package packaging_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"time"
)

const (
	worldRoots       = "/run/world-roots.pem" // of every authority in the world
	pebbleAddress    = "127.0.0.1:14000"
	pebbleManagement = "127.0.0.1:15000"
	dnsAddress       = "127.0.0.1:8053"
)

// authority is behind the certificates of the world's web servers. It is made once for all tests, since a
// process reads the roots that it trusts once.
var authority struct {
	certificate tls.Certificate // of every server
	pem         []byte
}

// furnishAuthorities makes the world's own authority, and starts Pebble, the one that gives the appliance its
// certificates. Pebble ends with the namespace.
func furnishAuthorities() error {
	if err := makeAuthority(worldAddress, "127.0.0.1", "localhost", "github.com", "api.github.com", "token.actions.githubusercontent.com",
		"acme-v02.api.letsencrypt.org", "packages.example.com"); err != nil {
		return fmt.Errorf("making an authority: %w", err)
	}
	root, err := startPebble()
	if err != nil {
		return fmt.Errorf("starting Pebble: %w", err)
	}
	if err := os.WriteFile(worldRoots, append(authority.pem, root...), 0o644); err != nil {
		return err
	}
	return os.Setenv("SSL_CERT_FILE", worldRoots)
}

func makeAuthority(hosts ...string) error {
	caKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	ca := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "the world's authority"}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().AddDate(1, 0, 0), KeyUsage: x509.KeyUsageCertSign,
	}
	caDER, err := x509.CreateCertificate(rand.Reader, ca, ca, caKey.Public(), caKey)
	if err != nil {
		return err
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	server := &x509.Certificate{
		SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: hosts[0]}, NotBefore: ca.NotBefore, NotAfter: ca.NotAfter,
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	for _, h := range hosts {
		if address := net.ParseIP(h); address != nil {
			server.IPAddresses = append(server.IPAddresses, address)
		} else {
			server.DNSNames = append(server.DNSNames, h)
		}
	}
	der, err := x509.CreateCertificate(rand.Reader, server, ca, key.Public(), caKey)
	if err != nil {
		return err
	}
	authority.certificate = tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
	authority.pem = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: caDER})
	return nil
}

// startPebble starts Pebble, and a DNS server that knows the machine, and is Pebble's root.
func startPebble() (root []byte, err error) {
	dir, err := os.MkdirTemp("/run", "pebble-")
	if err != nil {
		return nil, err
	}
	key, err := x509.MarshalPKCS8PrivateKey(authority.certificate.PrivateKey)
	if err != nil {
		return nil, err
	}
	config, err := json.Marshal(map[string]any{"pebble": map[string]any{
		"listenAddress": pebbleAddress, "managementListenAddress": pebbleManagement, "httpPort": 80, "tlsPort": 443,
		"certificate": filepath.Join(dir, "certificate.pem"), "privateKey": filepath.Join(dir, "key.pem"),
	}})
	if err != nil {
		return nil, err
	}
	for name, content := range map[string][]byte{
		"config.json":     config,
		"certificate.pem": pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: authority.certificate.Certificate[0]}),
		"key.pem":         pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: key}),
	} {
		if err := os.WriteFile(filepath.Join(dir, name), content, 0o600); err != nil {
			return nil, err
		}
	}
	names := exec.Command("pebble-challtestsrv", "-dns01", dnsAddress, "-defaultIPv4", machineAddress, "-defaultIPv6", "",
		"-http01", "", "-https01", "", "-tlsalpn01", "", "-management", "127.0.0.1:8055")
	pebble := exec.Command("pebble", "-config", filepath.Join(dir, "config.json"), "-dnsserver", dnsAddress)
	pebble.Env = append(os.Environ(), "PEBBLE_VA_NOSLEEP=1")
	for _, cmd := range []*exec.Cmd{names, pebble} {
		if err := cmd.Start(); err != nil {
			return nil, err
		}
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(authority.pem)
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool}}}
	defer client.CloseIdleConnections()
	for deadline := time.Now().Add(time.Minute); time.Now().Before(deadline); time.Sleep(50 * time.Millisecond) {
		if root, err = get(client, "https://"+pebbleManagement+"/roots/0"); err == nil {
			return root, nil
		}
	}
	return nil, err
}

// get is the body of a good answer.
func get(client *http.Client, address string) ([]byte, error) {
	response, err := client.Get(address)
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err == nil && response.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %s", response.Status, body)
	}
	return body, err
}
