package ststest

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/hmac"
	"crypto/rand"
	"crypto/rsa"
	_ "crypto/sha256" // for crypto.SHA256
	_ "crypto/sha512" // for crypto.SHA384 and crypto.SHA512
	"encoding/json"
	"fmt"
	"strings"
	"time"
)

// defaultLifetime is how long a token lives whose claims do not say.
const defaultLifetime = 5 * time.Minute

// Signing says how to make a token. Its zero value is what Sign does without
// claims.
type Signing struct {
	// Claims over the defaults: iss, iat (now), exp (in five minutes), jti
	// (random), and aud where the issuer has one. Omit leaves a default out.
	Claims map[string]any
	// Payload is signed as it is, in the claims' place.
	Payload []byte
	// Header parameters over the defaults: alg, kid, typ. Omit leaves one out.
	Header map[string]any
	// RawHeader is used as it is, in the header's place.
	RawHeader []byte
	// Key to sign with. Nil: the issuer's.
	Key *Key
	// Alg to sign by, whatever the header says. "": the key's. "none" makes an
	// empty signature, HS256 uses Secret.
	Alg string
	// Secret for HS256.
	Secret []byte
	// Sign makes the signature of the signing input (RFC 7515 section 5.1) in
	// place of all that. Nil: by Key and Alg.
	Sign func(input []byte) ([]byte, error)
}

// Sign makes an ID token with the given claims over the defaults; see Signing.
func (i *Issuer) Sign(claims map[string]any) (string, error) {
	return i.SignWith(Signing{Claims: claims})
}

// SignWith makes a token of any kind, also one that no issuer would sign.
func (i *Issuer) SignWith(s Signing) (string, error) {
	if s.Key == nil {
		s.Key = i.SigningKey()
	}
	if s.Alg == "" {
		s.Alg = s.Key.Alg
	}
	payload, err := i.payload(s)
	if err != nil {
		return "", err
	}
	header := s.RawHeader
	if header == nil {
		h := map[string]any{"alg": s.Alg, "kid": s.Key.ID, "typ": "JWT"}
		overlay(h, s.Header)
		if header, err = json.Marshal(h); err != nil {
			return "", fmt.Errorf("making a token's header: %w", err)
		}
	}
	input := base64URL(header) + "." + base64URL(payload)
	sign := s.Sign
	if sign == nil {
		sign = s.signature
	}
	signature, err := sign([]byte(input))
	if err != nil {
		return "", fmt.Errorf("signing a token by %s: %w", s.Alg, err)
	}
	return input + "." + base64URL(signature), nil
}

func (i *Issuer) payload(s Signing) ([]byte, error) {
	if s.Payload != nil {
		return s.Payload, nil
	}
	now := i.config.Now()
	claims := map[string]any{
		"iss": i.URL(), "iat": now.Unix(), "exp": now.Add(defaultLifetime).Unix(), "jti": randomID(),
	}
	if i.config.Audience != "" {
		claims["aud"] = i.config.Audience
	}
	overlay(claims, s.Claims)
	payload, err := json.Marshal(claims)
	if err != nil {
		return nil, fmt.Errorf("making a token's claims: %w", err)
	}
	return payload, nil
}

// signature signs by RFC 7518 section 3 and RFC 8037.
func (s Signing) signature(input []byte) ([]byte, error) {
	switch s.Alg {
	case "EdDSA":
		return s.Key.Private.Sign(rand.Reader, input, crypto.Hash(0))
	case "HS256":
		mac := hmac.New(crypto.SHA256.New, s.Secret)
		mac.Write(input)
		return mac.Sum(nil), nil
	}
	if strings.EqualFold(s.Alg, "none") {
		return nil, nil
	}
	family, size, _ := cutAlg(s.Alg)
	hash, ok := map[string]crypto.Hash{"256": crypto.SHA256, "384": crypto.SHA384, "512": crypto.SHA512}[size]
	if !ok {
		return nil, fmt.Errorf("unknown algorithm")
	}
	h := hash.New()
	h.Write(input)
	digest := h.Sum(nil)
	switch family {
	case "RS":
		return s.Key.Private.Sign(rand.Reader, digest, hash)
	case "PS":
		return s.Key.Private.Sign(rand.Reader, digest, &rsa.PSSOptions{SaltLength: rsa.PSSSaltLengthEqualsHash, Hash: hash})
	case "ES":
		private, ok := s.Key.Private.(*ecdsa.PrivateKey)
		if !ok {
			return nil, fmt.Errorf("the key is %T", s.Key.Private)
		}
		r, v, err := ecdsa.Sign(rand.Reader, private, digest)
		if err != nil {
			return nil, err
		}
		half := (private.Params().BitSize + 7) / 8
		signature := make([]byte, 2*half)
		r.FillBytes(signature[:half])
		v.FillBytes(signature[half:])
		return signature, nil
	}
	return nil, fmt.Errorf("unknown algorithm")
}

// cutAlg splits RS256 into RS and 256.
func cutAlg(alg string) (family, size string, ok bool) {
	if len(alg) != 5 {
		return "", "", false
	}
	return alg[:2], alg[2:], true
}
