package sts

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"connectrpc.com/connect"
	"github.com/google/go-cmp/cmp"
	"github.com/grpc-ecosystem/grpc-gateway/v2/runtime"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protojson"

	"github.com/octo-sts/appliance/sts/audit"
)

// gatewayDefault is the marshaler that a grpc-gateway has where nobody chose one.
var gatewayDefault = &runtime.JSONPb{MarshalOptions: protojson.MarshalOptions{EmitUnpopulated: true}}

// Every row answers as grpc-gateway, whose clients we keep, would answer its
// code: the same HTTP status and the same JSON.
func TestAnswersAreGRPCGateways(t *testing.T) {
	for _, row := range answers {
		err := row.kind
		if err == nil {
			err = errors.New("something that no row names")
		}
		ctx := WithCaller(context.Background(), Caller{RequestID: "R"})
		request := httptest.NewRequestWithContext(ctx, http.MethodGet, "/sts/exchange", nil)

		ours := httptest.NewRecorder()
		WriteError(ours, request, &Refusal{Kind: err, Reason: "x"})

		theirs := httptest.NewRecorder()
		mux := runtime.NewServeMux()
		runtime.DefaultHTTPErrorHandler(ctx, mux, gatewayDefault, theirs, request,
			status.Error(codes.Code(row.code), row.message+" (request R)"))

		if ours.Code != theirs.Code || ours.Code != row.status {
			t.Errorf("%v: HTTP status %d, grpc-gateway has %d", err, ours.Code, theirs.Code)
		}
		if got, want := ours.Header().Get("Content-Type"), theirs.Header().Get("Content-Type"); got != want {
			t.Errorf("%v: Content-Type %q, grpc-gateway has %q", err, got, want)
		}
		if d := cmp.Diff(decode(t, theirs.Body), decode(t, ours.Body)); d != "" {
			t.Errorf("%v: body (-grpc-gateway +ours):\n%s", err, d)
		}
	}
}

// What a caller did wrong is denied: no stranger can have somebody woken for failures. What is wrong here has failed.
func TestDecisionOf(t *testing.T) {
	for _, row := range answers {
		kind, want := row.kind, audit.DecisionDenied
		if kind == nil {
			kind = errors.New("something that no row names")
		}
		if row.kind == nil || row.kind == ErrUnavailable {
			want = audit.DecisionFailed
		}
		if got := decisionOf(&Refusal{Kind: kind}); got != want {
			t.Errorf("%v: %s, want %s", kind, got, want)
		}
	}
}

func decode(t *testing.T, r io.Reader) (v any) {
	t.Helper()
	if err := json.NewDecoder(r).Decode(&v); err != nil {
		t.Fatal(err)
	}
	return v
}

// Only an invalid request's detail, which is about what the caller sent, reaches
// the caller.
func TestDetailIsTheOperators(t *testing.T) {
	for _, row := range answers {
		if row.kind == nil {
			continue
		}
		a := answerFor(&Refusal{Kind: row.kind, Reason: "reason", Detail: errors.New("detail")})
		want := row.message
		if errors.Is(row.kind, ErrInvalidRequest) {
			want += ": detail"
		}
		if a.message != want {
			t.Errorf("%v: the caller reads %q", row.kind, a.message)
		}
	}
}

func TestDenialsAreAllAlike(t *testing.T) {
	bodies := map[string]bool{}
	for _, reason := range []string{"no_policy", "policy_invalid", "mismatch", "ceiling", "not_installed", "untrusted_issuer"} {
		w := httptest.NewRecorder()
		r := httptest.NewRequestWithContext(WithCaller(context.Background(), Caller{RequestID: "R"}), http.MethodGet, "/", nil)
		WriteError(w, r, denied(reason, errors.New(reason)))
		bodies[w.Body.String()] = true
	}
	if len(bodies) != 1 {
		t.Errorf("denials differ: %v", bodies)
	}
}

func TestRetryAfterIsInWholeSecondsRoundedUp(t *testing.T) {
	err := &Refusal{Kind: ErrUnavailable, Reason: "github_rate_limited", RetryAfter: 1200 * time.Millisecond}
	w := httptest.NewRecorder()
	WriteError(w, httptest.NewRequest(http.MethodGet, "/", nil), err)
	if got := w.Header().Get("Retry-After"); got != "2" {
		t.Errorf("Retry-After: %q", got)
	}
	if got := connectError(err, "R").Meta().Get("Retry-After"); got != "2" {
		t.Errorf("gRPC metadata retry-after: %q", got)
	}
}

// A gRPC call that is shed before its handler is answered in gRPC's own form.
func TestWriteErrorSpeaksGRPC(t *testing.T) {
	r := httptest.NewRequest(http.MethodPost, "/chainguard.platform.oidc.SecurityTokenService/Exchange", nil)
	r.Header.Set("Content-Type", "application/grpc")
	w := httptest.NewRecorder()
	WriteError(w, r, &Refusal{Kind: ErrOverloaded, Reason: "address_rate"})
	result := w.Result()
	if result.StatusCode != http.StatusOK || result.Trailer.Get("Grpc-Status") != "8" {
		t.Errorf("HTTP status %d, headers %v, trailers %v", result.StatusCode, result.Header, result.Trailer)
	}
	if connect.CodeResourceExhausted != 8 {
		t.Error("connect's codes are not gRPC's")
	}
}
