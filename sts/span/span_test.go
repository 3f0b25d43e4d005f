package span_test

import (
	"context"
	"testing"

	"github.com/octo-sts/appliance/sts/span"
)

// Without tracing, the steps of an exchange cost no allocation.
func TestNobodyTracesForNothing(t *testing.T) {
	ctx, cancel := context.WithCancel(span.WithRequestID(t.Context(), "ID"))
	defer cancel()
	allocations := testing.AllocsPerRun(1000, func() {
		within, end := span.Begin(ctx, span.Step{Name: "step"})
		if span.Traceparent(within) != "" || span.IsOn(within) {
			t.Error("somebody traces")
		}
		span.Note(within, nil)
		end(span.End{Reason: "reason"})
	})
	if allocations != 0 {
		t.Errorf("a step that nobody traces costs %v allocations", allocations)
	}
}

func TestField(t *testing.T) {
	if f := span.Field(span.WithRequestID(context.Background(), "ID")); f.Key != "request_id" || f.String != "ID" {
		t.Errorf("the field is %v", f)
	}
	if f := span.Field(context.Background()); f.Key != "" {
		t.Errorf("without a request there is a field %v", f)
	}
}

func BenchmarkBeginWithoutTracing(b *testing.B) {
	ctx, cancel := context.WithCancel(span.WithRequestID(context.Background(), "ID"))
	defer cancel()
	for b.Loop() {
		_, end := span.Begin(ctx, span.Step{Name: "step"})
		end(span.End{})
	}
}
