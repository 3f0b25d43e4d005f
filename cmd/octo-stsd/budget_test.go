package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/octo-sts/appliance/sts/audit"
	"github.com/octo-sts/appliance/sts/ststest"
)

// What limits.denied_per_subject and denied_per_owner are by default.
const (
	deniedPerSubject = 60
	deniedPerOwner   = 600
)

// newBudgetRig has the limits of denials that operators have, policies that are
// asked for again every second, and a second organization.
func newBudgetRig(t *testing.T) *rig {
	t.Helper()
	r := newRig(t, ststest.ServiceConfig{Issuer: ststest.IssuerConfig{Alg: "ES256"}, Edit: func(c map[string]any) {
		limits := c["limits"].(map[string]any)
		delete(limits, "denied_per_subject")
		delete(limits, "denied_per_owner")
		c["github"].(map[string]any)["policy_max_age"] = "1s"
	}})
	r.addOrganization("other", "")
	r.GitHub.AddRepository("other", "lib")
	return r
}

// refusals are answers to callers who are not granted anything, by status, with
// what they came to together at GitHub and in the audit log.
type refusals struct {
	status       map[int]int
	bodies       map[string]int // of status 429, without request IDs, with Retry-After
	calls, lines int
	took         time.Duration
}

// guess is one request of somebody who makes things up.
type guess struct{ subject, scope, identity string }

// guessAll makes n guesses, many at once. What is granted is an error.
func (r *rig) guessAll(n int, made func(i int) guess) refusals {
	r.t.Helper()
	calls, lines, began := r.GitHub.TotalCalls(), len(r.audited(audit.Filter{})), time.Now()
	f := refusals{status: map[int]int{}, bodies: map[string]int{}}
	var mu sync.Mutex // guards f
	var workers sync.WaitGroup
	next := indices(n)
	for range 32 {
		workers.Go(func() {
			for i := range next {
				x, err := r.guess(context.Background(), made(i))
				mu.Lock()
				f.status[x.Status]++
				if err != nil || x.Token != "" {
					r.t.Errorf("%+v: %d %s, %v", made(i), x.Status, x.Body, err)
				}
				if x.Status == http.StatusTooManyRequests {
					f.bodies[strings.ReplaceAll(string(x.Body), x.RequestID, "ID")+" Retry-After: "+x.Header.Get("Retry-After")]++
				}
				mu.Unlock()
			}
		})
	}
	workers.Wait()
	f.calls, f.lines, f.took = r.GitHub.TotalCalls()-calls, len(r.audited(audit.Filter{}))-lines, time.Since(began)
	return f
}

func indices(n int) <-chan int {
	next := make(chan int, n)
	for i := range n {
		next <- i
	}
	close(next)
	return next
}

func (r *rig) guess(ctx context.Context, g guess) (ststest.Exchanged, error) {
	idToken, err := r.signJob(map[string]any{"sub": g.subject})
	if err != nil {
		return ststest.Exchanged{}, err
	}
	return r.Exchange(ctx, g.scope, g.identity, idToken)
}

// checkBounded: of many refusals at most so many reached GitHub, in at most so
// many calls each, and the log; the others are 429, all alike.
func (f refusals) checkBounded(t *testing.T, budget, callsEach int) {
	t.Helper()
	budget += 2 + int(f.took.Seconds()/6) // 600 an hour come back meanwhile
	if f.status[http.StatusForbidden] > budget || f.lines > budget || f.calls > budget*callsEach+10 {
		t.Errorf("answers %v, %d lines of the audit log, %d calls to GitHub; want %d denials at most", f.status, f.lines, f.calls, budget)
	}
	if f.status[http.StatusForbidden]+f.status[http.StatusTooManyRequests] == 0 || f.status[http.StatusServiceUnavailable] > 0 || len(f.bodies) > 1 {
		t.Errorf("answers %v; those of status 429: %v", f.status, f.bodies)
	}
	t.Logf("%v, %d lines, %d calls in %s", f.status, f.lines, f.calls, f.took)
}

// Somebody with valid ID tokens, as many as they like, makes up identities,
// repositories and owners: what that costs is bounded, nobody learns from it what
// exists, and those who are served go on being served.
func TestGuessesAreBounded(t *testing.T) {
	r := newBudgetRig(t)
	r.granted("acme/app", "reader")
	r.exchange("other/lib", "nothing", r.job(nil)) // other is known, and grants nobody anything yet
	stranger := func(i int) string { return fmt.Sprintf("repo:evil/repo-%d:ref:refs/heads/main", i) }
	served := func(when string) {
		t.Helper()
		time.Sleep(1100 * time.Millisecond) // the policy is to be asked for again
		if x := r.exchange("acme/app", "reader", r.job(nil)); x.Status != http.StatusOK {
			t.Errorf("%s, a caller who was served before: %d %s", when, x.Status, x.Body)
		}
	}

	one := r.guessAll(1000, func(i int) guess { return guess{stranger(0), "acme/app", fmt.Sprintf("made-up-%d", i)} })
	one.checkBounded(t, deniedPerSubject, 3)
	served("after one subject's guesses")
	many := r.guessAll(2000, func(i int) guess { return guess{stranger(i), "acme/app", fmt.Sprintf("made-up-too-%d", i)} })
	many.checkBounded(t, deniedPerOwner, 3)
	served("after many subjects' guesses")
	// The answers are the same for a policy that exists and one that does not.
	known := r.guessAll(50, func(i int) guess { return guess{stranger(i), "acme/app", "reader"} })
	known.checkBounded(t, 0, 1)
	unknown := r.guessAll(50, func(i int) guess { return guess{stranger(i), "acme/app", "absent"} })
	unknown.checkBounded(t, 0, 1)
	for body := range known.bodies {
		if unknown.bodies[body] == 0 {
			t.Errorf("where a policy exists %v, where none does %v", known.bodies, unknown.bodies)
		}
	}
	repositories := r.guessAll(1000, func(i int) guess { return guess{stranger(i), fmt.Sprintf("acme/repo-%d", i), "reader"} })
	repositories.checkBounded(t, 0, 1)
	owners := r.guessAll(1000, func(i int) guess {
		return guess{stranger(i), fmt.Sprintf("owner-%d/app", rand.IntN(1<<30)), "reader"}
	})
	owners.checkBounded(t, deniedPerOwner, 1)
	if n := int(r.gauge(t, `octo_sts_exchanges_total{decision="denied",reason="over_budget"}`)); n != sum(one, many, known, unknown, repositories, owners) {
		t.Errorf("metrics count %d refusals over budget, want %d", n, sum(one, many, known, unknown, repositories, owners))
	}

	served("after all guesses")
	if x := r.exchange("other/app", "reader", r.job(nil)); x.Status != http.StatusOK {
		t.Errorf("a new caller of another owner: %d %s", x.Status, x.Body)
	}
	if err := r.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	r.guessAll(1500, func(i int) guess {
		return guess{stranger(i), []string{"acme/app", fmt.Sprintf("owner-%d/app", i)}[i%2], fmt.Sprintf("again-%d", i)}
	})
	served("after a restart, and more guesses")
	if x, err := r.guess(t.Context(), guess{"repo:acme/app:ref:refs/heads/new", "other/app", "reader"}); err != nil || x.Status != http.StatusOK {
		t.Errorf("a new caller of an owner who granted something before the restart: %d %s, %v", x.Status, x.Body, err)
	}
}

// sum is how many answers were 429.
func sum(all ...refusals) (n int) {
	for _, f := range all {
		n += f.status[http.StatusTooManyRequests]
	}
	return n
}

// Whoever guesses and does not wait for the answer pays for it all the same.
func TestGuessesOfCallersWhoHangUp(t *testing.T) {
	r := newBudgetRig(t)
	r.granted("acme/app", "reader")
	r.GitHub.SetLatency(100 * time.Millisecond)
	calls, lines := r.GitHub.TotalCalls(), len(r.audited(audit.Filter{}))
	var workers sync.WaitGroup
	next := indices(1000)
	for range 64 {
		workers.Go(func() {
			for i := range next {
				ctx, cancel := context.WithTimeout(context.Background(), 30*time.Millisecond)
				x, err := r.guess(ctx, guess{"repo:evil/app:ref:refs/heads/main", "acme/app", fmt.Sprintf("made-up-%d", i)})
				cancel()
				if x.Token != "" || err != nil && !errors.Is(err, context.DeadlineExceeded) {
					t.Errorf("%d %s, %v", x.Status, x.Body, err)
				}
			}
		})
	}
	workers.Wait()
	r.GitHub.SetLatency(0)
	r.eventually("an answer to whoever waits", func() bool {
		x, err := r.guess(t.Context(), guess{"repo:evil/app:ref:refs/heads/main", "acme/app", "made-up"})
		return err == nil && x.Status == http.StatusTooManyRequests
	})
	if n, m := r.GitHub.TotalCalls()-calls, len(r.audited(audit.Filter{}))-lines; n > 3*deniedPerSubject || m > deniedPerSubject+5 {
		t.Errorf("%d calls to GitHub and %d lines of the audit log", n, m)
	}
	r.granted("acme/app", "reader")
}

// While GitHub is away nobody can fill the audit log either, and who is served
// goes on once it is back.
func TestGuessesDuringAnOutage(t *testing.T) {
	r := newBudgetRig(t)
	r.granted("acme/app", "reader")
	fault := r.GitHub.Fail(ststest.Fault{Status: http.StatusBadGateway})
	f := r.guessAll(2000, func(i int) guess {
		return guess{fmt.Sprintf("repo:evil/repo-%d:ref:refs/heads/main", i), "acme/app", fmt.Sprintf("made-up-%d", i)}
	})
	if f.status[http.StatusServiceUnavailable] == 0 || f.lines > deniedPerOwner+10 || len(f.bodies) > 1 {
		t.Errorf("answers %v, %d lines of the audit log; of status 429: %v", f.status, f.lines, f.bodies)
	}
	for range 2 * deniedPerSubject {
		x := r.exchange("acme/app", "absent", r.job(nil))
		if lines := r.audited(audit.Filter{RequestID: x.RequestID}); x.Status != http.StatusServiceUnavailable || len(lines) != 1 {
			t.Fatalf("a caller who was served before: %d %s, audited as %+v", x.Status, x.Body, lines)
		}
	}
	fault.Clear()
	r.eventually("a grant", func() bool { return r.exchange("acme/app", "reader", r.job(nil)).Status == http.StatusOK })
	if x := r.exchange("acme/app", "absent", r.job(nil)); x.Status != http.StatusForbidden {
		t.Errorf("of a caller who was served, the outage used up the budget: %d %s", x.Status, x.Body)
	}
}
