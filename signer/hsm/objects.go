package hsm

import (
	"crypto"
	"crypto/rsa"
	"encoding/binary"
	"fmt"

	"github.com/miekg/pkcs11"
)

// KeyInfo describes one private key in a token and the public object that lies under the same CKA_ID.
type KeyInfo struct {
	Label string // CKA_LABEL
	ID    []byte // CKA_ID
	// Type is "RSA", "Ed25519", "P-256", or for what cannot be used "EC", "EC_EDWARDS" or the CKK number in hexadecimal.
	Type string
	// Public is an *rsa.PublicKey, an ed25519.PublicKey or an *ecdsa.PublicKey on P-256. nil where there is no public
	// object, or none that can be used.
	Public crypto.PublicKey

	OnToken            bool // CKA_TOKEN: kept when the session ends
	Sensitive          bool // CKA_SENSITIVE: cannot be read out in the clear
	Extractable        bool // CKA_EXTRACTABLE: can be read out wrapped
	NeverExtractable   bool // CKA_NEVER_EXTRACTABLE
	Local              bool // CKA_LOCAL: was made in the token
	Sign               bool // CKA_SIGN
	Decrypt            bool // CKA_DECRYPT
	Unwrap             bool // CKA_UNWRAP
	AlwaysAuthenticate bool // CKA_ALWAYS_AUTHENTICATE: wants the PIN for every signature

	private     pkcs11.ObjectHandle
	publicFault string // why Public is nil though there is a public object
}

// Bits is the length of the RSA modulus, 0 for other keys and where it is not known.
func (k KeyInfo) Bits() int {
	if public, ok := k.Public.(*rsa.PublicKey); ok {
		return public.N.BitLen()
	}
	return 0
}

// Weakness says why the key must not sign, "" where it may. A key that can leave the token in any form defeats the token's
// purpose. An RSA key is an App's, and those are imported; the others sign checkpoints, and those must have been made in
// the token, since nobody else may ever have had them. CKA_DECRYPT and CKA_UNWRAP are no ground for refusal: tools that
// generate keys set them.
func (k KeyInfo) Weakness() string {
	switch {
	case k.publicFault != "":
		return "its public object cannot be used: " + k.publicFault
	case k.Public == nil && (k.Type == typeRSA || k.Type == typeEC || k.Type == typeEdwards):
		return "it has no public object under its CKA_ID"
	case k.Public == nil:
		return "it is of type " + k.Type + "; an App's key is RSA, a checkpoint key Ed25519 or P-256"
	case k.Type == typeRSA && k.Bits() < MinRSABits:
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
	case k.Type != typeRSA && !k.Local:
		return "it was not made in this token (CKA_LOCAL is false), as a checkpoint key must be"
	case k.Type != typeRSA && !k.NeverExtractable:
		return "it was extractable once (CKA_NEVER_EXTRACTABLE is false), and a copy of a checkpoint key can rewrite history"
	}
	return ""
}

// MinRSABits is the least RSA modulus accepted, for import and for signing. GitHub makes keys of 2048 bits.
const MinRSABits = 2048

// Keys lists every private key in the token, in the token's order.
func (t *Token) Keys() ([]KeyInfo, error) {
	var keys []KeyInfo
	err := t.sessions.with(func(session pkcs11.SessionHandle) error {
		handles, err := t.find(session, class(pkcs11.CKO_PRIVATE_KEY))
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

func class(number uint) *pkcs11.Attribute { return pkcs11.NewAttribute(pkcs11.CKA_CLASS, number) }

// inspect finds the one private key under label, and insists that its CKA_ID names it and one public object alone.
func (t *Token) inspect(session pkcs11.SessionHandle, label string) (KeyInfo, error) {
	handles, err := t.find(session, class(pkcs11.CKO_PRIVATE_KEY), pkcs11.NewAttribute(pkcs11.CKA_LABEL, label))
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
	for number, name := range map[uint]string{pkcs11.CKO_PRIVATE_KEY: "private keys", pkcs11.CKO_PUBLIC_KEY: "public keys"} {
		same, err := t.find(session, class(number), id)
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
	if err := t.module.findInit(session, template); err != nil {
		return nil, fmt.Errorf("searching the token: %w", err)
	}
	defer func() {
		if final := t.module.findFinal(session); err == nil && final != nil {
			err = fmt.Errorf("ending a search of the token: %w", final)
		}
	}()
	for {
		some, err := t.module.findSome(session, 32)
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
	values, err := t.module.attributes(session, private, pkcs11.CKA_LABEL, pkcs11.CKA_ID, pkcs11.CKA_KEY_TYPE)
	if err != nil {
		return KeyInfo{}, fmt.Errorf("reading a private key's label, ID and type: %w", err)
	}
	info := KeyInfo{Label: string(values[0]), ID: values[1], Type: keyType(values[2]), private: private}
	for _, flag := range []struct {
		attribute uint
		into      *bool
		otherwise bool // what to assume where the token does not know the attribute: the worse of the two
	}{
		{pkcs11.CKA_TOKEN, &info.OnToken, false},
		{pkcs11.CKA_SENSITIVE, &info.Sensitive, false},
		{pkcs11.CKA_EXTRACTABLE, &info.Extractable, true},
		{pkcs11.CKA_NEVER_EXTRACTABLE, &info.NeverExtractable, false},
		{pkcs11.CKA_LOCAL, &info.Local, false},
		{pkcs11.CKA_SIGN, &info.Sign, false},
		{pkcs11.CKA_DECRYPT, &info.Decrypt, false},
		{pkcs11.CKA_UNWRAP, &info.Unwrap, false},
		{pkcs11.CKA_ALWAYS_AUTHENTICATE, &info.AlwaysAuthenticate, false}, // later than v2.01, so some lack it
	} {
		if *flag.into, err = t.flag(session, private, flag.attribute, flag.otherwise); err != nil {
			return KeyInfo{}, fmt.Errorf("reading the attributes of key %q: %w", info.Label, err)
		}
	}
	if len(info.ID) > 0 {
		if err := t.readPublic(session, &info); err != nil {
			return KeyInfo{}, fmt.Errorf("reading the public half of key %q: %w", info.Label, err)
		}
	}
	return info, nil
}

// flag reads one CK_BBOOL attribute. One at a time, because a token that lacks one of several fails the whole call.
func (t *Token) flag(session pkcs11.SessionHandle, object pkcs11.ObjectHandle, attribute uint, otherwise bool) (bool, error) {
	values, err := t.module.attributes(session, object, attribute)
	if rv, ok := returnValue(err); ok && rv == pkcs11.CKR_ATTRIBUTE_TYPE_INVALID {
		return otherwise, nil
	}
	if err != nil {
		return false, err
	}
	if len(values[0]) != 1 {
		return otherwise, nil
	}
	return values[0][0] != 0, nil
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
		return typeRSA
	case pkcs11.CKK_EC:
		return typeEC
	case ckkECEdwards:
		return typeEdwards
	}
	return fmt.Sprintf("0x%X", number)
}
