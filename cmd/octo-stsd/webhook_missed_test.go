package main

import (
	"errors"
	"fmt"
	"net/http"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/octo-sts/appliance/sts/ststest"
)

// What GitHub sends while the daemon is down is asked for again when it is back,
// and done once, however often the daemon starts after that.
func TestDeliveriesMissedWhileDown(t *testing.T) {
	h := newHookRig(t, ststest.ServiceConfig{})
	if err := h.Stop(); err != nil {
		t.Fatal(err)
	}
	var pushed ststest.Pushed
	var pull ststest.Pull
	var accepted []ststest.DeliveryRecord
	h.backdated(func() {
		pushed = h.GitHub.Push("acme", "app", "main", h.write("missed", brokenPolicy))
		h.GitHub.Commit("acme", "app", "topic", ststest.Change{Path: "main.go", Content: "package main\n"})
		pull = h.GitHub.OpenPull("acme", "app", "topic", "main")
		accepted = h.GitHub.SetInstallationPermissions(h.installation, map[string]string{"contents": "write", "checks": "write", "pull_requests": "read"})
	})
	if got := answers(slices.Concat(pushed.Deliveries, pull.Deliveries, accepted)...); got != "push 502, check_suite 502, pull_request 502, installation 502" {
		t.Fatalf("answered %s", got)
	}
	h.restart()
	if run := h.checkRun(pushed.After); run.Conclusion != "failure" || run.Writes != 1 {
		t.Errorf("the check of the push: %+v", run)
	}
	if run := h.checkRun(pull.HeadSHA); run.Conclusion != "success" || run.Writes != 1 {
		t.Errorf("the check of the pull request: %+v", run)
	}
	want := []string{"policy_check missed.sts.yaml failure", "policy_check success",
		"trust_change missed.sts.yaml changed it", "trust_change new permissions were accepted for the installation"}
	h.auditedOnce(want)
	if n := h.GitHub.Calls()[ststest.RedeliverRoute]; n != 4 {
		t.Errorf("GitHub was asked for %d deliveries again, want 4", n)
	}

	// A delivery that was taken, whose answer GitHub did not get.
	h.GitHub.SetWebhook(ststest.DefaultApp, ststest.Webhook{URL: h.URL() + "/webhook", Secret: h.WebhookSecret,
		Client: &http.Client{Transport: deaf{http.DefaultTransport}}})
	h.GitHub.Commit("acme", "app", "unheard", h.write("unheard", brokenPolicy)...)
	h.backdated(func() { pull = h.GitHub.OpenPull("acme", "app", "unheard", "main") })
	h.checkRun(pull.HeadSHA)
	want = append(want, "policy_check unheard.sts.yaml failure")
	h.auditedOnce(want)
	if got := answers(pull.Deliveries...); got != "pull_request 502" {
		t.Errorf("answered %s", got)
	}

	// GitHub still lists all of these attempts. The oldest are asked for first: what
	// was missed now comes after them.
	if err := h.Kill(); err != nil {
		t.Fatal(err)
	}
	h.backdated(func() { pushed = h.GitHub.Push("acme", "app", "main", h.write("missed-too", brokenPolicy)) })
	h.restart()
	h.checkRun(pushed.After)
	h.auditedOnce(append(want, "policy_check missed-too.sts.yaml failure", "trust_change missed-too.sts.yaml changed it"))
	if n := h.GitHub.Calls()[ststest.RedeliverRoute]; n != 6 {
		t.Errorf("GitHub was asked for %d deliveries again, want 4 and then the 2 that were missed", n)
	}
}

// deaf is a transport that does not hear what is answered.
type deaf struct{ http.RoundTripper }

func (d deaf) RoundTrip(req *http.Request) (*http.Response, error) {
	resp, err := d.RoundTripper.RoundTrip(req)
	if err == nil {
		resp.Body.Close()
		err = errors.New("the answer was lost")
	}
	return nil, err
}

// auditedOnce wants exactly these entries because of deliveries, in any order,
// before long.
func (h *hookRig) auditedOnce(want []string) {
	h.t.Helper()
	want = slices.Sorted(slices.Values(want))
	var got []string
	h.eventually(fmt.Sprint(len(want), " entries"), func() bool {
		got = nil
		for _, e := range h.webhookEntries() {
			got = append(got, described(e))
		}
		return len(got) >= len(want)
	})
	h.idle()
	slices.Sort(got)
	if diff := cmp.Diff(want, got); diff != "" {
		h.t.Errorf("audited: %s", diff)
	}
}

// A delivery that finds the disk full is answered 503: GitHub is asked for it again
// once there is room. What it says was deleted stops granting all the same.
func TestDeliveriesWhileTheDiskIsFull(t *testing.T) {
	disk := newSmallDisk(t)
	h := newHookRig(t, ststest.ServiceConfig{Edit: func(config map[string]any) { config["state_directory"] = disk.directory }})
	disk.fill()
	var want, commits []string
	last := ""
	h.backdated(func() {
		for i := 0; last != "push 503" && i < 500; i++ { // the last pages may hold a few more
			identity := fmt.Sprint("doomed-", i)
			h.put(identity, readerPolicy)
			h.warm("acme/app", identity)
			p := h.GitHub.Push("acme", "app", "main", remove(identity))
			h.refused("acme/app", identity)
			last = answers(pushOf(t, p))
			commits = append(commits, p.After)
			want = append(want, "policy_check success", "trust_change "+identity+".sts.yaml changed it")
		}
	})
	if last != "push 503" {
		t.Fatalf("%d deliveries were kept on a full disk, the last of them answered %s", len(commits), last)
	}
	if runs := h.GitHub.CheckRuns("acme", "app", commits[len(commits)-1]); len(runs) != 0 {
		t.Errorf("what was not kept was done: %+v", runs)
	}
	if err := h.Kill(); err != nil {
		t.Fatal(err)
	}
	disk.empty()
	h.restart()
	for _, sha := range commits {
		if run := h.checkRun(sha); run.Conclusion != "success" {
			t.Errorf("the check: %+v", run)
		}
	}
	h.auditedOnce(want)
	t.Logf("%d deliveries were kept", len(commits)-1)
}
