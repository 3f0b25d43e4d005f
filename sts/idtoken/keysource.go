package idtoken

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"
)

const (
	refreshEvery = 5 * time.Minute  // less up to a minute, so that many daemons do not ask at once
	minInterval  = 10 * time.Second // between two attempts at one issuer, whoever asks for them
	maxBackoff   = 60 * time.Second
	maxKeySetAge = 15 * time.Minute // since the last success; older keys may have been withdrawn
	maxWaiters   = 128              // callers that wait for one attempt; those beyond are answered at once. All wait for the first one.
)

// keySource keeps one issuer's keys. Readers take them without a lock; one goroutine (run) fetches. A token with an
// unknown kid can hasten a fetch but never cause more than one in minInterval, and however many such tokens come, those
// with a known kid do not wait.
type keySource struct {
	fetch  func(context.Context) (*keySet, error) // called by run alone
	maxAge time.Duration                          // 0: keys do not grow too old
	now    func() time.Time
	log    *zap.Logger

	set     atomic.Pointer[keySet] // nil before the first success
	kick    chan struct{}          // wakes run for a pending attempt; capacity 1
	stopped chan struct{}          // closed when run has ended
	stop    context.CancelFunc     // ends run; it belongs to whoever calls Begin and Retire

	mu          sync.Mutex    // guards everything below
	pending     chan struct{} // closed when the attempt ends that is under way or about to be; nil: there is none
	waiters     int           // on pending
	lastAttempt time.Time
	lastErr     error // of the last attempt that ended
	failures    int   // in a row
}

func newKeySource(fetch func(context.Context) (*keySet, error), maxAge time.Duration, now func() time.Time, log *zap.Logger) *keySource {
	return &keySource{fetch: fetch, maxAge: maxAge, now: now, log: log, kick: make(chan struct{}, 1), stopped: make(chan struct{})}
}

// find gives the keys that a token may have been signed with, waiting for them if they have to be fetched and may be.
func (s *keySource) find(ctx context.Context, kid, alg string) ([]*verificationKey, error) {
	keys, err := s.current(kid, alg)
	if err == nil || errors.Is(err, errWrongAlg) || errors.Is(err, errAmbiguous) {
		return keys, err
	}
	if err := s.demand(ctx); err != nil {
		return nil, err
	}
	keys, err = s.current(kid, alg)
	if errors.Is(err, errUnknownKey) {
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.lastErr != nil { // the key may be new, and we could not see
			return nil, fmt.Errorf("%w: %w, and getting newer keys failed: %w", ErrUnavailable, err, s.lastErr)
		}
	}
	return keys, err
}

// current looks only at the keys that are there.
func (s *keySource) current(kid, alg string) ([]*verificationKey, error) {
	set := s.set.Load()
	if !s.usable(set) {
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.lastErr != nil {
			return nil, fmt.Errorf("%w: %w", ErrUnavailable, s.lastErr)
		}
		return nil, fmt.Errorf("%w: no keys yet", ErrUnavailable)
	}
	return set.find(kid, alg)
}

func (s *keySource) usable(set *keySet) bool {
	return set != nil && (s.maxAge == 0 || s.now().Sub(set.asked) <= s.maxAge)
}

// demand has the keys fetched if the last attempt began long enough ago, and waits until that has been tried. If it may
// not be tried now, or too many are waiting already, it returns at once. Before the first attempt has ended none are too
// many: it is what everybody waits for who came while the daemon was restarted. The error is the caller's running out of
// time.
func (s *keySource) demand(ctx context.Context) error {
	s.mu.Lock()
	first := s.lastErr == nil && s.set.Load() == nil
	if !s.begin() || !first && s.waiters >= maxWaiters {
		s.mu.Unlock()
		return nil
	}
	s.waiters++
	pending := s.pending
	s.mu.Unlock()
	select {
	case s.kick <- struct{}{}:
	default:
	}
	select {
	case <-pending:
		return nil
	case <-s.stopped:
		return fmt.Errorf("%w: shutting down", ErrUnavailable)
	case <-ctx.Done():
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.pending == pending {
			s.waiters--
		}
		return fmt.Errorf("%w: waiting for the issuer's keys: %w", ErrUnavailable, ctx.Err())
	}
}

// begin makes an attempt pending unless it is too early for one, and says whether one is. mu is held.
func (s *keySource) begin() bool {
	if s.pending != nil {
		return true
	}
	now := s.now()
	if !s.lastAttempt.IsZero() && now.Sub(s.lastAttempt) < minInterval {
		return false
	}
	s.pending, s.waiters, s.lastAttempt = make(chan struct{}), 0, now
	return true
}

// run fetches, at once and then when it is due or demanded, until ctx ends.
func (s *keySource) run(ctx context.Context) {
	defer close(s.stopped)
	timer := time.NewTimer(0)
	if s.set.Load() != nil { // New has read a file
		timer.Reset(s.delay())
	}
	defer timer.Stop()
	for {
		due := false
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
			due = true
		case <-s.kick:
		}
		s.mu.Lock()
		wanted := s.pending != nil || due && s.begin()
		s.mu.Unlock()
		if wanted {
			s.attempt(ctx)
		}
		if wanted || due {
			timer.Reset(s.delay())
		}
	}
}

// delay is how long to wait for the next attempt that nobody demands.
func (s *keySource) delay() time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.failures == 0 {
		return refreshEvery - rand.N(time.Minute)
	}
	backoff := min(minInterval<<min(s.failures-1, 8), maxBackoff)
	return backoff + rand.N(time.Second)
}

// attempt fetches once and lets those who wait go on.
func (s *keySource) attempt(ctx context.Context) {
	asked := s.now() // before the fetch: what was withdrawn during it counts from here
	ctx, cancel := context.WithTimeout(ctx, fetchTimeout)
	set, err := s.fetch(ctx)
	cancel()
	old := s.set.Load()
	if err != nil {
		err = boundedError(err)
	} else {
		set.asked = asked
		s.set.Store(set)
	}
	s.mu.Lock()
	s.lastErr = err
	if err == nil {
		s.failures = 0
	} else {
		s.failures++
	}
	failures := s.failures
	close(s.pending)
	s.pending = nil
	s.mu.Unlock()

	if err != nil {
		s.log.Warn("getting the issuer's keys failed", zap.Error(err), zap.Int("failures", failures), zap.Bool("usable", s.usable(old)))
		return
	}
	s.logChange(old, set)
}

// boundedError shortens an error that quotes what a server sent, which go-oidc does with any answer that is not 200.
func boundedError(err error) error {
	const most = 1000
	if text := err.Error(); len(text) > most {
		return errors.New(text[:most] + "…")
	}
	return err
}

// logChange writes a line where a fetch brought something new, and none at the many that do not.
func (s *keySource) logChange(old, set *keySet) {
	if old == nil || !slices.Equal(old.keyIDs(), set.keyIDs()) {
		s.log.Info("issuer's keys changed", zap.Strings("kids", set.keyIDs()))
	}
	if len(set.ignored) > 0 && (old == nil || !slices.Equal(old.ignored, set.ignored)) {
		s.log.Warn("some of the issuer's keys are of no use and ignored", zap.Strings("keys", set.ignored))
	}
}

// keyIDs are the IDs of the keys in their order, for people.
func (s *keySet) keyIDs() []string {
	ids := make([]string, len(s.keys))
	for i, key := range s.keys {
		ids[i] = shorten(key.kid)
	}
	return ids
}
