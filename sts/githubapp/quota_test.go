package githubapp_test

import (
	"errors"
	"testing"
	"time"

	"github.com/octo-sts/appliance/sts/githubapp"
	"github.com/octo-sts/appliance/sts/ststest"
)

// TestRateLimits: what counts as one, how long it lasts, and that nothing
// leaves before.
func TestRateLimits(t *testing.T) {
	t.Parallel()
	with := func(f ststest.Fault, header ...string) ststest.Fault {
		copied := map[string]string{}
		for k, v := range f.Header {
			copied[k] = v
		}
		for i := 0; i < len(header); i += 2 {
			copied[header[i]] = header[i+1]
		}
		f.Header = copied
		return f
	}
	plain := ststest.Fault{Status: 403, Body: `{"message":"Resource not accessible by integration"}`}
	for _, c := range []struct {
		name  string
		fault func() ststest.Fault // made late, since some name a time
		wait  time.Duration        // 0: this is no rate limit
	}{
		{"429 and retry-after", func() ststest.Fault { return ststest.SecondaryRateLimit(429, 40*time.Second) }, 40 * time.Second},
		{"403 and retry-after", func() ststest.Fault { return ststest.SecondaryRateLimit(403, 40*time.Second) }, 40 * time.Second},
		{"403 with another text and retry-after", func() ststest.Fault { return with(plain, "Retry-After", "40") }, 40 * time.Second},
		{"retry-after as a date", func() ststest.Fault {
			return with(plain, "Retry-After", time.Now().Add(40*time.Second).UTC().Format("Mon, 02 Jan 2006 15:04:05 GMT"))
		}, 40 * time.Second},
		{"retry-after that is nonsense", func() ststest.Fault { return with(plain, "Retry-After", "soon") }, 65 * time.Minute},
		{"retry-after of a century", func() ststest.Fault { return with(plain, "Retry-After", "2147483647") }, 65 * time.Minute},
		{"retry-after 0", func() ststest.Fault { return with(plain, "Retry-After", "0") }, time.Second},
		{"403 primary", func() ststest.Fault { return ststest.PrimaryRateLimit(403, time.Now().Add(20*time.Minute)) }, 20 * time.Minute},
		{"429 primary", func() ststest.Fault { return ststest.PrimaryRateLimit(429, time.Now().Add(20*time.Minute)) }, 20 * time.Minute},
		{"primary, reset in a century", func() ststest.Fault { return ststest.PrimaryRateLimit(403, time.Now().Add(100*365*24*time.Hour)) }, 65 * time.Minute},
		{"primary, reset long ago", func() ststest.Fault { return ststest.PrimaryRateLimit(403, time.Now().Add(-time.Hour)) }, time.Second},
		{"403 secondary without a time", func() ststest.Fault { return ststest.SecondaryRateLimit(403, 0) }, time.Minute},
		{"429 without a time", func() ststest.Fault { return ststest.Fault{Status: 429} }, time.Minute},
		{"429 that is a page", func() ststest.Fault { return ststest.Fault{Status: 429, Body: "<html>"} }, time.Minute},
		{"403 that is a page about a rate limit", func() ststest.Fault { return ststest.Fault{Status: 403, Body: "<html>Rate limit exceeded"} }, time.Minute},
		{"403 plain", func() ststest.Fault { return plain }, 0},
		{"403 with requests remaining", func() ststest.Fault {
			return with(plain, "X-RateLimit-Remaining", "17", "X-RateLimit-Reset", "9999999999")
		}, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			inst := w.installation()
			fault := c.fault()
			fault.Route, fault.Count = ststest.MintRoute, 1
			w.github.Fail(fault)
			_, err := w.client.Mint(w.ctx, inst, readIssues)
			if c.wait == 0 {
				w.wants(err, "refused")
				_, err = w.client.Mint(w.ctx, inst, readIssues)
				w.wants(err, "ok")
				return
			}
			w.wants(err, "rate limited")
			const slack = 5 * time.Second
			if e := (*githubapp.RateLimitError)(nil); !errors.As(err, &e) || e.RetryAfter > c.wait+slack || e.RetryAfter < c.wait-slack || e.RetryAfter <= 0 {
				t.Fatalf("got %v, want to wait %s", err, c.wait)
			}
			w.github.ResetCalls()
			if c.wait > slack {
				w.clock.advance(c.wait - slack)
				_, err = w.client.Mint(w.ctx, inst, readIssues)
				w.wants(err, "rate limited")
				_, err = w.read(inst)
				w.wants(err, "rate limited")
				w.calls()
			}
			w.clock.advance(2 * slack)
			_, err = w.client.Mint(w.ctx, inst, readIssues)
			w.wants(err, "ok")
		})
	}
}

// TestLimitIsOneInstallations: neither another installation nor the App is held
// back by it.
func TestLimitIsOneInstallations(t *testing.T) {
	t.Parallel()
	for _, used := range []bool{false, true} {
		w := newWorld(t)
		for _, owner := range []string{"globex", "initech"} {
			w.github.AddRepository(owner, "app")
			w.github.PutFile(owner, "app", policyPath, "x")
			w.github.Install(appID, owner, ststest.InstallOptions{})
		}
		inst := w.installation()
		globex, err := w.client.Installation(w.ctx, "globex", "app")
		w.wants(err, "ok")
		if used {
			// GitHub says so in an answer that is good: nothing remains after it.
			w.github.SetRateLimit(w.acme, 5000, 1, w.clock.now().Add(10*time.Minute))
			_, err = w.read(inst)
			w.wants(err, "ok")
			w.github.ResetCalls()
			_, err = w.client.File(w.ctx, inst, "app", "another")
			w.wants(err, "rate limited")
			w.calls()
		} else {
			w.github.Fail(ststest.Fault{Count: 1, Status: 429, Header: map[string]string{"Retry-After": "600"}})
			_, err = w.client.Mint(w.ctx, inst, readIssues)
			w.wants(err, "rate limited")
		}
		_, err = w.client.Mint(w.ctx, inst, readIssues)
		w.wants(err, "rate limited")
		_, err = w.client.Mint(w.ctx, globex, readIssues)
		w.wants(err, "ok")
		_, err = w.read(globex)
		w.wants(err, "ok")
		_, err = w.client.Installation(w.ctx, "initech", "app")
		w.wants(err, "ok")
		w.clock.advance(11 * time.Minute)
		w.wants(w.exchange(), "ok")
	}
}

// TestLimitWithoutTimeBacksOff: a minute, then two, until a success.
func TestLimitWithoutTimeBacksOff(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	inst := w.installation()
	fault := w.github.Fail(ststest.Fault{Route: ststest.MintRoute, Status: 429})
	for _, want := range []time.Duration{time.Minute, 2 * time.Minute, 4 * time.Minute} {
		_, err := w.client.Mint(w.ctx, inst, readIssues)
		e := (*githubapp.RateLimitError)(nil)
		if !errors.As(err, &e) || e.RetryAfter > want || e.RetryAfter < want-5*time.Second {
			t.Errorf("got %v, want to wait %s", err, want)
		}
		w.clock.advance(want)
	}
	if fault.Hits() != 3 {
		t.Errorf("%d calls, want 3", fault.Hits())
	}
	fault.Clear()
	_, err := w.client.Mint(w.ctx, inst, readIssues)
	w.wants(err, "ok")
	w.github.Fail(ststest.Fault{Route: ststest.MintRoute, Status: 429})
	_, err = w.client.Mint(w.ctx, inst, readIssues)
	if e := (*githubapp.RateLimitError)(nil); !errors.As(err, &e) || e.RetryAfter > time.Minute {
		t.Errorf("after a success: got %v, want to wait a minute", err)
	}
}

// TestLimitByGitHubsClock: x-ratelimit-reset is a time by GitHub's clock.
func TestLimitByGitHubsClock(t *testing.T) {
	t.Parallel()
	for _, off := range []time.Duration{-10 * time.Minute, 10 * time.Minute} {
		w := newWorld(t)
		inst := w.installation()
		fault := ststest.PrimaryRateLimit(403, time.Now().Add(off+20*time.Second))
		fault.ClockOffset = off
		w.github.Fail(fault)
		_, err := w.client.Mint(w.ctx, inst, readIssues)
		if e := (*githubapp.RateLimitError)(nil); !errors.As(err, &e) || e.RetryAfter > 25*time.Second || e.RetryAfter < 15*time.Second {
			t.Errorf("GitHub's clock %s off: got %v, want to wait 20 s", off, err)
		}
	}
}
