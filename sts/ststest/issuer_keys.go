package ststest

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"maps"
	"slices"
)

// Key is a key pair of an issuer.
type Key struct {
	ID      string // kid
	Alg     string // as in the JWK
	Private crypto.Signer
}

// NewKey makes a key for RS256, RS384, RS512, PS256, PS384, PS512 (RSA of 2048
// bits), ES256, ES384, ES512 or EdDSA (Ed25519), with a random kid.
func NewKey(alg string) (*Key, error) {
	var private crypto.Signer
	var err error
	switch alg {
	case "RS256", "RS384", "RS512", "PS256", "PS384", "PS512":
		private, err = rsa.GenerateKey(rand.Reader, 2048)
	case "ES256":
		private, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	case "ES384":
		private, err = ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	case "ES512":
		private, err = ecdsa.GenerateKey(elliptic.P521(), rand.Reader)
	case "EdDSA":
		_, private, err = ed25519.GenerateKey(rand.Reader)
	default:
		return nil, fmt.Errorf("making a key: unknown algorithm %q", alg)
	}
	if err != nil {
		return nil, fmt.Errorf("making a key for %s: %w", alg, err)
	}
	return &Key{ID: randomID(), Alg: alg, Private: private}, nil
}

// randomID is 128 random bits in hexadecimal.
func randomID() string {
	b := make([]byte, 16)
	rand.Read(b)
	return hex.EncodeToString(b)
}

func base64URL(b []byte) string { return base64.RawURLEncoding.EncodeToString(b) }

// JWK is the public key as RFC 7517 and RFC 7518 section 6 have it. The map is
// the caller's to change.
func (k *Key) JWK() map[string]any {
	jwk := map[string]any{"kid": k.ID, "alg": k.Alg, "use": "sig"}
	switch public := k.Private.Public().(type) {
	case *rsa.PublicKey:
		e := binary.BigEndian.AppendUint32(nil, uint32(public.E))
		jwk["kty"], jwk["n"], jwk["e"] = "RSA", base64URL(public.N.Bytes()), base64URL(e[1:])
	case *ecdsa.PublicKey:
		point, err := public.Bytes() // 4, x, y
		if err != nil {
			panic(fmt.Sprintf("test issuer: %v", err))
		}
		half := (len(point) - 1) / 2
		jwk["kty"], jwk["crv"] = "EC", public.Params().Name
		jwk["x"], jwk["y"] = base64URL(point[1:1+half]), base64URL(point[1+half:])
	case ed25519.PublicKey:
		jwk["kty"], jwk["crv"], jwk["x"] = "OKP", "Ed25519", base64URL(public)
	}
	return jwk
}

// PrivateJWK is the key with its private part, which an issuer should never
// publish.
func (k *Key) PrivateJWK() map[string]any {
	jwk := k.JWK()
	switch private := k.Private.(type) {
	case *rsa.PrivateKey:
		jwk["d"] = base64URL(private.D.Bytes())
		jwk["p"], jwk["q"] = base64URL(private.Primes[0].Bytes()), base64URL(private.Primes[1].Bytes())
	case *ecdsa.PrivateKey:
		d, err := private.Bytes()
		if err != nil {
			panic(fmt.Sprintf("test issuer: %v", err))
		}
		jwk["d"] = base64URL(d)
	case ed25519.PrivateKey:
		jwk["d"] = base64URL(private.Seed())
	}
	return jwk
}

// SymmetricJWK is an HMAC key (RFC 7518 section 6.4) for HS256.
func SymmetricJWK(kid string, secret []byte) map[string]any {
	return map[string]any{"kid": kid, "kty": "oct", "alg": "HS256", "use": "sig", "k": base64URL(secret)}
}

// NewWeakKey makes an RS256 key of fewer bits than RFC 7518 section 3.3 allows:
// 1024, not 2048.
func NewWeakKey() (*Key, error) {
	private, err := rsa.GenerateKey(rand.Reader, 1024)
	if err != nil {
		return nil, fmt.Errorf("making a weak key: %w", err)
	}
	return &Key{ID: randomID(), Alg: "RS256", Private: private}, nil
}

// OffCurveJWK is an ES256 key whose point is not on the curve.
func OffCurveJWK() (map[string]any, error) {
	k, err := NewKey("ES256")
	if err != nil {
		return nil, err
	}
	jwk := k.JWK()
	y, err := base64.RawURLEncoding.DecodeString(jwk["y"].(string))
	if err != nil {
		return nil, err
	}
	y[len(y)-1] ^= 1
	jwk["y"] = base64URL(y)
	return jwk, nil
}

// ManyJWKs are n ES256 keys.
func ManyJWKs(n int) ([]map[string]any, error) {
	all := make([]map[string]any, n)
	for i := range all {
		k, err := NewKey("ES256")
		if err != nil {
			return nil, err
		}
		all[i] = k.JWK()
	}
	return all, nil
}

// Rotate makes a new key, publishes it beside those that are published, and
// signs with it from now on.
func (i *Issuer) Rotate() (*Key, error) {
	k, err := NewKey(i.config.Alg)
	if err != nil {
		return nil, err
	}
	i.Publish(k)
	i.mu.Lock()
	i.signing = k
	i.mu.Unlock()
	return k, nil
}

// SigningKey is the key that Sign uses.
func (i *Issuer) SigningKey() *Key {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.signing
}

// SignFrom makes Sign use k, published or not.
func (i *Issuer) SignFrom(k *Key) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.signing = k
}

// Publish adds a key to the key set.
func (i *Issuer) Publish(k *Key) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.published = append(i.published, k)
}

// Retire takes a key out of the key set.
func (i *Issuer) Retire(k *Key) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.published = slices.DeleteFunc(slices.Clone(i.published), func(o *Key) bool { return o == k })
}

// PublishJWKs adds JWKs to the key set as they are, beside the keys.
func (i *Issuer) PublishJWKs(jwks ...map[string]any) {
	i.mu.Lock()
	defer i.mu.Unlock()
	for _, k := range jwks {
		i.extra = append(i.extra, maps.Clone(k))
	}
}

// SetKeySet publishes a body as it is in the key set's place; nil undoes it.
func (i *Issuer) SetKeySet(body []byte) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.rawKeySet = body
}
