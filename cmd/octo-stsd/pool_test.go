package main

import (
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/octo-sts/appliance/sts/audit"
	"github.com/octo-sts/appliance/sts/ststest"
)

// The two Apps of a pool.
const (
	firstApp  = ststest.DefaultApp
	secondApp = ststest.DefaultApp + 1
)

// pool is an appliance whose acme is served by two Apps, and nobody else by any.
type pool struct {
	*rig
	first, second int64 // installations
}

func newPool(t *testing.T) *pool {
	t.Helper()
	acme := []string{"acme"}
	p := &pool{rig: newRig(t, ststest.ServiceConfig{Apps: []ststest.ServiceApp{
		{ID: firstApp, Organizations: acme}, {ID: secondApp, Organizations: acme},
	}})}
	p.second = p.GitHub.Install(secondApp, "acme", ststest.InstallOptions{})
	p.granted("acme/app", "reader")
	mints := p.GitHub.Mints()
	p.first = mints[len(mints)-1].InstallationID
	if p.first == p.second {
		t.Fatal("of two Apps that are alike, the second was used")
	}
	return p
}

// as is the App of the mint of a grant; the audit log must say the same.
func (p *pool) as(x ststest.Exchanged) int64 {
	p.t.Helper()
	var minted ststest.Mint
	for _, m := range p.GitHub.Mints() {
		if m.TokenSHA256 == tokenSHA256(x.Token) {
			minted = m
		}
	}
	lines := p.audited(audit.Filter{RequestID: x.RequestID})
	if len(lines) < 2 {
		p.t.Fatalf("%d %s, audited as %+v", x.Status, x.Body, lines)
	}
	for _, e := range lines[len(lines)-2:] {
		if e.AppID != minted.AppID || e.InstallationID != minted.InstallationID {
			p.t.Errorf("App %d minted by its installation %d; audited: %+v", minted.AppID, minted.InstallationID, e)
		}
	}
	return minted.AppID
}

// grantedAs is an exchange that must be granted as an App.
func (p *pool) grantedAs(app int64, identity string) ststest.Exchanged {
	p.t.Helper()
	x := p.granted("acme/app", identity)
	if got := p.as(x); got != app {
		p.t.Errorf("%s was granted as App %d, want App %d", identity, got, app)
	}
	return x
}

// limitedFor is an exchange that must be refused because of a rate limit.
func (p *pool) limitedFor(identity string, most time.Duration) {
	p.t.Helper()
	x := p.exchange("acme/app", identity, p.job(nil))
	after, err := strconv.Atoi(x.Header.Get("Retry-After"))
	if x.Status != http.StatusServiceUnavailable || err != nil || after < 1 || after > int(most.Seconds())+1 {
		p.t.Errorf("%s: %d %s, Retry-After %q, want at most %s", identity, x.Status, x.Body, x.Header.Get("Retry-After"), most)
	}
	lines := p.audited(audit.Filter{RequestID: x.RequestID})
	if len(lines) == 0 || !strings.HasPrefix(lines[len(lines)-1].Reason, "github_rate_limited: ") {
		p.t.Errorf("%s: audited as %+v", identity, lines)
	}
}

// mintsOf matches the mints of an installation.
func mintsOf(installation int64) func(*http.Request) bool {
	return func(req *http.Request) bool {
		return strings.Contains(req.URL.Path, "/installations/"+strconv.FormatInt(installation, 10)+"/")
	}
}

// limitMints makes GitHub refuse an installation's next mint.
func (p *pool) limitMints(installation int64, f ststest.Fault) *ststest.ActiveFault {
	f.Route, f.Match = ststest.MintRoute, mintsOf(installation)
	return p.GitHub.Fail(f)
}

// An App that GitHub limits is passed over for another one of the pool, whenever
// it is found out; what both may not do, nobody does.
func TestPoolGoesRoundALimitedApp(t *testing.T) {
	p := newPool(t)
	fault := p.limitMints(p.first, ststest.SecondaryRateLimit(http.StatusForbidden, 10*time.Minute))

	// Found out at the mint: the very exchange goes on as the other App.
	x := p.grantedAs(secondApp, "issues")
	lines := p.audited(audit.Filter{RequestID: x.RequestID})
	if len(lines) != 4 || lines[0].Kind != audit.Intent || lines[0].AppID != firstApp ||
		lines[1].Kind != audit.Outcome || lines[1].AppID != firstApp || lines[1].Decision != audit.DecisionFailed || !strings.Contains(lines[1].Reason, "another App takes over") ||
		lines[2].Kind != audit.Intent || lines[3].Kind != audit.Outcome || lines[3].Decision != audit.DecisionGranted {
		t.Errorf("audited as %+v", lines)
	}
	for range 5 {
		p.grantedAs(secondApp, "reader")
	}
	if fault.Hits() != 1 {
		t.Errorf("the App that is limited was used %d times", fault.Hits())
	}

	// Both are limited. The shorter wait is the caller's.
	p.limitMints(p.second, ststest.PrimaryRateLimit(http.StatusForbidden, time.Now().Add(5*time.Minute)))
	p.limitedFor("issues", 10*time.Minute)
	p.limitedFor("reader", 5*time.Minute)
	calls := p.GitHub.TotalCalls()
	for range 10 {
		p.limitedFor("reader", 5*time.Minute)
	}
	if n := p.GitHub.TotalCalls() - calls; n > 0 {
		t.Errorf("both Apps are limited, and GitHub was asked %d times", n)
	}
}

// An App with nothing left of its hour is not used before another one, nor one
// that is suspended.
func TestPoolGoesByWhatIsLeft(t *testing.T) {
	p := newPool(t)
	p.GitHub.SetRateLimit(p.first, 5000, 2500, time.Now().Add(time.Hour))
	p.grantedAs(firstApp, "issues") // from whose policy it is known what is left
	for range 5 {
		x := p.grantedAs(secondApp, "issues")
		if lines := p.audited(audit.Filter{RequestID: x.RequestID}); len(lines) != 2 {
			t.Errorf("the App with less left was used first: %+v", lines)
		}
	}
	p.GitHub.SetRateLimit(p.second, 5000, 1, time.Now().Add(time.Hour))
	p.granted("acme", "two") // takes the last one, by whichever call
	p.grantedAs(firstApp, "issues")
	p.GitHub.SetRateLimit(p.first, 5000, 5000, time.Now().Add(time.Hour))
	p.GitHub.SetRateLimit(p.second, 5000, 0, time.Now().Add(time.Hour))
	if err := p.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	p.grantedAs(firstApp, "issues")
	p.GitHub.SetRateLimit(p.second, 5000, 5000, time.Now().Add(time.Hour))

	p.GitHub.Suspend(p.first)
	if x := p.exchange("acme/app", "issues", p.job(nil)); x.Status == http.StatusOK && p.as(x) != secondApp {
		t.Error("a suspended installation minted")
	}
	p.grantedAs(secondApp, "issues")
	p.GitHub.Unsuspend(p.first)
}

// Only the App that made a check run can change it: a policy with checks: write
// waits for its App, even over a restart.
func TestChecksStickToTheirApp(t *testing.T) {
	p := newPool(t)
	p.grantedAs(firstApp, "writer")
	fault := p.limitMints(p.first, ststest.SecondaryRateLimit(http.StatusTooManyRequests, 10*time.Minute))
	p.limitedFor("writer", 10*time.Minute)
	p.grantedAs(secondApp, "reader")
	p.limitedFor("writer", 10*time.Minute)

	fault.Clear()
	p.GitHub.SetRateLimit(p.first, 5000, 600, time.Now().Add(time.Hour))
	if err := p.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	p.granted("acme/app", "reader") // by then it is known what the first App has left
	p.grantedAs(secondApp, "reader")
	p.grantedAs(firstApp, "writer")
}

// Nobody is served whom no App names, and GitHub is not asked.
func TestOrganizationWithoutAPool(t *testing.T) {
	p := newPool(t)
	p.addOrganizationOf(secondApp, "elsewhere")
	calls := p.GitHub.TotalCalls()
	x := p.exchange("elsewhere/app", "reader", p.job(nil))
	lines := p.audited(audit.Filter{RequestID: x.RequestID})
	if x.Status != http.StatusForbidden || x.Message != "the exchange is not allowed (request "+x.RequestID+")" ||
		len(lines) != 1 || !strings.HasPrefix(lines[0].Reason, "not_installed: ") || !strings.Contains(lines[0].Reason, "no configured App serves elsewhere") {
		t.Errorf("%d %s, audited as %+v", x.Status, x.Body, lines)
	}
	if n := p.GitHub.TotalCalls() - calls; n != 0 {
		t.Errorf("GitHub was asked %d times", n)
	}
}

// addOrganizationOf makes one whose policy would grant, with one App installed.
func (p *pool) addOrganizationOf(app int64, org string) {
	p.GitHub.AddRepository(org, "app")
	p.GitHub.Install(app, org, ststest.InstallOptions{})
	p.GitHub.PutPolicy(org, "app", "reader", "issuer: "+p.Issuer.URL()+"\nsubject_pattern: repo:acme/app:.*\npermissions: {contents: read}\n")
}
