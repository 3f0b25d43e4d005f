package idtoken

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	"encoding/base64"
	"errors"
	"fmt"
	"math/big"
	"slices"
	"time"
)

const (
	maxKeys        = 256     // in one set, usable or not
	maxKeySetSize  = 1 << 20 // bytes
	maxKeysOfOneID = 4       // each is tried, so this bounds the work that one token can cause
	minRSABits     = 2048
	maxRSABits     = 8192
)

// verificationKey is one public key of a key set.
type verificationKey struct {
	kid    string           // empty: none
	alg    string           // the one algorithm it is for; empty: any that fits its type
	public crypto.PublicKey // *rsa.PublicKey, *ecdsa.PublicKey or ed25519.PublicKey
}

// keySet is what an issuer published at one moment. It never changes.
type keySet struct {
	keys    []*verificationKey // in the published order
	byID    map[string][]*verificationKey
	ignored []string  // one text for each key that is of no use here
	asked   time.Time // when it was asked for; set by the keySource
}

var (
	errUnknownKey = errors.New("the issuer has no such key")
	errAmbiguous  = errors.New("the token has no kid and several of the issuer's keys fit its alg")
	errWrongAlg   = errors.New("the key is not for the token's alg")
)

// find gives the keys that a token may have been signed with.
//
// Key IDs should be distinct (RFC 7517 section 4.5), and where they are not, each key that fits the algorithm is a
// candidate: an issuer that reuses an ID while it rotates would otherwise be down, and each candidate is the issuer's own.
// A token without a kid is accepted only where exactly one key fits.
func (s *keySet) find(kid, alg string) ([]*verificationKey, error) {
	candidates := s.keys
	if kid != "" {
		candidates = s.byID[kid]
	}
	if len(candidates) == 0 {
		return nil, errUnknownKey
	}
	// Almost always all candidates fit, and then nothing is copied.
	misfit := func(k *verificationKey) bool { return !k.fits(alg) }
	if slices.ContainsFunc(candidates, misfit) {
		candidates = slices.DeleteFunc(slices.Clone(candidates), misfit)
	}
	switch {
	case len(candidates) == 0 && kid != "":
		return nil, errWrongAlg
	case len(candidates) == 0:
		return nil, errUnknownKey
	case len(candidates) > 1 && kid == "":
		return nil, errAmbiguous
	}
	return candidates, nil
}

// parseKeySet parses a JWK Set (RFC 7517 section 5). Keys that are of no use for verifying ID tokens are left out and
// named in ignored, as the RFC asks. A set that has no other key is an error, so that a server that answers with an empty
// one by mistake does not cut off everybody at once.
func parseKeySet(data []byte) (*keySet, error) {
	if len(data) > maxKeySetSize {
		return nil, fmt.Errorf("key set is over %d bytes", maxKeySetSize)
	}
	document, err := parseJSONObject(string(data), 0)
	if err != nil {
		return nil, fmt.Errorf("key set: %w", err)
	}
	list, ok := document["keys"].([]any)
	if !ok {
		return nil, errors.New(`key set has no array "keys"`)
	}
	if len(list) > maxKeys {
		return nil, fmt.Errorf("key set has %d keys, the limit is %d", len(list), maxKeys)
	}
	set := &keySet{byID: make(map[string][]*verificationKey)}
	for i, entry := range list {
		jwk, _ := entry.(map[string]any) // nil, where it is no object, has no kty
		key, err := parseKey(jwk)
		if err == nil && key.kid != "" && len(set.byID[key.kid]) == maxKeysOfOneID {
			err = fmt.Errorf("more than %d keys have this kid", maxKeysOfOneID)
		}
		if err != nil {
			kid, _ := jwk["kid"].(string)
			set.ignored = append(set.ignored, fmt.Sprintf("key %d (kid %q): %v", i+1, shorten(kid), err))
			continue
		}
		set.keys = append(set.keys, key)
		if key.kid != "" {
			set.byID[key.kid] = append(set.byID[key.kid], key)
		}
	}
	if len(set.keys) == 0 {
		return nil, fmt.Errorf("key set has no usable key (%d ignored) %v", len(set.ignored), set.ignored)
	}
	return set, nil
}

// parseKey reads one JWK, and says why where it is of no use. (go-jose's reader is not used: it takes private keys as
// well, parses certificates that nothing here trusts, and stops at 4,096 bits.)
func parseKey(jwk map[string]any) (*verificationKey, error) {
	// A key whose private half was published is anybody's (RFC 7518 section 6, RFC 7517 section 9.2).
	for _, member := range []string{"d", "p", "q", "dp", "dq", "qi", "oth", "k", "priv"} {
		if _, present := jwk[member]; present {
			return nil, errors.New("it is private or symmetric")
		}
	}
	if use, present := jwk["use"]; present && use != "sig" {
		return nil, errors.New("its use is not sig")
	}
	if operations, present := jwk["key_ops"]; present {
		if list, _ := operations.([]any); !slices.Contains(list, any("verify")) {
			return nil, errors.New("its key_ops do not have verify")
		}
	}
	key := &verificationKey{}
	if kid, present := jwk["kid"]; present {
		var ok bool
		if key.kid, ok = kid.(string); !ok || key.kid == "" || len(key.kid) > maxKeyIDSize {
			return nil, fmt.Errorf("its kid is not a string of 1 to %d bytes", maxKeyIDSize)
		}
	}
	var err error
	switch kty, _ := jwk["kty"].(string); kty {
	case "RSA":
		key.public, err = rsaKey(jwk)
	case "EC":
		key.public, err = ecKey(jwk)
	case "OKP":
		key.public, err = edKey(jwk)
	default:
		err = fmt.Errorf("its kty is %q", shorten(kty))
	}
	if err != nil {
		return nil, err
	}
	if alg, present := jwk["alg"]; present {
		key.alg, _ = alg.(string)
		if key.alg == "Ed25519" { // RFC 9864's name for what tokens here call EdDSA
			key.alg = "EdDSA"
		}
		if key.alg == "" || !key.fits(key.alg) {
			return nil, errors.New("its alg is unknown or not for such a key")
		}
	}
	return key, nil
}

// rsaKey reads RFC 7518 section 6.3.1.
func rsaKey(jwk map[string]any) (crypto.PublicKey, error) {
	n, err := octets(jwk, "n")
	if err != nil {
		return nil, err
	}
	e, err := octets(jwk, "e")
	if err != nil {
		return nil, err
	}
	modulus, exponent := new(big.Int).SetBytes(n), new(big.Int).SetBytes(e)
	if bits := modulus.BitLen(); bits < minRSABits || bits > maxRSABits {
		return nil, fmt.Errorf("RSA with %d bits, not %d to %d", bits, minRSABits, maxRSABits)
	}
	if modulus.Bit(0) == 0 {
		return nil, errors.New("RSA with an even modulus")
	}
	// crypto/rsa takes no larger exponent; 1 would make every signature its own proof.
	if exponent.BitLen() > 31 || exponent.Bit(0) == 0 || exponent.Int64() < 3 {
		return nil, errors.New("RSA with a bad exponent")
	}
	return &rsa.PublicKey{N: modulus, E: int(exponent.Int64())}, nil
}

// ecKey reads RFC 7518 section 6.2.1.
func ecKey(jwk map[string]any) (crypto.PublicKey, error) {
	var curve elliptic.Curve
	switch crv, _ := jwk["crv"].(string); crv {
	case "P-256":
		curve = elliptic.P256()
	case "P-384":
		curve = elliptic.P384()
	case "P-521":
		curve = elliptic.P521()
	default:
		return nil, fmt.Errorf("its crv is %q", shorten(crv))
	}
	x, err := octets(jwk, "x")
	if err != nil {
		return nil, err
	}
	y, err := octets(jwk, "y")
	if err != nil {
		return nil, err
	}
	if size := (curve.Params().BitSize + 7) / 8; len(x) != size || len(y) != size {
		return nil, errors.New("a coordinate has the wrong size")
	}
	// 4 begins an uncompressed point (SEC 1, section 2.3.3).
	public, err := ecdsa.ParseUncompressedPublicKey(curve, slices.Concat([]byte{4}, x, y))
	if err != nil {
		return nil, errors.New("its point is not on the curve")
	}
	return public, nil
}

// edKey reads RFC 8037 section 2.
func edKey(jwk map[string]any) (crypto.PublicKey, error) {
	if crv, _ := jwk["crv"].(string); crv != "Ed25519" {
		return nil, fmt.Errorf("its crv is %q", shorten(crv))
	}
	x, err := octets(jwk, "x")
	if err != nil {
		return nil, err
	}
	if len(x) != ed25519.PublicKeySize {
		return nil, errors.New("its x has the wrong size")
	}
	return ed25519.PublicKey(x), nil
}

func octets(jwk map[string]any, member string) ([]byte, error) {
	text, _ := jwk[member].(string)
	decoded, err := base64.RawURLEncoding.DecodeString(text)
	if err != nil || len(decoded) == 0 {
		return nil, fmt.Errorf("its %s is not base64url", member)
	}
	return decoded, nil
}
