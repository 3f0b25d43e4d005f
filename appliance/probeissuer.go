package appliance

import (
	"context"
	"crypto/ecdsa"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/octo-sts/appliance/signer"
	"github.com/octo-sts/appliance/sts/idtoken"
)

// probeLifetime is the longest that an ID token of a probe may live; the signer's live
// for less.
const probeLifetime = 5 * time.Minute

// probeIssuerURL is the issuer of the ID tokens with which the daemon probes itself.
func probeIssuerURL(c *Config) string {
	return "https://" + strings.ToLower(c.Domain) + signer.ProbeIssuerPath
}

// probeIssuer lists the issuer, whose keys come from the signer and not over the
// network: each HSM has its own.
func (p *parts) probeIssuer(c *Config) idtoken.Issuer {
	return idtoken.Issuer{
		URL: probeIssuerURL(c), MaxLifetime: probeLifetime,
		JWKS: func(ctx context.Context) ([]byte, error) { return p.probeJWKS(ctx, c) },
	}
}

// jwk is a public key of P-256 (RFC 7518, section 6.2.1).
type jwk struct {
	Kty string `json:"kty"`
	Crv string `json:"crv"`
	X   string `json:"x"`
	Y   string `json:"y"`
	Kid string `json:"kid"`
	Use string `json:"use"`
	Alg string `json:"alg"`
}

// probeJWKS asks the signer for the JWK Set (RFC 7517, section 5).
func (p *parts) probeJWKS(ctx context.Context, c *Config) ([]byte, error) {
	status, err := p.signer.Status(ctx)
	if err != nil {
		return nil, err
	}
	if problem := probeProblem(status, c); problem != "" {
		return nil, errors.New(problem)
	}
	keys, err := status.ProbeKeys()
	if err != nil {
		return nil, err
	}
	set := struct {
		Keys []jwk `json:"keys"`
	}{[]jwk{}}
	for _, key := range keys {
		j, err := toJWK(key)
		if err != nil {
			return nil, err
		}
		set.Keys = append(set.Keys, j)
	}
	return json.Marshal(set)
}

func toJWK(key *ecdsa.PublicKey) (jwk, error) {
	point, err := key.Bytes() // 4, x and y (SEC 1, section 2.3.3)
	if err != nil {
		return jwk{}, fmt.Errorf("encoding the probe's key: %w", err)
	}
	id, err := signer.ProbeKeyID(key)
	encode := base64.RawURLEncoding.EncodeToString
	return jwk{Kty: "EC", Crv: "P-256", X: encode(point[1:33]), Y: encode(point[33:]), Kid: id, Use: "sig", Alg: "ES256"}, err
}

// probeProblem says why the signer makes no ID tokens for this daemon's probe, "" where
// it does.
func probeProblem(status signer.Status, c *Config) string {
	switch s := status.Probe; {
	case s == nil:
		return "the signer makes no ID tokens for probes: give signer.yaml the section probe, and run octo-sts-signer key generate --probe"
	case s.Issuer != probeIssuerURL(c):
		return fmt.Sprintf("the signer makes ID tokens of %s, and this daemon's issuer is %s: change probe.issuer in signer.yaml", s.Issuer, probeIssuerURL(c))
	case s.Error != "":
		return fmt.Sprintf("the key %q: %s", s.Key, s.Error)
	}
	return ""
}

// withProbeIssuer serves the issuer's documents (OpenID Connect Discovery 1.0,
// sections 3 and 4) for whoever wants to verify a probe's ID token elsewhere. The daemon
// itself does without.
func (p *parts) withProbeIssuer(c *Config, next http.Handler) http.Handler {
	if c.Probe.Scope == "" {
		return next
	}
	issuer := probeIssuerURL(c)
	discovery, err := json.Marshal(map[string]any{
		"issuer": issuer, "jwks_uri": issuer + "/jwks", "response_types_supported": []string{"id_token"},
		"subject_types_supported": []string{"public"}, "id_token_signing_alg_values_supported": []string{"ES256"},
		"claims_supported": []string{"iss", "sub", "aud", "iat", "exp", "jti"},
	})
	if err != nil {
		return next // not possible for strings
	}
	mux := http.NewServeMux()
	mux.Handle("/", next)
	mux.HandleFunc("GET "+signer.ProbeIssuerPath+"/.well-known/openid-configuration", func(w http.ResponseWriter, _ *http.Request) {
		writeDocument(w, "application/json", discovery)
	})
	keys := &probeKeys{parts: p, config: c}
	mux.HandleFunc("GET "+signer.ProbeIssuerPath+"/jwks", keys.ServeHTTP)
	return mux
}

func writeDocument(w http.ResponseWriter, contentType string, body []byte) {
	w.Header().Set("Content-Type", contentType)
	w.Header().Set("Cache-Control", "public, max-age=60")
	_, _ = w.Write(body) // whoever is gone needs no answer
}
