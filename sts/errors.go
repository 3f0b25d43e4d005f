package sts

import (
	"errors"
	"fmt"
	"net/http"
	"time"

	"connectrpc.com/connect"

	"github.com/octo-sts/appliance/sts/githubapp"
)

// The kinds of refusal. Each has one row in the table below, which is the only
// place that knows how a kind looks on the wire.
var (
	ErrInvalidRequest  = errors.New("invalid request")
	ErrUnauthenticated = errors.New("ID token not accepted")
	ErrDenied          = errors.New("exchange not allowed")
	ErrOverloaded      = errors.New("too many requests")
	ErrUnavailable     = errors.New("temporarily unavailable")
	ErrUnimplemented   = errors.New("not implemented")
)

// Kinds of invalid request that OAuth has a name for, and nobody else.
var (
	ErrInvalidScope     = fmt.Errorf("%w: scope", ErrInvalidRequest)
	ErrInvalidTarget    = fmt.Errorf("%w: identity", ErrInvalidRequest)
	ErrUnsupportedGrant = fmt.Errorf("%w: grant type", ErrInvalidRequest)
	errNotPosted        = errors.New("the method is not POST")
)

// answers maps each kind of refusal to the wires: the gRPC code, the HTTP status
// that grpc-gateway gives that code, OAuth's error with its HTTP status (RFC 6749,
// section 5.2, and RFC 8693, section 2.2.2), and what the caller reads. A denial's
// text is one and the same whatever the reason was, so that it tells nothing of a
// policy, not even whether it exists. The last row serves what is in none of
// the others.
//
// RFC 8693 has an ID token that is not accepted be an invalid_request, and what
// is not granted to a good one an invalid_target. It has no error for the moments in
// which the same request may be made again; RFC 6749's for another endpoint
// (section 4.1.2.1) is taken, with the HTTP status and Retry-After that say the same.
var answers = []answer{
	{ErrInvalidScope, connect.CodeInvalidArgument, http.StatusBadRequest, "invalid_scope", http.StatusBadRequest, "invalid request"},
	{ErrInvalidTarget, connect.CodeInvalidArgument, http.StatusBadRequest, "invalid_target", http.StatusBadRequest, "invalid request"},
	{ErrUnsupportedGrant, connect.CodeInvalidArgument, http.StatusBadRequest, "unsupported_grant_type", http.StatusBadRequest, "invalid request"},
	{ErrInvalidRequest, connect.CodeInvalidArgument, http.StatusBadRequest, "invalid_request", http.StatusBadRequest, "invalid request"},
	{ErrUnauthenticated, connect.CodeUnauthenticated, http.StatusUnauthorized, "invalid_request", http.StatusBadRequest, "the ID token was not accepted"},
	{ErrDenied, connect.CodePermissionDenied, http.StatusForbidden, "invalid_target", http.StatusBadRequest, "the exchange is not allowed"},
	{ErrOverloaded, connect.CodeResourceExhausted, http.StatusTooManyRequests, "temporarily_unavailable", http.StatusTooManyRequests, "too many requests, try again later"},
	{ErrUnavailable, connect.CodeUnavailable, http.StatusServiceUnavailable, "temporarily_unavailable", http.StatusServiceUnavailable, "temporarily unavailable, try again"},
	{ErrUnimplemented, connect.CodeUnimplemented, http.StatusNotImplemented, "server_error", http.StatusNotImplemented, "not implemented"},
	{errNotPosted, connect.CodeUnimplemented, http.StatusNotImplemented, "invalid_request", http.StatusMethodNotAllowed, "the method is not POST"},
	{nil, connect.CodeInternal, http.StatusInternalServerError, "server_error", http.StatusInternalServerError, "internal error"},
}

type answer struct {
	kind        error
	code        connect.Code
	status      int
	oauth       string
	oauthStatus int
	message     string
}

// answerFor finds the row of err. A message with more in it than the table says
// is given only for an invalid request, where the caller reads back what the
// caller sent.
func answerFor(err error) answer {
	for _, a := range answers {
		if a.kind == nil || errors.Is(err, a.kind) {
			var r *Refusal
			if errors.Is(a.kind, ErrInvalidRequest) && errors.As(err, &r) && r.Detail != nil {
				a.message += ": " + r.Detail.Error()
			}
			return a
		}
	}
	panic("sts: the table of answers has no last row")
}

// HTTPStatus is the HTTP status that a gRPC code stands for: the one of the table
// of answers, else the one that grpc-gateway gives it.
func HTTPStatus(code connect.Code) int {
	for _, a := range answers {
		if a.code == code {
			return a.status
		}
	}
	switch code {
	case 0:
		return http.StatusOK
	case connect.CodeCanceled:
		return 499
	case connect.CodeNotFound:
		return http.StatusNotFound
	case connect.CodeDeadlineExceeded:
		return http.StatusGatewayTimeout
	}
	return http.StatusInternalServerError
}

// Refusal is why an exchange ended without a token.
type Refusal struct {
	// Kind is one of the sentinel errors above.
	Kind error

	// Reason is a short label out of a bounded set, for metrics and for
	// filtering the audit log.
	Reason string

	// Detail tells the operator everything. A caller sees it only where Kind is
	// ErrInvalidRequest.
	Detail error

	// RetryAfter is when to try again; 0 where nobody knows.
	RetryAfter time.Duration
}

// Error is for the operator; callers get what the table says.
func (r *Refusal) Error() string {
	if r.Detail == nil {
		return r.Reason
	}
	return r.Reason + ": " + r.Detail.Error()
}

// Unwrap lets errors.Is find the kind and whatever caused it.
func (r *Refusal) Unwrap() []error { return []error{r.Kind, r.Detail} }

func invalid(reason string, detail error) *Refusal {
	return &Refusal{Kind: ErrInvalidRequest, Reason: reason, Detail: detail}
}

func unauthenticated(reason string, detail error) *Refusal {
	return &Refusal{Kind: ErrUnauthenticated, Reason: reason, Detail: detail}
}

func denied(reason string, detail error) *Refusal {
	return &Refusal{Kind: ErrDenied, Reason: reason, Detail: detail}
}

func unavailable(reason string, detail error) *Refusal {
	return &Refusal{Kind: ErrUnavailable, Reason: reason, Detail: detail}
}

// asRefusal makes sure that what reaches an adapter has a kind and a reason.
func asRefusal(err error) *Refusal {
	var r *Refusal
	if errors.As(err, &r) {
		return r
	}
	return &Refusal{Kind: err, Reason: "internal", Detail: err}
}

// githubRefusal tells what an answer of GitHub's means for the caller: no
// installation, no policy and a refusal to mint are denials, all alike; the
// rest is GitHub's trouble, or the way to it.
func githubRefusal(err error) *Refusal {
	var limited *githubapp.RateLimitError
	switch {
	case errors.Is(err, githubapp.ErrNotInstalled):
		return denied("not_installed", err)
	case errors.Is(err, githubapp.ErrNotFound):
		return denied("no_policy", err)
	case errors.Is(err, githubapp.ErrNotAFile):
		return denied("policy_invalid", err)
	case errors.Is(err, githubapp.ErrRefused):
		return denied("github_refused", err)
	case errors.As(err, &limited):
		r := unavailable("github_rate_limited", err)
		r.RetryAfter = limited.RetryAfter
		return r
	case errors.Is(err, githubapp.ErrNoAppJWT):
		return unavailable("signer_unavailable", err)
	default:
		return unavailable("github_unavailable", err)
	}
}
