package main

import (
	"context"
	"net/http"
	"net/http/httptrace"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/octo-sts/appliance/sts/audit"
	"github.com/octo-sts/appliance/sts/ststest"
)

// coldCallers ask at once.
const coldCallers = 1000

// A thousand identical exchanges that nothing is known for yet: GitHub is asked
// once for the installation and once for the policy, never for more at once than
// it allows, and each of them gets a token of its own, with both its lines.
func TestColdBurst(t *testing.T) {
	r := newRig(t, ststest.ServiceConfig{Edit: func(c map[string]any) {
		c["limits"] = map[string]any{"concurrent": 2 * coldCallers, "per_address": 1_000_000, "burst": 1_000_000, "connections_per_address": 4096}
	}})
	r.eventually("GitHub was asked about the App", func() bool { return r.GitHub.Calls()[ststest.AppRoute] == 1 })
	r.GitHub.ResetCalls()
	r.GitHub.SetLatency(20 * time.Millisecond) // so that calls meet
	var policyReads atomic.Int64
	ctx, all := r.whenAllAsked(coldCallers)
	r.GitHub.Fail(ststest.Fault{Match: func(req *http.Request) bool {
		if strings.HasSuffix(req.URL.Path, "/installation") {
			select { // nothing is known to any of them before all of them have asked
			case <-all:
			case <-time.After(2 * time.Second): // well before anybody's time is up, on a machine that is very busy
			}
		}
		if strings.HasSuffix(req.URL.Path, "/reader.sts.yaml") {
			policyReads.Add(1)
		}
		return false
	}})
	idTokens := make([]string, 10)
	for i := range idTokens {
		idTokens[i] = r.job(nil)
	}
	answers := make([]ststest.Exchanged, coldCallers)
	errs := make([]error, coldCallers)
	var asking sync.WaitGroup
	for i := range answers {
		asking.Go(func() { answers[i], errs[i] = r.Exchange(ctx, "acme/app", "reader", idTokens[i%len(idTokens)]) })
	}
	asking.Wait()
	for i, x := range answers {
		if errs[i] != nil || x.Status != http.StatusOK || !r.GitHub.IsLive(x.Token) {
			t.Fatalf("%d %s, %v", x.Status, x.Body, errs[i])
		}
	}
	// The installation, the policy, the organization's list of trusted issuers, a
	// token to read the two with; and the callers' tokens.
	calls := r.GitHub.Calls()
	if calls[ststest.RepoInstallRoute] != 1 || policyReads.Load() != 1 || calls[ststest.ContentsRoute] != 2 ||
		calls[ststest.MintRoute] != coldCallers+1 || r.GitHub.TotalCalls() != coldCallers+4 {
		t.Errorf("the policy was read %d times; all calls: %v", policyReads.Load(), calls)
	}
	peak := r.GitHub.PeakConcurrency()
	t.Logf("%d calls were under way at once", peak)
	if peak > 64 || peak < 8 {
		t.Errorf("%d calls were under way at GitHub at once, want at most 64, and many", peak)
	}
	r.checkEachAudited(answers)
}

// whenAllAsked is a context for n exchanges, and is closed when all of them were
// sent.
func (r *rig) whenAllAsked(n int64) (context.Context, <-chan struct{}) {
	var sent atomic.Int64
	all := make(chan struct{})
	return httptrace.WithClientTrace(r.t.Context(), &httptrace.ClientTrace{WroteRequest: func(httptrace.WroteRequestInfo) {
		if sent.Add(1) == n {
			close(all)
		}
	}}), all
}

// checkEachAudited: each grant has a token of its own, an intent and an outcome
// that names it, and the log says nothing else.
func (r *rig) checkEachAudited(grants []ststest.Exchanged) {
	r.t.Helper()
	hashes := map[string]bool{}
	lines := map[string][]audit.Entry{}
	for _, e := range r.audited(audit.Filter{}) {
		lines[e.RequestID] = append(lines[e.RequestID], e)
	}
	for _, x := range grants {
		hash, two := tokenSHA256(x.Token), lines[x.RequestID]
		if hashes[hash] || len(two) != 2 || two[0].Kind != audit.Intent || two[1].Kind != audit.Outcome ||
			two[1].Decision != audit.DecisionGranted || two[1].TokenSHA256 != hash {
			r.t.Fatalf("token %s (handed out before: %t) of request %s is audited as %+v", hash, hashes[hash], x.RequestID, two)
		}
		hashes[hash] = true
	}
	if len(lines) != len(grants) {
		r.t.Errorf("%d requests are in the log, want %d", len(lines), len(grants))
	}
}
