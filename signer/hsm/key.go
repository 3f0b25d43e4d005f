package hsm

import (
	"bytes"
	"crypto"
	"crypto/rsa"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"

	"github.com/miekg/pkcs11"
)

// Key is an RSA key pair in an open token. It is a crypto.Signer of PKCS #1 v1.5 signatures over SHA-256 (RS256 of RFC
// 7518) and of nothing else. Every signature has been verified in software against Public when Sign returns it.
type Key struct {
	info   KeyInfo
	signer crypto.Signer
}

// Key finds the key pair under label and makes sure that it is fit to sign: one private key and one public object under
// one CKA_ID, no Weakness, and a signature made now that verifies. The error matches ErrKeyNotFound where no key is
// there, ErrKeyUnfit where one is that must not sign.
func (t *Token) Key(label string) (*Key, error) {
	var info KeyInfo
	err := t.withSession(func(session pkcs11.SessionHandle) error {
		var err error
		info, err = t.inspect(session, label)
		return err
	})
	if err != nil {
		return nil, err
	}
	if weakness := info.Weakness(); weakness != "" {
		return nil, fmt.Errorf("%w %q of %s: %s", ErrKeyUnfit, label, t.info, weakness)
	}
	signer, err := t.crypto.FindKeyPair(info.ID, []byte(label))
	if err != nil {
		return nil, fmt.Errorf("opening key %q: %w", label, err)
	}
	if signer == nil {
		return nil, fmt.Errorf("opening key %q: the token no longer shows both of its halves", label)
	}
	key := &Key{info: info, signer: signer}
	if err := key.SelfTest(); err != nil {
		return nil, fmt.Errorf("self-test of key %q: %w", label, err)
	}
	return key, nil
}

// Info describes the key.
func (k *Key) Info() KeyInfo { return k.info }

// Public returns the *rsa.PublicKey.
func (k *Key) Public() crypto.PublicKey { return k.info.Public }

// SelfTest signs a fixed text and verifies the signature.
func (k *Key) SelfTest() error {
	digest := sha256.Sum256([]byte("octo-sts-signer self-test: this is not a JWT"))
	_, err := k.Sign(nil, digest[:], crypto.SHA256)
	return err
}

// Sign signs a SHA-256 digest. The first argument is ignored, as PKCS #1 v1.5 needs no randomness. The error matches
// ErrBadSignature where the module gave a signature that does not verify.
func (k *Key) Sign(_ io.Reader, digest []byte, options crypto.SignerOpts) ([]byte, error) {
	if err := checkSignerOptions(digest, options); err != nil {
		return nil, err
	}
	signature, err := k.signer.Sign(nil, digest, crypto.SHA256)
	if err != nil {
		return nil, fmt.Errorf("signing with key %q: %w", k.info.Label, err)
	}
	if err := rsa.VerifyPKCS1v15(k.info.Public, crypto.SHA256, digest, signature); err != nil {
		return nil, fmt.Errorf("signing with key %q: %w", k.info.Label, ErrBadSignature)
	}
	return bytes.Clone(signature), nil
}

func checkSignerOptions(digest []byte, options crypto.SignerOpts) error {
	if _, pss := options.(*rsa.PSSOptions); pss || options == nil || options.HashFunc() != crypto.SHA256 {
		return errors.New("only PKCS #1 v1.5 signatures over SHA-256 are made")
	}
	if len(digest) != sha256.Size {
		return fmt.Errorf("a SHA-256 digest has %d bytes, not %d", sha256.Size, len(digest))
	}
	return nil
}
