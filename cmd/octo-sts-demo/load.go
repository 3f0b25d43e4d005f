package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// target is a server under load, and the process that it is.
type target struct {
	url      string
	pid      int
	client   *http.Client
	idTokens []string
}

func newTarget(url string, pid int, idTokens []string) *target {
	return &target{url: url, pid: pid, idTokens: idTokens, client: &http.Client{
		Transport: &http.Transport{MaxIdleConnsPerHost: slices.Max(benchCallers)},
		Timeout:   30 * time.Second,
	}}
}

// measurement is what one load came to.
type measurement struct {
	callers     int
	count       int
	took        time.Duration
	latencies   []time.Duration // sorted
	cpu         time.Duration   // of the server's process, all of it
	githubCalls int
}

// load has callers ask one after the other, each as fast as it is answered, for
// a time. An answer other than 200 ends it.
func (t *target) load(ctx context.Context, callers int, span time.Duration) (*measurement, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var next atomic.Int64
	perCaller := make([][]time.Duration, callers)
	cpuBefore := t.cpu()
	start := time.Now()
	var group sync.WaitGroup
	for i := range callers {
		group.Go(func() {
			for time.Since(start) < span && ctx.Err() == nil {
				idToken := t.idTokens[int(next.Add(1))%len(t.idTokens)]
				began := time.Now()
				if err := t.ask(ctx, idToken); err != nil {
					cancel(err)
					return
				}
				perCaller[i] = append(perCaller[i], time.Since(began))
			}
		})
	}
	group.Wait()
	if err := context.Cause(ctx); err != nil {
		return nil, err
	}
	m := &measurement{callers: callers, took: time.Since(start), cpu: t.cpu() - cpuBefore, latencies: slices.Concat(perCaller...)}
	slices.Sort(m.latencies)
	m.count = len(m.latencies)
	return m, nil
}

func (t *target) ask(ctx context.Context, idToken string) error {
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, t.url, nil)
	if err != nil {
		return err
	}
	r.Header.Set("Authorization", "Bearer "+idToken)
	response, err := t.client.Do(r)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		return err
	}
	if response.StatusCode != http.StatusOK || !bytes.Contains(body, []byte(`"token"`)) {
		return fmt.Errorf("%s: %s", response.Status, body)
	}
	return nil
}

// cpu is the processor time that the process has used: utime and stime of
// proc(5), in ticks of 10 ms.
func (t *target) cpu() time.Duration {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", t.pid))
	if err != nil {
		return 0
	}
	fields := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:]))
	ticks := 0
	for _, field := range fields[11:13] {
		n, err := strconv.Atoi(field)
		if err != nil {
			return 0
		}
		ticks += n
	}
	return time.Duration(ticks) * 10 * time.Millisecond
}

// peakMemory is VmHWM of proc(5), in MiB.
func (t *target) peakMemory() float64 {
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", t.pid))
	if err != nil {
		return 0
	}
	for line := range strings.Lines(string(status)) {
		if value, ok := strings.CutPrefix(line, "VmHWM:"); ok {
			kib, err := strconv.Atoi(strings.TrimSuffix(strings.TrimSpace(value), " kB"))
			if err != nil {
				return 0
			}
			return float64(kib) / 1024
		}
	}
	return 0
}

func (m *measurement) quantile(q float64) time.Duration { return quantile(m.latencies, q) }

func (m *measurement) cpuEach() time.Duration { return m.cpu / time.Duration(m.count) }

func (m *measurement) print(name string, floor *measurement) {
	fmt.Printf("  %7d  %-5s %10.0f %9s %9s %14s %9.2f %10.2f\n", m.callers, name,
		float64(m.count)/m.took.Seconds(),
		m.quantile(0.5).Round(10*time.Microsecond), m.quantile(0.99).Round(10*time.Microsecond),
		m.cpuEach().Round(time.Microsecond), float64(m.cpuEach())/float64(floor.cpuEach()),
		float64(m.githubCalls)/float64(m.count))
}
