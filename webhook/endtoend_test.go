package webhook

import (
	"errors"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/octo-sts/appliance/sts/audit"
	"github.com/octo-sts/appliance/sts/githubapp"
	"github.com/octo-sts/appliance/sts/ststest"
)

const (
	soundPolicy   = "issuer: https://issuer.example\nsubject: repo:acme/app:ref:refs/heads/main\npermissions:\n  contents: read\n"
	unsoundPolicy = "issuer: https://issuer.example\nsubject_pattern: '('\npermissions:\n  contents: read\n"
)

func writing(path, content string) []ststest.Change {
	return []ststest.Change{{Path: path, Content: content}}
}

// concluded waits for the check run of a commit, and makes sure that there is
// one alone once nothing is queued.
func (r *rig) concluded(sha string) ststest.CheckRun {
	r.Helper()
	eventually(r.TB, "the commit has a check run", func() bool { return len(r.github.CheckRuns("acme", "app", sha)) > 0 })
	r.idle()
	runs := r.github.CheckRuns("acme", "app", sha)
	if len(runs) != 1 || runs[0].Name != checkName || runs[0].Status != "completed" {
		r.Fatalf("check runs: %+v", runs)
	}
	return runs[0]
}

func accepted(t *testing.T, all []ststest.DeliveryRecord) {
	t.Helper()
	for _, d := range all {
		if d.StatusCode/100 != 2 {
			t.Errorf("%s %s was answered %d %s", d.Event, d.Action, d.StatusCode, d.Body)
		}
	}
}

func TestAPushOfABrokenPolicy(t *testing.T) {
	r := newRig(t)
	r.run()
	pushed := r.github.Push("acme", "app", "main", writing(policy, unsoundPolicy))
	accepted(t, pushed.Deliveries)
	run := r.concluded(pushed.After)
	if run.Conclusion != "failure" || len(run.Annotations) == 0 || run.Annotations[0].Path != policy {
		t.Errorf("check run: %+v", run)
	}
	var push ststest.DeliveryRecord
	for _, d := range pushed.Deliveries {
		if d.Event == "push" {
			push = d
		}
	}
	about := audit.Entry{RequestID: push.GUID, Scope: "acme/app", PolicyRepository: "acme/app", PolicyPath: policy,
		AppID: testApp, InstallationID: r.acme, Sender: "octocat"}
	change, check := about, about
	change.Kind, change.Reason = audit.TrustChange, "push "+pushed.Before[:7]+"…"+pushed.After[:7]+" to main changed it"
	check.Kind, check.Reason = audit.PolicyCheck, "the check of commit "+pushed.After[:7]+": failure: "+run.Title
	got := slices.Concat(r.entries(audit.TrustChange), r.entries(audit.PolicyCheck))
	for n := range got {
		got[n].Time = time.Time{}
	}
	if diff := cmp.Diff([]audit.Entry{change, check}, got); diff != "" {
		t.Error(diff)
	}
}

func TestPullRequests(t *testing.T) {
	r := newRig(t)
	r.run()
	r.github.Push("acme", "app", "main", writing(policy, soundPolicy))
	bad := r.github.Push("acme", "app", "bad", writing(policy, unsoundPolicy))
	pull := r.github.OpenPull("acme", "app", "bad", "main")
	accepted(t, slices.Concat(bad.Deliveries, pull.Deliveries))
	if run := r.concluded(bad.After); run.Conclusion != "failure" {
		t.Errorf("a broken policy: %+v", run)
	}
	plain := r.github.Push("acme", "app", "plain", writing("main.go", "package main"))
	r.github.OpenPull("acme", "app", "plain", "main")
	if run := r.concluded(plain.After); run.Conclusion != "success" {
		t.Errorf("no policy: %+v", run)
	}
	fork := r.github.OpenForkPull("acme", "app", "stranger", "main", writing(policy, unsoundPolicy)...)
	accepted(t, fork.Deliveries)
	run := r.concluded(fork.HeadSHA)
	if run.Conclusion != "failure" {
		t.Errorf("a fork's broken policy: %+v", run)
	}
	again := r.github.RerequestCheckRun(run.ID)
	accepted(t, again)
	eventually(t, "the check is made again", func() bool {
		runs := r.github.CheckRuns("acme", "app", fork.HeadSHA)
		return len(runs) == 1 && runs[0].Writes > run.Writes
	})
	group := r.github.MergeGroup("acme", "app", "plain")
	if run := r.concluded(group.HeadSHA); run.Conclusion != "success" {
		t.Errorf("a merge group: %+v", run)
	}
}

// A push that changes no policy asks for no check, and so does the suite that
// GitHub makes for it.
func TestNothingIsReportedWhereNoPolicyChanged(t *testing.T) {
	r := newRig(t)
	r.run()
	r.github.Commit("acme", "app", "topic", writing("a", "a")...) // the payload of a new branch is incomplete
	pushed := r.github.Push("acme", "app", "topic", writing("b", "b"))
	accepted(t, pushed.Deliveries)
	r.idle()
	if runs := r.github.CheckRuns("acme", "app", pushed.After); len(runs) != 0 {
		t.Errorf("check runs: %+v", runs)
	}
	for route, n := range r.github.Calls() {
		if strings.Contains(route, "compare") || strings.Contains(route, "check-runs") {
			t.Errorf("%d calls of %s", n, route)
		}
	}
}

func TestOneAppOfAPoolReports(t *testing.T) {
	r := newRig(t, testApp, 99)
	r.run()
	pushed := r.github.Push("acme", "app", "main", writing(policy, unsoundPolicy))
	r.concluded(pushed.After)
	if n := len(r.entries(audit.TrustChange)); n != 2 {
		t.Errorf("%d entries about the change, want one of each App", n)
	}
	if n := len(r.entries(audit.PolicyCheck)); n != 1 {
		t.Errorf("%d entries about the check", n)
	}
	if r.observed("push", OutcomeOtherApp) != 1 || r.observed("push", OutcomeReported) != 1 {
		t.Errorf("observed: %v", r.seen)
	}
}

// The caches follow before GitHub has its answer, whatever becomes of the rest:
// here nobody works on the queue, and then nothing can be queued at all.
func TestCachesFollowAtOnce(t *testing.T) {
	r := newRig(t)
	r.github.Push("acme", "app", "main", writing(policy, soundPolicy))
	read := func() error {
		inst, err := r.client.Installation(t.Context(), "acme", "app")
		if err == nil {
			_, err = r.client.File(t.Context(), inst, "app", policy)
		}
		return err
	}
	if err := read(); err != nil {
		t.Fatal(err)
	}
	r.github.Push("acme", "app", "main", []ststest.Change{{Path: policy, Delete: true}})
	if err := read(); !errors.Is(err, githubapp.ErrNotFound) {
		t.Errorf("after its deletion was pushed: %v", err)
	}
	r.github.Push("acme", "app", "main", writing(policy, soundPolicy))
	if err := read(); err != nil {
		t.Errorf("after it was pushed again: %v", err)
	}
	if err := r.state.Close(); err != nil {
		t.Fatal(err)
	}
	pushed := r.github.Push("acme", "app", "main", []ststest.Change{{Path: policy, Delete: true}})
	if status := pushed.Deliveries[0].StatusCode; status != 503 {
		t.Errorf("without a queue: %d", status)
	}
	if err := read(); !errors.Is(err, githubapp.ErrNotFound) {
		t.Errorf("after a push that could not be queued: %v", err)
	}
	r.github.Suspend(r.acme)
	if err := read(); !errors.Is(err, githubapp.ErrNotInstalled) {
		t.Errorf("after the suspension: %v", err)
	}
}

// What GitHub does not let the App report on is over, and says why.
func TestADeletedInstallation(t *testing.T) {
	r := newRig(t)
	r.run()
	head := r.github.Commit("acme", "app", "main", writing(policy, soundPolicy)...)
	r.github.SetWebhook(testApp, ststest.Webhook{}) // no event tells of it
	r.github.Uninstall(r.acme)
	r.client.ForgetInstallation(r.acme, "acme")
	if status := r.deliver("push", 1, having(pushTo("main", policy), object{"after": head, "forced": true})); status != 202 {
		t.Fatal(status)
	}
	eventually(t, "it is over", func() bool { return r.observed("push", OutcomeRefused) == 1 })
	r.idle()
	if r.logs.FilterMessageSnippet("does not let").Len() != 1 || len(r.entries(audit.TrustChange)) != 2 {
		t.Errorf("%v, entries: %v", r.logs.All(), r.entries(audit.TrustChange))
	}
}

// A rate limit delays a check and never drops it.
func TestARateLimitDelaysACheck(t *testing.T) {
	r := newRig(t)
	r.run()
	limit := ststest.SecondaryRateLimit(429, time.Second)
	limit.Count = 1
	limit.Match = func(req *http.Request) bool { return strings.Contains(req.URL.Path, "/compare/") }
	fault := r.github.Fail(limit)
	pushed := r.github.Push("acme", "app", "main", writing(policy, unsoundPolicy))
	if run := r.concluded(pushed.After); run.Conclusion != "failure" {
		t.Errorf("check run: %+v", run)
	}
	if fault.Hits() != 1 || r.observed("push", OutcomeRetry) == 0 {
		t.Errorf("limited %d times: %v", fault.Hits(), r.seen)
	}
	if n := len(r.entries(audit.TrustChange)); n != 1 {
		t.Errorf("%d entries about one change", n)
	}
}

// GitHub's replicas lag: one that does not know the commit yet, which it says with
// 422 where a check run is to be created, has not refused for good.
func TestARefusalIsNotBelievedAtOnce(t *testing.T) {
	r := newRig(t)
	r.run()
	fault := r.github.Fail(ststest.Fault{Route: ststest.CreateCheckRoute, Status: 422, Count: 1,
		Body: `{"message":"No commit found for SHA: 0000000"}`})
	pushed := r.github.Push("acme", "app", "main", writing(policy, unsoundPolicy))
	if run := r.concluded(pushed.After); run.Conclusion != "failure" {
		t.Errorf("check run: %+v", run)
	}
	if fault.Hits() != 1 || r.observed("push", OutcomeRetry) != 1 || r.observed("push", OutcomeReported) != 1 {
		t.Errorf("refused %d times: %v", fault.Hits(), r.seen)
	}
}
