package githubapp_test

import (
	"testing"
	"time"

	"github.com/octo-sts/appliance/sts/githubapp"
	"github.com/octo-sts/appliance/sts/ststest"
)

func TestInstallation(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name        string
		prepare     func(*ststest.GitHub)
		owner, repo string
		kind        string
		words       string
		calls       int
	}{
		{name: "as GitHub spells it", owner: "acme", repo: "app", kind: "ok", calls: 1},
		{name: "in another case", owner: "ACME", repo: "App", kind: "ok", calls: 1},
		{name: "nobody of that name", owner: "nobody", repo: "app", kind: "not installed", words: "GitHub answered 404", calls: 1},
		{name: "no such repository", owner: "acme", repo: "nothing", kind: "not installed", calls: 1},
		{
			name: "not among the selected repositories",
			prepare: func(g *ststest.GitHub) {
				g.AddRepository("picky", "a")
				g.AddRepository("picky", "b")
				g.Install(appID, "picky", ststest.InstallOptions{Repositories: []string{"a"}})
			},
			owner: "picky", repo: "b", kind: "not installed", calls: 1,
		},
		{
			name:    "not installed",
			prepare: func(g *ststest.GitHub) { g.AddRepository("other", "app") },
			owner:   "other", repo: "app", kind: "not installed", calls: 1,
		},
		{
			name: "suspended",
			prepare: func(g *ststest.GitHub) {
				g.AddRepository("idle", "app")
				g.Install(appID, "idle", ststest.InstallOptions{Suspended: true})
			},
			owner: "idle", repo: "app", kind: "not installed", words: "suspended", calls: 1,
		},
		{
			name:    "renamed repository",
			prepare: func(g *ststest.GitHub) { g.RenameRepository("acme", "app", "application") },
			owner:   "acme", repo: "app", kind: "refused", words: "renamed or moved", calls: 1,
		},
		{name: "no name", owner: "", repo: "app", kind: "refused"},
		{name: "a path for an owner", owner: "..", repo: "app", kind: "refused"},
		{name: "a path for a repository", owner: "acme", repo: "app/../../orgs", kind: "refused"},
		{name: "an escaped path", owner: "acme", repo: "%2e%2e", kind: "refused"},
		{name: "a query", owner: "acme", repo: "app?x", kind: "refused"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			if c.prepare != nil {
				c.prepare(w.github)
			}
			inst, err := w.client.Installation(w.ctx, c.owner, c.repo)
			w.wants(err, c.kind, c.words)
			if got := w.totalCalls(); got != c.calls {
				t.Errorf("%d calls, want %d", got, c.calls)
			}
			if err == nil && (inst.ID != w.acme || inst.AppID != appID || inst.Owner != "acme" || inst.Permissions["contents"] != "write") {
				t.Errorf("got %+v", inst)
			}
		})
	}
}

// TestInstallationIsKept: found, for as long as a policy; absent, for under 30 s;
// each for one repository.
func TestInstallationIsKept(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.installation()
	w.clock.advance(55 * time.Second)
	for _, name := range []string{"app", "APP", "aPp"} {
		_, err := w.client.Installation(w.ctx, "aCME", name)
		w.wants(err, "ok")
	}
	w.calls()
	for repo, kind := range map[string]string{".github": "ok", "anything": "not installed"} {
		_, err := w.client.Installation(w.ctx, "acme", repo)
		w.wants(err, kind)
		w.calls(ststest.RepoInstallRoute)
		w.github.ResetCalls()
	}
	w.clock.advance(6 * time.Second)
	_, err := w.client.Installation(w.ctx, "acme", "app")
	w.wants(err, "ok")
	w.calls(ststest.RepoInstallRoute)

	w.github.ResetCalls()
	w.github.AddRepository("new", "app")
	for range 3 {
		_, err = w.client.Installation(w.ctx, "new", "app")
		w.wants(err, "not installed")
	}
	w.calls(ststest.RepoInstallRoute)
	w.github.Install(appID, "new", ststest.InstallOptions{})
	w.clock.advance(29 * time.Second)
	_, err = w.client.Installation(w.ctx, "new", "app")
	w.wants(err, "ok")
}

func TestPools(t *testing.T) {
	t.Parallel()
	const named, second, fallback = appID, 2000, 3000
	w := newWorld(t, func(o *options) {
		o.config.Apps = []githubapp.App{
			{ID: fallback, Organizations: []string{"*"}},
			{ID: named, Organizations: []string{"Acme", "globex", "lonely"}},
			{ID: second, Organizations: []string{"globex"}},
		}
	})
	for _, id := range []int64{second, fallback} {
		w.github.AddApp(id, &appKey().PublicKey, map[string]string{"contents": "read"})
	}
	for _, owner := range []string{"globex", "initech", "lonely"} {
		w.github.AddRepository(owner, "app")
	}
	w.github.Install(fallback, "acme", ststest.InstallOptions{})
	w.github.Install(second, "globex", ststest.InstallOptions{})
	w.github.Install(fallback, "initech", ststest.InstallOptions{})
	w.github.Install(fallback, "lonely", ststest.InstallOptions{})
	for _, c := range []struct {
		owner, kind string
		app         int64
		calls       int
	}{
		{"acme", "ok", named, 1},          // the App that names it, not the fallback
		{"globex", "ok", second, 2},       // in order: the first is not installed there
		{"initech", "ok", fallback, 1},    // nobody names it
		{"lonely", "not installed", 0, 1}, // its pool is not widened by the fallback
	} {
		w.github.ResetCalls()
		inst, err := w.client.Installation(w.ctx, c.owner, "app")
		w.wants(err, c.kind)
		if inst.AppID != c.app {
			t.Errorf("%s is served by App %d, want %d", c.owner, inst.AppID, c.app)
		}
		w.calls(ststest.RepoInstallRoute + "*" + string(rune('0'+c.calls)))
	}
}

func TestOwnerWithoutPool(t *testing.T) {
	t.Parallel()
	w := newWorld(t, func(o *options) { o.config.Apps[0].Organizations = []string{"globex"} })
	_, err := w.client.Installation(w.ctx, "acme", "app")
	w.wants(err, "not installed", "no configured App serves acme")
	w.calls()
}

// TestOddInstallations are answers that do not fit the question.
func TestOddInstallations(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ name, body, kind, words string }{
		{"of another owner", `{"id":5,"app_id":1234,"account":{"login":"evil"}}`, "not installed", "evil"},
		{"of another App", `{"id":5,"app_id":99,"account":{"login":"acme"}}`, "unavailable", "App 99"},
		{"without an ID", `{"app_id":1234,"account":{"login":"acme"}}`, "unavailable", "installation 0"},
		{"an array", `[]`, "unavailable", "JSON"},
		{"followed by more", `{"id":5,"app_id":1234,"account":{"login":"acme"}}{}`, "unavailable", "JSON"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			w.github.Fail(ststest.Fault{Route: ststest.RepoInstallRoute, Status: 200, Body: c.body})
			_, err := w.client.Installation(w.ctx, "acme", "app")
			w.wants(err, c.kind, c.words)
		})
	}
}

// TestReinstalled: what was known of the old installation does not outlive the
// first refusal.
func TestReinstalled(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.wants(w.exchange(), "ok")
	w.github.Uninstall(w.acme)
	w.github.Install(appID, "acme", ststest.InstallOptions{})
	w.wants(w.exchange(), "refused")
	w.wants(w.exchange(), "ok")
}

// TestConfirmingIsFree: that an installation is still what it was does not count
// against the App's hour.
func TestConfirmingIsFree(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.github.SetAppRateLimit(appID, 5000, 2, w.clock.now().Add(time.Hour))
	for n := range 10 {
		inst, err := w.client.Installation(w.ctx, "acme", "app")
		w.wants(err, "ok")
		if inst.ID != w.acme || inst.Permissions["contents"] == "" {
			t.Errorf("look-up %d: %+v", n, inst)
		}
		w.clock.advance(2 * time.Minute)
	}
	w.github.SetInstallationPermissions(w.acme, map[string]string{"contents": "read"})
	inst, err := w.client.Installation(w.ctx, "acme", "app")
	w.wants(err, "ok")
	if inst.Permissions["contents"] != "read" {
		t.Errorf("a change is not noticed: %+v", inst)
	}
}
