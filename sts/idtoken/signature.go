package idtoken

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	_ "crypto/sha256" // the hashes that algorithms names
	_ "crypto/sha512"
	"errors"
	"fmt"
	"math/big"
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

// checkSignature verifies the token's signature with one of the keys, all of which fit its algorithm.
//
// go-oidc, which the discovery of keys goes through, could do this as well, but would read the token a second time, and
// more loosely: that cost a tenth of a whole exchange's CPU and could add nothing, since all it says is said by our own
// checks. FuzzParse holds our reading of tokens against go-jose's, which is the parser beneath it.
func checkSignature(jws *compactJWS, keys []*verificationKey) error {
	err := errors.New("no key")
	for _, key := range keys {
		if err = key.verify(jws); err == nil {
			return nil
		}
	}
	return &Error{ReasonSignature, fmt.Errorf("key %q: %w", shorten(jws.kid), err)}
}
