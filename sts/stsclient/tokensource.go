package stsclient

import (
	"context"
	"errors"
	"sync"
	"time"

	"golang.org/x/oauth2"
)

const (
	// renewBefore is how long before its end a token is replaced: longer than a
	// request that is made with it is under way.
	renewBefore = 5 * time.Minute

	// settled is for how long a failure stands: the appliance allows a subject as many
	// refusals in an hour.
	settled = time.Minute
)

// TokenSource returns a source of installation tokens for as long as a program
// runs. It makes an exchange when a token is first asked for, and again five minutes
// before each expires; one at a time, however many ask. Where a renewal fails, the token
// that is there is used to its end. A refusal is not repeated for a minute: until then whoever
// asks is told the same. Exchanges end with ctx.
func (c *Client) TokenSource(ctx context.Context) oauth2.TokenSource {
	return &tokenSource{ctx: ctx, exchange: c.Exchange, now: time.Now}
}

type tokenSource struct {
	ctx      context.Context // Token has none of its own
	exchange func(context.Context) (InstallationToken, error)
	now      func() time.Time

	mu      sync.Mutex // guards what follows
	current InstallationToken
	err     error     // of the last exchange
	failed  time.Time // when that ended
	flight  chan struct{}
}

// Token implements oauth2.TokenSource.
func (s *tokenSource) Token() (*oauth2.Token, error) {
	s.mu.Lock()
	for {
		now := s.now()
		alive := now.Before(s.current.Expiry)
		switch {
		case now.Before(s.current.Expiry.Add(-renewBefore)) || alive && (s.flight != nil || s.resting(now)):
			defer s.mu.Unlock()
			return &oauth2.Token{AccessToken: s.current.Value, TokenType: "Bearer", Expiry: s.current.Expiry}, nil
		case s.flight == nil && s.resting(now) && isRefusal(s.err):
			defer s.mu.Unlock()
			return nil, s.err
		case s.flight == nil:
			return s.renew()
		}
		flight := s.flight
		s.mu.Unlock()
		<-flight
		s.mu.Lock()
		if s.err != nil && !s.now().Before(s.current.Expiry) {
			defer s.mu.Unlock()
			return nil, s.err // whoever waited for an exchange shares what came of it
		}
	}
}

// resting needs s.mu. It tells whether an exchange failed a moment ago.
func (s *tokenSource) resting(now time.Time) bool {
	return s.err != nil && now.Sub(s.failed) < settled
}

// renew needs s.mu, and releases it. It makes the exchange that others wait for.
func (s *tokenSource) renew() (*oauth2.Token, error) {
	s.flight = make(chan struct{})
	s.mu.Unlock()
	token, err := s.exchange(s.ctx)
	s.mu.Lock()
	defer s.mu.Unlock()
	close(s.flight)
	s.flight, s.err, s.failed = nil, err, s.now()
	if err == nil {
		s.current = token
	} else if !s.now().Before(s.current.Expiry) {
		return nil, err
	}
	return &oauth2.Token{AccessToken: s.current.Value, TokenType: "Bearer", Expiry: s.current.Expiry}, nil
}

// isRefusal tells whether the same question would have the same answer.
func isRefusal(err error) bool {
	var refused *RefusedError
	return errors.As(err, &refused) && !refused.passing()
}
