package hsm

import (
	"crypto/rsa"
	"crypto/sha256"
	"errors"
	"fmt"
	"math/big"
	"slices"

	"github.com/miekg/pkcs11"
)

// MaxLabel bounds a CKA_LABEL, in bytes: PKCS#11 has no limit of its own, vendors begin to truncate at some point.
const MaxLabel = 128

// Import puts an RSA key pair into the token: a private key that is sensitive, not extractable and fit for signing alone,
// and its public half, both under label and under one CKA_ID (the SHA-256 of the modulus, so that one key has one ID in
// every token). The private key is created with C_CreateObject, or where the token does not have that, as Luna, unwrapped
// with a temporary AES key: see wrappings. Import then finds the pair as a server would, reads the attributes back,
// compares the public half and makes a signature. Where anything fails, whatever was created is destroyed.
//
// CKA_LOCAL and CKA_NEVER_EXTRACTABLE are false for an imported key, and rightly so: it was born elsewhere.
//
// The error matches ErrLabelInUse where the label or the key is in the token already. key stays the caller's, copies of it
// in Go's memory are cleared; those that the module makes are its own.
func (t *Token) Import(label string, key *rsa.PrivateKey) (*Key, error) {
	if err := checkImport(label, key); err != nil {
		return nil, fmt.Errorf("importing a key: %w", err)
	}
	created, err := t.place(label, key)
	if err != nil {
		return nil, fmt.Errorf("importing key %q to %s: %w", label, t.info, t.undo(created, err))
	}
	imported, err := t.signsAlone(label)
	if err == nil && !key.PublicKey.Equal(imported.info.Public) {
		err = errors.New("the token shows another public key than the one imported")
	}
	if err != nil {
		return nil, fmt.Errorf("checking key %q after its import to %s: %w", label, t.info, t.undo(created, err))
	}
	return imported, nil
}

func checkImport(label string, key *rsa.PrivateKey) error {
	switch {
	case len(key.Primes) != 2:
		return errors.New("an RSA key with more than two primes is not supported")
	case key.N.BitLen() < MinRSABits:
		return fmt.Errorf("the RSA key has %d bits, at least %d are required", key.N.BitLen(), MinRSABits)
	}
	if err := checkLabel(label); err != nil {
		return err
	}
	return key.Validate()
}

func checkLabel(label string) error {
	if label == "" || len(label) > MaxLabel {
		return fmt.Errorf("a label has 1 to %d bytes", MaxLabel)
	}
	return nil
}

// place makes both objects and returns their handles, also where it fails halfway.
func (t *Token) place(label string, key *rsa.PrivateKey) (created []pkcs11.ObjectHandle, err error) {
	sum := sha256.Sum256(key.N.Bytes())
	id := sum[:]
	if err := t.checkFree(label, id); err != nil {
		return nil, err
	}
	private, err := t.placePrivate(label, id, key)
	if err != nil {
		return nil, err
	}
	created = append(created, private)
	err = t.sessions.with(func(session pkcs11.SessionHandle) error {
		// Some tokens show the public half of whatever private key they have.
		there, err := t.find(session, class(pkcs11.CKO_PUBLIC_KEY), pkcs11.NewAttribute(pkcs11.CKA_ID, id))
		if err != nil || len(there) > 0 {
			return err
		}
		public, err := t.module.createObject(session, publicTemplate(label, id, &key.PublicKey))
		if err != nil {
			return fmt.Errorf("creating the public object: %w", err)
		}
		created = append(created, public)
		return nil
	})
	return created, err
}

// checkFree makes sure that neither label nor id is in the token.
func (t *Token) checkFree(label string, id []byte) error {
	return t.sessions.with(func(session pkcs11.SessionHandle) error {
		for _, taken := range []struct {
			what      string
			attribute *pkcs11.Attribute
		}{
			{fmt.Sprintf("label %q", label), pkcs11.NewAttribute(pkcs11.CKA_LABEL, label)},
			{fmt.Sprintf("this very key, with CKA_ID %x,", id), pkcs11.NewAttribute(pkcs11.CKA_ID, id)},
		} {
			for _, number := range []uint{pkcs11.CKO_PRIVATE_KEY, pkcs11.CKO_PUBLIC_KEY} {
				there, err := t.find(session, class(number), taken.attribute)
				if err != nil {
					return err
				}
				if len(there) > 0 {
					return fmt.Errorf("%s is %w", taken.what, ErrLabelInUse)
				}
			}
		}
		return nil
	})
}

// placePrivate creates the private key, or unwraps it where the token refuses that.
func (t *Token) placePrivate(label string, id []byte, key *rsa.PrivateKey) (pkcs11.ObjectHandle, error) {
	values := privateValues(key)
	defer wipe(values)
	private, err := t.firstWay(refusals(), func(session pkcs11.SessionHandle, denied []*pkcs11.Attribute) (pkcs11.ObjectHandle, error) {
		return t.module.createObject(session, slices.Concat(privateTemplate(label, id), denied, values))
	})
	if err == nil {
		return private, nil
	}
	err = fmt.Errorf("C_CreateObject of the private key: %w", err)
	if !refusesWay(err) {
		return 0, err
	}
	private, unwrapping := t.unwrapPrivate(label, id, key)
	if unwrapping != nil {
		return 0, fmt.Errorf("the token does not take the key in any way: %w", errors.Join(err, unwrapping))
	}
	return private, nil
}

// firstWay makes a private key with the first of the templates that the token does not refuse, each in a session of its
// own.
func (t *Token) firstWay(templates [][]*pkcs11.Attribute, way func(pkcs11.SessionHandle, []*pkcs11.Attribute) (pkcs11.ObjectHandle, error)) (key pkcs11.ObjectHandle, err error) {
	for _, template := range templates {
		err = t.sessions.with(func(session pkcs11.SessionHandle) (err error) {
			key, err = way(session, template)
			return err
		})
		if err == nil || !refusesWay(err) {
			return key, err
		}
	}
	return 0, err
}

// refusals lists what a private key is asked not to be able to do: all of it, or where the token does not know some of
// these attributes for such a key (CloudHSM) or does not have them set, nothing. What came of it is read back afterwards.
func refusals() [][]*pkcs11.Attribute {
	return [][]*pkcs11.Attribute{{
		pkcs11.NewAttribute(pkcs11.CKA_SIGN_RECOVER, false),
		pkcs11.NewAttribute(pkcs11.CKA_DECRYPT, false),
		pkcs11.NewAttribute(pkcs11.CKA_UNWRAP, false),
		pkcs11.NewAttribute(pkcs11.CKA_DERIVE, false),
	}, nil}
}

// signsAlone is Key for a key that was made a moment ago. Others may decrypt or unwrap, this one must not.
func (t *Token) signsAlone(label string) (*Key, error) {
	key, err := t.Key(label)
	if err == nil && (key.info.Decrypt || key.info.Unwrap) {
		return nil, fmt.Errorf("%w %q: the token gave it more uses than signing (CKA_DECRYPT is %t, CKA_UNWRAP is %t)", ErrKeyUnfit, label, key.info.Decrypt, key.info.Unwrap)
	}
	return key, err
}

// privateTemplate is what an imported private key is to be, without its value and without refusals.
func privateTemplate(label string, id []byte) []*pkcs11.Attribute {
	return append([]*pkcs11.Attribute{
		class(pkcs11.CKO_PRIVATE_KEY),
		pkcs11.NewAttribute(pkcs11.CKA_KEY_TYPE, pkcs11.CKK_RSA),
	}, staysAndSigns(label, id)...)
}

// staysAndSigns is what every private key of ours is told to be, imported or generated.
func staysAndSigns(label string, id []byte) []*pkcs11.Attribute {
	return []*pkcs11.Attribute{
		pkcs11.NewAttribute(pkcs11.CKA_LABEL, label),
		pkcs11.NewAttribute(pkcs11.CKA_ID, id),
		pkcs11.NewAttribute(pkcs11.CKA_TOKEN, true),
		pkcs11.NewAttribute(pkcs11.CKA_PRIVATE, true),
		pkcs11.NewAttribute(pkcs11.CKA_SENSITIVE, true),
		pkcs11.NewAttribute(pkcs11.CKA_EXTRACTABLE, false),
		pkcs11.NewAttribute(pkcs11.CKA_SIGN, true),
	}
}

// privateValues is the private key itself. The caller wipes it.
func privateValues(key *rsa.PrivateKey) []*pkcs11.Attribute {
	key.Precompute()
	return []*pkcs11.Attribute{
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
		class(pkcs11.CKO_PUBLIC_KEY),
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

// wipe overwrites the values of attributes.
func wipe(template []*pkcs11.Attribute) {
	for _, attribute := range template {
		clear(attribute.Value)
	}
}

// undo destroys created and returns cause, joined with what could not be destroyed: then the operator has to.
func (t *Token) undo(created []pkcs11.ObjectHandle, cause error) error {
	if err := t.destroy(created); err != nil {
		return fmt.Errorf("%w; and what was created could not be removed again, do so with the vendor's tool: %w", cause, err)
	}
	return cause
}

// destroy destroys every object, also where some cannot be. One that is not there is no error: a token that shows the
// public half of whatever private key it has (a YubiHSM 2) loses both with one.
func (t *Token) destroy(objects []pkcs11.ObjectHandle) error {
	var errs []error
	for _, object := range objects {
		err := t.sessions.with(func(session pkcs11.SessionHandle) error { return t.module.destroyObject(session, object) })
		if rv, ok := returnValue(err); !ok || rv != pkcs11.CKR_OBJECT_HANDLE_INVALID {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}
