package signer

import (
	"context"
	"errors"
	"net/http"
	"testing"
	"time"

	"github.com/octo-sts/appliance/sts/span"
)

// recorded is a span.Recorder that remembers what it is told.
type recorded struct{ past []span.Past }

func (r *recorded) Begin(ctx context.Context, _ span.Step) (context.Context, func(span.End)) {
	return ctx, func(span.End) {}
}
func (r *recorded) Traceparent(context.Context) string { return "" }
func (r *recorded) Note(_ context.Context, past []span.Past) {
	r.past = append(r.past, past...)
}

// What the signer writes of its steps is what the daemon reads.
func TestStepsArriveAsTheyWere(t *testing.T) {
	request, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://signer"+pathAppJWT, nil)
	if err != nil {
		t.Fatal(err)
	}
	request.Header.Set(headerTraceparent, "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")
	request.Header.Set(headerRequestID, "REQUEST")
	ctx, s := withCaller(request)
	if span.RequestID(ctx) != "REQUEST" {
		t.Errorf("the request ID is %q", span.RequestID(ctx))
	}
	began := time.Now()
	if timeHSM(ctx, 0, func() error { return errors.New("away") }) == nil || timeHSM(ctx, 1, func() error { return nil }) != nil {
		t.Error("the HSMs' errors are lost")
	}
	r := &recorded{}
	noteSteps(span.With(t.Context(), r), s.header(began, nil))
	if len(r.past) != 3 {
		t.Fatalf("%d steps arrive, want 3", len(r.past))
	}
	for i, want := range []struct {
		name, reason string
		hsm          int
	}{{stepRequest, "", -1}, {stepHSM, "failed", 0}, {stepHSM, "", 1}} {
		p := r.past[i]
		if p.Name != want.name || p.Reason != want.reason || p.HSM != want.hsm || p.Took < 0 || p.Began.Before(began.Add(-time.Millisecond)) {
			t.Errorf("step %d is %+v, want %+v", i, p, want)
		}
	}
}

// Nobody who does not trace is told, and nothing is noted.
func TestStepsAreForThoseWhoTrace(t *testing.T) {
	request, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://signer/", nil)
	if err != nil {
		t.Fatal(err)
	}
	request.Header.Set(headerRequestID, "no ID\nof ours")
	if ctx, s := withCaller(request); s != nil || span.RequestID(ctx) != "" {
		t.Errorf("steps %v, request ID %q, want none", s, span.RequestID(ctx))
	}
}

// Whatever a signer writes, the daemon takes what it knows, or nothing.
func FuzzSteps(f *testing.F) {
	f.Add(`[{"name":"sign App JWT","hsm":-1,"began":1,"took":2},{"name":"HSM sign","hsm":0,"began":1,"took":1,"failed":true}]`)
	f.Add(`[{"name":"ghs_secret"}]`)
	f.Add(`null`)
	f.Fuzz(func(t *testing.T, header string) {
		r := &recorded{}
		noteSteps(span.With(t.Context(), r), header)
		if len(r.past) > maxSteps {
			t.Errorf("%d steps", len(r.past))
		}
		for _, p := range r.past {
			if p.Name != stepRequest && p.Name != stepHSM || p.Reason != "" && p.Reason != "failed" {
				t.Errorf("a step that no signer has: %+v", p)
			}
		}
	})
}
