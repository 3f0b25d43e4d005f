package hsm

import (
	"crypto/rsa"
	"crypto/sha256"
	"errors"
	"fmt"
	"math/big"

	"github.com/miekg/pkcs11"
)

// MaxLabel bounds a CKA_LABEL, in bytes: PKCS#11 has no limit of its own, vendors begin to truncate at some point.
const MaxLabel = 128

// Import puts an RSA key pair into the token with C_CreateObject: a private key that is sensitive, not extractable and
// fit for signing alone, and its public half, both under label and under one CKA_ID (the SHA-256 of the modulus, so that
// one key has one ID in every token). It then finds the pair as a server would, reads the attributes back, compares the
// public half and makes a signature. Where anything fails, whatever was created is destroyed.
//
// CKA_LOCAL and CKA_NEVER_EXTRACTABLE are false for an imported key, and rightly so: it was born elsewhere.
//
// The error matches ErrLabelInUse where the label or the key is in the token already. Tokens that refuse C_CreateObject
// of private keys (Luna, CloudHSM) cannot be imported to in this way.
func (t *Token) Import(label string, key *rsa.PrivateKey) (*Key, error) {
	if err := checkImport(label, key); err != nil {
		return nil, fmt.Errorf("importing a key: %w", err)
	}
	var created []pkcs11.ObjectHandle
	err := t.withSession(func(session pkcs11.SessionHandle) error {
		var err error
		created, err = t.create(session, label, key)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("importing key %q to %s: %w", label, t.info, t.undo(created, err))
	}
	imported, err := t.Key(label)
	if err == nil && !imported.info.Public.Equal(&key.PublicKey) {
		err = errors.New("the token shows another public key than the one imported")
	}
	if err != nil {
		return nil, fmt.Errorf("checking key %q after its import to %s: %w", label, t.info, t.undo(created, err))
	}
	return imported, nil
}

func checkImport(label string, key *rsa.PrivateKey) error {
	switch {
	case label == "" || len(label) > MaxLabel:
		return fmt.Errorf("a label has 1 to %d bytes", MaxLabel)
	case len(key.Primes) != 2:
		return errors.New("an RSA key with more than two primes is not supported")
	case key.N.BitLen() < MinRSABits:
		return fmt.Errorf("the RSA key has %d bits, at least %d are required", key.N.BitLen(), MinRSABits)
	}
	return key.Validate()
}

// create makes both objects and returns their handles, also where it fails halfway.
func (t *Token) create(session pkcs11.SessionHandle, label string, key *rsa.PrivateKey) (created []pkcs11.ObjectHandle, err error) {
	sum := sha256.Sum256(key.N.Bytes())
	id := sum[:]
	for _, taken := range []struct {
		what      string
		attribute *pkcs11.Attribute
	}{
		{fmt.Sprintf("label %q", label), pkcs11.NewAttribute(pkcs11.CKA_LABEL, label)},
		{fmt.Sprintf("this very key, with CKA_ID %x,", id), pkcs11.NewAttribute(pkcs11.CKA_ID, id)},
	} {
		for _, class := range []uint{pkcs11.CKO_PRIVATE_KEY, pkcs11.CKO_PUBLIC_KEY} {
			there, err := t.find(session, pkcs11.NewAttribute(pkcs11.CKA_CLASS, class), taken.attribute)
			if err != nil {
				return nil, err
			}
			if len(there) > 0 {
				return nil, fmt.Errorf("%s is %w", taken.what, ErrLabelInUse)
			}
		}
	}
	private := privateTemplate(label, id, key)
	defer wipe(private)
	for _, object := range []struct {
		name     string
		template []*pkcs11.Attribute
	}{{"private", private}, {"public", publicTemplate(label, id, &key.PublicKey)}} {
		handle, err := t.module.CreateObject(session, object.template)
		if err != nil {
			return created, fmt.Errorf("creating the %s object: %w", object.name, err)
		}
		created = append(created, handle)
	}
	return created, nil
}

func privateTemplate(label string, id []byte, key *rsa.PrivateKey) []*pkcs11.Attribute {
	key.Precompute()
	return []*pkcs11.Attribute{
		pkcs11.NewAttribute(pkcs11.CKA_CLASS, pkcs11.CKO_PRIVATE_KEY),
		pkcs11.NewAttribute(pkcs11.CKA_KEY_TYPE, pkcs11.CKK_RSA),
		pkcs11.NewAttribute(pkcs11.CKA_LABEL, label),
		pkcs11.NewAttribute(pkcs11.CKA_ID, id),
		pkcs11.NewAttribute(pkcs11.CKA_TOKEN, true),
		pkcs11.NewAttribute(pkcs11.CKA_PRIVATE, true),
		pkcs11.NewAttribute(pkcs11.CKA_SENSITIVE, true),
		pkcs11.NewAttribute(pkcs11.CKA_EXTRACTABLE, false),
		pkcs11.NewAttribute(pkcs11.CKA_SIGN, true),
		pkcs11.NewAttribute(pkcs11.CKA_SIGN_RECOVER, false),
		pkcs11.NewAttribute(pkcs11.CKA_DECRYPT, false),
		pkcs11.NewAttribute(pkcs11.CKA_UNWRAP, false),
		pkcs11.NewAttribute(pkcs11.CKA_DERIVE, false),
		pkcs11.NewAttribute(pkcs11.CKA_MODULUS, key.N.Bytes()),
		pkcs11.NewAttribute(pkcs11.CKA_PUBLIC_EXPONENT, big.NewInt(int64(key.E)).Bytes()),
		pkcs11.NewAttribute(pkcs11.CKA_PRIVATE_EXPONENT, key.D.Bytes()),
		pkcs11.NewAttribute(pkcs11.CKA_PRIME_1, key.Primes[0].Bytes()),
		pkcs11.NewAttribute(pkcs11.CKA_PRIME_2, key.Primes[1].Bytes()),
		pkcs11.NewAttribute(pkcs11.CKA_EXPONENT_1, key.Precomputed.Dp.Bytes()),
		pkcs11.NewAttribute(pkcs11.CKA_EXPONENT_2, key.Precomputed.Dq.Bytes()),
		pkcs11.NewAttribute(pkcs11.CKA_COEFFICIENT, key.Precomputed.Qinv.Bytes()),
	}
}

func publicTemplate(label string, id []byte, key *rsa.PublicKey) []*pkcs11.Attribute {
	return []*pkcs11.Attribute{
		pkcs11.NewAttribute(pkcs11.CKA_CLASS, pkcs11.CKO_PUBLIC_KEY),
		pkcs11.NewAttribute(pkcs11.CKA_KEY_TYPE, pkcs11.CKK_RSA),
		pkcs11.NewAttribute(pkcs11.CKA_LABEL, label),
		pkcs11.NewAttribute(pkcs11.CKA_ID, id),
		pkcs11.NewAttribute(pkcs11.CKA_TOKEN, true),
		pkcs11.NewAttribute(pkcs11.CKA_VERIFY, true),
		pkcs11.NewAttribute(pkcs11.CKA_ENCRYPT, false),
		pkcs11.NewAttribute(pkcs11.CKA_WRAP, false),
		pkcs11.NewAttribute(pkcs11.CKA_MODULUS, key.N.Bytes()),
		pkcs11.NewAttribute(pkcs11.CKA_PUBLIC_EXPONENT, big.NewInt(int64(key.E)).Bytes()),
	}
}

// wipe overwrites the copies of the key that a template holds.
func wipe(template []*pkcs11.Attribute) {
	for _, attribute := range template {
		clear(attribute.Value)
	}
}

// undo destroys created and returns cause, joined with what could not be destroyed: then the operator has to.
func (t *Token) undo(created []pkcs11.ObjectHandle, cause error) error {
	if len(created) == 0 {
		return cause
	}
	err := t.withSession(func(session pkcs11.SessionHandle) error {
		var errs []error
		for _, handle := range created {
			errs = append(errs, t.module.DestroyObject(session, handle))
		}
		return errors.Join(errs...)
	})
	if err != nil {
		return fmt.Errorf("%w; and what was created could not be removed again, do so with the vendor's tool: %w", cause, err)
	}
	return cause
}
