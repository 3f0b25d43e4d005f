package idtoken

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	_ "crypto/sha256" // the hashes that algorithms names
	_ "crypto/sha512"
	"errors"
	"fmt"
	"math/big"

	"github.com/coreos/go-oidc/v3/oidc"
)

// family is the kind of key and signature that an algorithm needs.
type family int

const (
	rsaPKCS1 family = iota
	rsaPSS
	ecdsaP
	edDSA
)

// algorithm is one JWS signature algorithm: RFC 7518 section 3.1, and RFC 8037 section 3.1 for EdDSA.
type algorithm struct {
	family family
	hash   crypto.Hash // none for EdDSA
	curve  string      // of ECDSA, as in a JWK's crv
	size   int         // bytes of one of ECDSA's two numbers
}

// algorithms are those that are accepted. It is a constant; nothing writes to it. No symmetric algorithm may ever be
// listed here: with one, the public key would be a password that everybody knows.
var algorithms = map[string]algorithm{
	"RS256": {family: rsaPKCS1, hash: crypto.SHA256},
	"RS384": {family: rsaPKCS1, hash: crypto.SHA384},
	"RS512": {family: rsaPKCS1, hash: crypto.SHA512},
	"PS256": {family: rsaPSS, hash: crypto.SHA256},
	"PS384": {family: rsaPSS, hash: crypto.SHA384},
	"PS512": {family: rsaPSS, hash: crypto.SHA512},
	"ES256": {family: ecdsaP, hash: crypto.SHA256, curve: "P-256", size: 32},
	"ES384": {family: ecdsaP, hash: crypto.SHA384, curve: "P-384", size: 48},
	"ES512": {family: ecdsaP, hash: crypto.SHA512, curve: "P-521", size: 66},
	"EdDSA": {family: edDSA},
}

// fits says whether a token with the algorithm name may be verified with the key: its type, its curve, and the one
// algorithm that the JWK binds it to, if any (RFC 7517 section 4.4).
func (k *verificationKey) fits(name string) bool {
	if k.alg != "" && k.alg != name {
		return false
	}
	a, ok := algorithms[name]
	if !ok {
		return false
	}
	switch public := k.public.(type) {
	case *rsa.PublicKey:
		return a.family == rsaPKCS1 || a.family == rsaPSS
	case *ecdsa.PublicKey:
		return a.family == ecdsaP && public.Curve.Params().Name == a.curve
	case ed25519.PublicKey:
		return a.family == edDSA
	}
	return false
}

// verify checks the signature of t with a key that fits t.alg.
func (k *verificationKey) verify(t *compactJWS) error {
	a := algorithms[t.alg]
	var digest []byte
	if a.hash != 0 {
		h := a.hash.New()
		h.Write([]byte(t.signed))
		digest = h.Sum(nil)
	}
	good := false
	switch public := k.public.(type) {
	case *rsa.PublicKey:
		if a.family == rsaPSS {
			// The salt is as long as the hash (RFC 7518 section 3.5).
			options := &rsa.PSSOptions{SaltLength: rsa.PSSSaltLengthEqualsHash}
			good = rsa.VerifyPSS(public, a.hash, digest, t.signature, options) == nil
		} else {
			good = rsa.VerifyPKCS1v15(public, a.hash, digest, t.signature) == nil
		}
	case *ecdsa.PublicKey:
		// Two numbers of fixed size (RFC 7518 section 3.4), not DER. ecdsa.Verify refuses zero.
		if len(t.signature) != 2*a.size {
			return errors.New("an ECDSA signature of the wrong size")
		}
		r := new(big.Int).SetBytes(t.signature[:a.size])
		s := new(big.Int).SetBytes(t.signature[a.size:])
		good = ecdsa.Verify(public, digest, r, s)
	case ed25519.PublicKey:
		good = ed25519.Verify(public, []byte(t.signed), t.signature)
	}
	if !good {
		return errors.New("the signature does not verify")
	}
	return nil
}

// signatureCheck is go-oidc's KeySet for one token, which has been parsed and whose candidate keys have been found
// already. go-oidc's own remote key set is not used because it asks the issuer again for each unknown kid.
type signatureCheck struct {
	jws  *compactJWS
	keys []*verificationKey // all fit the token's algorithm
	err  error              // of the signature
	done bool               // whether go-oidc came to ask at all
}

// VerifySignature implements oidc.KeySet.
func (c *signatureCheck) VerifySignature(_ context.Context, jwt string) ([]byte, error) {
	c.done = true
	if jwt != c.jws.raw {
		c.err = errors.New("asked about another token")
		return nil, c.err
	}
	for _, key := range c.keys {
		if c.err = key.verify(c.jws); c.err == nil {
			return c.jws.payload, nil
		}
	}
	return nil, c.err
}

// checkSignature verifies the token's signature with one of the keys. It goes through go-oidc, so that a token must
// satisfy an independent parser too; what go-oidc makes of the claims is not used.
func checkSignature(ctx context.Context, config *oidc.Config, issuer string, jws *compactJWS, keys []*verificationKey) error {
	check := &signatureCheck{jws: jws, keys: keys, err: errors.New("no key")}
	_, err := oidc.NewVerifier(issuer, check, config).Verify(ctx, jws.raw)
	switch {
	case !check.done:
		return malformed("%w", err)
	case check.err != nil:
		return &Error{ReasonSignature, fmt.Errorf("key %q: %w", shorten(jws.kid), check.err)}
	case err == nil:
		return nil
	}
	// The signature is good and go-oidc could not read the claims. Where our own check knows why, it says it better.
	if _, ours := newIDToken(jws.claims); ours != nil {
		return ours
	}
	return badClaim("%w", err)
}

// oidcConfig has go-oidc check the issuer and the algorithm. Times are checked here, with a skew; the audience is the
// trust policy's to judge.
func oidcConfig() *oidc.Config {
	config := &oidc.Config{SkipClientIDCheck: true, SkipExpiryCheck: true}
	for name := range algorithms {
		config.SupportedSigningAlgs = append(config.SupportedSigningAlgs, name)
	}
	return config
}
