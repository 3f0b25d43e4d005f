package stsclient

import (
	"context"
	"errors"
	"time"

	"golang.org/x/oauth2"
)

const (
	// renewBefore is how long before its end a token is replaced: longer than a
	// request that is made with it is under way.
	renewBefore = 5 * time.Minute

	// patience bounds a renewal while the token that is there still lives, since
	// everybody who asks waits for it. The appliance gives an exchange ten seconds.
	patience = 15 * time.Second

	// settled is for how long a refusal stands: the appliance allows a subject as many
	// refusals in an hour. It is also the pause between renewals that fail.
	settled = time.Minute

	// shared is for how long any other failure stands: those who waited together get
	// one answer.
	shared = time.Second
)

// TokenSource returns a source of installation tokens for as long as a program
// runs. It makes an exchange when a token is first asked for, and again when one is
// asked for within the last five minutes of its life; one at a time, however many ask.
// Where a renewal fails, the token that is there is used to its end. A refusal is not
// repeated for a minute: until then whoever asks is told the same. Exchanges end with ctx.
//
// It is safe for concurrent use.
func (c *Client) TokenSource(ctx context.Context) oauth2.TokenSource {
	return oauth2.ReuseTokenSourceWithExpiry(nil, &renewal{ctx: ctx, exchange: c.Exchange, now: time.Now}, renewBefore)
}

// renewal is asked only while there is no token, or one that is to be replaced, and by
// one goroutine at a time: package oauth2 sees to both.
type renewal struct {
	ctx      context.Context // Token has none of its own
	exchange func(context.Context) (InstallationToken, error)
	now      func() time.Time

	current InstallationToken
	err     error     // of the last exchange
	next    time.Time // no exchange before
}

// Token implements oauth2.TokenSource.
func (r *renewal) Token() (*oauth2.Token, error) {
	if now := r.now(); !now.Before(r.next) {
		r.renew(now.Before(r.current.Expiry))
	}
	if r.err != nil && !r.now().Before(r.current.Expiry) {
		return nil, r.err
	}
	return &oauth2.Token{AccessToken: r.current.Value, TokenType: "Bearer", Expiry: r.current.Expiry}, nil
}

func (r *renewal) renew(alive bool) {
	ctx := r.ctx
	if alive {
		limited, cancel := context.WithTimeout(ctx, patience)
		defer cancel()
		ctx = limited
	}
	var token InstallationToken
	token, r.err = r.exchange(ctx)
	var refused *RefusedError
	switch isRefused := errors.As(r.err, &refused); {
	case r.err == nil:
		// A clock that is wrong by an hour is no reason to ask each time.
		r.current, r.next = token, r.now().Add(settled)
	case isRefused && !refused.passing():
		r.next = r.now().Add(settled)
	case isRefused && refused.RetryAfter > 0:
		r.next = r.now().Add(refused.RetryAfter)
	default:
		r.next = r.now().Add(shared)
		if again := r.now().Add(settled); alive && again.Before(r.current.Expiry) {
			r.next = again
		}
	}
}
