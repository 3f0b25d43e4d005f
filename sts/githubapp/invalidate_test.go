package githubapp_test

import (
	"crypto/sha1"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/octo-sts/appliance/sts/ststest"
)

// hold keeps the next call of f's route waiting until release is called, and then
// answers it as f says. Arrived is closed once it is there.
func (w *world) hold(f ststest.Fault) (arrived <-chan struct{}, release func()) {
	here, released := make(chan struct{}), make(chan struct{})
	var seen atomic.Int64
	f.Match = func(*http.Request) bool {
		if seen.Add(1) > 1 {
			return false
		}
		close(here)
		<-released
		return true
	}
	w.github.Fail(f)
	release = sync.OnceFunc(func() { close(released) })
	w.Cleanup(release)
	return here, release
}

// contentsOf is GitHub's answer about the policy of acme/app with that content.
func contentsOf(content string) string {
	return fmt.Sprintf(`{"type":"file","path":%q,"sha":"%x","size":%d,"encoding":"base64","content":%q}`, policyPath,
		sha1.Sum(fmt.Appendf(nil, "blob %d\x00%s", len(content), content)), len(content), base64.StdEncoding.EncodeToString([]byte(content)))
}

// TestForgottenWhileUnderWay: what GitHub is being asked when it is forgotten
// goes to those who wait, not to those who come later, and is not kept.
func TestForgottenWhileUnderWay(t *testing.T) {
	t.Parallel()
	forgets := map[string]func(*world){
		"ForgetFiles of one":          func(w *world) { w.client.ForgetFiles("ACME", "App", "x", policyPath) },
		"ForgetFiles of all":          func(w *world) { w.client.ForgetFiles("Acme", "APP") },
		"ForgetRepository":            func(w *world) { w.client.ForgetRepository("aCME", "aPP") },
		"ForgetInstallation by owner": func(w *world) { w.client.ForgetInstallation(1, "ACME") },
		"ForgetInstallation by ID":    func(w *world) { w.client.ForgetInstallation(w.acme, "somebody") },
	}
	read := func(w *world) string {
		inst, err := w.client.Installation(w.ctx, "acme", "app")
		if err != nil {
			return kindOf(err)
		}
		file, err := w.read(inst)
		if err != nil {
			return kindOf(err)
		}
		return string(file.Content)
	}
	find := func(w *world) string {
		inst, err := w.client.Installation(w.ctx, "acme", "app")
		return kindOf(err) + fmt.Sprint(" ", inst.Permissions["contents"])
	}
	install := func(w *world) string {
		return fmt.Sprintf(`{"id":%d,"app_id":%d,"account":{"login":"acme"},"permissions":{"contents":"none"}}`, w.acme, appID)
	}
	for _, c := range []struct {
		name        string
		held        func(*world) ststest.Fault
		do          func(*world) string
		forget      []string
		before, now string
	}{
		{"a policy that changes", func(*world) ststest.Fault {
			return ststest.Fault{Route: ststest.ContentsRoute, Status: 200, Body: contentsOf("old")}
		}, read, []string{"ForgetFiles of one", "ForgetFiles of all", "ForgetRepository", "ForgetInstallation by owner", "ForgetInstallation by ID"}, "old", "new"},
		{"an installation that changes", func(w *world) ststest.Fault {
			return ststest.Fault{Route: ststest.RepoInstallRoute, Status: 200, Body: install(w)}
		}, find, []string{"ForgetRepository", "ForgetInstallation by owner"}, "ok none", "ok write"},
		{"an installation that there was not", func(*world) ststest.Fault {
			return ststest.Fault{Route: ststest.RepoInstallRoute, Status: 404}
		}, find, []string{"ForgetRepository", "ForgetInstallation by owner"}, "not installed ", "ok write"},
		{"a policy that there was not", func(w *world) ststest.Fault {
			_, err := w.client.File(w.ctx, w.installation(), "app", "other") // shows that the token works
			w.wants(err, "not found")
			return ststest.Fault{Route: ststest.ContentsRoute, Status: 404}
		}, read, []string{"ForgetFiles of one", "ForgetFiles of all", "ForgetRepository", "ForgetInstallation by owner", "ForgetInstallation by ID"}, "not found", "new"},
	} {
		for _, forget := range c.forget {
			t.Run(c.name+"/"+forget, func(t *testing.T) {
				t.Parallel()
				w := newWorld(t)
				w.github.PutFile("acme", "app", policyPath, "new")
				arrived, release := w.hold(c.held(w))
				first := make(chan string, 1)
				go func() { first <- c.do(w) }()
				<-arrived
				forgets[forget](w)
				if got := c.do(w); got != c.now { // while the first one still waits
					t.Errorf("who came after it was forgotten got %q, want %q", got, c.now)
				}
				release()
				if got := <-first; got != c.before {
					t.Errorf("who came before it was forgotten got %q, want %q", got, c.before)
				}
				w.github.ResetCalls()
				if got := c.do(w); got != c.now {
					t.Errorf("%q was kept, want %q", got, c.now)
				}
				w.calls()
			})
		}
	}
}

// TestForgotten: what is kept is asked for again, and nothing else is.
func TestForgotten(t *testing.T) {
	t.Parallel()
	const find, read, mint = ststest.RepoInstallRoute, ststest.ContentsRoute, ststest.MintRoute
	for _, c := range []struct {
		name   string
		forget func(*world)
		calls  []string // of looking at both policies, and both absent ones, again
	}{
		{"nothing", func(*world) {}, nil},
		{"one file", func(w *world) { w.client.ForgetFiles("Acme", "APP", policyPath) }, []string{read}},
		{"an absent one", func(w *world) { w.client.ForgetFiles("acme", "app", "absent") }, []string{read}},
		{"a file in another case", func(w *world) { w.client.ForgetFiles("acme", "app", "ABSENT") }, nil},
		{"one repository's files", func(w *world) { w.client.ForgetFiles("acme", "app") }, []string{read + "*2"}},
		{"one repository", func(w *world) { w.client.ForgetRepository("ACME", "APP") }, []string{find, read + "*2"}},
		{"a repository that there is not", func(w *world) { w.client.ForgetRepository("acme", "absent") }, []string{find}},
		{"another owner", func(w *world) { w.client.ForgetInstallation(1, "globex") }, nil},
		{"the owner", func(w *world) { w.client.ForgetInstallation(1, "ACME") }, []string{find + "*3", read + "*4"}},
		{"the installation", func(w *world) { w.client.ForgetInstallation(w.acme, "acme-inc") }, []string{find + "*2", read + "*4", mint}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			look := func() {
				for _, repo := range []string{"app", ".github"} {
					inst, err := w.client.Installation(w.ctx, "acme", repo)
					w.wants(err, "ok")
					for _, path := range []string{policyPath, "absent"} {
						_, err := w.client.File(w.ctx, inst, repo, path)
						w.wants(err, map[bool]string{true: "ok", false: "not found"}[repo == "app" && path == policyPath])
					}
				}
				_, err := w.client.Installation(w.ctx, "acme", "absent")
				w.wants(err, "not installed")
			}
			look()
			w.github.ResetCalls()
			c.forget(w)
			look()
			w.calls(c.calls...)
		})
	}
}

// TestForgottenIsNotStale: what was known before does not serve under a rate
// limit after it was forgotten, also where the limit is met by a call that was
// under way.
func TestForgottenIsNotStale(t *testing.T) {
	t.Parallel()
	for _, underWay := range []bool{false, true} {
		w := newWorld(t)
		inst := w.installation()
		_, err := w.read(inst)
		w.wants(err, "ok")
		_, err = w.client.File(w.ctx, inst, "app", "absent")
		w.wants(err, "not found")
		w.clock.advance(2 * time.Minute)
		limit := ststest.SecondaryRateLimit(429, 5*time.Minute)
		limit.Route = ststest.ContentsRoute
		if !underWay {
			w.client.ForgetFiles("acme", "app")
			w.github.Fail(limit)
			_, err = w.read(inst)
			w.wants(err, "rate limited")
			_, err = w.client.File(w.ctx, inst, "app", "absent")
			w.wants(err, "rate limited")
			continue
		}
		arrived, release := w.hold(limit)
		done := make(chan error, 1)
		go func() { _, err := w.read(inst); done <- err }()
		<-arrived
		w.client.ForgetFiles("acme", "app", policyPath)
		release()
		w.wants(<-done, "rate limited")
	}
}

// TestForgottenReadToken: it is not used again, nor is one that was being minted.
func TestForgottenReadToken(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	inst := w.installation()
	_, err := w.read(inst)
	w.wants(err, "ok")
	arrived, release := w.hold(ststest.Fault{Route: ststest.MintRoute, Delay: time.Nanosecond})
	w.client.ForgetInstallation(w.acme, "acme")
	w.github.ResetCalls()
	first := make(chan error, 1)
	go func() { _, err := w.read(inst); first <- err }()
	<-arrived
	w.client.ForgetInstallation(w.acme, "acme")
	_, err = w.read(inst)
	w.wants(err, "ok")
	release()
	w.wants(<-first, "ok")
	var used atomic.Value
	w.github.Fail(ststest.Fault{Route: ststest.ContentsRoute, Delay: time.Nanosecond, Match: func(r *http.Request) bool {
		used.Store(fmt.Sprintf("%x", sha256.Sum256([]byte(strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer ")))))
		return true
	}})
	w.client.ForgetFiles("acme", "app")
	_, err = w.read(inst)
	w.wants(err, "ok")
	// The first one, the one that came after it was forgotten, the one that was held.
	if mints := w.github.Mints(); len(mints) != 3 || used.Load() != mints[1].TokenSHA256 {
		t.Errorf("of %d read tokens it is not the second one that is used", len(mints))
	}
}

// TestForgettingKeepsLimits: when GitHub set a time to come back, nothing that is
// forgotten changes it.
func TestForgettingKeepsLimits(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	inst := w.installation()
	w.github.Fail(ststest.Fault{Route: ststest.MintRoute, Count: 1, Status: 429, Header: map[string]string{"Retry-After": "600"}})
	_, err := w.client.Mint(w.ctx, inst, readIssues)
	w.wants(err, "rate limited")
	w.client.ForgetInstallation(w.acme, "acme")
	w.github.ResetCalls()
	_, err = w.client.Mint(w.ctx, inst, readIssues)
	w.wants(err, "rate limited")
	w.calls()
}

// BenchmarkForget is a delivery that concerns one of thousands of policies.
func BenchmarkForget(b *testing.B) {
	w := newWorldTB(nil, b)
	inst, err := w.client.Installation(w.ctx, "acme", "app")
	if err != nil {
		b.Fatal(err)
	}
	for n := range 2000 {
		repo := fmt.Sprint("r", n)
		w.github.AddRepository("acme", repo)
		_, _ = w.client.File(w.ctx, inst, repo, policyPath)
	}
	b.ReportAllocs()
	for n := 0; b.Loop(); n++ {
		w.client.ForgetFiles("acme", fmt.Sprint("r", n%2000), policyPath)
		w.client.ForgetRepository("globex", "app")
	}
}
