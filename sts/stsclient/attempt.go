package stsclient

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"
)

const (
	// attempts is how often a request is made in all, and longestPause what is
	// waited for at most before the next: where the appliance names a longer time, whoever
	// called is told at once.
	attempts     = 4
	firstPause   = 500 * time.Millisecond
	longestPause = 30 * time.Second

	// maxAnswer bounds what is read of an answer, in bytes. A grant has a few hundred.
	maxAnswer = 64 << 10
)

// unreachedError is that there was no answer. Whether the request arrived is unknown; if it
// did, nobody has what it led to.
type unreachedError struct{ cause error }

func (e *unreachedError) Error() string { return e.cause.Error() }
func (e *unreachedError) Unwrap() error { return e.cause }

// repeat makes attempts until one succeeds or is answered with what will not change.
func (c *Client) repeat(ctx context.Context, attempt func(context.Context) error) error {
	for tried := 1; ; tried++ {
		err := attempt(ctx)
		wait, again := nextAttempt(err, tried)
		if err == nil || !again || ctx.Err() != nil {
			return err
		}
		if c.pause(ctx, wait) != nil {
			return err // what went wrong says more than that there is no time left
		}
	}
}

// nextAttempt says whether to try again after an attempt, and when.
func nextAttempt(err error, tried int) (wait time.Duration, again bool) {
	if err == nil || tried >= attempts {
		return 0, false
	}
	wait = jitter(firstPause << (tried - 1))
	var unreached *unreachedError
	var refused *RefusedError
	var untrusted *tls.CertificateVerificationError
	switch {
	case errors.As(err, &untrusted):
		return 0, false
	case errors.As(err, &unreached):
		return wait, true
	case errors.As(err, &refused) && refused.passing():
		if refused.RetryAfter > 0 {
			wait = refused.RetryAfter + jitter(refused.RetryAfter/10)
		}
		return wait, refused.RetryAfter <= longestPause
	}
	return 0, false
}

// jitter spreads those who were all turned away at once: half to one and a half of d.
func jitter(d time.Duration) time.Duration { return d/2 + rand.N(d+1) }

// pause waits for d, or returns ctx's error: at once where it would end before.
func pause(ctx context.Context, d time.Duration) error {
	if end, ok := ctx.Deadline(); ok && time.Until(end) < d {
		return context.DeadlineExceeded
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-timer.C:
		return nil
	}
}

// answer is what the appliance said, whole.
type answer struct {
	status int
	header http.Header
	body   []byte
}

// send makes one request. No error of its holds the URL's query, a header or a body.
func (c *Client) send(r *http.Request) (*answer, error) {
	r.Header.Set("Accept", "application/json")
	r.Header.Set("User-Agent", c.config.UserAgent)
	response, err := c.http.Do(r)
	if err != nil {
		if u := (*url.Error)(nil); errors.As(err, &u) {
			err = u.Err
		}
		return nil, &unreachedError{fmt.Errorf("asking: %w", err)}
	}
	defer response.Body.Close()
	body, err := io.ReadAll(io.LimitReader(response.Body, maxAnswer+1))
	if err != nil {
		return nil, &unreachedError{fmt.Errorf("reading the answer: %w", err)}
	}
	if len(body) > maxAnswer {
		return nil, fmt.Errorf("the answer is longer than %d bytes: is this an octo-sts appliance?", maxAnswer)
	}
	return &answer{response.StatusCode, response.Header, body}, nil
}

// parseGrant reads the answer to an exchange that was granted.
func parseGrant(body []byte) (InstallationToken, error) {
	var grant struct {
		Token  string    `json:"token"`
		Expiry time.Time `json:"expiry"`
	}
	// The error of a decoder may quote what it read.
	if json.Unmarshal(body, &grant) != nil || !visible(grant.Token) || grant.Expiry.IsZero() {
		return InstallationToken{}, errors.New("the answer holds no token and expiry: is this an octo-sts appliance?")
	}
	return InstallationToken{Value: grant.Token, Expiry: grant.Expiry}, nil
}

// parseRevocation reads the answer to a revocation.
func parseRevocation(body []byte) error {
	var answer struct {
		Revoked *bool `json:"revoked"`
	}
	if json.Unmarshal(body, &answer) != nil || answer.Revoked == nil {
		return errors.New("the answer does not say whether the token was revoked: is this an octo-sts appliance?")
	}
	if !*answer.Revoked {
		return ErrUnknownToken
	}
	return nil
}

// refusal reads any other answer: of the appliance in one of its two forms (that of gRPC and
// RFC 6749's), or of whatever answered in its place, which may repeat the token that it was shown.
func (a *answer) refusal(sent Sent, shown string) *RefusedError {
	e := &RefusedError{Status: a.status, RequestID: a.header.Get("X-Request-Id"), RetryAfter: retryAfter(a.header, time.Now()), Sent: sent}
	var said struct {
		Message     string `json:"message"`
		Description string `json:"error_description"`
	}
	_ = json.Unmarshal(a.body, &said) // a proxy's page has neither
	e.Message = said.Message + said.Description
	if shown != "" {
		e.Message = strings.ReplaceAll(e.Message, shown, "[the token]")
	}
	e.Message = clip(e.Message, 1000)
	if e.Message == "" {
		e.Message = strings.ToLower(http.StatusText(a.status))
	}
	e.RequestID = clip(e.RequestID, 100)
	return e
}

// retryAfter reads Retry-After in either of its forms (RFC 9110, section 10.2.3); 0 where there is
// none that can be understood.
func retryAfter(h http.Header, now time.Time) time.Duration {
	value := h.Get("Retry-After")
	if seconds, err := strconv.ParseUint(value, 10, 31); err == nil {
		return time.Duration(seconds) * time.Second
	}
	if at, err := http.ParseTime(value); err == nil {
		return max(0, at.Sub(now))
	}
	return 0
}
