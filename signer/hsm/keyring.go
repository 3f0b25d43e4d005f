package hsm

import (
	"context"
	"crypto"
	"crypto/rsa"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"go.uber.org/zap"
)

const (
	// firstRetry and lastRetry bound the pause between two attempts to open the token. The last is short enough that a
	// fault is over within seconds of its end, and long enough not to wear out a token that is away for a week.
	firstRetry = 250 * time.Millisecond
	lastRetry  = 4 * time.Second
	// settled is how long a connection must have lasted for the next failure to be met at once instead of with a pause.
	settled = 10 * time.Second
	// keepAlive is how often every key makes a test signature: sessions that idle die on some HSMs, and readiness should
	// be known before it is needed.
	keepAlive = time.Minute
	// lookAgain is how often a key that was missing or unfit is looked for again.
	lookAgain = 5 * time.Second
	// reopenWait is how long one Sign waits for the fresh connection that its failure asked for.
	reopenWait = time.Second
)

// Config configures a Keyring.
type Config struct {
	Token  TokenConfig
	Labels []string    // CKA_LABELs of the keys to keep usable
	Logger *zap.Logger // nil: no log
}

// Status is a Keyring's state at one moment.
type Status struct {
	Module       string
	Manufacturer string
	Model        string
	TokenLabel   string
	TokenSerial  string
	Open         bool
	Error        string // why it is not open, "" where it is
}

// Keyring keeps the keys of one token usable: it opens the token, finds and tests the keys, and after a failure closes
// everything and opens it afresh, since crypto11 itself never recovers a lost session. It is safe for concurrent use.
//
// A PIN that the token refused is not tried again for as long as the process lives. Whoever restarts the process spends
// another attempt: a service manager must not restart it in a loop for this.
type Keyring struct {
	config Config
	log    *zap.Logger

	mu         sync.Mutex
	connection *connection   // nil while the token is not open; guarded by mu
	failure    error         // why connection is nil; guarded by mu
	last       Info          // what was open last; guarded by mu
	changed    chan struct{} // closed and replaced whenever connection or failure is set; guarded by mu

	stopped chan struct{} // closed when run has returned
}

// connection is one opening of the token. It is immutable but for its keys, which run alone replaces, under Keyring.mu.
type connection struct {
	token  *Token
	opened time.Time
	broken chan struct{}    // holds one report that a signature failed
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
	k := &Keyring{
		config:  c,
		log:     c.Logger,
		failure: errors.New("it has not been opened yet"),
		changed: make(chan struct{}),
		stopped: make(chan struct{}),
	}
	go k.run(ctx)
	return k, nil
}

// Wait returns when the token has been closed after the end of New's ctx. It never returns if the module hangs.
func (k *Keyring) Wait() { <-k.stopped }

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
	}
	if k.failure != nil {
		s.Error = k.failure.Error()
	}
	return s
}

// Key returns the key under label, fit to sign at this moment, or the reason why there is none. The error matches
// ErrNotOpen, ErrPINRefused, ErrKeyNotFound, or names the key's weakness.
func (k *Keyring) Key(label string) (crypto.Signer, error) {
	c, key, err := k.find(label)
	if err != nil {
		return nil, err
	}
	return &ringKey{ring: k, connection: c, label: label, public: key.info.Public}, nil
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

// report says that a signature failed on c. The caller goes on at once; run does the rest.
func (c *connection) report() {
	select {
	case c.broken <- struct{}{}:
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
	ring       *Keyring
	connection *connection
	label      string
	public     *rsa.PublicKey
}

func (r *ringKey) Public() crypto.PublicKey { return r.public }

// Sign signs like Key.Sign. Where that fails, it has the token opened afresh and tries once more.
func (r *ringKey) Sign(_ io.Reader, digest []byte, options crypto.SignerOpts) ([]byte, error) {
	if err := checkSignerOptions(digest, options); err != nil {
		return nil, err
	}
	c, key, err := r.ring.find(r.label)
	if err != nil {
		return nil, err
	}
	signature, err := r.sign(key, digest)
	if err == nil {
		return signature, nil
	}
	r.ring.log.Warn("signature failed, opening the token afresh", zap.String("key", r.label), zap.Error(err))
	c.report()
	if !r.ring.awaitOther(c) {
		return nil, err
	}
	if _, key, err = r.ring.find(r.label); err != nil {
		return nil, err
	}
	return r.sign(key, digest)
}

// sign refuses a key that is not the one that Public named: after a fresh opening, another may lie under the label.
func (r *ringKey) sign(key *Key, digest []byte) ([]byte, error) {
	if !key.info.Public.Equal(r.public) {
		return nil, fmt.Errorf("another key has come under the label %q", r.label)
	}
	return key.Sign(nil, digest, crypto.SHA256)
}
