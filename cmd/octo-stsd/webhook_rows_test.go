package main

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/octo-sts/appliance/sts/ststest"
)

// installationRows are deliveries about an owner whom the App does not serve any
// more: GitHub sends some late, and a redelivery may come days after.
func installationRows() []hookRow {
	return []hookRow{
		{name: "an installation that was deleted", counted: "installation done 2, installation queued 2, push queued 1, push refused 1",
			audited: []string{"trust_change late.sts.yaml changed it", "trust_change the App was installed", "trust_change the App was uninstalled"},
			do: func(t *testing.T, h *hookRig) {
				h.warm("acme/app", "reader")
				before := h.GitHub.SHA("acme", "app", "main")
				after := h.GitHub.Commit("acme", "app", "main", h.write("late", readerPolicy)...)
				if got := answers(h.GitHub.Uninstall(h.installation)...); got != "installation 202" {
					t.Errorf("answered %s", got)
				}
				h.refusedUnasked("reader")
				h.late(before, after, "late")
				h.refusedUnasked("reader")
				h.idle()
				h.installation = h.GitHub.Install(ststest.DefaultApp, "acme", ststest.InstallOptions{})
				h.granted("acme/app", "late")
			}},
		{name: "an installation that was suspended", counted: "installation done 2, installation queued 2, push queued 1, push refused 1",
			audited: []string{"trust_change later.sts.yaml changed it", "trust_change the installation was suspended", "trust_change the installation's suspension was lifted"},
			do: func(t *testing.T, h *hookRig) {
				h.warm("acme/app", "reader")
				before := h.GitHub.SHA("acme", "app", "main")
				after := h.GitHub.Commit("acme", "app", "main", h.write("later", readerPolicy)...)
				if got := answers(h.GitHub.Suspend(h.installation)...); got != "installation 202" {
					t.Errorf("answered %s", got)
				}
				h.refusedUnasked("reader")
				h.late(before, after, "later")
				h.refusedUnasked("reader")
				h.idle()
				if got := answers(h.GitHub.Unsuspend(h.installation)...); got != "installation 202" {
					t.Errorf("answered %s", got)
				}
				h.granted("acme/app", "later")
			}},
	}
}

// late delivers the push of a commit that added a policy: it is taken, and GitHub
// lets nobody check it.
func (h *hookRig) late(before, after, identity string) {
	h.t.Helper()
	h.expect(h.newDelivery("push", h.push(before, after, policyPath(identity))), 202)
	h.idle()
	if runs := h.GitHub.CheckRuns("acme", "app", after); len(runs) != 0 {
		h.t.Errorf("check runs of an installation that is not there: %+v", runs)
	}
}

// refusedUnasked is refused without an attempt to mint.
func (h *hookRig) refusedUnasked(identity string) {
	h.t.Helper()
	minted := h.GitHub.Calls()[ststest.MintRoute]
	h.refused("acme/app", identity)
	if n := h.GitHub.Calls()[ststest.MintRoute]; n != minted {
		h.t.Error("a token was asked for")
	}
}

// largeRows hide a policy among much else.
func largeRows() []hookRow {
	rows := []hookRow{
		{name: "a policy deleted by the first of 25 commits of one push", counted: "check_suite ignored 1, push queued 1, push reported 1",
			audited: []string{"policy_check success", "trust_change may have changed any file in .github/chainguard/: GitHub does not list all that it changed"},
			do: func(t *testing.T, h *hookRig) {
				h.put("doomed", readerPolicy)
				h.warm("acme/app", "doomed")
				p := h.GitHub.Push("acme", "app", "main", amongOthers(remove("doomed"))...)
				h.refused("acme/app", "doomed")
				if run := h.checkRun(p.After); run.Conclusion != "success" || run.Title != "1 trust policy removed" {
					t.Errorf("the check: %+v", run)
				}
			}},
		{name: "a policy broken by the first of 25 commits of one push", counted: "check_suite ignored 1, push queued 1, push reported 1",
			audited: []string{"policy_check unlisted.sts.yaml failure", "trust_change may have changed any file in .github/chainguard/: GitHub does not list all that it changed"},
			do: func(t *testing.T, h *hookRig) {
				h.put("unlisted", readerPolicy)
				h.warm("acme/app", "unlisted")
				p := h.GitHub.Push("acme", "app", "main", amongOthers(h.write("unlisted", brokenPolicy))...)
				h.refused("acme/app", "unlisted")
				h.failsFor(h.checkRun(p.After), "unlisted")
			}},
	}
	for n, nth := range map[int]string{31: "31st", 301: "301st"} {
		identity := "file" + fmt.Sprint(n)
		rows = append(rows, hookRow{
			name:    "a policy that is the " + nth + " file of a pull request",
			counted: "pull_request queued 1, pull_request reported 1", audited: []string{"policy_check " + identity + ".sts.yaml failure"},
			do: func(t *testing.T, h *hookRig) {
				changes := h.write(identity, brokenPolicy)
				for i := range n - 1 { // they sort before it
					changes = append(changes, ststest.Change{Path: fmt.Sprintf(".a/%d/%03d", n, i), Content: "x"})
				}
				h.GitHub.Commit("acme", "app", identity, changes...)
				pull := h.GitHub.OpenPull("acme", "app", identity, "main")
				if got := answers(pull.Deliveries...); got != "pull_request 202" {
					t.Errorf("answered %s", got)
				}
				h.failsFor(h.checkRun(pull.HeadSHA), identity)
			}})
	}
	slices.SortStableFunc(rows, func(a, b hookRow) int { return strings.Compare(a.name, b.name) })
	return rows
}

// amongOthers is first and 24 more commits.
func amongOthers(first []ststest.Change) [][]ststest.Change {
	commits := [][]ststest.Change{first}
	for i := range 24 {
		commits = append(commits, []ststest.Change{{Path: "history", Content: fmt.Sprint(i, newGUID())}})
	}
	return commits
}

// failsFor wants a check run that fails for one policy alone.
func (h *hookRig) failsFor(run ststest.CheckRun, identity string) {
	h.t.Helper()
	if run.Conclusion != "failure" || len(run.Annotations) == 0 {
		h.t.Errorf("the check: %+v", run)
	}
	for _, a := range run.Annotations {
		if a.Path != policyPath(identity) {
			h.t.Errorf("an annotation of %s: %+v", a.Path, a)
		}
	}
}
