package hsm

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	"encoding/asn1"
	"errors"
	"fmt"
	"math/big"

	"github.com/miekg/pkcs11"
)

// Numbers of PKCS #11 v3.0 that the Go binding lacks.
const (
	ckkECEdwards           = 0x40
	ckmECEdwardsKeyPairGen = 0x1055
	ckmEdDSA               = 0x1057
)

// The values of KeyInfo.Type that have a name. typeEC and typeEdwards stand for keys on curves that are not used here.
const (
	typeRSA     = "RSA"
	typeP256    = "P-256"
	typeEd25519 = "Ed25519"
	typeEC      = "EC"
	typeEdwards = "EC_EDWARDS"
)

// CKA_EC_PARAMS of the two curves: DER of the curve's object identifier or, where PKCS #11 v3.0 (section 2.3.5) allows
// either, of a PrintableString with its name.
var (
	oidP256     = asn1.ObjectIdentifier{1, 2, 840, 10045, 3, 1, 7}      // RFC 5480
	oidEd25519  = asn1.ObjectIdentifier{1, 3, 101, 112}                 // RFC 8410
	oidEdwards  = asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 11591, 15, 1} // the older one, of GnuPG
	nameEdwards = asn1.RawValue{Tag: asn1.TagPrintableString, Bytes: []byte("edwards25519")}
)

// readPublic fills in what the public object under info's CKA_ID says: Public, a closer Type, or what is wrong with it.
// Its error is the token's; what the object says is no error.
func (t *Token) readPublic(session pkcs11.SessionHandle, info *KeyInfo) error {
	handles, err := t.find(session, class(pkcs11.CKO_PUBLIC_KEY), pkcs11.NewAttribute(pkcs11.CKA_ID, info.ID))
	if err != nil || len(handles) == 0 {
		return err
	}
	values, err := t.module.attributes(session, handles[0], pkcs11.CKA_KEY_TYPE)
	if err != nil {
		return err
	}
	if its := keyType(values[0]); its != info.Type {
		info.publicFault = "it is of type " + its + ", the private key of type " + info.Type
		return nil
	}
	var fault error
	switch info.Type {
	case typeRSA:
		if values, err = t.module.attributes(session, handles[0], pkcs11.CKA_MODULUS, pkcs11.CKA_PUBLIC_EXPONENT); err != nil {
			return err
		}
		info.Public, fault = parseRSA(values[0], values[1])
	case typeEC, typeEdwards:
		if values, err = t.module.attributes(session, handles[0], pkcs11.CKA_EC_PARAMS, pkcs11.CKA_EC_POINT); err != nil {
			return err
		}
		info.Type, info.Public, fault = parseEC(info.Type, values[0], values[1])
	}
	if fault != nil {
		info.Public, info.publicFault = nil, fault.Error()
	}
	return nil
}

func parseRSA(modulus, exponent []byte) (crypto.PublicKey, error) {
	e := new(big.Int).SetBytes(exponent)
	if e.BitLen() > 31 || e.Int64() < 3 {
		return nil, errors.New("its public exponent is out of range")
	}
	return &rsa.PublicKey{N: new(big.Int).SetBytes(modulus), E: int(e.Int64())}, nil
}

// parseEC reads CKA_EC_PARAMS and CKA_EC_POINT. The name that it gives the type is closer than keyType's where the curve
// is one of the two that are used.
func parseEC(keyType string, params, point []byte) (string, crypto.PublicKey, error) {
	switch {
	case keyType == typeEC && bytes.Equal(params, der(oidP256)):
		encoded, err := unwrapPoint(point, 65)
		if err != nil {
			return typeP256, nil, err
		}
		public, err := ecdsa.ParseUncompressedPublicKey(elliptic.P256(), encoded)
		if err != nil {
			return typeP256, nil, errors.New("its CKA_EC_POINT is no point of the curve P-256 in uncompressed form")
		}
		return typeP256, public, nil
	case keyType == typeEdwards && (bytes.Equal(params, der(oidEd25519)) || bytes.Equal(params, der(oidEdwards)) || bytes.Equal(params, der(nameEdwards))):
		encoded, err := unwrapPoint(point, ed25519.PublicKeySize)
		if err != nil {
			return typeEd25519, nil, err
		}
		return typeEd25519, ed25519.PublicKey(encoded), nil
	}
	return keyType, nil, fmt.Errorf("its curve (CKA_EC_PARAMS %x) is neither P-256 nor Ed25519", params)
}

// unwrapPoint finds the size bytes of a point in a CKA_EC_POINT: DER of an OCTET STRING, as PKCS #11 v2.40 says; bare, as
// v3.0 says of Edwards curves and some modules have it for all; or in a BIT STRING. The lengths tell them apart.
func unwrapPoint(value []byte, size int) ([]byte, error) {
	switch {
	case len(value) == size:
		return bytes.Clone(value), nil
	case len(value) == size+2 && value[0] == asn1.TagOctetString && int(value[1]) == size:
		return bytes.Clone(value[2:]), nil
	case len(value) == size+3 && value[0] == asn1.TagBitString && int(value[1]) == size+1 && value[2] == 0:
		return bytes.Clone(value[3:]), nil
	}
	return nil, fmt.Errorf("its CKA_EC_POINT of %d bytes is no point of %d bytes in any known form", len(value), size)
}

func der(value any) []byte {
	encoded, err := asn1.Marshal(value)
	if err != nil {
		panic(err) // not possible for the constants that it is called with
	}
	return encoded
}
