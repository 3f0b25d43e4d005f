package githubapp_test

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"

	"github.com/octo-sts/appliance/sts/githubapp"
	"github.com/octo-sts/appliance/sts/ststest"
)

// restartLogged restarts with the App and what its configuration needs, once
// prepare made GitHub what it is to be.
func restartLogged(t *testing.T, needs githubapp.Needs, prepare func(*world)) (*world, *observer.ObservedLogs) {
	t.Helper()
	core, logs := observer.New(zapcore.InfoLevel)
	w := newWorld(t)
	prepare(w)
	w.config.Needs, w.config.Logger = needs, zap.New(core)
	w.github.ResetCalls()
	w.restart(appID)
	return w, logs
}

// problem waits until the App was asked about, and returns what was wrong.
func (w *world) problem() error {
	w.Helper()
	eventually(w, "the App was asked about", func() bool {
		s := w.client.Status()[0]
		return s.Problem != nil || !s.Proven.IsZero()
	})
	return w.client.Status()[0].Problem
}

// TestAppIsProven at the start, without anybody waiting for it, in one call.
func TestAppIsProven(t *testing.T) {
	t.Parallel()
	w, logs := restartLogged(t, githubapp.Needs{
		Permissions: map[string]string{"contents": "read", "metadata": "read", "checks": "write", "issues": "admin"},
		Events:      []string{"push", "repository", "pull_request"},
	}, func(w *world) { w.github.SetAppEvents(appID) })
	w.wants(w.problem(), "ok")
	s := w.client.Status()[0]
	want := []string{
		"permission checks: write (no check of trust policies can be reported)",
		"permission issues: admin (GitHub refuses what needs it)",
		"event pull_request (trust policies are not checked there)",
		"event push (a changed trust policy counts only once the known one is old enough to be asked for again)",
		"event repository (what it would tell is noticed only when GitHub is asked again)",
	}
	if diff := cmp.Diff(want, s.Lacking); diff != "" || s.Proven.IsZero() {
		t.Errorf("%+v:\n%s", s, diff)
	}
	if n := w.github.Calls()[ststest.AppRoute]; n != 1 {
		t.Errorf("%d calls, want 1", n)
	}
	if n := logs.FilterLevelExact(zapcore.WarnLevel).Len(); n != 1 {
		t.Errorf("%d warnings, want 1: %v", n, logs.All())
	}
}

// TestAppIsNotProven: why not, said once, and asked until it is.
func TestAppIsNotProven(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name    string
		prepare func(*world)
		repair  func(*world)
		words   []string
		logged  int
	}{
		{
			"a key that is not the App's", func(w *world) { w.github.RemoveAppKey(appID, &appKey().PublicKey) },
			func(w *world) { w.github.AddApp(appID, &appKey().PublicKey, map[string]string{}) },
			[]string{"GitHub answered 401", "App 1234's current key is among the keys on its settings page"}, 1,
		},
		{
			"a clock that is behind", func(w *world) { w.github.SetClockOffset(10 * time.Minute) }, func(w *world) { w.github.SetClockOffset(0) },
			[]string{"GitHub answered 401", "This host's clock is 10m0s behind GitHub's: correct it"}, 1,
		},
		{
			"another App", func(w *world) { w.github.Fail(ststest.Fault{Route: ststest.AppRoute, Status: 200, Body: `{"id":99}`}) },
			func(w *world) { w.github.ClearFaults() }, []string{"App 99", "the key that signs is that App's"}, 1,
		},
		{
			"no App", func(w *world) { w.github.Fail(ststest.Fault{Route: ststest.AppRoute, Status: 404}) },
			func(w *world) { w.github.ClearFaults() }, []string{"GitHub answered 404", "check the App's ID"}, 1,
		},
		{
			"GitHub is down", func(w *world) { w.github.Fail(ststest.Fault{Route: ststest.AppRoute, Status: 502}) },
			func(w *world) { w.github.ClearFaults() }, []string{"GitHub answered 502"}, 1,
		},
		{
			"GitHub limits it", func(w *world) {
				limit := ststest.SecondaryRateLimit(429, time.Second)
				limit.Route = ststest.AppRoute
				w.github.Fail(limit)
			}, func(w *world) { w.github.ClearFaults() }, []string{"rate limited"}, 0,
		},
		{
			"no signer", func(w *world) { w.signer.broken.Store(true) }, func(w *world) { w.signer.broken.Store(false) },
			[]string{"the signer is not there"}, 1,
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			w, logs := restartLogged(t, githubapp.Needs{}, c.prepare)
			err := w.problem()
			for _, word := range c.words {
				if err == nil || !strings.Contains(err.Error(), word) {
					t.Errorf("%v does not say %q", err, word)
				}
			}
			if s := w.client.Status()[0]; !s.Proven.IsZero() {
				t.Errorf("it is proven: %+v", s)
			}
			time.Sleep(1500 * time.Millisecond) // asked again meanwhile
			if n := logs.FilterLevelExact(zapcore.ErrorLevel).Len(); n != c.logged {
				t.Errorf("%d errors were logged, want %d: %v", n, c.logged, logs.All())
			}
			c.repair(w)
			eventually(t, "the App is proven", func() bool {
				s := w.client.Status()[0]
				return !s.Proven.IsZero() && s.Problem == nil
			})
		})
	}
}
