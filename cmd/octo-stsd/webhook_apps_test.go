package main

import (
	"testing"
	"time"

	"github.com/octo-sts/appliance/sts/audit"
	"github.com/octo-sts/appliance/sts/ststest"
)

// Two Apps serve one organization, and GitHub delivers every event to both. One of
// them reports checks and gives out tokens that can write checks, since only the
// App that made a check run may change it; and it stays that one.
func TestTwoAppsOfOneOrganization(t *testing.T) {
	const other int64 = 5678
	h := newHookRig(t, ststest.ServiceConfig{Apps: []ststest.ServiceApp{{ID: ststest.DefaultApp}, {ID: other}}})
	installation := h.GitHub.Install(other, "acme", ststest.InstallOptions{})
	h.idle()

	// The first App is the one that a daemon takes that knows nothing. This one
	// knows that the other has more of its hour left, and sticks to that.
	h.GitHub.SetRateLimit(h.installation, 5000, 3500, time.Now().Add(time.Hour))
	if app := h.grantedBy("reader"); app != ststest.DefaultApp {
		t.Fatalf("a daemon that knows nothing took App %d: the rest proves nothing", app)
	}
	if app := h.grantedBy("writer"); app != other {
		t.Fatalf("checks: write was granted by App %d", app)
	}
	h.oneCheck("first", other)

	// After a restart it would be the first App's turn, by all that can be known.
	h.GitHub.SetRateLimit(h.installation, 5000, 5000, time.Now().Add(time.Hour))
	h.GitHub.SetRateLimit(installation, 5000, 3500, time.Now().Add(time.Hour))
	h.restart()
	if app := h.grantedBy("writer"); app != other {
		t.Errorf("after a restart checks: write was granted by App %d", app)
	}
	again := h.oneCheck("second", other)
	h.GitHub.RerequestCheckRun(again.ID)
	h.eventually("the check is made again", func() bool { return h.GitHub.CheckRuns("acme", "app", again.HeadSHA)[0].Writes == 2 })
	h.checkRun(again.HeadSHA) // and is still the only one

	// With the deliveries of the App that reports nothing alone, caches follow.
	h.put("doomed", readerPolicy)
	h.warm("acme/app", "doomed")
	h.GitHub.LoseDeliveries(other, true)
	p := h.GitHub.Push("acme", "app", "main", remove("doomed"))
	h.refused("acme/app", "doomed")
	h.idle()
	if runs := h.GitHub.CheckRuns("acme", "app", p.After); len(runs) != 0 {
		t.Errorf("the App that reports nothing reported %+v", runs)
	}
	// With those of the one that reports alone, caches follow and the check comes.
	h.put("also-doomed", readerPolicy)
	h.warm("acme/app", "also-doomed")
	h.GitHub.LoseDeliveries(other, false)
	h.GitHub.LoseDeliveries(ststest.DefaultApp, true)
	p = h.GitHub.Push("acme", "app", "main", remove("also-doomed"))
	h.refused("acme/app", "also-doomed")
	if run := h.checkRun(p.After); run.AppID != other || run.Conclusion != "success" {
		t.Errorf("the check: %+v", run)
	}
}

// grantedBy is the App whose token an exchange was granted.
func (h *hookRig) grantedBy(identity string) int64 {
	h.t.Helper()
	x := h.granted("acme/app", identity)
	for _, e := range h.audited(audit.Filter{RequestID: x.RequestID}) {
		if e.Kind == audit.Outcome {
			return e.AppID
		}
	}
	h.t.Fatal("no outcome was audited")
	return 0
}

// oneCheck pushes a broken policy, of which both Apps are told, and wants one check
// run by the given App. Both deliveries are audited, the check once.
func (h *hookRig) oneCheck(identity string, app int64) ststest.CheckRun {
	h.t.Helper()
	before := len(h.webhookEntries())
	p := h.GitHub.Push("acme", "app", "main", h.write(identity, brokenPolicy))
	if got := answers(p.Deliveries...); got != "push 202, push 202, check_suite 200, check_suite 200" {
		h.t.Errorf("answered %s", got)
	}
	run := h.checkRun(p.After)
	if run.AppID != app || run.Conclusion != "failure" || run.Writes != 1 {
		h.t.Errorf("the check: %+v", run)
	}
	changes := map[int64]int{}
	checks := map[int64]int{}
	for _, e := range h.webhookEntries()[before:] {
		if e.Kind == audit.TrustChange {
			changes[e.AppID]++
		} else {
			checks[e.AppID]++
		}
	}
	if len(changes) != 2 || changes[app] != 1 || len(checks) != 1 || checks[app] != 1 {
		h.t.Errorf("audited by App: changes %v, checks %v", changes, checks)
	}
	return run
}
