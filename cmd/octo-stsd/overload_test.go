package main

import (
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/octo-sts/appliance/sts/ststest"
)

// TestTenfoldLoad finds what the daemon can carry, and then asks for ten times as
// much. OCTO_STS_OVERLOAD is for how long, and has the daemon run on the first core
// alone; this process should then run on another one (taskset -c 1). Without, it is
// a matter of seconds, and the figures say nothing.
func TestTenfoldLoad(t *testing.T) {
	span, config := 2*time.Second, ststest.ServiceConfig{Issuer: ststest.IssuerConfig{Alg: "ES256"}}
	measured := os.Getenv("OCTO_STS_OVERLOAD")
	if measured != "" {
		var err error
		if span, err = time.ParseDuration(measured); err != nil {
			t.Fatal(err)
		}
		config.Wrap = []string{"taskset", "-c", "0"}
	}
	r := tlsRig(t, map[string]any{"per_issuer": 1_000_000, "burst_per_issuer": 1_000_000}, config)
	latencies := []time.Duration{100 * time.Millisecond}
	if measured != "" {
		latencies = append(latencies, 0)
	}
	for _, latency := range latencies {
		t.Run(fmt.Sprintf("GitHub answers after %s", latency), func(t *testing.T) {
			r.GitHub.SetLatency(latency)
			b := &barrage{rig: r, requests: r.exchangeRequests(1000), from: func(n int) string { return fmt.Sprintf("127.1.%d.%d", n%100, 1+n/100%200) }}
			check := r.leavesNothing(t)
			peak := b.findPeak(t, measured != "")
			b.overload(t, peak, span)
			check()
		})
	}
}

// findPeak is the most exchanges a second that are granted to callers who ask as
// fast as they are answered.
func (b *barrage) findPeak(t *testing.T, measured bool) float64 {
	span := time.Second
	callers := []int{64}
	if measured {
		span, callers = 10*time.Second, []int{16, 64, 128, 256}
	}
	peak := 0.0
	for _, b.connections = range callers {
		b.run(1, time.Second/10)
		start := time.Now()
		b.saturate(span)
		rate := float64(len(b.granted)) / time.Since(start).Seconds()
		t.Logf("%d callers: %.0f grants a second, p99 %s, shed %d, failed %v", b.connections, rate, percentile(b.granted, 0.99), len(b.shed), b.failed)
		peak = max(peak, rate)
	}
	return peak
}

// saturate has each caller ask again as soon as it is answered.
func (b *barrage) saturate(span time.Duration) {
	due := make(chan time.Time)
	b.mu.Lock()
	b.granted, b.shed, b.failed = nil, nil, map[string]int{}
	b.mu.Unlock()
	done := b.callers(due)
	for end := time.After(span); ; {
		select {
		case due <- time.Now():
			continue
		case <-end:
		}
		break
	}
	close(due)
	<-done
}

func (b *barrage) overload(t *testing.T, peak float64, span time.Duration) {
	b.connections = 800
	stop := make(chan struct{})
	resident := make(chan float64)
	go func() {
		highest := 0.0
		for {
			select {
			case <-stop:
				resident <- highest
				return
			case <-time.After(time.Second):
				b.rig.GitHub.ForgetMints()
				highest = max(highest, b.rig.residentMiB())
			}
		}
	}()
	before := b.rig.gauges()
	start := time.Now()
	b.run(10*peak, span)
	took := time.Since(start)
	close(stop)
	goodput := float64(len(b.granted)) / took.Seconds()
	t.Logf("10 × %.0f a second for %s (the last answer after %s): %d asked", peak, span, took.Round(time.Millisecond), len(b.granted)+len(b.shed))
	t.Logf("goodput %.0f a second, %.0f%% of the peak; granted p50 %s p99 %s", goodput, 100*goodput/peak, percentile(b.granted, 0.5), percentile(b.granted, 0.99))
	t.Logf("shed %d: p50 %s p99 %s", len(b.shed), percentile(b.shed, 0.5), percentile(b.shed, 0.99))
	t.Logf("failed %v; resident at most %.0f MiB; CPU of the daemon %.0f%%", b.failed, <-resident,
		100*(b.rig.gauges()["process_cpu_seconds_total"]-before["process_cpu_seconds_total"])/took.Seconds())
	for name, value := range b.rig.gauges() {
		if (strings.Contains(name, "shed_total") || strings.Contains(name, "exchanges_total")) && value > before[name] {
			t.Logf("%s %.0f", name, value-before[name])
		}
	}
	if len(b.granted) == 0 || len(b.shed) == 0 {
		t.Errorf("%d granted, %d shed", len(b.granted), len(b.shed))
	}
}

// residentMiB is VmRSS of proc(5).
func (r *rig) residentMiB() float64 {
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", r.PID()))
	if err != nil {
		return 0
	}
	for line := range strings.Lines(string(status)) {
		if value, ok := strings.CutPrefix(line, "VmRSS:"); ok {
			var kib float64
			if _, err := fmt.Sscanf(value, "%f kB", &kib); err == nil {
				return kib / 1024
			}
		}
	}
	return 0
}
