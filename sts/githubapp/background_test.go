package githubapp_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/octo-sts/appliance/sts/githubapp"
	"github.com/octo-sts/appliance/sts/ststest"
)

// backgroundWorld has a read token that GitHub has served already, so that what
// follows are the calls that a test makes.
func backgroundWorld(t *testing.T, change ...func(*options)) (*world, githubapp.Installation) {
	t.Helper()
	w := newWorld(t, change...)
	inst := w.installation()
	_, err := w.read(inst)
	w.wants(err, "ok")
	w.github.ResetCalls()
	return w, inst
}

func (w *world) compare(inst githubapp.Installation) error {
	_, err := w.client.Compare(w.ctx, inst, "app", "main", "main")
	return err
}

// TestChecksSayNothingOfTheHost: whatever GitHub makes of strangers' commits, it
// is there for exchanges.
func TestChecksSayNothingOfTheHost(t *testing.T) {
	t.Parallel()
	for name, fault := range map[string]ststest.Fault{
		"500": {Status: http.StatusInternalServerError}, "502": {Status: http.StatusBadGateway}, "503": {Status: http.StatusServiceUnavailable},
		"504": {Status: http.StatusGatewayTimeout}, "a reset": {Reset: true}, "an answer that breaks off": {Lost: true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w, inst := backgroundWorld(t)
			fault.Route = ststest.CompareRoute
			w.github.Fail(fault)
			for range 12 { // more than open the breaker
				if w.compare(inst) == nil {
					t.Fatal("the comparison succeeded")
				}
			}
			if s := w.client.Host(); s.Down || s.LastError != nil {
				t.Errorf("%+v", s)
			}
			_, err := w.client.File(w.ctx, inst, "app", "another")
			w.wants(err, "not found")
		})
	}
}

// TestChecksAreNoProbe: while GitHub does not answer, a check neither leaves nor
// takes the place of the call that finds out. What asks for deliveries may.
func TestChecksAreNoProbe(t *testing.T) {
	t.Parallel()
	for name, probe := range map[string]func(*world, githubapp.Installation) error{
		"exchange": func(w *world, inst githubapp.Installation) error {
			_, err := w.client.Mint(w.ctx, inst, readIssues)
			return err
		},
		"deliveries": func(w *world, _ githubapp.Installation) error {
			_, err := w.client.Deliveries(w.ctx, appID, time.Time{})
			return err
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w, inst := backgroundWorld(t)
			fault := w.github.Fail(ststest.Fault{Route: ststest.MintRoute, Status: http.StatusBadGateway})
			if kinds := w.mints(w.ctx, 10); kinds["unavailable"] != 10 || !w.client.Host().Down {
				t.Fatalf("got %v, %+v", kinds, w.client.Host())
			}
			fault.Clear()
			w.clock.advance(20 * time.Second)
			w.github.ResetCalls()
			w.wants(w.compare(inst), "unavailable", "nothing is sent but a probe")
			w.calls()
			w.wants(probe(w, inst), "ok")
			w.wants(w.compare(inst), "ok")
		})
	}
}

// asGitHub limits an installation to what GitHub.com does.
func asGitHub(o *options) { o.github.RateLimit = 15_000 }

// TestChecksAreSlow: an installation's checks spend 60 points of GitHub's and then
// 8 a second, whatever exchanges and other installations do.
func TestChecksAreSlow(t *testing.T) {
	t.Parallel()
	w, inst := backgroundWorld(t, asGitHub)
	w.github.AddRepository("globex", "app")
	w.github.PutFile("globex", "app", policyPath, "x")
	w.github.Install(appID, "globex", ststest.InstallOptions{})
	globex, err := w.client.Installation(w.ctx, "globex", "app")
	w.wants(err, "ok")
	short, cancel := context.WithTimeout(w.ctx, time.Second)
	defer cancel()
	var group sync.WaitGroup
	for range 200 {
		group.Go(func() {
			if _, err := w.client.Compare(short, inst, "app", "main", "main"); err != nil {
				w.wants(err, "unavailable")
			}
		})
	}
	group.Wait()
	if n := w.github.Calls()[ststest.CompareRoute]; n < 1 || n > 2*(60+8) {
		t.Errorf("%d comparisons left within a second, want 68", n)
	}
	w.wants(w.mint(), "ok")
	_, err = w.client.Compare(w.ctx, globex, "app", "main", "main")
	w.wants(err, "ok")
	eventually(t, "what has come meanwhile is spent", func() bool {
		short, cancel := context.WithTimeout(w.ctx, time.Millisecond)
		defer cancel()
		_, err := w.client.Compare(short, inst, "app", "main", "main")
		return err != nil && strings.Contains(err.Error(), "the checks of installation") && strings.Contains(err.Error(), "have spent what they may")
	})
	w.wants(w.compare(inst), "ok") // it waits its turn
}

// TestReportingIsDearer: what writes costs five points.
func TestReportingIsDearer(t *testing.T) {
	t.Parallel()
	w, inst, sha := checkWorld(t, asGitHub)
	short, cancel := context.WithTimeout(w.ctx, time.Second)
	defer cancel()
	err := error(nil)
	for n := 0; err == nil; n++ { // a search and a run each
		if n > (60+8)/(1+5) {
			t.Fatalf("%d runs were made within a second, want 11", n)
		}
		run := checkRun(sha, "success", 0)
		run.Name += strings.Repeat("x", n)
		err = w.client.ReportCheckRun(short, inst, "app", run)
	}
	w.wants(err, "unavailable")
}

// TestBackgroundLeavesHalfOfTheSlots: however many checks hang, exchanges go on.
func TestBackgroundLeavesHalfOfTheSlots(t *testing.T) {
	t.Parallel()
	w, inst := backgroundWorld(t, func(o *options) { o.config.MaxConcurrent = 4 })
	var held atomic.Int64
	release := make(chan struct{})
	w.github.Fail(ststest.Fault{Route: ststest.CompareRoute, Status: 200, Body: "{}", Match: func(*http.Request) bool {
		held.Add(1)
		<-release
		return true
	}})
	ctx, leave := context.WithCancel(w.ctx)
	ended := make(chan error, 10)
	for range 10 {
		go func() {
			_, err := w.client.Compare(ctx, inst, "app", "main", "main")
			ended <- err
		}()
	}
	eventually(t, "two are under way", func() bool { return held.Load() == 2 })
	for range 5 {
		w.wants(w.mint(), "ok")
	}
	leave()
	for range 10 {
		w.wants(<-ended, "unavailable")
	}
	if n := held.Load(); n != 2 {
		t.Errorf("%d comparisons were under way at once, want 2", n)
	}
	close(release)
	w.github.ClearFaults()
	w.wants(w.compare(inst), "ok") // all that was taken was given back
}

// TestBackgroundLimits: what GitHub tells a check holds exchanges back, too, unless
// it is certain that it is not the primary limit.
func TestBackgroundLimits(t *testing.T) {
	t.Parallel()
	remaining := func(f ststest.Fault, n string) ststest.Fault {
		f.Header = maps.Clone(f.Header)
		if f.Header == nil {
			f.Header = map[string]string{}
		}
		f.Header["X-RateLimit-Limit"], f.Header["X-RateLimit-Remaining"], f.Header["X-RateLimit-Reset"] = "5000", n, fmt.Sprint(time.Now().Add(time.Hour).Unix())
		return f
	}
	for _, c := range []struct {
		name     string
		fault    ststest.Fault
		kind     string // what the check gets, and the next one
		exchange string // what exchanges get
	}{
		{"secondary, calls are left", remaining(ststest.SecondaryRateLimit(403, time.Minute), "4000"), "rate limited", "ok"},
		{"the same without a time", remaining(ststest.SecondaryRateLimit(429, 0), "4000"), "rate limited", "ok"},
		{"secondary, nothing is left", remaining(ststest.SecondaryRateLimit(403, time.Minute), "0"), "rate limited", "rate limited"},
		{"secondary, what is left is not said", ststest.SecondaryRateLimit(429, time.Minute), "rate limited", "rate limited"},
		{"secondary, what is left is nonsense", remaining(ststest.SecondaryRateLimit(429, time.Minute), "many"), "rate limited", "rate limited"},
		{"primary", ststest.PrimaryRateLimit(403, time.Now().Add(time.Hour)), "rate limited", "rate limited"},
		{"a fault with a time", ststest.Fault{Status: 503, Header: map[string]string{"Retry-After": "20"}}, "unavailable", "ok"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			w, inst := backgroundWorld(t)
			c.fault.Route = ststest.CompareRoute
			active := w.github.Fail(c.fault)
			w.wants(w.compare(inst), c.kind)
			w.wants(w.compare(inst), c.kind, "held back")
			if n := active.Hits(); n != 1 {
				t.Errorf("%d comparisons left, want 1", n)
			}
			_, err := w.client.Mint(w.ctx, inst, readIssues)
			w.wants(err, c.exchange)
			active.Clear()
			w.wants(w.compare(inst), c.kind) // exchanges' success does not end it
			w.clock.advance(65 * time.Minute)
			w.wants(w.compare(inst), "ok")
		})
	}
}

// TestBackgroundBacksOff: a minute, then two, whatever exchanges do in between.
func TestBackgroundBacksOff(t *testing.T) {
	t.Parallel()
	w, inst := backgroundWorld(t)
	limit := ststest.SecondaryRateLimit(403, 0)
	limit.Route, limit.Header = ststest.CompareRoute, map[string]string{"X-RateLimit-Remaining": "4000"}
	w.github.Fail(limit)
	for _, want := range []time.Duration{time.Minute, 2 * time.Minute, 4 * time.Minute} {
		err := w.compare(inst)
		e := (*githubapp.RateLimitError)(nil)
		if !errors.As(err, &e) || e.RetryAfter > want || e.RetryAfter < want-5*time.Second {
			t.Errorf("got %v, want to wait %s", err, want)
		}
		w.wants(w.mint(), "ok")
		w.clock.advance(want)
	}
}
