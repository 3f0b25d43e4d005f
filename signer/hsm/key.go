package hsm

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/asn1"
	"errors"
	"fmt"
	"io"
	"math/big"

	"github.com/miekg/pkcs11"
)

// Key is a key pair in an open token. It is a crypto.MessageSigner, to be used through crypto.SignMessage, of
//
//   - PKCS #1 v1.5 signatures over SHA-256 (RS256 of RFC 7518) for an RSA key,
//   - Ed25519 signatures (RFC 8032), with crypto.Hash(0) as options,
//   - ECDSA signatures over SHA-256, in ASN.1, for a P-256 key,
//
// and of nothing else. Every signature has been verified in software against Public when SignMessage returns it.
type Key struct {
	token     *Token
	info      KeyInfo
	mechanism uint
}

// Key finds the key pair under label and makes sure that it is fit to sign: one private key and one public object under
// one CKA_ID, no Weakness, and a signature made now that verifies. The error matches ErrKeyNotFound where no key is
// there, ErrKeyUnfit where one is that must not sign.
func (t *Token) Key(label string) (*Key, error) {
	var info KeyInfo
	var verdict error
	err := t.sessions.with(func(session pkcs11.SessionHandle) error {
		var err error
		info, err = t.inspect(session, label)
		if errors.Is(err, ErrKeyNotFound) || errors.Is(err, ErrKeyUnfit) {
			// What the token says of a key is no fault of the session's.
			verdict, err = err, nil
		}
		return err
	})
	if err = errors.Join(err, verdict); err != nil {
		return nil, err
	}
	if weakness := info.Weakness(); weakness != "" {
		return nil, fmt.Errorf("%w %q of %s: %s", ErrKeyUnfit, label, t.info, weakness)
	}
	mechanism, err := t.mechanismFor(info.Type)
	if err != nil {
		return nil, fmt.Errorf("%w %q of %s: %w", ErrKeyUnfit, label, t.info, err)
	}
	key := &Key{token: t, info: info, mechanism: mechanism}
	if err := key.SelfTest(); err != nil {
		return nil, fmt.Errorf("self-test of key %q: %w", label, err)
	}
	return key, nil
}

// mechanismFor chooses how keys of a type sign: where the token can hash, it does, so that it sees what it signs.
func (t *Token) mechanismFor(keyType string) (uint, error) {
	switch {
	case keyType == typeRSA && t.mechanisms[pkcs11.CKM_SHA256_RSA_PKCS]:
		return pkcs11.CKM_SHA256_RSA_PKCS, nil
	case keyType == typeRSA && t.mechanisms[pkcs11.CKM_RSA_PKCS]:
		return pkcs11.CKM_RSA_PKCS, nil
	case keyType == typeEd25519 && t.mechanisms[ckmEdDSA]:
		return ckmEdDSA, nil
	case keyType == typeP256 && t.mechanisms[pkcs11.CKM_ECDSA]:
		return pkcs11.CKM_ECDSA, nil
	}
	return 0, fmt.Errorf("the token lists no mechanism to sign with %s keys", keyType)
}

// Info describes the key.
func (k *Key) Info() KeyInfo { return k.info }

// Public returns the public half, of a type that KeyInfo.Public lists.
func (k *Key) Public() crypto.PublicKey { return k.info.Public }

// SelfTest signs a fixed text and verifies the signature.
func (k *Key) SelfTest() error {
	_, err := k.sign([]byte("octo-sts-signer self-test: this is neither a JWT nor a checkpoint"))
	return err
}

// Sign fails. It is there because crypto.MessageSigner asks for it: a token that hashes by itself cannot sign a digest.
func (k *Key) Sign(io.Reader, []byte, crypto.SignerOpts) ([]byte, error) { return nil, errDigest }

var errDigest = errors.New("keys in an HSM sign messages, not digests: use crypto.SignMessage")

// SignMessage signs message. The first argument is not used: the token has its own randomness. The error matches
// ErrBadSignature where the module gave a signature that does not verify.
func (k *Key) SignMessage(_ io.Reader, message []byte, options crypto.SignerOpts) ([]byte, error) {
	if err := checkOptions(k.info.Public, options); err != nil {
		return nil, err
	}
	return k.sign(message)
}

func (k *Key) sign(message []byte) ([]byte, error) {
	var signature []byte
	err := k.token.sessions.with(func(session pkcs11.SessionHandle) error {
		var err error
		if signature, err = k.token.module.sign(session, k.mechanism, k.info.private, k.input(message)); err != nil {
			return err
		}
		signature, err = verified(k.info.Public, message, signature)
		return err // a session that gives wrong signatures is not used again either
	})
	if err != nil {
		return nil, fmt.Errorf("signing with key %q: %w", k.info.Label, err)
	}
	return signature, nil
}

// input is what the mechanism takes for a message.
func (k *Key) input(message []byte) []byte {
	switch k.mechanism {
	case pkcs11.CKM_RSA_PKCS:
		// RFC 8017, section 9.2, note 1: the DER of DigestInfo for SHA-256, up to the digest.
		prefix := []byte{0x30, 0x31, 0x30, 0x0d, 0x06, 0x09, 0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x02, 0x01, 0x05, 0x00, 0x04, 0x20}
		digest := sha256.Sum256(message)
		return append(prefix, digest[:]...)
	case pkcs11.CKM_ECDSA:
		digest := sha256.Sum256(message)
		return digest[:]
	}
	return message
}

// verified returns the signature, in the form that Go's packages use, if public verifies it.
func verified(public crypto.PublicKey, message, signature []byte) ([]byte, error) {
	digest := sha256.Sum256(message)
	good := false
	switch public := public.(type) {
	case *rsa.PublicKey:
		good = rsa.VerifyPKCS1v15(public, crypto.SHA256, digest[:], signature) == nil
	case ed25519.PublicKey:
		good = ed25519.Verify(public, message, signature)
	case *ecdsa.PublicKey:
		if len(signature) != 64 {
			return nil, fmt.Errorf("%w: it has %d bytes, and r and s of P-256 have 64", ErrBadSignature, len(signature))
		}
		// CKM_ECDSA gives r and s, each of the group order's length (PKCS #11 v2.40, section 2.3.1).
		var err error
		r, s := new(big.Int).SetBytes(signature[:32]), new(big.Int).SetBytes(signature[32:])
		if signature, err = asn1.Marshal(struct{ R, S *big.Int }{r, s}); err != nil {
			return nil, fmt.Errorf("encoding an ECDSA signature: %w", err)
		}
		good = ecdsa.VerifyASN1(public, digest[:], signature)
	}
	if !good {
		return nil, ErrBadSignature
	}
	return signature, nil
}

// checkOptions refuses whatever would not give the one kind of signature that a key of public's type makes.
func checkOptions(public crypto.PublicKey, options crypto.SignerOpts) error {
	hash := crypto.Hash(0)
	if options != nil {
		hash = options.HashFunc()
	}
	_, pss := options.(*rsa.PSSOptions)
	edwards, variant := options.(*ed25519.Options)
	switch public.(type) {
	case *rsa.PublicKey:
		if pss || hash != crypto.SHA256 {
			return errors.New("an RSA key makes PKCS #1 v1.5 signatures over SHA-256 alone")
		}
	case ed25519.PublicKey:
		if hash != 0 || variant && edwards.Context != "" {
			return errors.New("an Ed25519 key makes plain Ed25519 signatures alone: no prehash, no context")
		}
	default:
		if hash != crypto.SHA256 {
			return errors.New("a P-256 key makes signatures over SHA-256 alone")
		}
	}
	return nil
}
