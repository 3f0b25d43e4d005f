package main

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc/codes"

	"github.com/octo-sts/appliance/sts/audit"
	"github.com/octo-sts/appliance/sts/ststest"
)

// load is callers who ask for exchanges, one after another, until stopped.
type load struct {
	stop    chan struct{}
	callers sync.WaitGroup

	mu      sync.Mutex // guards the rest
	answers []ststest.Exchanged
	lost    []error        // exchanges that were not answered
	status  map[int]int    // answers by HTTP status
	refused map[string]int // bodies of refusals, without their request IDs
}

// startLoad starts callers for a scope each, in turn.
func (r *rig) startLoad(callers int, identity string, scopes ...string) *load {
	l := &load{stop: make(chan struct{}), status: map[int]int{}, refused: map[string]int{}}
	for i := range callers {
		l.callers.Go(func() {
			for {
				select {
				case <-l.stop:
					return
				default:
				}
				x, err := r.oneOfLoad(scopes[i%len(scopes)], identity)
				l.note(x, err)
				if err != nil {
					time.Sleep(25 * time.Millisecond) // there is no daemon: another one comes
				}
			}
		})
	}
	r.t.Cleanup(l.end)
	return l
}

func (r *rig) oneOfLoad(scope, identity string) (ststest.Exchanged, error) {
	idToken, err := r.signJob(nil)
	if err != nil {
		return ststest.Exchanged{}, err
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	return r.Exchange(ctx, scope, identity, idToken)
}

func (l *load) note(x ststest.Exchanged, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case err != nil:
		l.lost = append(l.lost, err)
		return
	case x.Status != http.StatusOK:
		l.refused[strings.ReplaceAll(string(x.Body), x.RequestID, "ID")]++
	}
	l.status[x.Status]++
	l.answers = append(l.answers, x)
}

// granted is how many tokens the callers have by now.
func (l *load) granted() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.status[http.StatusOK]
}

// end stops the callers and waits for them. Afterwards the fields may be read.
func (l *load) end() {
	l.mu.Lock()
	select {
	case <-l.stop:
	default:
		close(l.stop)
	}
	l.mu.Unlock()
	l.callers.Wait()
}

// allGranted ends a load that nothing should have disturbed.
func (l *load) allGranted(t *testing.T) {
	t.Helper()
	l.end()
	if len(l.lost) > 0 || len(l.refused) > 0 {
		t.Errorf("of %d exchanges %d were not answered (%v) and some refused: %v", len(l.answers)+len(l.lost), len(l.lost), l.lost, l.refused)
	}
}

// What is more than the operator's limits is refused unread, over each wire.
func TestOverload(t *testing.T) {
	r := newRig(t, ststest.ServiceConfig{Edit: func(c map[string]any) {
		c["limits"] = map[string]any{"per_address": 0.000001, "burst": 2} // and 4 connections
	}})
	r.granted("acme/app", "reader")
	r.granted("acme/app", "reader")
	for _, w := range r.wires() {
		a := w.ask(t, "acme/app", "reader", r.job(nil))
		if a.Code != codes.ResourceExhausted || a.RetryAfter == "" || a.Message != "too many requests, try again later (request "+a.RequestID+")" {
			t.Errorf("%s, over the limit of an address: %+v", w.name, a)
		}
	}

	r.reconfigure(func(c map[string]any) { c["limits"] = map[string]any{"concurrent": 1} })
	r.granted("acme/app", "reader")
	arrived, release := make(chan struct{}), make(chan struct{})
	r.GitHub.Fail(ststest.Fault{Route: ststest.MintRoute, Count: 1, Match: func(*http.Request) bool {
		close(arrived)
		<-release
		return true
	}})
	first := make(chan ststest.Exchanged, 1)
	go func() {
		x, _ := r.oneOfLoad("acme/app", "reader")
		first <- x
	}()
	<-arrived
	r.GitHub.ClearFaults()
	for _, w := range r.wires() {
		a := w.ask(t, "acme/app", "reader", r.job(nil))
		if a.Code != codes.Unavailable || a.RetryAfter == "" {
			t.Errorf("%s, over the limit of requests under way: %+v", w.name, a)
		}
	}
	close(release)
	if x := <-first; x.Status != http.StatusOK {
		t.Errorf("the one that was under way: %d %s", x.Status, x.Body)
	}
	r.granted("acme/app", "reader")
}

// Where GitHub cannot or may not be asked, the answer is 503, and the operator
// reads why.
func TestGitHubsTroubleIsUnavailable(t *testing.T) {
	r := newRig(t, ststest.ServiceConfig{})
	limited := r.addOrganization("limited", "")
	for _, w := range r.wires() {
		r.granted("acme/app", "reader")
		fault := r.GitHub.Fail(ststest.Fault{Route: ststest.MintRoute, Status: http.StatusBadGateway, Count: 1})
		a := w.ask(t, "acme/app", "reader", r.job(nil))
		lines := r.audited(audit.Filter{RequestID: a.RequestID})
		if a.Code != codes.Unavailable || a.Token != "" || fault.Hits() != 1 || a.Message != "temporarily unavailable, try again (request "+a.RequestID+")" {
			t.Errorf("%s, GitHub answers 502: %+v", w.name, a)
		}
		if len(lines) != 2 || lines[0].Kind != audit.Intent || lines[1].Decision != audit.DecisionFailed || !strings.Contains(lines[1].Reason, "502") {
			t.Errorf("%s, GitHub answers 502: audit log: %+v", w.name, lines)
		}
	}
	f := ststest.SecondaryRateLimit(http.StatusForbidden, 600*time.Second)
	f.Route, f.Match = ststest.MintRoute, func(req *http.Request) bool { return strings.Contains(req.URL.Path, fmt.Sprint(limited)) }
	fault := r.GitHub.Fail(f)
	for _, w := range r.wires() {
		a := w.ask(t, "limited/app", "reader", r.job(nil))
		if a.Code != codes.Unavailable || !strings.HasPrefix(a.RetryAfter, "59") && a.RetryAfter != "600" {
			t.Errorf("%s, GitHub says to wait 600 s: %+v", w.name, a)
		}
	}
	if fault.Hits() != 1 {
		t.Errorf("GitHub said to wait and was asked %d times", fault.Hits())
	}
	r.granted("acme/app", "reader") // another installation's limit is not this one's
}

// What an exchange costs: at GitHub, and in the HSM.
func TestCallsAndSignatures(t *testing.T) {
	r := newRig(t, ststest.ServiceConfig{Issuer: ststest.IssuerConfig{Alg: "ES256"}})
	r.eventually("GitHub was asked about the App", func() bool { return r.GitHub.Calls()[ststest.AppRoute] == 1 })
	r.GitHub.ResetCalls()
	r.granted("acme/app", "reader")
	t.Logf("a cold exchange: %d calls: %v", r.GitHub.TotalCalls(), r.GitHub.Calls())
	// The installation, a token to read policies with, the policy, the organization's trusted issuers, the caller's token.
	// (The App itself is asked about once at the start, which is no part of an exchange.)
	if calls := r.GitHub.Calls(); calls[ststest.RepoInstallRoute] != 1 || calls[ststest.ContentsRoute] != 2 || calls[ststest.MintRoute] != 2 || r.GitHub.TotalCalls()-calls[ststest.AppRoute] != 5 {
		t.Errorf("a cold exchange: %v", calls)
	}
	r.GitHub.ResetCalls()
	r.granted("acme/app", "reader")
	if calls := r.GitHub.Calls(); r.GitHub.TotalCalls() != 1 || calls[ststest.MintRoute] != 1 {
		t.Errorf("a warm exchange: %v, want one mint", calls)
	}

	r.GitHub.ResetCalls()
	var left atomic.Int64
	left.Store(1000)
	var callers sync.WaitGroup
	for range 16 {
		callers.Go(func() {
			for left.Add(-1) >= 0 {
				if x, err := r.oneOfLoad("acme/app", "reader"); err != nil || x.Status != http.StatusOK {
					t.Errorf("%d %s, %v", x.Status, x.Body, err)
				}
			}
		})
	}
	callers.Wait()
	// A policy is looked at again when it is a minute old, which a slow machine may reach.
	if calls := r.GitHub.Calls(); calls[ststest.MintRoute] != 1000 || r.GitHub.TotalCalls() > 1010 {
		t.Errorf("1,000 warm exchanges: %v", calls)
	}
	status, err := r.Signer.Status(t.Context())
	if err != nil || status.Signatures < 1 || status.Signatures > 2 {
		t.Errorf("%d App JWTs were signed for 1,002 exchanges, %v", status.Signatures, err)
	}
}

// A policy that was deleted grants nothing once GitHub is asked again; with
// policy_max_age 0, at once.
func TestDeletedPolicyGrantsNothing(t *testing.T) {
	r := newRig(t, ststest.ServiceConfig{Edit: func(c map[string]any) {
		c["github"].(map[string]any)["policy_max_age"] = "0s"
	}})
	r.granted("acme/app", "reader")
	r.GitHub.DeleteFile("acme", "app", ".github/chainguard/reader.sts.yaml")
	if x := r.exchange("acme/app", "reader", r.job(nil)); x.Status != http.StatusForbidden {
		t.Errorf("%d %s", x.Status, x.Body)
	}
	query := url.Values{"scope": {"acme/app"}, "identity": {"issues"}}
	if a := r.askHTTP(t, http.MethodGet, query, nil, r.job(nil)); a.Code != codes.OK {
		t.Errorf("another policy: %+v", a)
	}
}
