package githubapp

import (
	"fmt"
	"sync"
	"time"

	"go.uber.org/zap"
)

const (
	// breakerLimit calls in a row without a usable answer open the breaker.
	breakerLimit = 10

	// probeWait is the time to the first probe. It doubles up to maxProbeWait,
	// which with the callTimeout of a probe that hangs stays under the 30 s within
	// which a repaired fault must be forgotten.
	probeWait    = time.Second
	maxProbeWait = 15 * time.Second

	// maxUrgent calls may be tried at once while the breaker is open.
	maxUrgent = 8

	// patience is how long a call must have been under way to count as one that
	// got no answer where its caller ended it.
	patience = 5 * time.Second
)

// breaker keeps calls away from a host that does not answer. No usable answer is
// a failure of the network, a time-out, a body cut short or a 5xx; any other
// answer is one, a refusal or a rate limit too. While the breaker is open, calls
// fail at once, so that callers do not pile up; but from time to time one call is
// let through to find out, and one answer closes it. That is never a call for a
// check, whose failure would say nothing of the host.
type breaker struct {
	now       func() time.Time
	log       *zap.Logger
	reconnect func() // makes the next call use a connection of its own

	mu       sync.Mutex    // guards what follows
	failures int           // since the last answer
	since    time.Time     // when the first of them was sent
	last     error         // the last of them
	answered time.Time     // when the last answer came
	wait     time.Duration // between probes; 0: closed
	until    time.Time     // no probe before
	probing  bool          // a probe is under way
	urgent   int           // urgent calls that are under way while it is open
}

// pass is the permission of one call to leave.
type pass struct {
	began         time.Time
	probe, urgent bool
	from          zap.Field // what the call is for, in lines of the log
}

// outcome is what a call says of the host.
type outcome int

const (
	saysNothing outcome = iota // it was not sent, or given up early
	wasAnswered
	wasNotAnswered
)

// check tells whether admit would refuse a call.
func (b *breaker) check(request call) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if _, ok := b.passFor(request); !ok {
		return b.refusal(request)
	}
	return nil
}

// admit lets a call leave, or not. Each pass must be given to end.
func (b *breaker) admit(request call) (pass, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	p, ok := b.passFor(request)
	if !ok {
		return pass{}, b.refusal(request)
	}
	if p.probe {
		b.probing = true
	}
	if p.urgent {
		b.urgent++
	}
	return p, nil
}

// passFor needs b.mu.
func (b *breaker) passFor(request call) (pass, bool) {
	p := pass{began: b.now(), from: request.from}
	switch {
	case b.wait == 0:
	case !b.probing && !p.began.Before(b.until) && !request.isForCheck():
		p.probe = true
	case request.urgent && b.urgent < maxUrgent:
		p.urgent = true
	default:
		return pass{}, false
	}
	return p, true
}

// refusal needs b.mu.
func (b *breaker) refusal(request call) error {
	return &apiError{kind: ErrUnavailable, doing: request.doing, detail: fmt.Sprintf(
		"no call was answered for %s, since %s: nothing is sent but a probe every %s at most",
		b.now().Sub(b.since).Round(time.Second), b.since.UTC().Format(time.RFC3339), maxProbeWait)}
}

// end takes note of what became of a call.
func (b *breaker) end(p pass, o outcome, err error) {
	if b.count(p, o, err) {
		// The connection may be what is dead. Unless it is replaced, probes would
		// go the same way until HTTP/2's own pings find out.
		b.reconnect()
	}
}

// count reports whether the breaker opened, or stays open.
func (b *breaker) count(p pass, o outcome, err error) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if p.probe {
		b.probing = false
	}
	if p.urgent {
		b.urgent--
	}
	switch {
	case o == wasAnswered:
		if b.wait > 0 {
			b.log.Info("GitHub answers again", zap.Duration("after", b.now().Sub(b.since)))
		}
		b.failures, b.last, b.wait, b.answered = 0, nil, 0, b.now()
	case o == wasNotAnswered && !p.began.Before(b.answered): // else it is older than that answer, and so is what it says
		if b.failures == 0 {
			b.since = p.began
		}
		b.failures++
		b.last = err
		switch {
		case b.wait == 0 && b.failures >= breakerLimit:
			b.log.Error("GitHub does not answer: calls fail at once until a probe is answered",
				zap.Int("calls", b.failures), zap.Time("since", b.since), p.from, zap.Error(err))
			b.wait = probeWait
		case p.probe:
			b.wait = min(2*b.wait, maxProbeWait)
		default:
			return false
		}
		b.until = b.now().Add(b.wait)
		return true
	}
	return false
}

// status fills in what HostStatus says of it.
func (b *breaker) status(s *HostStatus) {
	b.mu.Lock()
	defer b.mu.Unlock()
	s.Down, s.LastError = b.wait > 0, b.last
	if b.failures > 0 {
		s.Since = b.since
	}
}
