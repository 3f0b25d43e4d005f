package main

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/octo-sts/appliance/sts/audit"
	"github.com/octo-sts/appliance/sts/ststest"
)

// hookRow is one row of TestWebhookBadInputs.
type hookRow struct {
	name string
	// do sends what the row is about, and checks how it was answered.
	do func(*testing.T, *hookRig)
	// counted is how the metrics label what was sent, as "push queued 1".
	counted string
	// audited is what the audit log has of it: each entry's kind, and what it is
	// about, sorted.
	audited []string
}

// TestWebhookBadInputs is the list of what a stranger, an odd GitHub and a user in
// a hurry can send to /webhook, and of what becomes of each, against the real
// daemon. After each row the same process grants what it granted before; after
// all of them no secret is in the log, the audit log or the state.
//
// A thousand deliveries in a second are TestThousandDeliveriesInASecond's.
func TestWebhookBadInputs(t *testing.T) {
	h := newHookRig(t, ststest.ServiceConfig{})
	for _, row := range slices.Concat(refusedRows(), acceptedRows(), repeatedRows(), installationRows(), largeRows(), secretRows()) {
		t.Run(row.name, func(t *testing.T) {
			outer := h.t
			h.t = t
			defer func() { h.t = outer }()
			h.idle()
			h.newlyCounted()
			before := len(h.webhookEntries())
			row.do(t, h)
			h.idle()
			if got := h.newlyCounted(); got != row.counted {
				t.Errorf("counted %q, want %q", got, row.counted)
			}
			var entries []string
			for _, e := range h.webhookEntries()[before:] {
				entries = append(entries, described(e))
			}
			slices.Sort(entries)
			if diff := cmp.Diff(row.audited, entries); diff != "" {
				t.Errorf("audited: %s", diff)
			}
			h.granted("acme/app", "reader")
			if pid := h.PID(); pid != h.pid {
				t.Errorf("the daemon was process %d and is %d", h.pid, pid)
			}
		})
	}
	if logs := h.Logs(); strings.Contains(logs, "panic") || strings.Contains(logs, "goroutine ") {
		t.Error("the daemon's log speaks of a panic")
	}
	h.checkNoSecretIsWritten()
}

// described is an entry's kind, then whatever of sender, policy and conclusion it
// has.
func described(e audit.Entry) string {
	parts := []string{string(e.Kind)}
	if e.Sender == "" {
		parts = append(parts, "by nobody")
	}
	if e.PolicyPath != "" {
		parts = append(parts, filepath.Base(e.PolicyPath))
	}
	reason := e.Reason
	switch {
	case e.Kind == audit.PolicyCheck: // the check of commit SHA: failure: title
		reason = strings.Split(e.Reason, ": ")[1]
	case strings.HasPrefix(reason, "push "):
		_, reason, _ = strings.Cut(reason, " to main ")
	}
	return strings.Join(append(parts, reason), " ")
}

// acceptedRows look odd and are good.
func acceptedRows() []hookRow {
	return []hookRow{
		{name: "a Content-Type with parameters", counted: "push done 1, push queued 1", audited: []string{"trust_change absent.sts.yaml changed it"},
			do: func(t *testing.T, h *hookRig) {
				d := h.newDelivery("push", h.push(h.parentAndTip("absent")))
				d.header["Content-Type"] = "application/json; charset=utf-8"
				h.expect(d, 202)
			}},
		{name: "a null sender", counted: "push done 1, push queued 1", audited: []string{"trust_change by nobody absent.sts.yaml changed it"},
			do: func(t *testing.T, h *hookRig) {
				payload := h.push(h.parentAndTip("absent"))
				payload["sender"] = nil
				h.expect(h.newDelivery("push", payload), 202)
			}},
		{name: "a zero SHA after: the branch was deleted", counted: "push applied 1", do: func(t *testing.T, h *hookRig) {
			h.GitHub.Commit("acme", "app", "short-lived", h.write("short-lived", brokenPolicy)...)
			p := h.GitHub.DeleteBranch("acme", "app", "short-lived")
			if got := answers(p.Deliveries...); got != "push 200" || strings.Trim(p.After, "0") != "" {
				t.Errorf("answered %s", got)
			}
		}},
		{name: "a zero SHA after, on the default branch", counted: "push done 1, push queued 1",
			audited: []string{"trust_change may have changed any file in .github/chainguard/: GitHub does not list all that it changed"},
			do: func(t *testing.T, h *hookRig) {
				payload := h.push(h.GitHub.SHA("acme", "app", "main"), zeroSHA)
				payload["deleted"], payload["commits"] = true, []any{}
				h.expect(h.newDelivery("push", payload), 202)
			}},
		{name: "a zero SHA before: the branch is new", counted: "push queued 1, push reported 1", audited: []string{"policy_check new.sts.yaml failure"},
			do: func(t *testing.T, h *hookRig) {
				sha := h.GitHub.Commit("acme", "app", "new-branch", h.write("new", brokenPolicy)...)
				payload := h.push(zeroSHA, sha)
				payload["ref"], payload["created"] = "refs/heads/new-branch", true
				h.expect(h.newDelivery("push", payload), 202)
				if run := h.checkRun(sha); run.Conclusion != "failure" {
					t.Errorf("the check: %+v", run)
				}
			}},
		{name: "two zero SHAs", counted: "push done 1, push queued 1",
			audited: []string{"trust_change may have changed any file in .github/chainguard/: GitHub does not list all that it changed"},
			do: func(t *testing.T, h *hookRig) {
				h.expect(h.newDelivery("push", h.push(zeroSHA, zeroSHA)), 202)
			}},
		{name: "a policy added and deleted in one push", counted: "check_suite ignored 1, push done 1, push queued 1",
			audited: []string{"trust_change fleeting.sts.yaml changed it"},
			do: func(t *testing.T, h *hookRig) {
				p := h.GitHub.Push("acme", "app", "main", h.write("fleeting", brokenPolicy), remove("fleeting"))
				if got := answers(p.Deliveries...); got != "push 202, check_suite 200" {
					t.Errorf("answered %s", got)
				}
				h.idle()
				if runs := h.GitHub.CheckRuns("acme", "app", p.After); len(runs) != 0 {
					t.Errorf("what changed nothing was checked: %+v", runs)
				}
				h.refused("acme/app", "fleeting")
			}},
		{name: "a policy added and deleted in one pull request", counted: "pull_request queued 1, pull_request reported 1", audited: []string{"policy_check success"},
			do: func(t *testing.T, h *hookRig) {
				h.GitHub.Commit("acme", "app", "fleeting", h.write("fleeting", brokenPolicy)...)
				h.GitHub.Commit("acme", "app", "fleeting", remove("fleeting")...)
				pull := h.GitHub.OpenPull("acme", "app", "fleeting", "main")
				if run := h.checkRun(pull.HeadSHA); run.Conclusion != "success" || run.Title != "No trust policy changed" {
					t.Errorf("the check: %+v", run)
				}
			}},
	}
}

// repeatedRows are deliveries that come more than once.
func repeatedRows() []hookRow {
	return []hookRow{
		{name: "a replayed delivery is done once", counted: "check_suite ignored 1, push duplicate 3, push queued 1, push reported 1",
			audited: []string{"policy_check replayed.sts.yaml failure", "trust_change replayed.sts.yaml changed it"},
			do: func(t *testing.T, h *hookRig) {
				p := h.GitHub.Push("acme", "app", "main", h.write("replayed", brokenPolicy))
				first := pushOf(t, p)
				again := []ststest.DeliveryRecord{h.GitHub.Redeliver(ststest.DefaultApp, first.ID)} // while it is done, perhaps
				run := h.checkRun(p.After)
				for range 2 {
					again = append(again, h.GitHub.Redeliver(ststest.DefaultApp, first.ID))
				}
				if got := answers(append([]ststest.DeliveryRecord{first}, again...)...); got != "push 202, push 200, push 200, push 200" {
					t.Errorf("answered %s", got)
				}
				if after := h.checkRun(p.After); after.Writes != run.Writes || run.Writes != 1 {
					t.Errorf("the check run was written %d times", after.Writes)
				}
			}},
		{name: "a redelivery after a failure is done", counted: "check_suite ignored 1, push duplicate 1, push queued 1, push reported 1",
			audited: []string{"policy_check again.sts.yaml failure", "trust_change again.sts.yaml changed it"},
			do: func(t *testing.T, h *hookRig) {
				h.GitHub.LoseDeliveries(ststest.DefaultApp, true)
				p := h.GitHub.Push("acme", "app", "main", h.write("again", brokenPolicy))
				h.GitHub.LoseDeliveries(ststest.DefaultApp, false)
				all := slices.Clone(p.Deliveries)
				for _, d := range append(p.Deliveries, pushOf(t, p)) {
					all = append(all, h.GitHub.Redeliver(ststest.DefaultApp, d.ID))
				}
				if got := answers(all...); got != "push 502, check_suite 502, push 202, check_suite 200, push 200" {
					t.Errorf("answered %s", got)
				}
				if run := h.checkRun(p.After); run.Conclusion != "failure" || run.Writes != 1 {
					t.Errorf("the check: %+v", run)
				}
			}},
	}
}

// secretRows restart the daemon with other secrets. They come last, since they
// leave it with another one.
func secretRows() []hookRow {
	configure := func(h *hookRig, names ...any) {
		h.rewriteConfig(func(config map[string]any) { config["webhook"] = map[string]any{"secrets": names} })
	}
	credential := func(h *hookRig, name, secret string) {
		h.t.Helper()
		if err := os.WriteFile(filepath.Join(h.Dir, "credentials", name), []byte(secret), 0o600); err != nil {
			h.t.Fatal(err)
		}
	}
	const second = "a-second-secret-for-the-rotation"
	signed := func(h *hookRig, secret string) *delivery {
		d := h.newDelivery("push", h.push(h.parentAndTip("absent")))
		d.secret = secret
		return d
	}
	return []hookRow{
		{name: "an empty secret configured is fatal at start", do: func(t *testing.T, h *hookRig) {
			for _, empty := range []string{"", "\n"} {
				credential(h, "empty", empty)
				configure(h, "webhook-secret", "empty")
				err := h.Restart(h.ctx)
				if exitStatus(err) != 2 || !strings.Contains(err.Error(), "webhook.secrets[1]: reading credential empty") || !strings.Contains(err.Error(), "is empty") {
					t.Errorf("started with %q: %v", empty, err)
				}
			}
			configure(h, "webhook-secret")
			h.restart()
		}},
		{name: "the second secret during rotation is accepted", counted: "push done 2, push queued 2",
			audited: []string{"trust_change absent.sts.yaml changed it", "trust_change absent.sts.yaml changed it"},
			do: func(t *testing.T, h *hookRig) {
				h.secrets = append(h.secrets, second)
				credential(h, "second", second+"\n")
				h.expect(signed(h, second), 401)
				configure(h, "webhook-secret", "second")
				h.restart()
				h.expect(signed(h, second), 202)
				h.expect(signed(h, h.WebhookSecret), 202)
			}},
		{name: "the old secret is refused after it was removed", counted: "other signature 1, push done 1, push queued 1",
			audited: []string{"trust_change absent.sts.yaml changed it"},
			do: func(t *testing.T, h *hookRig) {
				configure(h, "second")
				h.restart()
				h.expect(signed(h, h.WebhookSecret), 401)
				h.expect(signed(h, second), 202)
			}},
	}
}
