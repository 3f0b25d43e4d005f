package ststest

import (
	"errors"
	"fmt"
	"math/rand/v2"
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
	address, err := freeAddress()
	if err != nil {
		return err
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

// freeAddress is one that stays free while nothing listens at it: below the ports
// that Linux gives to connections (ip_local_port_range, ip(7)).
func freeAddress() (string, error) {
	for range 100 {
		address := fmt.Sprintf("127.0.0.1:%d", 20000+rand.IntN(12000))
		l, err := net.Listen("tcp", address)
		if err == nil {
			return address, l.Close()
		}
	}
	return "", errors.New("looking for a free port: none is")
}
