package checkpoint

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"strings"

	"golang.org/x/mod/sumdb/note"
)

// Signature type identifier bytes (signed-note, "Signature types").
const (
	typeEd25519 = 0x01
	typeECDSA   = 0x02
)

// maxKey bounds an encoded verifier key, in bytes: the longest name, and a P-256 key.
const maxKey = MaxOrigin + 160

// verifier is a note.Verifier.
type verifier struct {
	name   string
	id     uint32
	public crypto.PublicKey // ed25519.PublicKey, or *ecdsa.PublicKey on P-256
}

func (v *verifier) Name() string    { return v.name }
func (v *verifier) KeyHash() uint32 { return v.id }

// Verify tells whether signature is one of text. An ECDSA signature is an ASN.1 SEQUENCE over the text's SHA-256, as
// transparency-dev's implementation has it, to which signed-note refers.
func (v *verifier) Verify(text, signature []byte) bool {
	switch public := v.public.(type) {
	case ed25519.PublicKey:
		return ed25519.Verify(public, text, signature)
	case *ecdsa.PublicKey:
		digest := sha256.Sum256(text)
		return ecdsa.VerifyASN1(public, digest[:], signature)
	}
	return false
}

// newVerifier also returns what follows the key ID in the encoded form: the type and the encoded public key.
func newVerifier(name string, public crypto.PublicKey) (*verifier, []byte, error) {
	if err := CheckOrigin(name); err != nil {
		return nil, nil, err
	}
	var encoded, identified []byte // the key, and what its ID is the hash of
	switch public := public.(type) {
	case ed25519.PublicKey:
		if len(public) != ed25519.PublicKeySize {
			return nil, nil, fmt.Errorf("an Ed25519 public key has %d bytes, not %d", ed25519.PublicKeySize, len(public))
		}
		encoded = append([]byte{typeEd25519}, public...)
		identified = append([]byte(name+"\n"), encoded...)
	case *ecdsa.PublicKey:
		if public.Curve != elliptic.P256() {
			return nil, nil, fmt.Errorf("an ECDSA key must be on P-256, not %s", public.Curve.Params().Name)
		}
		der, err := x509.MarshalPKIXPublicKey(public)
		if err != nil {
			return nil, nil, fmt.Errorf("encoding an ECDSA public key: %w", err)
		}
		encoded = append([]byte{typeECDSA}, der...)
		identified = der // without the name: signed-note makes this exception for ECDSA
	default:
		return nil, nil, fmt.Errorf("a checkpoint key is Ed25519 or ECDSA P-256, not %T", public)
	}
	sum := sha256.Sum256(identified)
	return &verifier{name: name, id: binary.BigEndian.Uint32(sum[:]), public: public}, encoded, nil
}

// EncodeKey writes a public key of a log as a verifier key: NAME+ID+KEY, the ID as eight hexadecimal digits, the KEY as the
// base64 of its type and encoding. It is what auditors keep, and other C2SP tools read it. The public key is an
// ed25519.PublicKey, or an *ecdsa.PublicKey on P-256.
func EncodeKey(origin string, public crypto.PublicKey) (string, error) {
	v, encoded, err := newVerifier(origin, public)
	if err != nil {
		return "", fmt.Errorf("encoding a verifier key: %w", err)
	}
	return fmt.Sprintf("%s+%08x+%s", origin, v.id, base64.StdEncoding.EncodeToString(encoded)), nil
}

// ParseKey reads a verifier key, in exactly the form that EncodeKey writes.
func ParseKey(vkey string) (note.Verifier, error) {
	v, err := parseKey(vkey)
	if err != nil {
		return nil, fmt.Errorf("reading the verifier key %.80q: %w", vkey, err)
	}
	return v, nil
}

func parseKey(vkey string) (*verifier, error) {
	if len(vkey) > maxKey {
		return nil, fmt.Errorf("it has %d bytes, more than %d", len(vkey), maxKey)
	}
	parts := strings.SplitN(vkey, "+", 3) // base64 may have further plus signs
	if len(parts) != 3 {
		return nil, errors.New("expected NAME+ID+KEY")
	}
	encoded, err := base64.StdEncoding.DecodeString(parts[2])
	if err != nil || len(encoded) == 0 {
		return nil, errors.New("its last part is not base64")
	}
	var public crypto.PublicKey
	switch kind, key := encoded[0], encoded[1:]; kind {
	case typeEd25519:
		public = ed25519.PublicKey(key)
	case typeECDSA:
		if public, err = x509.ParsePKIXPublicKey(key); err != nil {
			return nil, errors.New("its last part holds no public key")
		}
		if _, ok := public.(*ecdsa.PublicKey); !ok {
			return nil, fmt.Errorf("its last part holds a %T where its type says ECDSA", public)
		}
	default:
		return nil, fmt.Errorf("its type is 0x%02x; known are 0x01, Ed25519, and 0x02, ECDSA", kind)
	}
	v, canonical, err := newVerifier(parts[0], public)
	if err != nil {
		return nil, err
	}
	if id := fmt.Sprintf("%08x", v.id); id != parts[1] {
		return nil, fmt.Errorf("its ID is %.20q and should be %s: it was not copied whole", parts[1], id)
	}
	if base64.StdEncoding.EncodeToString(canonical) != parts[2] {
		return nil, errors.New("its key is not in canonical form")
	}
	return v, nil
}

// signing makes a note.Signer of a crypto.Signer.
type signing struct {
	*verifier
	key crypto.Signer
}

func (s signing) Sign(text []byte) ([]byte, error) {
	options := crypto.Hash(0) // Ed25519 signs the text itself
	if _, ok := s.public.(*ecdsa.PublicKey); ok {
		options = crypto.SHA256
	}
	signature, err := crypto.SignMessage(s.key, rand.Reader, text, options)
	if err != nil {
		return nil, err
	}
	if !s.Verify(text, signature) {
		return nil, errors.New("the key gave a signature that does not verify")
	}
	return signature, nil
}

// Sign returns a signed note of c under the name of its origin. The key is Ed25519 or ECDSA P-256, as EncodeKey takes them;
// one that is a crypto.MessageSigner is given the text itself. The signature has been verified in software.
func Sign(c Checkpoint, key crypto.Signer) ([]byte, error) {
	if err := c.Check(); err != nil {
		return nil, fmt.Errorf("signing a checkpoint: %w", err)
	}
	v, _, err := newVerifier(c.Origin, key.Public())
	if err != nil {
		return nil, fmt.Errorf("signing a checkpoint: %w", err)
	}
	signed, err := note.Sign(&note.Note{Text: c.Text()}, signing{v, key})
	if err != nil {
		return nil, fmt.Errorf("signing a checkpoint: %w", err)
	}
	return signed, nil
}
