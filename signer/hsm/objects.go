package hsm

import (
	"crypto/rsa"
	"encoding/binary"
	"errors"
	"fmt"
	"math/big"

	"github.com/miekg/pkcs11"
)

// KeyInfo describes one private key in a token and the public object that lies under the same CKA_ID.
type KeyInfo struct {
	Label string // CKA_LABEL
	ID    []byte // CKA_ID
	Type  string // "RSA", "EC", or the CKK number in hexadecimal
	// Public is nil where the key is not RSA or has no public object.
	Public *rsa.PublicKey

	OnToken            bool // CKA_TOKEN: kept when the session ends
	Sensitive          bool // CKA_SENSITIVE: cannot be read out in the clear
	Extractable        bool // CKA_EXTRACTABLE: can be read out wrapped
	Sign               bool // CKA_SIGN
	Decrypt            bool // CKA_DECRYPT
	Unwrap             bool // CKA_UNWRAP
	AlwaysAuthenticate bool // CKA_ALWAYS_AUTHENTICATE: wants the PIN for every signature
}

// Bits is the length of the RSA modulus, 0 where it is not known.
func (k KeyInfo) Bits() int {
	if k.Public == nil {
		return 0
	}
	return k.Public.N.BitLen()
}

// Weakness says why the key must not sign App JWTs, "" where it may. A key that can leave the token in any form defeats
// the token's purpose. CKA_DECRYPT and CKA_UNWRAP are no ground for refusal: tools that generate keys set them.
func (k KeyInfo) Weakness() string {
	switch {
	case k.Type != "RSA":
		return "it is of type " + k.Type + ", and GitHub takes RSA alone"
	case k.Public == nil:
		return "it has no public object under its CKA_ID"
	case k.Bits() < MinRSABits:
		return fmt.Sprintf("it has %d bits, fewer than %d", k.Bits(), MinRSABits)
	case k.Extractable:
		return "it is extractable (CKA_EXTRACTABLE is true): it may have left the token, or may yet"
	case !k.Sensitive:
		return "it is not sensitive (CKA_SENSITIVE is false): anyone with the PIN can read it out in the clear"
	case !k.OnToken:
		return "it is a session object (CKA_TOKEN is false)"
	case !k.Sign:
		return "it may not sign (CKA_SIGN is false)"
	case k.AlwaysAuthenticate:
		return "it wants the PIN again for every signature (CKA_ALWAYS_AUTHENTICATE is true), which is not supported"
	}
	return ""
}

// MinRSABits is the least RSA modulus accepted, for import and for signing. GitHub makes keys of 2048 bits.
const MinRSABits = 2048

// Keys lists every private key in the token, in the token's order.
func (t *Token) Keys() ([]KeyInfo, error) {
	var keys []KeyInfo
	err := t.withSession(func(session pkcs11.SessionHandle) error {
		handles, err := t.find(session, pkcs11.NewAttribute(pkcs11.CKA_CLASS, pkcs11.CKO_PRIVATE_KEY))
		if err != nil {
			return err
		}
		for _, handle := range handles {
			info, err := t.describe(session, handle)
			if err != nil {
				return err
			}
			keys = append(keys, info)
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("listing the keys of %s: %w", t.info, err)
	}
	return keys, nil
}

// inspect finds the one private key under label, and insists that its CKA_ID names it and one public object alone:
// crypto11 would otherwise take the first of several.
func (t *Token) inspect(session pkcs11.SessionHandle, label string) (KeyInfo, error) {
	private := pkcs11.NewAttribute(pkcs11.CKA_CLASS, pkcs11.CKO_PRIVATE_KEY)
	handles, err := t.find(session, private, pkcs11.NewAttribute(pkcs11.CKA_LABEL, label))
	if err != nil {
		return KeyInfo{}, err
	}
	switch len(handles) {
	case 0:
		return KeyInfo{}, fmt.Errorf("%w: no private key is labelled %q in %s", ErrKeyNotFound, label, t.info)
	case 1:
	default:
		return KeyInfo{}, fmt.Errorf("%w: %d private keys are labelled %q in %s; give each its own label", ErrKeyUnfit, len(handles), label, t.info)
	}
	info, err := t.describe(session, handles[0])
	if err != nil {
		return KeyInfo{}, err
	}
	if len(info.ID) == 0 {
		return KeyInfo{}, fmt.Errorf("%w: the private key %q has no CKA_ID, so its public object cannot be found", ErrKeyUnfit, label)
	}
	id := pkcs11.NewAttribute(pkcs11.CKA_ID, info.ID)
	for class, name := range map[uint]string{pkcs11.CKO_PRIVATE_KEY: "private keys", pkcs11.CKO_PUBLIC_KEY: "public keys"} {
		same, err := t.find(session, pkcs11.NewAttribute(pkcs11.CKA_CLASS, class), id)
		if err != nil {
			return KeyInfo{}, err
		}
		if len(same) > 1 {
			return KeyInfo{}, fmt.Errorf("%w: %q shares its CKA_ID %x with others; %d %s have it", ErrKeyUnfit, label, info.ID, len(same), name)
		}
	}
	return info, nil
}

// find returns every object that matches all attributes.
func (t *Token) find(session pkcs11.SessionHandle, template ...*pkcs11.Attribute) (handles []pkcs11.ObjectHandle, err error) {
	if err := t.module.FindObjectsInit(session, template); err != nil {
		return nil, fmt.Errorf("searching the token: %w", err)
	}
	defer func() {
		if final := t.module.FindObjectsFinal(session); err == nil && final != nil {
			err = fmt.Errorf("ending a search of the token: %w", final)
		}
	}()
	for {
		const batch = 32
		// miekg's "more" result is not used: C_FindObjects is at its end when it gives nothing.
		some, _, err := t.module.FindObjects(session, batch)
		if err != nil {
			return nil, fmt.Errorf("searching the token: %w", err)
		}
		if len(some) == 0 {
			return handles, nil
		}
		handles = append(handles, some...)
	}
}

func (t *Token) describe(session pkcs11.SessionHandle, private pkcs11.ObjectHandle) (KeyInfo, error) {
	values, err := t.module.GetAttributeValue(session, private, []*pkcs11.Attribute{
		pkcs11.NewAttribute(pkcs11.CKA_LABEL, nil),
		pkcs11.NewAttribute(pkcs11.CKA_ID, nil),
		pkcs11.NewAttribute(pkcs11.CKA_KEY_TYPE, nil),
	})
	if err != nil {
		return KeyInfo{}, fmt.Errorf("reading a private key's label, ID and type: %w", err)
	}
	info := KeyInfo{Label: string(values[0].Value), ID: values[1].Value, Type: keyType(values[2].Value)}
	for _, flag := range []struct {
		attribute uint
		into      *bool
		otherwise bool // what to assume where the token does not know the attribute: the worse of the two
	}{
		{pkcs11.CKA_TOKEN, &info.OnToken, false},
		{pkcs11.CKA_SENSITIVE, &info.Sensitive, false},
		{pkcs11.CKA_EXTRACTABLE, &info.Extractable, true},
		{pkcs11.CKA_SIGN, &info.Sign, false},
		{pkcs11.CKA_DECRYPT, &info.Decrypt, false},
		{pkcs11.CKA_UNWRAP, &info.Unwrap, false},
		{pkcs11.CKA_ALWAYS_AUTHENTICATE, &info.AlwaysAuthenticate, false}, // later than v2.01, so some lack it
	} {
		if *flag.into, err = t.flag(session, private, flag.attribute, flag.otherwise); err != nil {
			return KeyInfo{}, fmt.Errorf("reading the attributes of key %q: %w", info.Label, err)
		}
	}
	if info.Type == "RSA" && len(info.ID) > 0 {
		if info.Public, err = t.publicKey(session, info.ID); err != nil {
			return KeyInfo{}, fmt.Errorf("reading the public half of key %q: %w", info.Label, err)
		}
	}
	return info, nil
}

// publicKey reads the RSA public object under id, nil where there is none.
func (t *Token) publicKey(session pkcs11.SessionHandle, id []byte) (*rsa.PublicKey, error) {
	handles, err := t.find(session,
		pkcs11.NewAttribute(pkcs11.CKA_CLASS, pkcs11.CKO_PUBLIC_KEY),
		pkcs11.NewAttribute(pkcs11.CKA_KEY_TYPE, pkcs11.CKK_RSA),
		pkcs11.NewAttribute(pkcs11.CKA_ID, id))
	if err != nil || len(handles) == 0 {
		return nil, err
	}
	values, err := t.module.GetAttributeValue(session, handles[0], []*pkcs11.Attribute{
		pkcs11.NewAttribute(pkcs11.CKA_MODULUS, nil),
		pkcs11.NewAttribute(pkcs11.CKA_PUBLIC_EXPONENT, nil),
	})
	if err != nil {
		return nil, err
	}
	exponent := new(big.Int).SetBytes(values[1].Value)
	if exponent.BitLen() > 31 || exponent.Int64() < 3 {
		return nil, errors.New("its public exponent is out of range")
	}
	return &rsa.PublicKey{N: new(big.Int).SetBytes(values[0].Value), E: int(exponent.Int64())}, nil
}

// flag reads one CK_BBOOL attribute. One at a time, because a token that lacks one of several fails the whole call.
func (t *Token) flag(session pkcs11.SessionHandle, object pkcs11.ObjectHandle, attribute uint, otherwise bool) (bool, error) {
	values, err := t.module.GetAttributeValue(session, object, []*pkcs11.Attribute{pkcs11.NewAttribute(attribute, nil)})
	if rv, ok := returnValue(err); ok && rv == pkcs11.CKR_ATTRIBUTE_TYPE_INVALID {
		return otherwise, nil
	}
	if err != nil {
		return false, err
	}
	if len(values) != 1 || len(values[0].Value) != 1 {
		return otherwise, nil
	}
	return values[0].Value[0] != 0, nil
}

// keyType names a CK_KEY_TYPE, which is a CK_ULONG in the machine's byte order.
func keyType(value []byte) string {
	var number uint64
	switch len(value) {
	case 4:
		number = uint64(binary.NativeEndian.Uint32(value))
	case 8:
		number = binary.NativeEndian.Uint64(value)
	default:
		return "unknown"
	}
	switch number {
	case pkcs11.CKK_RSA:
		return "RSA"
	case pkcs11.CKK_EC:
		return "EC"
	}
	return fmt.Sprintf("0x%X", number)
}
