package main

import (
	"net/http"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/octo-sts/appliance/sts/ststest"
)

// GitHub's answers, whatever they are: nobody gets a token that the policy does
// not give, nothing is asked again too early, the operator reads why, and once
// GitHub is itself again exchanges go on, with nothing left behind.
func TestGitHubsAnswers(t *testing.T) {
	for name, test := range map[string]func(*testing.T){"over at once": testPassingOddities, "that last": testLastingOddities} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			test(t)
		})
	}
}

// testPassingOddities plays those that leave nothing behind, one after another
// since some cut a connection that all use; then those that stop the App, which
// they would all feel.
func testPassingOddities(t *testing.T) {
	r := newRig(t, ststest.ServiceConfig{Edit: func(c map[string]any) {
		c["github"].(map[string]any)["policy_max_age"] = "0s"
	}})
	r.granted("acme/app", "reader")
	r.eventually("GitHub was asked about the App", func() bool { return r.GitHub.Calls()[ststest.AppRoute] > 0 })
	before := r.held(t)
	var cells []*cell
	play := func(o oddity, s step) {
		c := r.newCell(len(cells), o, s)
		c.run()
		cells = append(cells, c)
	}
	for _, o := range passingOddities(r.GitHub.URL()) {
		for _, s := range []step{resolving, preparing, reading, rereading, minting} {
			if s.name == resolving.name && o.name == "404" || s.name == reading.name && (o.name == "401" || o.name == "403") {
				continue // these last
			}
			play(o, s)
		}
	}
	for _, s := range []step{resolving, preparing, rereading, minting} {
		time.Sleep(time.Second) // a refused App JWT is replaced at most once a second
		play(oddity{name: "401 once", fault: always(ststest.Fault{Status: http.StatusUnauthorized, Count: 1}), ends: goesOn}, s)
	}
	for _, o := range limitsOf(2 * time.Second) {
		play(o, resolving)
	}
	r.playFreshTokens(t)
	if n := r.GitHub.Calls()["unknown"]; n != 0 {
		t.Errorf("%d calls went where a redirect led, or nowhere", n)
	}
	r.reportAll(t, cells)
	r.checkHeld(t, before)
}

// passingOddities are over as soon as GitHub is itself again.
func passingOddities(url string) []oddity {
	all := []oddity{
		{name: "no JSON", fault: always(ststest.Fault{Garbage: true}), ends: fails("not the JSON expected")},
		{name: "half of the JSON", fault: always(ststest.Fault{Truncate: true}), ends: fails("not the JSON expected"),
			at: map[string]ending{rereading.name: goesOn}}, // a 304 has no body
		{name: "reset", fault: always(ststest.Fault{Reset: true}), ends: fails("")},
		{name: "done, and the answer lost", fault: always(ststest.Fault{Lost: true}), ends: fails("")},
		{name: "401", fault: answering(http.StatusUnauthorized), ends: fails("answered 401")},
		{name: "403", fault: answering(http.StatusForbidden), ends: refuses("github_refused", "answered 403")},
		{name: "404", fault: answering(http.StatusNotFound), ends: refuses("github_refused", "answered 404"),
			at: map[string]ending{reading.name: refuses("no_policy", "answered 404"), rereading.name: refuses("no_policy", "answered 404")}},
		{name: "422", fault: answering(http.StatusUnprocessableEntity), ends: refuses("github_refused", "answered 422")},
	}
	for _, code := range []int{500, 502, 503, 504} {
		all = append(all, oddity{name: http.StatusText(code), fault: answering(code), ends: fails("answered 50")})
	}
	for _, code := range []int{301, 307} {
		f := ststest.Fault{Status: code, Header: map[string]string{"Location": url + "/elsewhere"}}
		all = append(all, oddity{name: http.StatusText(code), fault: always(f), ends: refuses("github_refused", "redirects are never followed")})
	}
	return all
}

// limitsOf are the ways in which GitHub says to wait.
func limitsOf(wait time.Duration) []oddity {
	primary := func(status int) func() ststest.Fault {
		return func() ststest.Fault { return ststest.PrimaryRateLimit(status, time.Now().Add(wait)) }
	}
	unavailable := ststest.Fault{Status: http.StatusServiceUnavailable, Header: map[string]string{"Retry-After": "2"}}
	return []oddity{
		{name: "primary limit, 403", fault: primary(http.StatusForbidden), ends: limits(), wait: wait - time.Second}, // whole seconds
		{name: "primary limit, 429", fault: primary(http.StatusTooManyRequests), ends: limits(), wait: wait - time.Second},
		{name: "secondary limit, 403", fault: always(ststest.SecondaryRateLimit(http.StatusForbidden, wait)), ends: limits(), wait: wait},
		{name: "secondary limit, 429", fault: always(ststest.SecondaryRateLimit(http.StatusTooManyRequests, wait)), ends: limits(), wait: wait},
		{name: "503 with retry-after", fault: always(unavailable), ends: fails("asked again in 2s"), wait: 2 * time.Second},
	}
}

// playFreshTokens: GitHub does not know its own tokens yet. An exchange takes
// longer; and that a list of trusted issuers seems not to be there is no reason to
// trust everybody.
func (r *rig) playFreshTokens(t *testing.T) {
	t.Helper()
	defer r.GitHub.RefuseFreshTokens(0, 0)
	for _, status := range []int{http.StatusUnauthorized, http.StatusForbidden, http.StatusNotFound} {
		t.Run("fresh tokens/"+http.StatusText(status), func(t *testing.T) {
			r.GitHub.RefuseFreshTokens(0, 0)
			open, strict := "open-"+http.StatusText(status)[:2], "strict-"+http.StatusText(status)[:2]
			r.addOrganization(open, "")
			r.addOrganization(strict, "mode: enforce\nissuers: [https://elsewhere.example.com]\n")
			r.GitHub.RefuseFreshTokens(2, status)
			r.t = t
			if x := r.exchange(open+"/app", "reader", r.job(nil)); x.Status != http.StatusOK {
				t.Errorf("%d %s", x.Status, x.Body)
			}
			if x := r.exchange(strict+"/app", "reader", r.job(nil)); x.Status != http.StatusForbidden {
				t.Errorf("with a list of trusted issuers that forbids it: %d %s", x.Status, x.Body)
			}
		})
	}
}

// testLastingOddities plays those that take a while, all at once.
func testLastingOddities(t *testing.T) {
	r := newRig(t, ststest.ServiceConfig{Edit: func(c map[string]any) {
		// That a policy is absent is believed for as long as that it is present.
		c["github"].(map[string]any)["policy_max_age"] = "20s"
	}})
	r.granted("acme/app", "reader")
	before := r.held(t)
	var cells []*cell
	add := func(o oddity, steps ...step) {
		for _, s := range steps {
			cells = append(cells, r.newCell(len(cells), o, s))
		}
	}
	late := oddity{name: "time-out", fault: always(ststest.Fault{Delay: time.Minute}), ends: fails("deadline exceeded")}
	add(late, resolving, preparing, reading, minting)
	for _, o := range limitsOf(2 * time.Second) {
		add(o, preparing, reading, minting)
	}
	add(oddity{name: "401", fault: answering(http.StatusUnauthorized), ends: fails("does not yet serve the token")}, reading)
	add(oddity{name: "403", fault: answering(http.StatusForbidden), ends: refuses("github_refused", "answered 403")}, reading)
	add(oddity{name: "404", fault: answering(http.StatusNotFound), ends: refuses("not_installed", "answered 404")}, resolving)
	add(oddity{name: "404", fault: answering(http.StatusNotFound), ends: refuses("no_policy", "answered 404")}, reading)
	var running sync.WaitGroup
	for _, c := range cells {
		running.Go(c.run)
	}
	running.Wait()
	r.reportAll(t, cells)
	t.Run("secondary limit, for nobody knows how long", func(t *testing.T) {
		f := ststest.SecondaryRateLimit(http.StatusForbidden, 0)
		f.Route, f.Match = ststest.MintRoute, mintsOf(r.addOrganization("unstated", ""))
		fault := r.GitHub.Fail(f)
		for range 3 {
			x := r.exchange("unstated/app", "reader", r.job(nil))
			if after, err := strconv.Atoi(x.Header.Get("Retry-After")); x.Status != http.StatusServiceUnavailable || err != nil || after < 30 || after > 60 {
				t.Errorf("%d %s, Retry-After %q, want about a minute", x.Status, x.Body, x.Header.Get("Retry-After"))
			}
		}
		if fault.Hits() != 1 {
			t.Errorf("GitHub was asked %d times", fault.Hits())
		}
	})
	r.checkHeld(t, before)
}

// GitHub is gone for all: calls to it stop but for probes, callers are answered
// at once, and when it is back, exchanges go on.
func TestGitHubIsAway(t *testing.T) {
	r := newRig(t, ststest.ServiceConfig{})
	r.granted("acme/app", "reader")
	before := r.held(t)
	fault := r.GitHub.Fail(ststest.Fault{Status: http.StatusBadGateway})
	var callers sync.WaitGroup
	ask := func(n int) {
		for range n {
			callers.Go(func() {
				if x, err := r.oneOfLoad("acme/app", "reader"); err != nil || x.Status != http.StatusServiceUnavailable {
					t.Errorf("while GitHub is away: %d %s, %v", x.Status, x.Body, err)
				}
			})
		}
		callers.Wait()
	}
	for range 3 {
		ask(10)
	}
	asked, began := fault.Hits(), time.Now()
	for time.Since(began) < 4*time.Second {
		ask(50)
		time.Sleep(50 * time.Millisecond)
	}
	// Probes, after 1, 2, 4… seconds.
	if asked < 10 || fault.Hits()-asked > 4 {
		t.Errorf("GitHub answers nothing and was asked %d times, and then %d times more", asked, fault.Hits()-asked)
	}
	if status, state, checks := r.readiness(); status != http.StatusOK || state != "degraded" || !strings.Contains(checks["github"], "no answer since") {
		t.Errorf("/readyz: %d %s %v", status, state, checks)
	}
	if !strings.Contains(r.Logs(), "GitHub does not answer: calls fail at once until a probe is answered") {
		t.Error("the log does not say that GitHub is away")
	}
	fault.Clear()
	back := time.Now()
	r.eventually("a grant", func() bool { return r.exchange("acme/app", "reader", r.job(nil)).Status == http.StatusOK })
	if took := time.Since(back); took > recovery {
		t.Errorf("nothing was granted for %s after GitHub came back", took)
	}
	t.Logf("recovered after %s", time.Since(back))
	if _, state, checks := r.readiness(); state != "ready" {
		t.Errorf("/readyz after recovery: %s %v", state, checks)
	}
	r.checkHeld(t, before)
}
