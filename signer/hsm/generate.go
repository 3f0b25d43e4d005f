package hsm

import (
	"crypto/rand"
	"errors"
	"fmt"

	"github.com/miekg/pkcs11"
)

// curve is a kind of key, and how a token is asked to make one.
type curve struct {
	name       string
	params     []byte // CKA_EC_PARAMS
	generation uint   // CKM
	signing    uint   // CKM
}

// curves lists the kinds in the order of preference. P-256, which probes need, is the last.
func curves() []curve {
	return []curve{
		{"Ed25519", der(oidEd25519), ckmECEdwardsKeyPairGen, ckmEdDSA},
		{"Ed25519 by name", der(nameEdwards), ckmECEdwardsKeyPairGen, ckmEdDSA},
		{"P-256", der(oidP256), pkcs11.CKM_EC_KEY_PAIR_GEN, pkcs11.CKM_ECDSA},
	}
}

// GenerateCheckpointKey makes a key pair for checkpoints in the token: Ed25519 where the token can, else ECDSA P-256. The
// private key is sensitive, was never extractable, and signs and does nothing else. It has been found and tested as a
// server would when it is returned; where that fails, it is destroyed again. The error matches ErrLabelInUse where the
// label is taken.
func (t *Token) GenerateCheckpointKey(label string) (*Key, error) {
	return t.generateKey(label, curves())
}

// GenerateProbeKey makes a P-256 key pair for the ID tokens of probes, in the way of GenerateCheckpointKey.
func (t *Token) GenerateProbeKey(label string) (*Key, error) {
	all := curves()
	return t.generateKey(label, all[len(all)-1:])
}

func (t *Token) generateKey(label string, kinds []curve) (*Key, error) {
	if err := checkLabel(label); err != nil {
		return nil, fmt.Errorf("generating a key: %w", err)
	}
	id := make([]byte, 16)
	_, _ = rand.Read(id) // never fails
	if err := t.checkFree(label, id); err != nil {
		return nil, fmt.Errorf("generating key %q in %s: %w", label, t.info, err)
	}
	created, err := t.generate(label, id, kinds)
	if err != nil {
		return nil, fmt.Errorf("generating key %q in %s: %w", label, t.info, err)
	}
	key, err := t.signsAlone(label)
	if err != nil {
		return nil, fmt.Errorf("checking key %q after it was generated in %s: %w", label, t.info, t.undo(created, err))
	}
	return key, nil
}

// generate tries the kinds until the token takes one.
func (t *Token) generate(label string, id []byte, kinds []curve) (created []pkcs11.ObjectHandle, err error) {
	var errs []error
	for _, c := range kinds {
		if !t.mechanisms[c.generation] || !t.mechanisms[c.signing] {
			errs = append(errs, fmt.Errorf("%s: the token does not list the mechanisms", c.name))
			continue
		}
		_, err := t.firstWay(refusals(), func(session pkcs11.SessionHandle, denied []*pkcs11.Attribute) (pkcs11.ObjectHandle, error) {
			public, private, err := t.module.generateKeyPair(session, c.generation, generatedPublic(label, id, c.params), append(staysAndSigns(label, id), denied...))
			created = []pkcs11.ObjectHandle{private, public}
			return private, err
		})
		if err == nil {
			return created, nil
		}
		errs = append(errs, fmt.Errorf("%s: %w", c.name, err))
		if !refusesWay(err) {
			break
		}
	}
	return nil, errors.Join(errs...)
}

func generatedPublic(label string, id, params []byte) []*pkcs11.Attribute {
	return []*pkcs11.Attribute{
		pkcs11.NewAttribute(pkcs11.CKA_EC_PARAMS, params),
		pkcs11.NewAttribute(pkcs11.CKA_LABEL, label),
		pkcs11.NewAttribute(pkcs11.CKA_ID, id),
		pkcs11.NewAttribute(pkcs11.CKA_TOKEN, true),
		pkcs11.NewAttribute(pkcs11.CKA_VERIFY, true),
	}
}

// Destroy destroys the private key under label and the public object under its CKA_ID, for good, and makes sure that they
// are gone. A key that cannot be told from another is left alone. The error matches ErrKeyNotFound or ErrKeyUnfit in these
// cases.
func (t *Token) Destroy(label string) error {
	if err := t.destroyKey(label); err != nil {
		return fmt.Errorf("destroying key %q in %s: %w", label, t.info, err)
	}
	return nil
}

func (t *Token) destroyKey(label string) error {
	var id []byte
	var objects []pkcs11.ObjectHandle
	var verdict error
	err := t.sessions.with(func(session pkcs11.SessionHandle) error {
		info, err := t.inspect(session, label)
		if errors.Is(err, ErrKeyNotFound) || errors.Is(err, ErrKeyUnfit) {
			verdict = err
			return nil
		}
		if err != nil {
			return err
		}
		id = info.ID
		public, err := t.find(session, class(pkcs11.CKO_PUBLIC_KEY), pkcs11.NewAttribute(pkcs11.CKA_ID, id))
		objects = append([]pkcs11.ObjectHandle{info.private}, public...)
		return err
	})
	if err = errors.Join(err, verdict); err != nil {
		return err
	}
	if err := t.destroy(objects); err != nil {
		return err
	}
	return t.checkFree(label, id)
}
