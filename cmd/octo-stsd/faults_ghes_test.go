package main

import (
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/octo-sts/appliance/sts/audit"
	"github.com/octo-sts/appliance/sts/ststest"
)

// A GitHub Enterprise Server has its API under a path, and everything else of it
// under the same host: nothing that is asked leaves the one, and nothing that a
// check says leads away from the other. With both forms of tokens.
func TestGitHubEnterpriseServer(t *testing.T) {
	for name, form := range map[string]ststest.TokenForm{"opaque tokens": ststest.OpaqueTokens, "JWT tokens": ststest.JWTTokens} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, ststest.ServiceConfig{Webhook: true, GitHub: ststest.GitHubConfig{BasePath: "/api/v3", TokenForm: form}})
			var mu sync.Mutex // guards paths
			var paths []string
			r.GitHub.Fail(ststest.Fault{Match: func(req *http.Request) bool {
				mu.Lock()
				defer mu.Unlock()
				paths = append(paths, req.Method+" "+req.RequestURI)
				return false
			}})
			x := r.granted("acme/app", "reader")
			if got := r.ask(x.Token, readsApp.method, readsApp.path, ""); got != readsApp.status {
				t.Errorf("%s: %d", readsApp.path, got)
			}
			run := r.checkedPush(t)
			host, err := url.Parse(r.GitHub.URL())
			if err != nil {
				t.Fatal(err)
			}
			links := linksIn(run.Summary)
			if len(links) == 0 {
				t.Errorf("no link to a policy in %q", run.Summary)
			}
			for _, link := range links {
				if !strings.HasPrefix(link, "https://"+host.Host+"/") || strings.HasPrefix(link, "https://"+host.Host+"/api/") {
					t.Errorf("the check links to %s", link)
				}
			}
			mu.Lock()
			defer mu.Unlock()
			wanted := []string{"/installation", "/contents/", "/access_tokens", "/check-runs"}
			for _, path := range paths {
				wanted = slices.DeleteFunc(wanted, func(part string) bool { return strings.Contains(path, part) })
				if !strings.Contains(path, " /api/v3/") {
					t.Errorf("GitHub was asked %s", path)
				}
			}
			if len(wanted) > 0 || r.GitHub.Calls()["unknown"] > 0 {
				t.Errorf("not asked: %v; calls: %v", wanted, r.GitHub.Calls())
			}
		})
	}
}

// checkedPush pushes a policy to the default branch and waits for its check.
func (r *rig) checkedPush(t *testing.T) ststest.CheckRun {
	t.Helper()
	pushed := r.GitHub.Push("acme", "app", "main", []ststest.Change{{
		Path: ".github/chainguard/new.sts.yaml", Content: "issuer: " + r.Issuer.URL() + "\n" + rigPolicies["app/reader"],
	}})
	var runs []ststest.CheckRun
	r.eventually("a check of the push", func() bool {
		runs = r.GitHub.CheckRuns("acme", "app", pushed.After)
		return len(runs) == 1 && runs[0].Status == "completed"
	})
	return runs[0]
}

// linksIn are the addresses that a text in Markdown links to.
func linksIn(markdown string) (links []string) {
	for part := range strings.SplitSeq(markdown, "](") {
		if link, _, ok := strings.Cut(part, ")"); ok && strings.Contains(link, "://") {
			links = append(links, link)
		}
	}
	return links
}

// GitHub's clock and ours are ten minutes apart: nothing is granted that should
// not be, the operator reads why nothing is, and once the clocks agree it goes on.
func TestClockIsOff(t *testing.T) {
	for _, off := range []time.Duration{10 * time.Minute, -10 * time.Minute} {
		t.Run(fmt.Sprint(off), func(t *testing.T) {
			r := newRig(t, ststest.ServiceConfig{})
			token := r.granted("acme/app", "reader").Token
			word := "behind"
			if off < 0 {
				word = "ahead of"
			}
			r.GitHub.SetClockOffset(off)
			minted := len(r.GitHub.Mints())
			x := r.exchange("acme/app", "reader", r.job(nil))
			lines := r.audited(audit.Filter{RequestID: x.RequestID})
			if x.Status != http.StatusServiceUnavailable || len(lines) != 2 ||
				!strings.Contains(lines[1].Reason, "This host's clock is 10m0s "+word+" GitHub's: correct it") {
				t.Errorf("%d %s, audited as %+v", x.Status, x.Body, lines)
			}
			if n := len(r.GitHub.Mints()); n != minted {
				t.Errorf("%d tokens were minted", n-minted)
			}
			if status, state, checks := r.readiness(); status != http.StatusOK || state != "degraded" ||
				!strings.Contains(checks["clock"], "this host's clock is off by ") {
				t.Errorf("/readyz: %d %s %v", status, state, checks)
			}
			if !strings.Contains(r.Logs(), "this host's clock is not GitHub's: correct it, or App JWTs will be refused") {
				t.Error("the log does not say that the clock is off")
			}
			// What needs no App JWT goes on: policies are read and decided by, and a
			// token that was handed out can be used.
			if y := r.exchange("acme/app", "reader", r.job(map[string]any{"sub": "repo:evil/app:ref:refs/heads/main"})); y.Status != http.StatusForbidden {
				t.Errorf("a stranger: %d %s", y.Status, y.Body)
			}
			if got := r.ask(token, readsApp.method, readsApp.path, ""); got != readsApp.status {
				t.Errorf("a token from before: %d", got)
			}
			r.GitHub.SetClockOffset(0)
			back := time.Now()
			r.eventually("a grant", func() bool { return r.exchange("acme/app", "reader", r.job(nil)).Status == http.StatusOK })
			if took := time.Since(back); took > recovery {
				t.Errorf("nothing was granted for %s after the clocks agreed again", took)
			}
			if _, state, checks := r.readiness(); state != "ready" {
				t.Errorf("/readyz afterwards: %s %v", state, checks)
			}
		})
	}
}
