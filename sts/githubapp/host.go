package githubapp

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"sync/atomic"
	"time"

	"github.com/google/go-github/v60/github"
	"go.uber.org/zap"
)

// defaultMaxConcurrent is well below the 100 calls at once that GitHub allows.
const defaultMaxConcurrent = 64

// MaxClockSkew is how far this host's clock may be from GitHub's. App JWTs begin
// a minute in the past, so that much does no harm yet.
const MaxClockSkew = time.Minute

// HostStatus tells whether GitHub answers.
type HostStatus struct {
	// Down: calls fail at once, but for a probe now and then.
	Down bool

	// Since is when the first of the calls was sent that got no usable answer and
	// after which none did, and LastError is the last one's; zero and nil where the
	// last call was answered.
	Since     time.Time
	LastError error

	// ClockSkew is how far this host's clock is ahead of GitHub's (below 0: behind
	// it), to the second or so, by the last answer; 0 before the first.
	ClockSkew time.Duration
}

// Host tells whether GitHub answers.
func (c *Client) Host() HostStatus {
	s := HostStatus{ClockSkew: time.Duration(c.clock.skew.Load()).Round(time.Second)}
	c.breaker.status(&s)
	return s
}

// mayLeave tells whether a call would be refused before it left. It is asked
// before anything is signed for it.
func (c *Client) mayLeave(q *quota, request call) error {
	if _, err := q.admit(request); err != nil {
		return err
	}
	return c.breaker.check(request)
}

// depart waits until fewer than MaxConcurrent calls are under way, and returns
// what to call with. Each pass must be given to arrive.
func (c *Client) depart(ctx context.Context, q *quota, request call) (*github.Client, pass, error) {
	if err := c.breaker.check(request); err != nil {
		return nil, pass{}, err
	}
	select {
	case c.slots <- struct{}{}:
	case <-ctx.Done():
		return nil, pass{}, &apiError{kind: ErrUnavailable, doing: request.doing, cause: ctx.Err(),
			detail: fmt.Sprintf("nothing was sent, since all of the %d calls are under way that may be at once", cap(c.slots))}
	}
	gh, err := q.admit(request) // a limit may have been met meanwhile
	if err == nil {
		var p pass
		if p, err = c.breaker.admit(request); err == nil {
			return gh, p, nil
		}
	}
	<-c.slots
	return nil, pass{}, err
}

// arrive ends what depart began. Ctx is the caller's.
func (c *Client) arrive(ctx context.Context, p pass, o outcome, failure error) {
	<-c.slots
	if o == wasNotAnswered && ctx.Err() != nil && c.now().Sub(p.began) < patience {
		o = saysNothing
	}
	c.breaker.end(p, o, failure)
}

// outcomeOf reads go-github's answer to request. That there is none to a call for
// a check says nothing: a stranger's commits can make GitHub give up on one with a
// 500, or not end in time. Exchanges find out quickly enough by their own calls.
func outcomeOf(request call, response *github.Response, err error) outcome {
	switch {
	case err == nil, errors.As(err, new(*github.AcceptedError)): // the latter is 202, whose body was read
		return wasAnswered
	case request.isForCheck() && (response == nil || response.Response == nil || response.StatusCode >= 500 || response.StatusCode < 300):
		return saysNothing
	case response == nil || response.Response == nil || response.StatusCode >= 500:
		return wasNotAnswered
	case len(response.Header) == 0: // go-github refused by itself
		return saysNothing
	case response.StatusCode < 300: // the body broke off
		return wasNotAnswered
	}
	return wasAnswered
}

// clock compares this host's clock with GitHub's.
type clock struct {
	log  *zap.Logger
	skew atomic.Int64 // time.Duration; above 0 where ours is ahead
	off  atomic.Bool  // it is more than MaxClockSkew, and that was said
}

// observe returns GitHub's time where an answer has it, else ours.
func (c *clock) observe(header http.Header, ours time.Time) time.Time {
	theirs, err := http.ParseTime(header.Get("Date"))
	if err != nil {
		return ours
	}
	skew := ours.Sub(theirs)
	c.skew.Store(int64(skew))
	off := skew.Abs() > MaxClockSkew
	if c.off.Load() == off || !c.off.CompareAndSwap(!off, off) {
		return theirs
	}
	if off {
		c.log.Warn("this host's clock is not GitHub's: correct it, or App JWTs will be refused", zap.Duration("ahead", skew.Round(time.Second)))
	} else {
		c.log.Info("this host's clock agrees with GitHub's again")
	}
	return theirs
}
