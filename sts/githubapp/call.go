package githubapp

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/google/go-github/v60/github"
	"go.uber.org/zap"

	"github.com/octo-sts/appliance/sts/span"
)

// usualAnswer is room for most answers, in bytes: GitHub describes each repository
// of a token that it minted in some 6 KiB. What is longer grows the buffer.
const usualAnswer = 8 << 10

// call is one request to GitHub.
type call struct {
	operation string // for metrics: one of a fixed few
	doing     string // for errors: "reading F of O/R"
	method    string
	path      string // relative to the API's root, escaped
	body      any    // nil: none
	etag      string // "": unconditional
	bodyLimit int64  // 0: defaultBodyLimit
	missing   error  // the kind of a 404
	unable    error  // the kind of a 500 and of a 422, where these are about what was asked; nil: the usual ones

	// from names what the call is for in lines of the log.
	from zap.Field

	// background: nobody waits for it, so it leaves the last half of the quota, and
	// half of what may be under way at once, to exchanges.
	background bool

	// asApp: the answer says nothing of an installation's quota, even where the call
	// is held back with those of one.
	asApp bool

	// urgent: it is tried even while GitHub does not answer.
	urgent bool
}

// isForCheck tells whether it looks at, or reports on, what a pull request or a
// push brought, which is whatever a stranger likes.
func (r call) isForCheck() bool { return r.background && !r.asApp }

// answer is what came back: 2xx, or 304 where the call had an ETag.
type answer struct {
	notModified bool
	etag        string
	cursor      string    // of the next page; "" where this is the last
	date        time.Time // GitHub's clock; ours where it did not say
	status      int
}

// do sends one call under credential, and decodes the body of a success into
// out where out is not nil. It never retries and never follows. Errors are
// *RateLimitError and *apiError.
//
// GitHub is told nothing of the trace that the call is part of: it could not show its
// own part to anyone, and the trace's ID may be one that a caller chose.
func (c *Client) do(ctx context.Context, q *quota, credential string, request call, out any) (answer, error) {
	request.from = span.Field(ctx)
	if !span.IsOn(ctx) {
		return c.send(ctx, q, credential, request, out)
	}
	ctx, end := span.Begin(ctx, span.Step{Name: "GitHub " + request.operation, Elsewhere: true})
	got, err := c.send(ctx, q, credential, request, out)
	done := span.End{Status: got.status}
	if err != nil {
		done.Status = statusOf(err)
	}
	// That there is no such file is an answer like another.
	if outcome := labelOf(err, err, got.notModified); outcome != OutcomeOK && outcome != OutcomeNotModified && outcome != OutcomeNotFound {
		done.Reason = outcome
	}
	end(done)
	return got, err
}

func (c *Client) send(ctx context.Context, q *quota, credential string, request call, out any) (answer, error) {
	if request.background {
		if err := c.awaitTurn(ctx, q, request); err != nil {
			return answer{}, c.notSent(request, err)
		}
		defer func() { <-c.background }()
	}
	callCtx, cancel := context.WithTimeout(withBodyLimit(ctx, request.bodyLimit), c.callTimeout)
	defer cancel()
	gh, err := q.admit(request)
	if err != nil {
		return answer{}, c.notSent(request, err)
	}
	httpRequest, err := gh.NewRequest(request.method, request.path, request.body)
	if err != nil {
		return answer{}, &apiError{kind: ErrRefused, doing: request.doing, cause: err}
	}
	httpRequest.Header.Set("Authorization", "Bearer "+credential)
	if request.etag != "" {
		httpRequest.Header.Set("If-None-Match", request.etag)
	}
	gh, p, err := c.depart(callCtx, q, request)
	if err != nil {
		return answer{}, c.notSent(request, err)
	}
	// The body is read whole before anything is decoded: what was cut short
	// must not pass, and a connection whose answer was read is used again.
	var body bytes.Buffer
	body.Grow(usualAnswer)
	sent := time.Now()
	response, err := gh.Do(callCtx, httpRequest, &body)
	took := time.Since(sent)
	got := answer{date: c.now()}
	if response != nil && response.Response != nil {
		got.date = c.clock.observe(response.Header, got.date)
		got.etag, got.cursor = response.Header.Get("ETag"), response.Cursor
		got.status = response.StatusCode
		got.notModified = response.StatusCode == http.StatusNotModified && request.etag != ""
		if !request.asApp {
			q.observe(response.Rate, got.date)
		}
	}
	var failure error
	if err != nil && !got.notModified {
		failure = c.failed(q, request, response, err)
	}
	c.arrive(ctx, p, outcomeOf(request, response, err), failure)
	c.observe(Observation{Operation: request.operation, Outcome: labelOf(err, failure, got.notModified), Duration: took})
	if failure != nil {
		return answer{}, failure
	}
	q.succeeded(request)
	if out != nil && !got.notModified {
		if err := json.Unmarshal(body.Bytes(), out); err != nil {
			return answer{}, &apiError{kind: ErrUnavailable, doing: request.doing, status: response.StatusCode,
				detail: c.describe(response.Response, "with what is not the JSON expected"), cause: err}
		}
	}
	return got, nil
}

// failed tells what an error of go-github's means, and holds q back where
// GitHub said so.
func (c *Client) failed(q *quota, request call, response *github.Response, err error) error {
	if response == nil || response.Response == nil {
		return &apiError{kind: ErrUnavailable, doing: request.doing, cause: err}
	}
	status := response.StatusCode
	if 200 <= status && status < 300 {
		// The body broke off or was too large; or 202, for something that
		// GitHub would do later, which is no answer to any of our calls.
		return &apiError{kind: ErrUnavailable, doing: request.doing, status: status, detail: c.describe(response.Response, ""), cause: err}
	}
	words := heard(response, err)
	detail := c.describe(response.Response, words.message)
	kind := kindOf(status, request)
	wait, told := q.retryAfter(response.Header, err)
	limited := status == http.StatusTooManyRequests || status == http.StatusForbidden && (words.limited || told)
	switch {
	case limited:
		// What checks do too much of, they alone stop doing. If that is not enough for
		// GitHub, the next call of an exchange's is told so.
		wait = q.holdBack(wait, told, ErrRateLimited, request.background && isSecondary(response.Header), request.from)
		return &RateLimitError{RetryAfter: wait, doing: request.doing, detail: detail}
	case told && status >= 500:
		wait = q.holdBack(wait, told, ErrUnavailable, request.background, request.from)
		detail += fmt.Sprintf(", to be asked again in %s", wait.Round(time.Second))
	}
	return &apiError{kind: kind, doing: request.doing, status: status, detail: detail}
}

// doAsApp makes a call as the App itself. A 401 may mean that GitHub dislikes
// this one JWT (its clock is a little behind, or the key was changed), and
// cannot mean that something was done: so it is tried once more with a new JWT.
func (c *Client) doAsApp(ctx context.Context, a *app, q *quota, request call, out any) (answer, error) {
	request.asApp = true
	for attempt := 0; ; attempt++ {
		// No JWT is asked for, and so nothing signed, for a call that may not leave.
		if err := c.mayLeave(q, request); err != nil {
			return answer{}, c.notSent(request, err)
		}
		jwt, err := a.jwt.get(ctx)
		if err != nil {
			return answer{}, c.notSent(request, &apiError{kind: ErrNoAppJWT, doing: request.doing, cause: err})
		}
		got, err := c.do(ctx, q, jwt, request, out)
		if err == nil || statusOf(err) != http.StatusUnauthorized || attempt > 0 || !a.jwt.drop(jwt) {
			if e := (*apiError)(nil); errors.As(err, &e) && e.status == http.StatusUnauthorized {
				e.detail += fmt.Sprintf(". If the clock is right, check that App %d's current key is among the keys on its settings page", a.id)
			}
			return got, err
		}
	}
}
