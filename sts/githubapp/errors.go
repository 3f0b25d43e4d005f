package githubapp

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/google/go-github/v60/github"
)

// The kinds of failure, for errors.Is. An error's text is for the operator: what
// was being done, what GitHub said, and GitHub's request ID for its support.
var (
	// ErrNotInstalled: no App serves the owner, the repository is part of no
	// installation of one that does, or not of that one any more, or the
	// installation is suspended.
	ErrNotInstalled = errors.New("the App is not installed")

	// ErrNotFound: the repository has no such file on its default branch, or the
	// installation cannot see the repository; GitHub does not tell one from the
	// other. A redirect, a refusal or an unproven token is never ErrNotFound, so
	// the absence of a file can be relied on as far as GitHub can be.
	ErrNotFound = errors.New("there is no such file")

	// ErrNotAFile: a directory, symbolic link or submodule, or a file over 64 KiB.
	ErrNotAFile = errors.New("that is not a file of at most 64 KiB")

	// ErrTooLarge: GitHub's answer is larger than what is looked at. Asking again
	// does not help.
	ErrTooLarge = errors.New("that is too large")

	// ErrRefused: GitHub understood and said no (403 that is no rate limit, 422,
	// a redirect), or the request was one that must not be sent.
	ErrRefused = errors.New("refused")

	// ErrRateLimited: GitHub said to come back later. The error is a
	// *RateLimitError.
	ErrRateLimited = errors.New("rate limited by GitHub")

	// ErrUnavailable: no usable answer: network, time-out, 5xx, garbage.
	ErrUnavailable = errors.New("GitHub is unavailable")

	// ErrNoAppJWT: nothing was sent, since Config.AppJWT gave no App JWT.
	ErrNoAppJWT = errors.New("no App JWT can be had")
)

// RateLimitError is an ErrRateLimited with the time to wait.
type RateLimitError struct {
	// RetryAfter is how long from now no call of this kind will leave, above 0.
	RetryAfter time.Duration

	doing  string
	detail string
}

func (e *RateLimitError) Error() string {
	return fmt.Sprintf("%s: %v: %s; no call leaves for %s", e.doing, ErrRateLimited, e.detail, e.RetryAfter.Round(time.Second))
}

// Unwrap makes errors.Is find ErrRateLimited.
func (e *RateLimitError) Unwrap() error { return ErrRateLimited }

// apiError is every other failure.
type apiError struct {
	kind   error // one of the sentinels
	doing  string
	detail string // what GitHub said; may be empty
	cause  error  // may be nil
	status int    // GitHub's; 0 where there was no answer
}

func (e *apiError) Error() string {
	text := e.doing + ": " + e.kind.Error()
	if e.detail != "" {
		text += ": " + e.detail
	}
	if e.cause != nil {
		text += ": " + e.cause.Error()
	}
	return text
}

func (e *apiError) Unwrap() []error {
	if e.cause == nil {
		return []error{e.kind}
	}
	return []error{e.kind, e.cause}
}

// statusOf returns the status of GitHub's answer behind err, or 0.
func statusOf(err error) int {
	if e := (*apiError)(nil); errors.As(err, &e) {
		return e.status
	}
	return 0
}

// kindOf tells what a status means that is no success and no rate limit.
func kindOf(status int, request call) error {
	switch {
	case status == http.StatusNotFound:
		return request.missing
	case request.unable != nil && (status == http.StatusInternalServerError || status == http.StatusUnprocessableEntity):
		return request.unable
	case status == http.StatusUnauthorized, status == http.StatusRequestTimeout, status == http.StatusNotModified, status >= 500:
		// 401 is about our credentials, not about what was asked for; 304 is no
		// answer to a call that named no version.
		return ErrUnavailable
	default:
		return ErrRefused
	}
}

// said is what GitHub wrote in an answer that is an error.
type said struct {
	message string // bounded, quoted
	limited bool   // the text speaks of a rate limit
}

// heard reads what go-github made of an answer. response.Body was replaced by a
// copy in memory by then.
func heard(response *github.Response, err error) said {
	message := ""
	var plain *github.ErrorResponse
	var limit *github.RateLimitError
	var abuse *github.AbuseRateLimitError
	switch {
	case errors.As(err, &plain):
		message = plain.Message
		for _, e := range plain.Errors {
			message += "; " + strings.TrimSpace(e.Resource+" "+e.Field+" "+e.Code+" "+e.Message)
		}
		if message == "" { // a proxy's page, perhaps
			body, _ := io.ReadAll(io.LimitReader(response.Body, 2048))
			message = string(bytes.TrimSpace(body))
		}
	case errors.As(err, &limit):
		message = limit.Message
	case errors.As(err, &abuse):
		message = abuse.Message
	}
	lower := strings.ToLower(message)
	return said{
		message: quote(message),
		limited: limit != nil || abuse != nil || strings.Contains(lower, "rate limit") || strings.Contains(lower, "abuse detection"),
	}
}

// quote makes foreign text fit for one log line.
func quote(text string) string {
	const most = 300
	if len(text) > most {
		text = text[:most] + "…"
	}
	return strconv.Quote(text)
}

// describe says what GitHub answered, for the operator.
func (c *Client) describe(response *http.Response, message string) string {
	text := fmt.Sprintf("GitHub answered %d", response.StatusCode)
	if message != "" && message != `""` {
		text += " " + message
	}
	if id := response.Header.Get("X-Github-Request-Id"); id != "" {
		text += " (GitHub request ID " + quote(id) + ")"
	}
	if 300 <= response.StatusCode && response.StatusCode < 400 && response.StatusCode != http.StatusNotModified {
		text += fmt.Sprintf(", a redirect to %s: redirects are never followed. The repository or its owner was renamed or moved: use the new name (or correct the API's URL)",
			quote(response.Header.Get("Location")))
	}
	if response.StatusCode == http.StatusUnauthorized {
		text += c.clockHint(response.Header)
	}
	return text
}

// clockHint says so where our clock is far from GitHub's: App JWTs are then
// refused as expired or not yet valid.
func (c *Client) clockHint(header http.Header) string {
	theirs, err := http.ParseTime(header.Get("Date"))
	if err != nil {
		return ""
	}
	off := c.now().Sub(theirs).Round(10 * time.Second) // both ends round, and the answer took its time
	switch {
	case off > MaxClockSkew:
		return fmt.Sprintf(". This host's clock is %s ahead of GitHub's: correct it", off)
	case off < -MaxClockSkew:
		return fmt.Sprintf(". This host's clock is %s behind GitHub's: correct it", -off)
	}
	return ""
}
