package signer

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/asn1"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"math/big"
	"net/http"
	"net/url"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/time/rate"
)

// ProbeIssuerPath is the path of the issuer of probes' ID tokens, below the appliance's own name.
const ProbeIssuerPath = "/probe-issuer"

// ProbeKind is which of the few ID tokens that the signer makes for probes is wanted.
type ProbeKind string

// The kinds. All are alike but in what their names say.
const (
	ProbeGood          ProbeKind = "good"           // subject probe, for the appliance's domain
	ProbeWrongAudience ProbeKind = "wrong-audience" // for nobody
	ProbeWrongSubject  ProbeKind = "wrong-subject"  // of a subject that no policy should name
)

const (
	probeSubject       = "probe"
	probeOtherSubject  = "stranger-to-every-policy"
	probeOtherAudience = "wrong-audience.invalid" // RFC 2606, section 2
	// probeLifetime is as long as a slow probe takes, and shorter than anybody could make use of.
	probeLifetime = 2 * time.Minute
	// probeRate bounds the signatures a second, so that a compromised daemon cannot keep the HSM busy, and probeBurst how
	// many come at once: a probe of everything takes five.
	probeRate  = 10
	probeBurst = 50
)

var (
	// ErrNoProbeIssuer means that signer.yaml has no section probe.
	ErrNoProbeIssuer = errors.New("no ID tokens for probes are made: signer.yaml has no section probe")
	// ErrProbeRate means that they are asked for faster than they are made.
	ErrProbeRate = errors.New("too many ID tokens for probes: at most ten a second are made")
)

// ProbeIDToken is a signed ID token for a probe. It is a secret until Expiry.
type ProbeIDToken struct {
	IDToken string    `json:"id_token"`
	Expiry  time.Time `json:"expiry"` // the exp claim
}

// probeClaims are all claims of a probe's ID token (RFC 7519, section 4.1).
type probeClaims struct {
	Issuer   string `json:"iss"`
	Subject  string `json:"sub"`
	Audience string `json:"aud"`
	IssuedAt int64  `json:"iat"`
	Expiry   int64  `json:"exp"`
	JTI      string `json:"jti"`
}

// SignProbeIDToken makes an ID token of a kind at time now, signed with ES256. Every claim is made here; the caller chooses
// the kind alone. The signature has been verified when it is returned.
func SignProbeIDToken(key crypto.Signer, c ProbeConfig, kind ProbeKind, now time.Time) (ProbeIDToken, error) {
	public, ok := key.Public().(*ecdsa.PublicKey)
	if !ok {
		return ProbeIDToken{}, fmt.Errorf("signing an ID token for a probe: the key is a %T, not P-256", key.Public())
	}
	issuer, err := url.Parse(c.Issuer)
	if err != nil {
		return ProbeIDToken{}, fmt.Errorf("signing an ID token for a probe: %w", err)
	}
	expiry := now.Add(probeLifetime).Truncate(time.Second).UTC()
	claims := probeClaims{Issuer: c.Issuer, Subject: probeSubject, Audience: issuer.Hostname(), IssuedAt: now.Unix(), Expiry: expiry.Unix(), JTI: rand.Text()}
	switch kind {
	case ProbeGood:
	case ProbeWrongAudience:
		claims.Audience = probeOtherAudience
	case ProbeWrongSubject:
		claims.Subject = probeOtherSubject
	default:
		return ProbeIDToken{}, fmt.Errorf("signing an ID token for a probe: there is no kind %q", kind)
	}
	payload, err := json.Marshal(claims)
	if err != nil {
		return ProbeIDToken{}, fmt.Errorf("encoding the claims of a probe's ID token: %w", err)
	}
	kid, err := ProbeKeyID(public)
	if err != nil {
		return ProbeIDToken{}, err
	}
	encode := base64.RawURLEncoding.EncodeToString
	input := encode([]byte(`{"alg":"ES256","typ":"JWT","kid":"`+kid+`"}`)) + "." + encode(payload)
	signature, err := crypto.SignMessage(key, nil, []byte(input), crypto.SHA256)
	if err != nil {
		return ProbeIDToken{}, fmt.Errorf("signing an ID token for a probe: %w", err)
	}
	digest := sha256.Sum256([]byte(input))
	if !ecdsa.VerifyASN1(public, digest[:], signature) {
		return ProbeIDToken{}, errors.New("signing an ID token for a probe: the signature does not verify against the key's public half, so it is withheld")
	}
	raw, err := rawSignature(signature)
	if err != nil {
		return ProbeIDToken{}, fmt.Errorf("signing an ID token for a probe: %w", err)
	}
	return ProbeIDToken{IDToken: input + "." + encode(raw), Expiry: expiry}, nil
}

// rawSignature is an ASN.1 ECDSA signature over P-256 as JWS has it: r and s, 32 bytes each (RFC 7518, section 3.4).
func rawSignature(signature []byte) ([]byte, error) {
	var numbers struct{ R, S *big.Int }
	if rest, err := asn1.Unmarshal(signature, &numbers); err != nil || len(rest) > 0 {
		return nil, fmt.Errorf("the signature is not one number and another: %w", err)
	}
	raw := make([]byte, 64)
	numbers.R.FillBytes(raw[:32])
	numbers.S.FillBytes(raw[32:])
	return raw, nil
}

// ProbeKeyID is the key ID (kid) of a probe key: the base64url of the SHA-256 of its PKIX form.
func ProbeKeyID(public *ecdsa.PublicKey) (string, error) {
	der, err := x509.MarshalPKIXPublicKey(public)
	if err != nil {
		return "", fmt.Errorf("encoding the public half of the probe's key: %w", err)
	}
	sum := sha256.Sum256(der)
	return base64.RawURLEncoding.EncodeToString(sum[:]), nil
}

// suitsProbe says why a key of this kind does not sign probes' ID tokens, nil where it does.
func suitsProbe(public crypto.PublicKey) error {
	if key, ok := public.(*ecdsa.PublicKey); !ok || key.Curve != elliptic.P256() {
		return errors.New("it is not a P-256 key, with which probes' ID tokens are signed")
	}
	return nil
}

// ProbeIssuer makes ID tokens for probes. A nil one makes none. It is safe for concurrent use.
type ProbeIssuer struct {
	config  ProbeConfig
	hsms    *HSMs
	limiter *rate.Limiter
	failure atomic.Pointer[string] // of the last signature; nil where it succeeded or none was asked for
}

// NewProbeIssuer is nil where nothing is configured.
func NewProbeIssuer(c ProbeConfig, hsms *HSMs) *ProbeIssuer {
	if c.Key == "" {
		return nil
	}
	return &ProbeIssuer{config: c, hsms: hsms, limiter: rate.NewLimiter(probeRate, probeBurst)}
}

// IDToken signs a fresh ID token. The error matches ErrNoProbeIssuer, ErrProbeRate or ErrNotReady.
func (p *ProbeIssuer) IDToken(ctx context.Context, kind ProbeKind) (idToken ProbeIDToken, err error) {
	if p == nil {
		return ProbeIDToken{}, ErrNoProbeIssuer
	}
	if !p.limiter.Allow() {
		return ProbeIDToken{}, ErrProbeRate
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), signTimeout)
	defer cancel()
	err = p.hsms.UseKey(ctx, p.config.Key, func(key crypto.Signer) error {
		var err error
		idToken, err = SignProbeIDToken(key, p.config, kind, time.Now())
		return err
	})
	if err != nil {
		why := err.Error()
		p.failure.Store(&why)
		return ProbeIDToken{}, fmt.Errorf("the probe's key %q cannot sign: %w: %w", p.config.Key, ErrNotReady, err)
	}
	p.failure.Store(nil)
	return idToken, nil
}

// Status is nil where nothing is configured. It waits for nothing.
func (p *ProbeIssuer) Status() *ProbeStatus {
	if p == nil {
		return nil
	}
	status := &ProbeStatus{Issuer: p.config.Issuer, Key: p.config.Key}
	if _, err := p.hsms.Public(p.config.Key); err != nil {
		status.Error = err.Error()
		return status
	}
	status.Ready = true
	if why := p.failure.Load(); why != nil {
		status.Error = *why
	}
	return status
}

type probeRequest struct {
	Kind ProbeKind `json:"kind"`
}

func (s *Server) probeIDToken(_ peer, r *http.Request) (any, error) {
	var request probeRequest
	if err := decodeRequest(r.Body, &request); err != nil {
		return nil, &httpError{http.StatusBadRequest, "reading the request: expected {\"kind\": KIND}: " + err.Error()}
	}
	switch request.Kind {
	case ProbeGood, ProbeWrongAudience, ProbeWrongSubject:
	default:
		return nil, &httpError{http.StatusBadRequest, fmt.Sprintf("there is no kind %q of ID tokens for probes", request.Kind)}
	}
	return s.probe.IDToken(r.Context(), request.Kind)
}

// ProbeIDToken asks for an ID token of a kind. The error matches ErrUnavailable or ErrRefused.
func (c *Client) ProbeIDToken(ctx context.Context, kind ProbeKind) (ProbeIDToken, error) {
	body, err := json.Marshal(probeRequest{kind})
	if err != nil {
		return ProbeIDToken{}, fmt.Errorf("encoding a request to the signer: %w", err)
	}
	var answer ProbeIDToken
	if err := c.call(ctx, http.MethodPost, pathProbe, body, &answer); err != nil {
		return ProbeIDToken{}, fmt.Errorf("getting an ID token for a probe: %w", err)
	}
	return answer, nil
}

// ProbeKeys are the public halves of the probe's keys that are ready, of each HSM its own; none where nothing is configured.
func (s Status) ProbeKeys() ([]*ecdsa.PublicKey, error) {
	if s.Probe == nil {
		return nil, nil
	}
	var keys []*ecdsa.PublicKey
	for _, h := range s.HSMs {
		for _, k := range h.Keys {
			if k.Key != s.Probe.Key || k.Public == nil {
				continue
			}
			public, err := x509.ParsePKIXPublicKey(k.Public)
			if err != nil {
				return nil, fmt.Errorf("reading the probe's key in HSM %s: %w", h.TokenLabel, err)
			}
			key, ok := public.(*ecdsa.PublicKey)
			if !ok {
				return nil, fmt.Errorf("the probe's key in HSM %s is a %T", h.TokenLabel, public)
			}
			keys = append(keys, key)
		}
	}
	return keys, nil
}

// probe checks the section.
func (k *checker) probe(c *Config) {
	p := c.Probe
	if k.given("probe.issuer", p.Issuer == "", "https://{domain}/probe-issuer, with the domain of octo-stsd.yaml") {
		if err := checkProbeIssuer(p.Issuer); err != nil {
			k.add("probe.issuer", "probe.issuer: %v", err)
		}
	}
	if !k.given("probe.key", p.Key == "", "the CKA_LABEL of the key that key generate --probe makes") {
		return
	}
	if !goodLabel(p.Key) {
		k.add("probe.key", "probe.key must have at most %d bytes and no control characters", MaxKeyLabel)
	}
	if app, ok := c.AppOfKey(p.Key); ok {
		k.add("probe.key", "probe.key: key %q belongs to App %d; the probe's key signs ID tokens for probes alone", p.Key, app.ID)
	}
	if p.Key == c.Checkpoint.Key {
		k.add("probe.key", "probe.key: key %q signs checkpoints, and must sign nothing else", p.Key)
	}
}

func checkProbeIssuer(issuer string) error {
	u, err := url.Parse(issuer)
	if err != nil || u.Host == "" || issuer != "https://"+strings.ToLower(u.Hostname())+ProbeIssuerPath {
		return fmt.Errorf("%q: want https://{domain}%s, with the domain of octo-stsd.yaml", issuer, ProbeIssuerPath)
	}
	return nil
}
