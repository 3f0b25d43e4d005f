package signer

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"time"

	"go.uber.org/zap"

	"github.com/octo-sts/appliance/sts/span"
)

const (
	// tryTime is how long one HSM may take to sign while another is left to ask. With it, a caller that meets one HSM that
	// hangs still has its signature within signTimeout.
	tryTime = 700 * time.Millisecond
	// reviveTime is how long callers wait for an HSM that has just failed: it is mostly back, with a fresh worker, before.
	reviveTime = 2 * time.Second
	// firstOpening is how long after the signer's start they wait for an HSM that has not been open yet.
	firstOpening = 5 * time.Second
)

// UseKey lends use the key under label of one HSM after the other, in order of preference, until use returns nil. Where
// none is left and one failed a moment ago, or is about to be opened for the first time, it waits for that one. Its error is why none would do; it returns
// soon after ctx ends. use may be called several times, and must not keep the key.
//
// An App's key has the same public half at each call. The checkpoint key's differs from HSM to HSM.
func (h *HSMs) UseKey(ctx context.Context, label string, use func(key crypto.Signer) error) error {
	tried := map[*worker]error{}
	var errs []error
	for {
		next, err := h.next(label, tried)
		switch {
		case next.key != nil && ctx.Err() == nil:
			w, err := next.key.worker, next.try(ctx, use)
			if err == nil {
				return nil
			}
			tried[w] = err
			errs = append(errs, fmt.Errorf("HSM %d: %w", next.key.member.index, err))
		case next.key == nil && next.reviving && ctx.Err() == nil:
			select {
			case <-next.changed:
			case <-ctx.Done():
			}
		default:
			if len(errs) == 0 && err == nil {
				err = ctx.Err()
			}
			return inOneLine(append(errs, err))
		}
	}
}

// inOneLine joins errors for those who read them in a log or in /readyz.
func inOneLine(errs []error) error {
	var all error
	for _, err := range errs {
		switch {
		case all == nil:
			all = err
		case err != nil:
			all = fmt.Errorf("%w; %w", all, err)
		}
	}
	return all
}

// candidate is what next found.
type candidate struct {
	key      *hsmKey       // nil where no HSM is left
	another  bool          // one more is left after it
	reviving bool          // none is left, and one may be in a moment
	changed  chan struct{} // is closed when the answer may be another one
}

func (c candidate) try(ctx context.Context, use func(crypto.Signer) error) error {
	if c.another {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, tryTime)
		defer cancel()
	}
	c.key.ctx = ctx
	return timeHSM(ctx, c.key.member.index, func() error { return use(c.key) })
}

// next finds the first HSM in order of preference whose worker has not been tried and that can sign with the key under
// label, else why there is none.
func (h *HSMs) next(label string, tried map[*worker]error) (candidate, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	c := candidate{changed: h.changed}
	for _, m := range h.order() {
		if tried[m.worker] != nil || h.whyUnfit(m, label) != "" {
			continue
		}
		if c.key != nil {
			c.another = true
			break
		}
		c.key = &hsmKey{hsms: h, member: m, worker: m.worker, label: label, memberKey: m.public[label]}
	}
	if c.key != nil {
		return c, nil
	}
	for _, m := range h.members {
		// A worker that answered, if only with an error, has done what it can.
		done := tried[m.worker] != nil && !errors.Is(tried[m.worker], errWorkerGone)
		c.reviving = c.reviving || !done && m.public[label] != nil && time.Since(m.failed) < reviveTime || h.isOpening(m)
	}
	return c, h.whyNot(label)
}

// isOpening says whether m may be open for the first time in a moment: the daemon is started together with the signer, and
// its callers are there at once. The caller holds h.mu.
func (h *HSMs) isOpening(m *member) bool {
	return m.since.IsZero() && time.Since(h.began) < firstOpening
}

// hsmKey is the key of one HSM, for as long as ctx lasts.
type hsmKey struct {
	*memberKey
	hsms   *HSMs
	member *member
	worker *worker
	label  string
	ctx    context.Context
}

var _ crypto.MessageSigner = (*hsmKey)(nil)

func (k *hsmKey) Public() crypto.PublicKey { return k.public }

// Sign is not for use: the HSM signs whole messages, so that it can hash them itself.
func (k *hsmKey) Sign(io.Reader, []byte, crypto.SignerOpts) ([]byte, error) {
	return nil, errors.New("the HSM signs messages, not digests: see crypto.SignMessage")
}

// SignMessage has the HSM sign: PKCS #1 v1.5 over SHA-256, Ed25519, or ECDSA over SHA-256 in ASN.1 form, as the key is. The
// signature has been verified when it is returned. Where there is none, the HSM loses its place.
func (k *hsmKey) SignMessage(_ io.Reader, message []byte, options crypto.SignerOpts) ([]byte, error) {
	if _, pss := options.(*rsa.PSSOptions); pss {
		return nil, errors.New("RSA-PSS signatures are not made")
	}
	request := WorkerSignRequest{Label: k.label, Public: k.encoded, Message: message, Hash: options.HashFunc()}
	signature, err := k.worker.sign(k.ctx, request)
	if errors.Is(err, errBusy) || errors.Is(k.ctx.Err(), context.Canceled) {
		return nil, err // not the HSM's fault
	}
	if err == nil {
		err = verify(k.public, message, request.Hash, signature)
	}
	if err != nil {
		k.hsms.fail(k.ctx, k.member, k.worker, err)
		return nil, err
	}
	k.member.signatures.Add(1)
	return signature, nil
}

// fail notes that a signature failed. What failed with a worker that has been replaced since says nothing of the next one.
func (h *HSMs) fail(ctx context.Context, m *member, w *worker, err error) {
	h.log.Warn("HSM did not sign", zap.Int("hsm", m.index), span.Field(ctx), zap.Error(err))
	h.update(func() {
		m.failures++
		if m.worker == w {
			m.failed = time.Now()
		}
	})
}

// verify checks a signature in software: what a worker hands over is its word only.
func verify(public crypto.PublicKey, message []byte, hash crypto.Hash, signature []byte) error {
	digest := sha256.Sum256(message)
	good := false
	switch key := public.(type) {
	case *rsa.PublicKey:
		good = hash == crypto.SHA256 && rsa.VerifyPKCS1v15(key, hash, digest[:], signature) == nil
	case *ecdsa.PublicKey:
		good = hash == crypto.SHA256 && ecdsa.VerifyASN1(key, digest[:], signature)
	case ed25519.PublicKey:
		good = hash == 0 && ed25519.Verify(key, message, signature)
	default:
		return fmt.Errorf("a %T cannot be verified", public)
	}
	if !good {
		return errors.New("the signature does not verify against the key's public half, so it is withheld")
	}
	return nil
}
