package githubapp_test

import (
	"context"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"

	"github.com/octo-sts/appliance/sts/ststest"
)

// mints makes n mints at once, and counts their errors by kind.
func (w *world) mints(ctx context.Context, n int) map[string]int {
	inst, err := w.client.Installation(w.ctx, "acme", "app")
	w.wants(err, "ok")
	var group sync.WaitGroup
	var mu sync.Mutex
	kinds := map[string]int{}
	for range n {
		group.Go(func() {
			_, err := w.client.Mint(ctx, inst, readIssues)
			mu.Lock()
			defer mu.Unlock()
			kinds[kindOf(err)]++
		})
	}
	group.Wait()
	return kinds
}

// TestConcurrencyIsBounded: what is too much waits its turn.
func TestConcurrencyIsBounded(t *testing.T) {
	t.Parallel()
	for want, configured := range map[int]int{4: 4, 64: 0} {
		w := newWorld(t, func(o *options) {
			o.config.MaxConcurrent = configured
			o.github.Latency = 50 * time.Millisecond
		})
		if kinds := w.mints(w.ctx, 3*want); kinds["ok"] != 3*want {
			t.Errorf("got %v", kinds)
		}
		// How near the limit it comes is the machine's affair.
		if peak := w.github.PeakConcurrency(); peak > want || peak < want/2 {
			t.Errorf("%d calls at once, want %d at most and not many fewer", peak, want)
		}
	}
}

// TestWaitingForATurn ends with its context, and nothing leaves that was limited
// while it waited.
func TestWaitingForATurn(t *testing.T) {
	t.Parallel()
	w := newWorld(t, func(o *options) { o.config.MaxConcurrent = 1 })
	inst := w.installation()
	limit := ststest.SecondaryRateLimit(429, time.Minute)
	limit.Route = ststest.MintRoute
	arrived, release := w.hold(limit)
	first := make(chan error, 1)
	go func() { _, err := w.client.Mint(w.ctx, inst, readIssues); first <- err }()
	<-arrived
	short, cancel := context.WithTimeout(w.ctx, 100*time.Millisecond)
	defer cancel()
	_, err := w.client.Mint(short, inst, readIssues)
	w.wants(err, "unavailable", "nothing was sent", "all of the 1 calls")
	waiting := make(chan error, 1)
	go func() { _, err := w.client.Mint(w.ctx, inst, readIssues); waiting <- err }()
	time.Sleep(100 * time.Millisecond) // for most runs to have it wait
	release()
	w.wants(<-first, "rate limited")
	w.wants(<-waiting, "rate limited")
	w.calls(ststest.MintRoute)
}

// TestBreaker opens after ten failures, lets one probe through after 1, 2, 4, 8,
// 15 and 15 s, and closes with an answer.
func TestBreaker(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	inst := w.installation()
	fault := w.github.Fail(ststest.Fault{Route: ststest.MintRoute, Status: 502})
	began := w.clock.now()
	for range 9 {
		_, err := w.client.Mint(w.ctx, inst, readIssues)
		w.wants(err, "unavailable", "502")
	}
	if s := w.client.Host(); s.Down || s.LastError == nil || s.Since.Before(began) {
		t.Errorf("after nine failures: %+v", s)
	}
	_, err := w.client.Mint(w.ctx, inst, readIssues)
	w.wants(err, "unavailable", "502")
	if s := w.client.Host(); !s.Down || s.LastError == nil || s.Since.Before(began) || s.Since.After(w.clock.now()) {
		t.Errorf("after ten failures: %+v", s)
	}
	for _, wait := range []time.Duration{1, 2, 4, 8, 15, 15} {
		before := fault.Hits()
		w.clock.advance(wait*time.Second - 500*time.Millisecond)
		for range 3 {
			_, err = w.client.Mint(w.ctx, inst, readIssues)
			w.wants(err, "unavailable", "no call was answered for", began.UTC().Format("2006-01-02T15:04"))
			_, err = w.client.Installation(w.ctx, "globex", "app")
			w.wants(err, "unavailable")
		}
		if n := fault.Hits() - before; n != 0 {
			t.Errorf("%d calls left before %d s were over", n, wait)
		}
		w.clock.advance(time.Second)
		if kinds := w.mints(w.ctx, 20); kinds["unavailable"] != 20 {
			t.Errorf("got %v", kinds)
		}
		if n := fault.Hits() - before; n != 1 {
			t.Errorf("%d probes after %d s, want 1", n, wait)
		}
	}
	fault.Clear()
	w.clock.advance(15 * time.Second)
	_, err = w.client.Mint(w.ctx, inst, readIssues)
	w.wants(err, "ok")
	if s := w.client.Host(); s.Down || !s.Since.IsZero() || s.LastError != nil {
		t.Errorf("after an answer: %+v", s)
	}
	if kinds := w.mints(w.ctx, 20); kinds["ok"] != 20 {
		t.Errorf("got %v", kinds)
	}
}

// TestBreakerStaysClosed for whatever is an answer, and for callers who leave.
func TestBreakerStaysClosed(t *testing.T) {
	t.Parallel()
	for name, fault := range map[string]ststest.Fault{
		"401": {Status: 401}, "403": {Status: 403}, "404": {Status: 404}, "422": {Status: 422}, "307": {Status: 307},
		"429": {Status: 429, Header: map[string]string{"Retry-After": "1"}}, "not always": {Status: 502, Skip: 5, Count: 9},
	} {
		w := newWorld(t)
		inst := w.installation()
		fault.Route = ststest.MintRoute
		active := w.github.Fail(fault)
		for range 30 {
			_, _ = w.client.Mint(w.ctx, inst, readIssues)
			w.clock.advance(2 * time.Second)
		}
		if active.Hits() < 9 || w.client.Host().Down {
			t.Errorf("%s: %d hits, %+v", name, active.Hits(), w.client.Host())
		}
	}
	w := newWorld(t)
	w.github.Fail(ststest.Fault{Route: ststest.MintRoute, Delay: time.Hour})
	leaving, leave := context.WithTimeout(w.ctx, 100*time.Millisecond)
	defer leave()
	w.installation()
	if kinds := w.mints(leaving, 20); kinds["unavailable"] != 20 || w.client.Host().Down {
		t.Errorf("callers who left: %v, %+v", kinds, w.client.Host())
	}
}

// TestBreakerIgnoresOldNews: calls that left before another one was answered say
// nothing about the time after it.
func TestBreakerIgnoresOldNews(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.installation()
	old := w.github.Fail(ststest.Fault{Route: ststest.MintRoute, Status: 504, Count: 20, Delay: time.Second})
	done := make(chan map[string]int)
	go func() { done <- w.mints(w.ctx, 20) }()
	eventually(t, "all are under way", func() bool { return old.Hits() == 20 })
	w.wants(w.mint(), "ok")
	if kinds := <-done; kinds["unavailable"] != 20 || w.client.Host().Down {
		t.Errorf("%v, %+v", kinds, w.client.Host())
	}
}

// TestBlackHole: the host swallows everything, many call, and after it is back it
// takes less than 30 s until all are served.
func TestBlackHole(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.client.SetCallTimeout(2 * time.Second)
	w.installation()
	hole := w.github.Fail(ststest.Fault{Delay: time.Hour})
	if kinds := w.mints(w.ctx, 100); kinds["unavailable"] != 100 {
		t.Errorf("got %v", kinds)
	}
	if !w.client.Host().Down {
		t.Error("calls still hang one by one")
	}
	// Each of the first nine failures lets one more in, and then there are probes.
	if n := hole.Hits(); n > 64+9+3 {
		t.Errorf("%d of 100 calls left, want hardly more than may be under way at once", n)
	}
	inst, err := w.client.Installation(w.ctx, "acme", "app")
	w.wants(err, "ok")
	// A probe leaves just before the end, and hangs for as long as it can.
	eventually(t, "a probe is under way", func() bool {
		before := hole.Hits()
		go w.client.Mint(w.ctx, inst, readIssues)
		time.Sleep(50 * time.Millisecond)
		return hole.Hits() > before
	})
	hole.Clear()
	eventually(t, "it answers again", func() bool {
		_, err := w.client.Mint(w.ctx, inst, readIssues)
		return err == nil
	})
	if kinds := w.mints(w.ctx, 50); kinds["ok"] != 50 {
		t.Errorf("got %v", kinds)
	}
}

// TestRevokeWhileDown: a token that was withheld is not left alive unasked, and
// the calls stay bounded.
func TestRevokeWhileDown(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	minted, err := w.client.Mint(w.ctx, w.installation(), readIssues)
	w.wants(err, "ok")
	w.github.Fail(ststest.Fault{Route: ststest.MintRoute, Status: 503})
	if kinds := w.mints(w.ctx, 10); kinds["unavailable"] != 10 || !w.client.Host().Down {
		t.Fatalf("got %v, %+v", kinds, w.client.Host())
	}
	var held atomic.Int64
	release := make(chan struct{})
	w.Cleanup(func() { close(release) })
	w.github.Fail(ststest.Fault{Route: ststest.RevokeRoute, Status: 503, Count: 8, Match: func(*http.Request) bool {
		held.Add(1)
		<-release
		return true
	}})
	w.clock.advance(-time.Hour) // no probe is due for long
	failed := make(chan error, 30)
	for range 30 {
		go func() { failed <- w.client.Revoke(w.ctx, minted.Token) }()
	}
	for range 22 {
		w.wants(<-failed, "unavailable")
	}
	if n := held.Load(); n > 8 {
		t.Errorf("%d revocations were tried at once, want 8", n)
	}
	eventually(t, "eight revocations are tried", func() bool { return held.Load() == 8 })
}

// TestClockSkew is told once, and once more when it is over.
func TestClockSkew(t *testing.T) {
	t.Parallel()
	core, logs := observer.New(zapcore.InfoLevel)
	w := newWorld(t, func(o *options) { o.config.Logger = zap.New(core) })
	skew := func() time.Duration { return w.client.Host().ClockSkew.Round(10 * time.Second) }
	said := func(what string) int { return logs.FilterMessageSnippet(what).Len() }
	for range 3 {
		w.wants(w.mint(), "ok")
	}
	if skew() != 0 || said("clock") != 0 {
		t.Errorf("the clocks agree: skew %s, %v", skew(), logs.All())
	}
	inst := w.installation()
	for _, off := range []time.Duration{10 * time.Minute, -10 * time.Minute} {
		shifted := w.github.Fail(ststest.Fault{ClockOffset: off, Delay: time.Nanosecond})
		for range 3 {
			_, _ = w.client.Mint(w.ctx, inst, readIssues)
		}
		shifted.Clear()
		if skew() != -off || said("not GitHub's") != 1 || said("agrees") != 0 {
			t.Errorf("GitHub's clock is %s ahead: skew %s, %v", off, skew(), logs.All())
		}
	}
	for range 3 {
		w.wants(w.mint(), "ok")
	}
	if skew() != 0 || said("not GitHub's") != 1 || said("agrees") != 1 {
		t.Errorf("the clocks agree again: skew %s, %v", skew(), logs.All())
	}
}
