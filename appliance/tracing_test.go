package appliance

import (
	"context"
	"maps"
	"net/http"
	"net/http/httptest"
	"slices"
	"testing"
	"time"

	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"

	"github.com/octo-sts/appliance/sts"
	"github.com/octo-sts/appliance/sts/span"
)

// newTestTracing keeps the spans here.
func newTestTracing(t *testing.T, part float64) (*tracing, *tracetest.InMemoryExporter) {
	t.Helper()
	spans := tracetest.NewInMemoryExporter()
	provider := sdktrace.NewTracerProvider(sdktrace.WithSampler(dice{part}), sdktrace.WithSyncer(spans))
	return &tracing{daemon: provider.Tracer("octo-stsd"), signer: provider.Tracer("octo-sts-signer")}, spans
}

// call has a handler that takes three steps asked for a path.
func call(t *tracing, path string, header http.Header) {
	handler := t.handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		ctx, end := span.Begin(r.Context(), span.Step{Name: "exchange"})
		_, endCall := span.Begin(ctx, span.Step{Name: "GitHub mint", Elsewhere: true})
		endCall(span.End{Status: 503, Reason: "unavailable"})
		span.Note(ctx, []span.Past{
			{Step: span.Step{Name: "sign App JWT"}, HSM: -1, Began: time.Now(), Took: time.Second},
			{Step: span.Step{Name: "HSM sign"}, HSM: 1, Began: time.Now(), Took: time.Millisecond},
		})
		end(span.End{Decision: "failed", Reason: "github_unavailable"})
		w.WriteHeader(http.StatusServiceUnavailable)
	}))
	r := httptest.NewRequest("GET", path, nil)
	maps.Copy(r.Header, header)
	r = r.WithContext(sts.WithCaller(r.Context(), sts.Caller{RequestID: "ID"}))
	handler.ServeHTTP(httptest.NewRecorder(), r)
}

const (
	theirTrace  = "0af7651916cd43dd8448eb211c80319c"
	theirSpan   = "b7ad6b7169203331"
	sampled     = "00-" + theirTrace + "-" + theirSpan + "-01"
	notSampled  = "00-" + theirTrace + "-" + theirSpan + "-00"
	lowestTrace = "00-00000000000000000000000000000001-" + theirSpan + "-01" // others' dice would sample it
)

// Whether an exchange is traced is thrown dice for, whatever the caller says; in which
// trace it is, the caller may say.
func TestCallersDoNotDecideWhatIsTraced(t *testing.T) {
	for _, traceparent := range []string{"", sampled, notSampled, lowestTrace, "no traceparent"} {
		header := http.Header{"Tracestate": {"vendor=ghs_secret"}, "Baggage": {"user=somebody"}}
		if traceparent != "" {
			header.Set("Traceparent", traceparent)
		}
		for part, want := range map[float64]int{0: 0, 1: 5} {
			tracing, spans := newTestTracing(t, part)
			call(tracing, "/sts/exchange", header)
			if n := len(spans.GetSpans()); n != want {
				t.Errorf("traceparent %q, sample %v: %d spans, want %d", traceparent, part, n, want)
			}
			for _, s := range spans.GetSpans() {
				if s.SpanContext.TraceState().Len() > 0 {
					t.Errorf("span %s has the caller's tracestate", s.Name)
				}
				if theirs := s.SpanContext.TraceID().String() == theirTrace; theirs != (traceparent == sampled || traceparent == notSampled) {
					t.Errorf("traceparent %q: span %s is part of trace %s", traceparent, s.Name, s.SpanContext.TraceID())
				}
			}
		}
	}
}

func TestHalfOfTheExchangesAreTraced(t *testing.T) {
	tracing, spans := newTestTracing(t, 0.5)
	for range 2000 {
		call(tracing, "/sts/exchange", http.Header{"Traceparent": {sampled}})
	}
	whole := 0
	for _, s := range spans.GetSpans() {
		if s.Name == "GET /sts/exchange" {
			whole++
		}
	}
	if whole < 800 || whole > 1200 || len(spans.GetSpans()) != 5*whole {
		t.Errorf("%d of 2000 exchanges were traced, with %d spans", whole, len(spans.GetSpans()))
	}
}

// Two traceparents are as good as none, and what strangers ask for is not traced.
func TestWhatIsNotTraced(t *testing.T) {
	tracing, spans := newTestTracing(t, 1)
	call(tracing, "/wp-login.php", nil)
	if n := len(spans.GetSpans()); n != 0 {
		t.Errorf("%d spans of a path that is not ours", n)
	}
	call(tracing, "/sts/exchange", http.Header{"Traceparent": {sampled, lowestTrace}})
	for _, s := range spans.GetSpans() {
		if s.SpanContext.TraceID().String() == theirTrace {
			t.Errorf("span %s is in one of two traces", s.Name)
		}
	}
}

// What a span says is what the step said, and the signer's steps hang together.
func TestSpansOfSteps(t *testing.T) {
	tracing, spans := newTestTracing(t, 1)
	call(tracing, "/sts/exchange", http.Header{"Traceparent": {sampled}})
	byName, names := map[string]tracetest.SpanStub{}, map[string]string{theirSpan: "caller"}
	for _, s := range spans.GetSpans() {
		byName[s.Name], names[s.SpanContext.SpanID().String()] = s, s.Name
	}
	for _, want := range []struct {
		name, parent string
		attributes   []string
	}{
		{"GET /sts/exchange", "caller", []string{"http.request.method=GET", "http.response.status_code=503", "http.route=/sts/exchange", "octo_sts.request_id=ID"}},
		{"exchange", "GET /sts/exchange", []string{"error.type=github_unavailable", "octo_sts.decision=failed"}},
		{"GitHub mint", "exchange", []string{"error.type=unavailable", "http.response.status_code=503"}},
		{"sign App JWT", "exchange", nil},
		{"HSM sign", "sign App JWT", []string{"octo_sts.hsm=1"}},
	} {
		s, ok := byName[want.name]
		if !ok {
			t.Errorf("no span %s", want.name)
			continue
		}
		var attributes []string
		for _, a := range s.Attributes {
			attributes = append(attributes, string(a.Key)+"="+a.Value.Emit())
		}
		slices.Sort(attributes)
		if parent := names[s.Parent.SpanID().String()]; parent != want.parent || !slices.Equal(attributes, want.attributes) {
			t.Errorf("%s is part of %q, with %q; want %q, with %q", want.name, parent, attributes, want.parent, want.attributes)
		}
	}
	if took := byName["sign App JWT"].EndTime.Sub(byName["sign App JWT"].StartTime); took != time.Second {
		t.Errorf("the signer's step took %s", took)
	}
}

// Without a section tracing, a handler is the one that it was, and a signature for
// nobody's request has no recorder.
func TestTracingOff(t *testing.T) {
	var off *tracing
	next := http.NewServeMux()
	if off.handler(next) != http.Handler(next) || span.IsOn(off.everything(context.Background())) || off.checks() != nil {
		t.Error("something is done although tracing is off")
	}
	off.close()
}
