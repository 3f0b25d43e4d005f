package githubapp_test

import (
	"errors"
	"testing"
	"time"

	"github.com/octo-sts/appliance/sts/githubapp"
	"github.com/octo-sts/appliance/sts/ststest"
)

const secondID = 2000

// newPool is a world with a second App that is installed on acme, too.
func newPool(t *testing.T, change ...func(*options)) (w *world, second int64) {
	w = newWorld(t, append([]func(*options){func(o *options) {
		o.config.Apps = append(o.config.Apps, githubapp.App{ID: secondID, Organizations: []string{"*"}})
	}}, change...)...)
	w.github.AddApp(secondID, &appKey().PublicKey, map[string]string{"contents": "write", "issues": "write"})
	return w, w.github.Install(secondID, "acme", ststest.InstallOptions{})
}

// use makes one call with an installation's quota, of which GitHub says that so
// much is left.
func (w *world) use(inst githubapp.Installation, remaining int, reset time.Duration) {
	w.Helper()
	w.github.SetRateLimit(inst.ID, 5000, remaining+1, w.clock.now().Add(reset))
	w.client.ForgetFiles("acme", "app")
	_, err := w.read(inst)
	w.wants(err, "ok")
}

// picks checks which App serves acme/app now.
func (w *world) picks(app int64) githubapp.Installation {
	w.Helper()
	inst, err := w.client.Installation(w.ctx, "acme", "app")
	w.wants(err, "ok")
	if inst.AppID != app {
		w.Errorf("App %d serves acme, want %d", inst.AppID, app)
	}
	return inst
}

// limitMint makes GitHub limit an installation when a token is minted.
func (w *world) limitMint(inst githubapp.Installation, wait time.Duration) {
	w.Helper()
	limit := ststest.SecondaryRateLimit(429, wait)
	limit.Route, limit.Count = ststest.MintRoute, 1
	fault := w.github.Fail(limit)
	_, err := w.client.Mint(w.ctx, inst, readIssues)
	w.wants(err, "rate limited")
	fault.Clear()
}

// TestPoolByRemainingQuota in tenths, until GitHub's hour is over.
func TestPoolByRemainingQuota(t *testing.T) {
	t.Parallel()
	w, _ := newPool(t)
	first := w.picks(appID)
	w.use(first, 4501, 50*time.Minute) // the first tenth is not used up
	w.picks(appID)
	w.use(first, 4499, 50*time.Minute)
	second := w.picks(secondID) // nothing is known of it, so it is full
	w.use(second, 4501, 50*time.Minute)
	w.picks(secondID)
	w.use(second, 4400, 50*time.Minute) // no less than the first one's
	w.picks(appID)
	w.use(first, 10, 50*time.Minute)
	w.use(second, 2000, 55*time.Minute)
	w.picks(secondID)
	w.clock.advance(51 * time.Minute)
	w.picks(appID) // full again
}

// TestPoolPassesOverWhatIsLimited: whoever meets a limit asks again, and gets
// another App's installation, until all are limited.
func TestPoolPassesOverWhatIsLimited(t *testing.T) {
	t.Parallel()
	w, _ := newPool(t)
	w.limitMint(w.picks(appID), 10*time.Minute)
	second := w.picks(secondID)
	_, err := w.read(second)
	w.wants(err, "ok")
	_, err = w.client.Mint(w.ctx, second, readIssues)
	w.wants(err, "ok")
	w.limitMint(second, 3*time.Minute)
	w.github.ResetCalls()
	_, err = w.client.Installation(w.ctx, "acme", "app")
	w.wants(err, "rate limited")
	if e := (*githubapp.RateLimitError)(nil); !errors.As(err, &e) || e.RetryAfter > 3*time.Minute || e.RetryAfter < 2*time.Minute {
		t.Errorf("got %v, want the limit that ends first, after 3 min", err)
	}
	w.calls()
	w.clock.advance(4 * time.Minute)
	w.picks(secondID)
	w.clock.advance(7 * time.Minute)
	w.picks(appID)
}

// TestPoolPassesOverAppsThatMayNotAsk: the first App is not known to be installed
// and may not ask now, the second may.
func TestPoolPassesOverAppsThatMayNotAsk(t *testing.T) {
	t.Parallel()
	w, _ := newPool(t)
	limit := ststest.SecondaryRateLimit(403, 10*time.Minute)
	limit.Route, limit.Count = ststest.RepoInstallRoute, 1
	w.github.Fail(limit)
	w.picks(secondID)
	w.clock.advance(11 * time.Minute)
	w.picks(appID)
}

// TestPoolWithoutOne: an App that is not installed there does not serve, however
// much of its quota is left, and limits of the one that is are the answer.
func TestPoolWithoutOne(t *testing.T) {
	t.Parallel()
	w, second := newPool(t)
	w.github.SelectRepositories(second, []string{".github"})
	first := w.picks(appID)
	w.use(first, 1, 50*time.Minute)
	w.picks(appID)
	w.limitMint(first, 10*time.Minute)
	_, err := w.client.Installation(w.ctx, "acme", "app")
	w.wants(err, "rate limited")
	inst, err := w.client.Installation(w.ctx, "acme", ".github")
	w.wants(err, "ok")
	if inst.ID != second {
		t.Errorf("got installation %d, want %d", inst.ID, second)
	}
	_, err = w.client.Installation(w.ctx, "acme", "nothing")
	w.wants(err, "not installed")
}

// TestPoolConfirmsEachInstallation: what is read with one App's installation is
// believed for that one alone, whatever another one's is part of.
func TestPoolConfirmsEachInstallation(t *testing.T) {
	t.Parallel()
	w, second := newPool(t)
	w.github.AddRepositoryWith("acme", "open", ststest.RepositoryOptions{Public: true})
	w.github.PutFile("acme", "open", policyPath, "genuine")
	first, err := w.client.Installation(w.ctx, "acme", "open")
	w.wants(err, "ok")
	w.limitMint(first, time.Minute)
	other, err := w.client.Installation(w.ctx, "acme", "open")
	w.wants(err, "ok")
	if other.ID != second {
		t.Fatalf("got installation %d, want %d", other.ID, second)
	}
	w.clock.advance(6 * time.Second)
	_, err = w.client.File(w.ctx, other, "open", "nothing")
	w.wants(err, "not found") // confirmed by the second App, not by the first
	w.github.SelectRepositories(second, []string{"app"})
	w.clock.advance(6 * time.Second)
	_, err = w.client.File(w.ctx, other, "open", policyPath)
	w.wants(err, "not installed")
	w.clock.advance(time.Minute)
	policy, err := w.exchangeFor("acme", "open", policyPath, scopes[1].mint)
	w.wants(err, "ok")
	if policy != "genuine" {
		t.Errorf("the policy is %q", policy)
	}
}

func TestServes(t *testing.T) {
	t.Parallel()
	w := newWorld(t, func(o *options) {
		o.config.Apps = []githubapp.App{{ID: appID, Organizations: []string{"Acme"}}, {ID: secondID, Organizations: []string{"*"}}}
	})
	for _, c := range []struct {
		app   int64
		owner string
		want  bool
	}{{appID, "aCME", true}, {appID, "globex", false}, {secondID, "globex", true}, {secondID, "acme", false}, {7, "acme", false}} {
		if got := w.client.Serves(c.app, c.owner); got != c.want {
			t.Errorf("Serves(%d, %s) is %t", c.app, c.owner, got)
		}
	}
}

// TestKnown: whether an exchange would ask GitHub about something new.
func TestKnown(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	const unknown, known, young = 0, 1, 2
	check := func(when, owner, repo, path string, want int) {
		t.Helper()
		w.github.ResetCalls()
		if isKnown, isYoung := w.client.Known(owner, repo, path); isKnown != (want > unknown) || isYoung != (want == young) {
			t.Errorf("%s: Known(%s, %s, %s) is %t, %t", when, owner, repo, path, isKnown, isYoung)
		}
		w.calls()
		if want == young { // as it says
			if inst, err := w.client.Installation(w.ctx, owner, repo); err == nil {
				_, _ = w.client.File(w.ctx, inst, repo, path)
			}
			w.calls()
		}
	}
	check("at first", "acme", "app", policyPath, unknown)
	if w.client.KnownOwner("acme") {
		t.Error("at first the owner is known")
	}
	inst := w.installation()
	check("the installation was found", "acme", "app", policyPath, unknown)
	_, err := w.read(inst)
	w.wants(err, "ok")
	_, err = w.client.File(w.ctx, inst, "app", "absent")
	w.wants(err, "not found")
	check("both were found", "ACME", "App", policyPath, young)
	check("the file is absent", "acme", "app", "absent", young)
	check("another file", "acme", "app", "other", unknown)
	check("another repository", "acme", ".github", policyPath, unknown)
	_, err = w.client.Installation(w.ctx, "globex", "app")
	w.wants(err, "not installed")
	check("there is no installation", "globex", "app", policyPath, young)
	w.clock.advance(30 * time.Second)
	check("there was none a while ago", "globex", "app", policyPath, unknown)
	check("both were found a while ago", "acme", "app", policyPath, young)
	w.clock.advance(40 * time.Second)
	check("both are old", "acme", "app", policyPath, known)
	inst, err = w.client.Installation(w.ctx, "acme", "app")
	w.wants(err, "ok")
	check("the file is old", "acme", "app", policyPath, known)
	_, err = w.read(inst)
	w.wants(err, "ok")
	check("both are young again", "acme", "app", policyPath, young)
	w.clock.advance(2 * time.Minute)
	inst, err = w.client.Installation(w.ctx, "acme", "app")
	w.wants(err, "ok")
	w.clock.advance(3 * time.Second)
	_, err = w.client.File(w.ctx, inst, "app", "other")
	w.wants(err, "not found")
	w.clock.advance(58500 * time.Millisecond)
	check("the installation is old", "acme", "app", "other", known)
	w.clock.advance(30 * time.Hour)
	check("both were found long ago", "acme", "app", policyPath, known)
	check("the file was absent long ago", "acme", "app", "absent", unknown)
	w.client.ForgetFiles("acme", "app", policyPath)
	check("it was forgotten", "acme", "app", policyPath, unknown)
	if !w.client.KnownOwner("ACME") || w.client.KnownOwner("globex") {
		t.Error("acme was found, and globex was not")
	}
}
