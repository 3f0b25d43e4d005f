package ststest

import (
	"fmt"
	"net"
)

// probeIssuer is what the signer's configuration calls probe.issuer; "" without a probe.
func (s *Service) probeIssuer() string {
	if s.config.Probe == "" {
		return ""
	}
	return ProbeIssuer(s.config.Domain)
}

// ProbeIssuer is the issuer of the ID tokens with which an appliance of that domain
// probes itself.
func ProbeIssuer(domain string) string { return "https://" + domain + "/probe-issuer" }

// ProbePolicy is the text of the trust policy that a probe of that domain needs.
func ProbePolicy(domain string) string {
	return "issuer: " + ProbeIssuer(domain) + "\nsubject: probe\npermissions: {contents: read}\n"
}

// configureProbe adds the section probe. The probe asks for the daemon at a URL of the
// configuration, so the port has to be known before there is a listener: one that was
// free a moment ago.
func (s *Service) configureProbe(config map[string]any) error {
	free, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return fmt.Errorf("looking for a free port: %w", err)
	}
	address := free.Addr().String()
	if err := free.Close(); err != nil {
		return fmt.Errorf("looking for a free port: %w", err)
	}
	config["listen"].(map[string]any)["https"] = address
	section := map[string]any{"scope": s.config.Probe, "url": "http://" + address}
	if s.ca != nil {
		section["url"] = "https://" + address
		if section["ca_file"], err = s.writeFile("probe-ca.pem", s.ca.pem); err != nil {
			return err
		}
	}
	config["probe"] = section
	return nil
}
