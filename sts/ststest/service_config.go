package ststest

import (
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"sigs.k8s.io/yaml"
)

// writeConfig writes octo-stsd.yaml and the files that it names.
func (s *Service) writeConfig() error {
	gitHubCA, err := s.writeFile("github-ca.pem", s.GitHub.CAPEM())
	if err != nil {
		return err
	}
	var apps []any
	for _, a := range s.config.Apps {
		app := map[string]any{"id": a.ID}
		if a.Organizations != nil {
			app["organizations"] = a.Organizations
		}
		apps = append(apps, app)
	}
	issuer := map[string]any{"url": s.Issuer.URL(), "networks": []any{"127.0.0.0/8", "::1/128"}}
	if pem := s.Issuer.CAPEM(); pem != nil {
		if issuer["ca_file"], err = s.writeFile("issuer-ca.pem", pem); err != nil {
			return err
		}
	}
	tls, err := s.writeTLS()
	if err != nil {
		return err
	}
	config := map[string]any{
		"domain": s.config.Domain,
		"listen": map[string]any{"https": "127.0.0.1:0", "admin": "127.0.0.1:0"},
		"tls":    tls,
		// One client, this process, makes all the requests of a test.
		"limits": map[string]any{
			"per_address": 1_000_000, "burst": 1_000_000, "connections_per_address": 4096,
			"per_issuer": 1_000_000, "burst_per_issuer": 1_000_000, "denied_per_subject": 1_000_000, "denied_per_owner": 1_000_000,
		},
		"github":          map[string]any{"api_url": s.GitHub.URL(), "ca_file": gitHubCA, "apps": apps},
		"issuers":         []any{issuer},
		"audit":           map[string]any{"directory": s.AuditDir},
		"signer":          map[string]any{"socket": s.Signer.Socket()},
		"state_directory": filepath.Join(s.Dir, "state"),
	}
	if s.config.Webhook {
		if err := s.writeWebhookSecret(); err != nil {
			return err
		}
		config["webhook"] = map[string]any{"secrets": []any{webhookCredential}}
	}
	if s.config.Probe != "" {
		if err := s.configureProbe(config); err != nil {
			return err
		}
	}
	if s.config.Edit != nil {
		s.config.Edit(config)
	}
	text, err := yaml.Marshal(config)
	if err != nil {
		return fmt.Errorf("encoding octo-stsd.yaml: %w", err)
	}
	_, err = s.writeFile(filepath.Base(s.ConfigFile), text)
	return err
}

// writeTLS is the tls section; with TLS, its files are written.
func (s *Service) writeTLS() (map[string]any, error) {
	if !s.config.TLS {
		return map[string]any{"mode": "off"}, nil
	}
	var err error
	if s.ca, err = newAuthority("test appliance"); err != nil {
		return nil, err
	}
	certificate, key, err := s.RenewCertificate()
	if err != nil {
		return nil, err
	}
	return map[string]any{"mode": "files", "files": map[string]any{"certificate": certificate, "key": key}}, nil
}

// RenewCertificate writes a new certificate and key, signed by the same
// authority, over the files of tls.files, and returns their paths.
func (s *Service) RenewCertificate() (certificate, key string, err error) {
	now := time.Now()
	return s.RenewCertificateFor(now.Add(-time.Hour), now.AddDate(1, 0, 0))
}

// RenewCertificateFor is RenewCertificate with one that is valid from and until then.
func (s *Service) RenewCertificateFor(notBefore, notAfter time.Time) (certificate, key string, err error) {
	cert, err := s.ca.issue(notBefore, notAfter, "localhost", "127.0.0.1", "::1")
	if err != nil {
		return "", "", err
	}
	der, err := x509.MarshalPKCS8PrivateKey(cert.PrivateKey)
	if err != nil {
		return "", "", fmt.Errorf("encoding a server key: %w", err)
	}
	if key, err = s.writeFile("tls-key.pem", pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})); err != nil {
		return "", "", err
	}
	certificate, err = s.writeFile("tls-certificate.pem", pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert.Certificate[0]}))
	return certificate, key, err
}

// writeFile writes a file in Dir, whole or not at all, and returns its path.
func (s *Service) writeFile(name string, content []byte) (string, error) {
	file := filepath.Join(s.Dir, name)
	if err := os.WriteFile(file+".new", content, 0o600); err != nil {
		return "", fmt.Errorf("writing the service's files: %w", err)
	}
	if err := os.Rename(file+".new", file); err != nil {
		return "", fmt.Errorf("writing the service's files: %w", err)
	}
	return file, nil
}
