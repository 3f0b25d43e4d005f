package githubapp_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/octo-sts/appliance/sts/githubapp"
	"github.com/octo-sts/appliance/sts/ststest"
)

// evil is what somebody grants themselves in a repository of their own.
const evil = "issuer: https://evil.example\n"

// exchangeFor does what an exchange does whose policy is in owner/repo: it
// returns the policy that would be believed, and where one was, mints.
func (w *world) exchangeFor(owner, repo, path string, r githubapp.MintRequest) (policy string, err error) {
	inst, err := w.client.Installation(w.ctx, owner, repo)
	if err != nil {
		return "", err
	}
	file, err := w.client.File(w.ctx, inst, repo, path)
	if err != nil {
		return "", err
	}
	_, err = w.client.Mint(w.ctx, inst, r)
	return string(file.Content), err
}

// liveWith counts the tokens alive that can do something with issues: no read
// tokens.
func (w *world) liveWith() (n int) {
	for _, m := range w.github.LiveMints() {
		if m.Permissions["issues"] != "" {
			n++
		}
	}
	return n
}

// scopes are the two kinds: where the policy is, and what it is good for.
var scopes = []struct {
	name, repo string
	mint       githubapp.MintRequest
}{
	{"repository", "app", readIssues},
	{"organization", ".github", githubapp.MintRequest{AllRepositories: true, Permissions: readIssues.Permissions}},
}

// TestTakeover: acme is renamed, and somebody else takes the login, with public
// repositories of the same names in which they wrote policies of their own.
// However warm the caches are, none of these policies may count, nor may any
// token of acme's installation leave.
func TestTakeover(t *testing.T) {
	t.Parallel()
	for _, s := range scopes {
		for _, later := range []time.Duration{0, 4 * time.Second, 6 * time.Second, 30 * time.Second, 61 * time.Second, 5 * time.Minute, 50 * time.Minute} {
			t.Run(fmt.Sprintf("%s/%s", s.name, later), func(t *testing.T) {
				t.Parallel()
				w := newWorld(t)
				w.github.PutFile("acme", s.repo, policyPath, "genuine")
				policy, err := w.exchangeFor("acme", s.repo, policyPath, s.mint)
				w.wants(err, "ok")
				if policy != "genuine" {
					t.Fatalf("the policy is %q", policy)
				}
				before := w.liveWith()

				w.clock.advance(later)
				w.github.RenameOwner("acme", "acme-inc")
				for _, repo := range []string{"app", ".github"} {
					w.github.AddRepositoryWith("acme", repo, ststest.RepositoryOptions{Public: true})
					w.github.PutFile("acme", repo, policyPath, evil)
					w.github.PutFile("acme", repo, "new", evil)
				}
				w.clock.advance(6 * time.Second) // nobody takes a name over in less
				// First the one that is not known: it is read, and asked about.
				for _, path := range []string{"new", policyPath, "new"} {
					policy, err := w.exchangeFor("acme", s.repo, path, s.mint)
					w.wants(err, "not installed")
					if policy != "" {
						t.Errorf("%s: believed %q", path, policy)
					}
				}
				w.clock.advance(time.Minute)
				for _, path := range []string{policyPath, "new"} {
					_, err := w.exchangeFor("acme", s.repo, path, s.mint)
					w.wants(err, "not installed")
				}
				if after := w.liveWith(); after > before {
					t.Errorf("%d tokens were minted after the takeover", after-before)
				}
				policy, err = w.exchangeFor("acme-inc", s.repo, policyPath, s.mint)
				w.wants(err, "ok")
				if policy != "genuine" {
					t.Errorf("under the new name the policy is %q", policy)
				}
			})
		}
	}
}

// TestTakeoverOfWhatIsHeld: the installation is known and young, the policy is
// known and old, so GitHub is asked whether it changed; and it did.
func TestTakeoverOfWhatIsHeld(t *testing.T) {
	t.Parallel()
	for _, s := range scopes {
		w := newWorld(t)
		w.github.PutFile("acme", s.repo, policyPath, "genuine")
		_, err := w.exchangeFor("acme", s.repo, policyPath, s.mint)
		w.wants(err, "ok")
		w.clock.advance(50 * time.Second)
		_, err = w.exchangeFor("acme", s.repo, "nothing", s.mint) // confirms the installation
		w.wants(err, "not found")
		w.github.RenameOwner("acme", "acme-inc")
		w.github.AddRepositoryWith("acme", s.repo, ststest.RepositoryOptions{Public: true})
		w.github.PutFile("acme", s.repo, policyPath, evil)
		w.clock.advance(15 * time.Second)
		w.github.ResetCalls()
		_, err = w.exchangeFor("acme", s.repo, policyPath, s.mint)
		w.wants(err, "not installed")
		w.calls(ststest.ContentsRoute, ststest.RepoInstallRoute)
	}
}

// TestTakeoverWithinSeconds of the time when GitHub named the installation, which
// is faster than anybody has done it: what is read of somebody else's repository
// is good for no token of the installation's, and is not served under the new name.
func TestTakeoverWithinSeconds(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.wants(w.exchange(), "ok")
	before := w.liveWith()
	w.github.RenameOwner("acme", "acme-inc")
	w.github.AddRepositoryWith("acme", "app", ststest.RepositoryOptions{Public: true})
	w.github.PutFile("acme", "app", "new", evil)
	if _, err := w.exchangeFor("acme", "app", "new", readIssues); err == nil || w.liveWith() != before {
		t.Errorf("a token was minted for what is not acme's any more: %v", err)
	}
	_, err := w.exchangeFor("acme-inc", "app", "new", readIssues)
	w.wants(err, "not found")
}

// TestRenamedMeanwhile: while a policy is known and young, it still counts, and
// it is the genuine one; but what it is good for is not acme's any more.
func TestRenamedMeanwhile(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.wants(w.exchange(), "ok")
	before := w.liveWith()
	w.github.RenameOwner("acme", "acme-inc")
	w.wants(w.exchange(), "unavailable", "acme-inc/app", "revoked")
	if after := w.liveWith(); after != before {
		t.Errorf("%d tokens live, want the %d from before", after, before)
	}
	w.clock.advance(61 * time.Second)
	w.wants(w.exchange(), "refused", "renamed or moved")
	w.wants(w.exchange(), "refused", "renamed or moved")
}

// TestConfirmedByTheSameInstallation: a repository that is part of another
// installation by now is not served from, nor read by, the old one.
func TestConfirmedByTheSameInstallation(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	inst := w.installation()
	_, err := w.read(inst)
	w.wants(err, "ok")
	const another = `{"id":77,"app_id":1234,"account":{"login":"acme"}}`
	w.github.Fail(ststest.Fault{Route: ststest.RepoInstallRoute, Status: 200, Body: another})
	w.clock.advance(6 * time.Second)
	_, err = w.client.File(w.ctx, inst, "app", "another")
	w.wants(err, "not installed", "installation 77")
	w.github.ResetCalls()
	_, err = w.read(inst) // forgotten, so asked for again
	w.wants(err, "not installed", "installation 77")
	w.calls(ststest.ContentsRoute)

	// An installation that nobody found is not read with.
	_, err = w.read(githubapp.Installation{AppID: appID, ID: w.acme, Owner: "acme"})
	w.wants(err, "refused")
}

// TestConfirmationIsNotHad: what GitHub answers about a file is not believed
// without it; under a rate limit what it said before serves.
func TestConfirmationIsNotHad(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	inst := w.installation()
	first, err := w.read(inst)
	w.wants(err, "ok")
	w.github.PutFile("acme", "app", policyPath, "changed")
	w.clock.advance(2 * time.Minute)
	broken := w.github.Fail(ststest.Fault{Route: ststest.RepoInstallRoute, Status: 502})
	_, err = w.read(inst)
	w.wants(err, "unavailable")
	broken.Clear()

	limit := ststest.SecondaryRateLimit(429, 3*time.Minute)
	limit.Route = ststest.RepoInstallRoute
	limited := w.github.Fail(limit)
	again, err := w.client.Installation(w.ctx, "acme", "app")
	w.wants(err, "ok")
	file, err := w.read(again)
	w.wants(err, "ok")
	if file != first {
		t.Errorf("got %q, which nothing confirms", file.Content)
	}
	_, err = w.client.File(w.ctx, again, "app", "unknown")
	w.wants(err, "rate limited")
	limited.Clear()
	w.clock.advance(4 * time.Minute)
	changed, err := w.read(inst)
	w.wants(err, "ok")
	if string(changed.Content) != "changed" {
		t.Errorf("got %q", changed.Content)
	}
}

// TestPublicButNotInstalled: the organization's policy repository is public, and
// the App is installed on another one only. Any token can read it; it has no say.
func TestPublicButNotInstalled(t *testing.T) {
	t.Parallel()
	for _, warm := range []bool{false, true} {
		t.Run(fmt.Sprintf("warm: %t", warm), func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			w.github.AddRepository("picky", "app")
			w.github.AddRepositoryWith("picky", ".github", ststest.RepositoryOptions{Public: true})
			w.github.PutFile("picky", "app", policyPath, "genuine")
			w.github.PutFile("picky", ".github", policyPath, evil)
			w.github.Install(appID, "picky", ststest.InstallOptions{Repositories: []string{"app"}})
			for range 3 {
				if warm {
					_, err := w.exchangeFor("picky", "app", policyPath, readIssues)
					w.wants(err, "ok")
				}
				before := w.liveWith()
				policy, err := w.exchangeFor("picky", ".github", policyPath, scopes[1].mint)
				w.wants(err, "not installed")
				if policy != "" || w.liveWith() != before {
					t.Errorf("believed %q", policy)
				}
				w.clock.advance(30 * time.Second)
			}
		})
	}
}

// TestDeselected: the repository leaves the installation and stays readable.
func TestDeselected(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.github.AddRepositoryWith("acme", "open", ststest.RepositoryOptions{Public: true})
	w.github.PutFile("acme", "open", policyPath, "genuine")
	all := scopes[1].mint
	_, err := w.exchangeFor("acme", "open", policyPath, all)
	w.wants(err, "ok")
	w.github.SelectRepositories(w.acme, []string{"app"})
	w.clock.advance(61 * time.Second)
	_, err = w.exchangeFor("acme", "open", policyPath, all)
	w.wants(err, "not installed")
}

// TestTimeTellsNothing: at any age, a policy that exists and one that does not
// cost the same calls.
func TestTimeTellsNothing(t *testing.T) {
	t.Parallel()
	cost := func(exists bool) (all []string) {
		w := newWorld(t)
		w.wants(w.exchange(), "ok") // so that the read token is known to work
		kind := "not found"
		if exists {
			kind = "ok"
			w.github.PutFile("acme", "app", "other", "issuer: https://issuer.example\n")
		}
		for _, later := range []time.Duration{0, 0, 24, 7, 23, 12, 0, 30, 120} {
			w.clock.advance(later * time.Second)
			w.github.ResetCalls()
			inst, err := w.client.Installation(w.ctx, "acme", "app")
			w.wants(err, "ok")
			_, err = w.client.File(w.ctx, inst, "app", "other")
			w.wants(err, kind)
			all = append(all, fmt.Sprint(w.callsMade()))
		}
		return all
	}
	if diff := cmp.Diff(cost(true), cost(false)); diff != "" {
		t.Errorf("the calls for a policy that exists (-) and one that does not (+):\n%s", diff)
	}
}
