package main

import (
	"strings"
	"testing"
	"time"

	"github.com/octo-sts/appliance/sts/ststest"
)

// checkedPolicy is what a pull request adds, and what its check says.
type checkedPolicy struct {
	identity, policy string // the policy without its issuer, which is its first line
	conclusion       string
	// The one annotation: its line, its level, and a part of what it says.
	line  int
	level string
	says  string
}

// goodPolicy is one on which there is nothing to remark.
const goodPolicy = "subject: repo:acme@1/app@2:ref:refs/heads/main\npermissions:\n  contents: read\n"

var checkedPolicies = []checkedPolicy{
	{"broken", "subject: repo:acme@1/app@2:ref:refs/heads/main\npermissions:\n  contents: reed\n", "failure", 4, "failure", "reed"},
	{"lofty", "subject: repo:acme@1/app@2:ref:refs/heads/main\npermissions:\n  workflows: write\n", "failure", 1, "failure", "ceiling"},
	{"wanting", "subject: repo:acme@1/app@2:ref:refs/heads/main\npermissions:\n  contents: read\n  deployments: write\n", "failure", 5, "failure", "deployments"},
	{"careless", "subject_pattern: .*\npermissions:\n  contents: read\n", "neutral", 2, "warning", "anything at all"},
	{"good", goodPolicy, "success", 0, "", ""},
}

// The check run as a developer sees it: on the pull request that brings a faulty
// policy, at the line of the fault; and after the fix.
func TestCheckOfAPullRequest(t *testing.T) {
	h := newHookRig(t, ststest.ServiceConfig{Edit: func(config map[string]any) {
		config["ceiling"] = map[string]any{"permissions": map[string]any{"contents": "write", "issues": "write", "deployments": "write"}}
	}})
	runs := map[string]ststest.CheckRun{} // by identity, "" for that without a policy
	pulls := map[string]ststest.Pull{}
	for _, p := range checkedPolicies {
		t.Run(p.identity, func(t *testing.T) {
			h.GitHub.Commit("acme", "app", p.identity, h.write(p.identity, p.policy)...)
			pull := h.GitHub.OpenPull("acme", "app", p.identity, "main")
			run := h.checkRun(pull.HeadSHA)
			pulls[p.identity], runs[p.identity] = pull, run
			if run.Conclusion != p.conclusion {
				t.Errorf("concluded %s: %s\n%s", run.Conclusion, run.Title, run.Summary)
			}
			if p.level == "" {
				if len(run.Annotations) != 0 {
					t.Errorf("annotations: %+v", run.Annotations)
				}
				return
			}
			if len(run.Annotations) != 1 {
				t.Fatalf("annotations: %+v", run.Annotations)
			}
			a := run.Annotations[0]
			if a.Path != policyPath(p.identity) || a.StartLine != p.line || a.EndLine != p.line || a.Level != p.level || !strings.Contains(a.Message, p.says) {
				t.Errorf("annotation: %+v", a)
			}
			if !strings.Contains(run.Summary, policyPath(p.identity)) {
				t.Errorf("the summary does not name the file: %s", run.Summary)
			}
		})
	}
	t.Run("no policy", func(t *testing.T) {
		h.GitHub.Commit("acme", "app", "plain", ststest.Change{Path: "main.go", Content: "package main\n"})
		pull := h.GitHub.OpenPull("acme", "app", "plain", "main")
		run := h.checkRun(pull.HeadSHA)
		pulls[""], runs[""] = pull, run
		if run.Conclusion != "success" || run.Title != "No trust policy changed" {
			t.Errorf("the check: %+v", run)
		}
	})
	t.Run("fixed", func(t *testing.T) {
		for _, p := range checkedPolicies[:4] {
			fixed := h.GitHub.UpdatePull("acme", "app", pulls[p.identity].Number, h.write(p.identity, goodPolicy)...)
			h.eventually("the fix is checked", func() bool { return len(h.GitHub.CheckRuns("acme", "app", fixed.HeadSHA)) > 0 })
			pulls[p.identity+", fixed"] = fixed
		}
		h.idle() // with the check suites that GitHub made for the commits
		for _, p := range checkedPolicies[:4] {
			run := h.checkRun(pulls[p.identity+", fixed"].HeadSHA)
			if run.Conclusion != "success" || len(run.Annotations) != 0 {
				t.Errorf("the fix of %s: %+v", p.identity, run)
			}
			if old := h.checkRun(pulls[p.identity].HeadSHA); old.Conclusion != p.conclusion || old.Writes != runs[p.identity].Writes {
				t.Errorf("the commit before the fix of %s: %+v", p.identity, old)
			}
		}
	})
	h.checkNoSecretIsWritten()
}

// A rate limit of GitHub's delays the check of a pull request and does not drop it.
// What is left of the hour, if anything, is for exchanges meanwhile.
func TestCheckWaitsForTheRateLimit(t *testing.T) {
	for name, remaining := range map[string]int{"less than half of the hour is left": 2000, "nothing is left": 0} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := newHookRig(t, ststest.ServiceConfig{})
			h.warm("acme/app", "reader")
			h.GitHub.Commit("acme", "app", "topic", h.write("broken", brokenPolicy)...)
			reset := time.Now().Add(4 * time.Second).Truncate(time.Second)
			h.GitHub.SetRateLimit(h.installation, 5000, remaining, reset)
			pull := h.GitHub.OpenPull("acme", "app", "topic", "main")
			if got := answers(pull.Deliveries...); got != "pull_request 202" {
				t.Errorf("answered %s", got)
			}
			h.eventually("the check is delayed", func() bool { return h.counted()["pull_request retry"] > 0 })
			if runs := h.GitHub.CheckRuns("acme", "app", pull.HeadSHA); len(runs) != 0 && time.Now().Before(reset) {
				t.Errorf("a check in spite of the limit: %+v", runs)
			}
			if remaining > 0 {
				h.granted("acme/app", "reader")
			}
			run := h.checkRun(pull.HeadSHA)
			if run.Conclusion != "failure" || run.Writes != 1 {
				t.Errorf("the check: %+v", run)
			}
			if early := time.Until(reset); early > 0 {
				t.Errorf("the check came %s before GitHub's reset", early)
			}
			h.auditedOnce([]string{"policy_check broken.sts.yaml failure"})
		})
	}
}
