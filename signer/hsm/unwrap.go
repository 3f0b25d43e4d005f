package hsm

import (
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"errors"
	"fmt"

	"github.com/miekg/pkcs11"
)

const (
	// ckmAESKeyWrapKWP is RFC 5649 by its name in PKCS #11 v3.0.
	ckmAESKeyWrapKWP = 0x210B
	// aesKeySize is the length in bytes of the temporary AES key.
	aesKeySize = 32
)

// wrapping is one way to hand a token a private key under a temporary AES key that lives as long as one session.
type wrapping struct {
	name      string
	mechanism uint
	// inToken: the token makes the AES key, which nobody ever sees, and encrypts the private key with it. Else the key is
	// made here and created in the token, and the private key is wrapped here.
	inToken bool
}

// wrappings lists the ways in the order of preference. The first is what Luna wants. CKM_AES_KEY_WRAP_PAD is RFC 5649 with
// SoftHSM; where it is something else, C_UnwrapKey refuses what it is given, since either form has a check value.
func wrappings() []wrapping {
	return []wrapping{
		{"CKM_AES_CBC_PAD under a key that the token made", pkcs11.CKM_AES_CBC_PAD, true},
		{"CKM_AES_KEY_WRAP_KWP under a key that the token made", ckmAESKeyWrapKWP, true},
		{"CKM_AES_KEY_WRAP_KWP under a key that was created", ckmAESKeyWrapKWP, false},
		{"CKM_AES_KEY_WRAP_PAD under a key that was created", pkcs11.CKM_AES_KEY_WRAP_PAD, false},
	}
}

// unwrapPrivate tries the wrappings until the token takes one.
func (t *Token) unwrapPrivate(label string, id []byte, key *rsa.PrivateKey) (pkcs11.ObjectHandle, error) {
	encoded, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return 0, fmt.Errorf("encoding the private key: %w", err)
	}
	defer clear(encoded)
	var errs []error
	for _, way := range wrappings() {
		if !t.mechanisms[way.mechanism] || way.inToken && !t.mechanisms[pkcs11.CKM_AES_KEY_GEN] {
			errs = append(errs, fmt.Errorf("C_UnwrapKey with %s: the token does not list the mechanism", way.name))
			continue
		}
		private, err := t.firstWay(refusals(), func(session pkcs11.SessionHandle, denied []*pkcs11.Attribute) (pkcs11.ObjectHandle, error) {
			return t.unwrap(session, way, append(privateTemplate(label, id), denied...), encoded)
		})
		if err == nil {
			return private, nil
		}
		errs = append(errs, fmt.Errorf("C_UnwrapKey with %s: %w", way.name, err))
		if !refusesWay(err) {
			break
		}
	}
	return 0, errors.Join(errs...)
}

// unwrap hands encoded, a PKCS #8 PrivateKeyInfo, to the token. The AES key is gone when it returns.
func (t *Token) unwrap(session pkcs11.SessionHandle, way wrapping, template []*pkcs11.Attribute, encoded []byte) (private pkcs11.ObjectHandle, err error) {
	var aesKey pkcs11.ObjectHandle
	var wrapped []byte
	mechanism := pkcs11.NewMechanism(way.mechanism, nil)
	if way.inToken {
		if way.mechanism == pkcs11.CKM_AES_CBC_PAD {
			iv := make([]byte, 16)
			_, _ = rand.Read(iv) // never fails
			mechanism = pkcs11.NewMechanism(way.mechanism, iv)
		}
		aesKey, err = t.module.generateKey(session, pkcs11.CKM_AES_KEY_GEN, append(aesTemplate(), pkcs11.NewAttribute(pkcs11.CKA_ENCRYPT, true), pkcs11.NewAttribute(pkcs11.CKA_VALUE_LEN, aesKeySize)))
		if err != nil {
			return 0, fmt.Errorf("generating a temporary AES key: %w", err)
		}
	} else {
		value := make([]byte, aesKeySize)
		defer clear(value)
		_, _ = rand.Read(value) // never fails
		if wrapped, err = wrapWithPadding(value, encoded); err != nil {
			return 0, err
		}
		aesKey, err = t.module.createObject(session, append(aesTemplate(), pkcs11.NewAttribute(pkcs11.CKA_VALUE, value)))
		if err != nil {
			return 0, fmt.Errorf("creating a temporary AES key: %w", err)
		}
	}
	defer func() {
		if destroying := t.module.destroyObject(session, aesKey); err == nil && destroying != nil {
			err = errors.Join(fmt.Errorf("destroying the temporary AES key: %w", destroying), t.module.destroyObject(session, private))
		}
	}()
	if way.inToken {
		if wrapped, err = t.module.encrypt(session, mechanism, aesKey, encoded); err != nil {
			return 0, fmt.Errorf("encrypting the private key in the token: %w", err)
		}
	}
	return t.module.unwrapKey(session, mechanism, aesKey, wrapped, template)
}

// aesTemplate is what the temporary key is to be: a session object that only this program sees, and cannot read.
func aesTemplate() []*pkcs11.Attribute {
	return []*pkcs11.Attribute{
		class(pkcs11.CKO_SECRET_KEY),
		pkcs11.NewAttribute(pkcs11.CKA_KEY_TYPE, pkcs11.CKK_AES),
		pkcs11.NewAttribute(pkcs11.CKA_TOKEN, false),
		pkcs11.NewAttribute(pkcs11.CKA_PRIVATE, true),
		pkcs11.NewAttribute(pkcs11.CKA_SENSITIVE, true),
		pkcs11.NewAttribute(pkcs11.CKA_EXTRACTABLE, false),
		pkcs11.NewAttribute(pkcs11.CKA_UNWRAP, true),
	}
}
