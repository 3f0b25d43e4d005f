// Package span carries through a context what a request is called, and times its
// steps where somebody traces them.
//
// What is said of a step is one of this package's types, and nothing else can be
// said: a name and a place among those that a program's source has, numbers, and
// words out of bounded sets. So nothing that a caller sent, and nothing that GitHub
// handed out, can get into a trace.
package span

import (
	"context"
	"time"

	"go.uber.org/zap"
)

// Step is what is known of a step when it begins.
type Step struct {
	Name      string // one of a fixed few
	Elsewhere bool   // this process only waits for it
}

// End is what is known of a step when it has ended.
type End struct {
	// Decision is the audit log's word for how an exchange ended: denied is no fault of
	// ours. "" where nothing was decided.
	Decision string

	// Reason is why it did not do what it should, out of a bounded set; "" where it did.
	Reason string

	// Status is HTTP's; 0 where there is none.
	Status int
}

// Past is a step that another process of ours timed.
type Past struct {
	Step
	End
	HSM   int // index of the HSM in the signer's configuration; -1: the step is none of an HSM's
	Began time.Time
	Took  time.Duration
}

// Recorder is whoever traces. Its methods may be called by any goroutine.
type Recorder interface {
	// Begin begins a step. It is part of the one that ctx is in. What it returns ends
	// it, and is to be called once; later steps in the context are part of this one.
	Begin(ctx context.Context, s Step) (context.Context, func(End))

	// Traceparent names the step that ctx is in, in the form of W3C Trace Context
	// (https://www.w3.org/TR/trace-context/#traceparent-header), or is "".
	Traceparent(ctx context.Context) string

	// Note adds steps that were part of the one that ctx is in. The first of them has
	// the others as its parts.
	Note(ctx context.Context, steps []Past)
}

type (
	requestIDKey struct{}
	recorderKey  struct{}
)

// WithRequestID names the request that what is done with the context is part of.
func WithRequestID(ctx context.Context, id string) context.Context {
	return context.WithValue(ctx, requestIDKey{}, id)
}

// RequestID is "" where there is none: work that no request asked for.
func RequestID(ctx context.Context) string {
	id, _ := ctx.Value(requestIDKey{}).(string)
	return id
}

// Field is the request ID for a line of the log; it leaves no trace where there is
// none.
func Field(ctx context.Context) zap.Field {
	if id := RequestID(ctx); id != "" {
		return zap.String("request_id", id)
	}
	return zap.Skip()
}

// With has the steps of what is done with the context traced.
func With(ctx context.Context, r Recorder) context.Context {
	return context.WithValue(ctx, recorderKey{}, r)
}

func recorder(ctx context.Context) Recorder {
	r, _ := ctx.Value(recorderKey{}).(Recorder)
	return r
}

// IsOn tells whether steps are traced, for where saying what a step is costs
// something.
func IsOn(ctx context.Context) bool { return recorder(ctx) != nil }

// Begin begins a step. Where nobody traces, it returns ctx itself and allocates
// nothing.
func Begin(ctx context.Context, s Step) (context.Context, func(End)) {
	r := recorder(ctx)
	if r == nil {
		return ctx, ignore
	}
	return r.Begin(ctx, s)
}

func ignore(End) {}

// Traceparent is what another process of ours is told; "" where nobody traces.
func Traceparent(ctx context.Context) string {
	if r := recorder(ctx); r != nil {
		return r.Traceparent(ctx)
	}
	return ""
}

// Note adds steps that another process timed.
func Note(ctx context.Context, steps []Past) {
	if r := recorder(ctx); r != nil && len(steps) > 0 {
		r.Note(ctx, steps)
	}
}
