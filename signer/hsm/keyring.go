package hsm

import (
	"context"
	"crypto"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"
	"time"

	"go.uber.org/zap"
)

const (
	// defaultRetry is short enough that the token works again within 5 s of a fault's end, with the time for opening it.
	defaultRetry = 2 * time.Second
	// defaultKeepAlive is less than the 30 s after which a YubiHSM 2 ends an idle session.
	defaultKeepAlive = 20 * time.Second
	// settled is how long a connection must have lasted for the next failure to be met at once instead of with a pause.
	settled = 10 * time.Second
	// reopenWait is how long one SignMessage waits for the fresh connection that its failure asked for.
	reopenWait = time.Second
)

// Config configures a Keyring.
type Config struct {
	Token  TokenConfig
	Labels []string    // CKA_LABELs of the keys to keep usable
	Logger *zap.Logger // nil: no log
	// Suits says why a key is not of the kind that is wanted under its label. nil: every kind is.
	Suits func(label string, public crypto.PublicKey) error
	// Retry is the longest pause between two attempts to open the token, and how often a key that is missing or unfit is
	// looked for. The first pause is an eighth of it. 0: 2 s.
	Retry time.Duration
	// KeepAlive is how often every idle session and every key makes a test signature, so that none dies and readiness is
	// known before it is needed. 0: 20 s.
	KeepAlive time.Duration
}

// Status is a Keyring's state at one moment.
type Status struct {
	Module       string
	Manufacturer string
	Model        string
	TokenLabel   string
	TokenSerial  string
	Open         bool
	Sessions     int    // open
	MaxSessions  int    // that may be open at once: as configured, or fewer where the token allows no more
	Error        string // why it is not open, "" where it is
	// CallSince is when the oldest call into the module that is still under way began, zero where none is.
	CallSince time.Time
}

// Keyring keeps the keys of one token usable: it opens the token, finds and tests the keys, and after a failure closes
// everything and opens it afresh, since crypto11 itself never recovers a lost session. It is safe for concurrent use.
//
// After a PIN was refused, now or before, it does nothing more: whoever supervises the process starts another when the PIN
// has changed or TokenConfig.Latch's file is gone.
type Keyring struct {
	config Config
	log    *zap.Logger
	clock  *clock // of all calls into the module
	// said is what the log holds last of each key: why it is not usable, "" where it is. run's alone.
	said map[string]string

	mu         sync.Mutex
	connection *connection   // nil while the token is not open; guarded by mu
	failure    error         // why connection is nil; guarded by mu
	last       Info          // what was open last; guarded by mu
	changed    chan struct{} // closed and replaced whenever connection or failure is set; guarded by mu
	labels     []string      // the keys to keep usable; guarded by mu

	relabelled chan struct{} // holds one order to look for other keys
	stopped    chan struct{} // closed when run has returned
}

// connection is one opening of the token. It is immutable but for its keys, which run alone replaces, under Keyring.mu.
type connection struct {
	token  *Token
	opened time.Time
	broken chan error       // holds one report of how a signature failed
	keys   map[string]*Key  // fit to sign
	unfit  map[string]error // why the others are not
}

// New starts a Keyring that works until ctx ends, then closes the token; Wait waits for that. That the token cannot be
// opened now is not an error: Key says why until it can be. An impossible configuration is one.
func New(ctx context.Context, c Config) (*Keyring, error) {
	if err := c.Token.check(); err != nil {
		return nil, fmt.Errorf("configuring the HSM: %w", err)
	}
	if c.Logger == nil {
		c.Logger = zap.NewNop()
	}
	if c.Retry == 0 {
		c.Retry = defaultRetry
	}
	if c.KeepAlive == 0 {
		c.KeepAlive = defaultKeepAlive
	}
	k := &Keyring{
		config:  c,
		log:     c.Logger,
		clock:   newClock(),
		said:    map[string]string{},
		failure: errors.New("it has not been opened yet"),
		changed: make(chan struct{}),
		labels:  c.Labels,
		stopped: make(chan struct{}),

		relabelled: make(chan struct{}, 1),
	}
	go k.run(ctx)
	return k, nil
}

// Wait returns when the token has been closed after the end of New's ctx. It never returns if the module hangs.
func (k *Keyring) Wait() { <-k.stopped }

// SetLabels has other keys kept usable from now on. They are looked for at once, and those that stay sign meanwhile.
func (k *Keyring) SetLabels(labels []string) {
	k.mu.Lock()
	k.labels = slices.Clone(labels)
	k.mu.Unlock()
	select {
	case k.relabelled <- struct{}{}:
	default: // the order that waits there will do
	}
}

// Status says whether the token is open, and if not, why.
func (k *Keyring) Status() Status {
	k.mu.Lock()
	defer k.mu.Unlock()
	s := Status{
		Module:       k.config.Token.Module,
		Manufacturer: k.last.Manufacturer,
		Model:        k.last.Model,
		TokenLabel:   k.last.TokenLabel,
		TokenSerial:  k.last.TokenSerial,
		Open:         k.connection != nil,
		CallSince:    k.clock.oldest(),
	}
	if k.failure != nil {
		s.Error = k.failure.Error()
	}
	if k.connection != nil {
		s.Sessions, s.MaxSessions = k.connection.token.countSessions()
	}
	return s
}

// Key returns the key under label, fit to sign at this moment, or the reason why there is none. The error matches
// ErrNotOpen, ErrPINRefused, ErrKeyNotFound, or names the key's weakness.
func (k *Keyring) Key(label string) (crypto.MessageSigner, error) {
	_, key, err := k.find(label)
	if err != nil {
		return nil, err
	}
	return &ringKey{ring: k, label: label, public: key.info.Public}, nil
}

func (k *Keyring) find(label string) (*connection, *Key, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.connection == nil {
		return nil, nil, fmt.Errorf("%w: %w", ErrNotOpen, k.failure)
	}
	if key, ok := k.connection.keys[label]; ok {
		return k.connection, key, nil
	}
	if err, ok := k.connection.unfit[label]; ok {
		return nil, nil, err
	}
	return nil, nil, fmt.Errorf("%w: %q is not among the configured keys", ErrKeyNotFound, label)
}

// report says how a signature failed on c. The caller goes on at once; run does the rest.
func (c *connection) report(err error) {
	select {
	case c.broken <- err:
	default: // one report is enough
	}
}

// awaitOther waits until another connection than c is open, for at most reopenWait.
func (k *Keyring) awaitOther(c *connection) bool {
	deadline := time.After(reopenWait)
	for {
		k.mu.Lock()
		current, changed := k.connection, k.changed
		k.mu.Unlock()
		if current != nil && current != c {
			return true
		}
		select {
		case <-changed:
		case <-k.stopped:
			return false
		case <-deadline:
			return false
		}
	}
}

// ringKey is a key of a Keyring. It outlives the connection that it was found on.
type ringKey struct {
	ring   *Keyring
	label  string
	public crypto.PublicKey
}

func (r *ringKey) Public() crypto.PublicKey { return r.public }

// Sign fails like Key.Sign.
func (r *ringKey) Sign(io.Reader, []byte, crypto.SignerOpts) ([]byte, error) { return nil, errDigest }

// SignMessage signs like Key.SignMessage. Where that fails, it has the token opened afresh and tries once more.
func (r *ringKey) SignMessage(_ io.Reader, message []byte, options crypto.SignerOpts) ([]byte, error) {
	if err := checkOptions(r.public, options); err != nil {
		return nil, err
	}
	for last := false; ; last = true {
		c, key, err := r.ring.find(r.label)
		if err != nil {
			return nil, err
		}
		// After a fresh opening, another key may lie under the label.
		if public, ok := r.public.(interface{ Equal(crypto.PublicKey) bool }); !ok || !public.Equal(key.info.Public) {
			return nil, fmt.Errorf("another key has come under the label %q", r.label)
		}
		signature, err := key.sign(message)
		if err == nil {
			return signature, nil
		}
		if errors.Is(err, errBusy) {
			return nil, err
		}
		r.ring.log.Warn("signature failed, opening the token afresh", zap.String("key", r.label), zap.Error(err))
		c.report(err)
		if last || !r.ring.awaitOther(c) {
			return nil, err
		}
	}
}
