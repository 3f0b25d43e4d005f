package appliance

import (
	"context"
	"math/rand/v2"
	"net/http"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/propagation"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"

	"github.com/octo-sts/appliance/sts/audit"
	"github.com/octo-sts/appliance/sts/span"
)

// tracing makes spans of what package span is told. It is nil where tracing is off.
type tracing struct {
	daemon, signer trace.Tracer // of the two programs, as a collector tells them apart
	export         *exporter
	flush          func(context.Context) error
}

// Attributes of spans: there are no others. Where OpenTelemetry's semantic conventions
// have a name for it, it has that one.
const (
	attributeMethod    = attribute.Key("http.request.method")
	attributeRoute     = attribute.Key("http.route")
	attributeStatus    = attribute.Key("http.response.status_code")
	attributeError     = attribute.Key("error.type") // why, out of a bounded set
	attributeRequestID = attribute.Key("octo_sts.request_id")
	attributeDecision  = attribute.Key("octo_sts.decision")
	attributeHSM       = attribute.Key("octo_sts.hsm")
)

// tracedRoutes are the paths whose requests are traced. Strangers ask for many others.
func tracedRoutes() map[string]bool {
	return map[string]bool{
		"/sts/exchange": true, "/sts/token": true, "/sts/revoke": true, "/webhook": true,
		"/chainguard.platform.oidc.SecurityTokenService/Exchange": true,
	}
}

// handler traces the requests to next, a span each, as long as tracing is on.
func (t *tracing) handler(next http.Handler) http.Handler {
	if t == nil || next == nil {
		return next
	}
	routes := tracedRoutes()
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !routes[r.URL.Path] || isSelfCheck(r) {
			next.ServeHTTP(w, r)
			return
		}
		method := knownMethod(r.Method)
		ctx := propagation.TraceContext{}.Extract(r.Context(), onlyTraceparent(r.Header))
		ctx, one := t.daemon.Start(ctx, method+" "+r.URL.Path, trace.WithSpanKind(trace.SpanKindServer))
		defer one.End()
		if !one.IsRecording() {
			next.ServeHTTP(w, r.WithContext(ctx))
			return
		}
		seen := &statusSeen{ResponseWriter: w, status: http.StatusOK}
		next.ServeHTTP(seen, r.WithContext(span.With(ctx, t)))
		one.SetAttributes(attributeMethod.String(method), attributeRoute.String(r.URL.Path),
			attributeStatus.Int(seen.status), attributeRequestID.String(span.RequestID(ctx)))
		if seen.status >= http.StatusInternalServerError {
			one.SetStatus(codes.Error, "")
		}
	})
}

// onlyTraceparent leaves out tracestate, and with it whatever a stranger would like to
// have in somebody's collector.
type onlyTraceparent http.Header

func (h onlyTraceparent) Get(key string) string {
	if values := http.Header(h).Values(key); key == "traceparent" && len(values) == 1 {
		return values[0]
	}
	return ""
}

func (h onlyTraceparent) Set(string, string) {}
func (h onlyTraceparent) Keys() []string     { return []string{"traceparent"} }

// knownMethod is a method, or _OTHER, as the semantic conventions have it.
func knownMethod(method string) string {
	switch method {
	case http.MethodGet, http.MethodPost, http.MethodHead, http.MethodPut, http.MethodDelete, http.MethodPatch, http.MethodOptions:
		return method
	}
	return "_OTHER"
}

// statusSeen notes the status of an answer.
type statusSeen struct {
	http.ResponseWriter
	status int
}

// Unwrap is for http.ResponseController.
func (s *statusSeen) Unwrap() http.ResponseWriter { return s.ResponseWriter }

func (s *statusSeen) WriteHeader(status int) {
	s.status = status
	s.ResponseWriter.WriteHeader(status)
}

// dice samples. What another process of ours began, or this one, is sampled as it began.
// A caller's traceparent says which trace an exchange is part of, and nothing more: if its
// sampled flag counted, or the part of the trace ID that others throw dice with, every
// stranger could have all that he sends be traced, or be left out.
type dice struct{ part float64 }

func (d dice) ShouldSample(p sdktrace.SamplingParameters) sdktrace.SamplingResult {
	parent := trace.SpanContextFromContext(p.ParentContext)
	sampled := parent.IsSampled()
	if !parent.IsValid() || parent.IsRemote() {
		sampled = rand.Float64() < d.part
	}
	if sampled {
		return sdktrace.SamplingResult{Decision: sdktrace.RecordAndSample}
	}
	return sdktrace.SamplingResult{Decision: sdktrace.Drop}
}

func (d dice) Description() string { return "dice" }

// everything traces what no request asked for, too: a trace of its own, if any.
func (t *tracing) everything(ctx context.Context) context.Context {
	if t == nil || span.IsOn(ctx) {
		return ctx
	}
	return span.With(ctx, t)
}

// Begin implements span.Recorder.
func (t *tracing) Begin(ctx context.Context, s span.Step) (context.Context, func(span.End)) {
	ctx, one := begin(ctx, t.daemon, s)
	return ctx, func(e span.End) {
		finish(one, e)
		one.End()
	}
}

// Traceparent implements span.Recorder.
func (t *tracing) Traceparent(ctx context.Context) string {
	carrier := propagation.MapCarrier{}
	propagation.TraceContext{}.Inject(ctx, carrier)
	return carrier["traceparent"]
}

// Note implements span.Recorder. Those who time steps for us are the signer.
func (t *tracing) Note(ctx context.Context, steps []span.Past) {
	for i, s := range steps {
		within, one := begin(ctx, t.signer, s.Step, trace.WithTimestamp(s.Began))
		if s.HSM >= 0 {
			one.SetAttributes(attributeHSM.Int(s.HSM))
		}
		finish(one, s.End)
		one.End(trace.WithTimestamp(s.Began.Add(s.Took)))
		if i == 0 {
			ctx = within // the others are its parts
		}
	}
}

func begin(ctx context.Context, by trace.Tracer, s span.Step, options ...trace.SpanStartOption) (context.Context, trace.Span) {
	if s.Elsewhere {
		options = append(options, trace.WithSpanKind(trace.SpanKindClient))
	}
	return by.Start(ctx, s.Name, options...)
}

func finish(one trace.Span, e span.End) {
	if e.Status != 0 {
		one.SetAttributes(attributeStatus.Int(e.Status))
	}
	if e.Decision != "" {
		one.SetAttributes(attributeDecision.String(e.Decision))
	}
	if e.Reason != "" {
		one.SetAttributes(attributeError.String(e.Reason))
		if e.Decision != audit.DecisionDenied {
			one.SetStatus(codes.Error, "")
		}
	}
}

// lastSpans is how long the last spans have to reach the collector.
const lastSpans = 2 * time.Second

// close sends what has not been sent.
func (t *tracing) close() {
	if t == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), lastSpans)
	defer cancel()
	_ = t.flush(ctx) // whether spans arrive was logged all along
}
