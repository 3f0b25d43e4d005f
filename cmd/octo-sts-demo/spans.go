package main

import (
	"fmt"
	"slices"
	"time"
)

// printSpans prints the medians of all rounds: when it was quiet, while the
// deliveries went elsewhere, while they came here, and afterwards; then the floor's
// exchanges when it was quiet, and while the deliveries came here.
func printSpans(rows [6][]*span) {
	fmt.Printf("  %-32s %9s %9s %9s %9s %9s %26s\n", "", "exchange", "", "p99", "delivery", "", "processors in use")
	fmt.Printf("  %-32s %9s %9s %9s %9s %9s %8s %8s %8s\n", fmt.Sprintf("medians of %d rounds", len(rows[0])), "p50", "p99", "× quiet", "p99", "took", "ours", "floor", "load")
	for i, name := range []string{
		"quiet", "arriving at a bare handler", "arriving", "being worked off", "the floor's exchanges: quiet", "the floor's exchanges: arriving",
	} {
		quiet := rows[i/4*4]
		median := func(of func(s *span, round int) float64) float64 {
			var all []float64
			for round, s := range rows[i] {
				all = append(all, of(s, round))
			}
			slices.Sort(all)
			return all[len(all)/2]
		}
		duration := func(of func(*span) time.Duration) time.Duration {
			return time.Duration(median(func(s *span, _ int) float64 { return float64(of(s)) })).Round(10 * time.Microsecond)
		}
		fmt.Printf("  %-32s %9s %9s %9.2f %9s %9s %8.2f %8.2f %8.2f\n", name,
			duration(func(s *span) time.Duration { return quantile(s.exchanges, 0.5) }),
			duration(func(s *span) time.Duration { return quantile(s.exchanges, 0.99) }),
			median(func(s *span, round int) float64 {
				return float64(quantile(s.exchanges, 0.99)) / float64(quantile(quiet[round].exchanges, 0.99))
			}),
			duration(func(s *span) time.Duration { return quantile(s.deliveries, 0.99) }),
			duration(func(s *span) time.Duration { return s.took }),
			median(func(s *span, _ int) float64 { return s.ours }),
			median(func(s *span, _ int) float64 { return s.floor }),
			median(func(s *span, _ int) float64 { return s.self }))
	}
}

// quantile of what is sorted; 0 of nothing.
func quantile(sorted []time.Duration, q float64) time.Duration {
	if len(sorted) == 0 {
		return 0
	}
	return sorted[int(q*float64(len(sorted)-1))]
}
