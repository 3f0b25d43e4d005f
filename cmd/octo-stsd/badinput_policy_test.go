package main

import (
	"fmt"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"

	"github.com/octo-sts/appliance/sts/ststest"
)

// policyRows are about what stands in a repository: policies that cannot be
// used, which grant to nobody, and good ones that meet a stranger. Whichever it
// is, callers read one and the same text.
func policyRows(t *testing.T, w *world) {
	t.Run("A policy that cannot be used", func(t *testing.T) { unusablePolicies(t, w) })
	t.Run("A pattern and a stranger", func(t *testing.T) { strangersToPatterns(t, w) })
	t.Run("What is in a policy's place", func(t *testing.T) { notPolicies(t, w) })
	t.Run("Repositories", func(t *testing.T) { repositoriesOfPolicies(t, w) })
	t.Run("GitHub Actions", func(t *testing.T) { actionsJobs(t, w) })
}

func unusablePolicies(t *testing.T, w *world) {
	issuer := "issuer: " + w.Issuer.URL() + "\n"
	whole := issuer + "subject: " + subject + "\npermissions: {issues: write}\n"
	pattern := func(p string) string { return issuer + "subject_pattern: " + p + "\npermissions: {issues: write}\n" }
	permissions := func(p string) string { return issuer + "subject: " + subject + "\npermissions: " + p + "\n" }
	aliases := "x: &a [lol, lol, lol, lol, lol, lol, lol, lol, lol]\n"
	for c := 'b'; c < 'k'; c++ {
		aliases += fmt.Sprintf("y%c: &%c [*%c, *%c, *%c, *%c, *%c, *%c, *%c, *%c]\n", c, c, c-1, c-1, c-1, c-1, c-1, c-1, c-1, c-1)
	}
	for i, c := range []struct{ name, policy, why string }{
		{"an unbalanced )|(", pattern(`x)|(.*`), "is no valid pattern"},
		{"an unbalanced )|( that would be balanced when anchored", pattern(`"x)|(?:.*"`), "is no valid pattern"},
		{"an empty pattern", pattern(`""`), "subject_pattern is empty"},
		{"a 100 KiB pattern", pattern(strings.Repeat("a", 100<<10) + "|.*"), "at most 64 KiB"},
		{"a huge repeat", pattern(`((.{0,99}){0,99}){0,99}`), "is no valid pattern"},
		{"a huge repeat, within what the parser takes", pattern(`(repo:acme/app){999}|.*`), "too large a pattern"},
		{"YAML aliases that explode", aliases + whole, "alias"},
		{"duplicate keys", whole + "subject: another\n", "duplicate key"},
		{"unknown keys", whole + "subjects: another\n", "unknown key"},
		{"keys in another case", strings.Replace(whole, "subject:", "Subject:", 1), "unknown key"},
		{"two documents in one file", whole + "---\n" + whole, "document"},
		{"tabs", strings.Replace(whole, "permissions: {issues: write}", "permissions:\n\tissues: write", 1), "tab"},
		{"nothing", "", "empty"},
		{"no UTF-8", whole + "# \xff\n", "UTF-8"},
		{"empty permissions", permissions("{}"), "permissions is empty"},
		{"no permissions", issuer + "subject: " + subject + "\n", "permissions is missing"},
		{"null permissions", permissions(""), "permissions"},
		{"unknown permissions", permissions("{contentz: read, issues: write}"), "unknown permission"},
		{"unknown levels", permissions("{issues: admin}"), `no level "admin"`},
		{"write where only read exists", permissions("{organization_plan: write, issues: write}"), `no level "write"`},
		{"repositories in a repository's own policy", whole + "repositories: [app]\n", "belongs only into a policy of the organization"},
		{"neither subject nor subject_pattern", issuer + "permissions: {issues: write}\n", "subject is missing"},
		{"both subject and subject_pattern", whole + "subject_pattern: .*\n", "exclude each other"},
	} {
		identity := fmt.Sprintf("unusable-%d", i)
		w.GitHub.PutPolicy("acme", "app", identity, c.policy)
		w.try(t, mismatched(c.name, identity, w.sign(t, w.Issuer, nil), c.why))
	}
}

func strangersToPatterns(t *testing.T, w *world) {
	put := func(identity, pattern string) {
		w.GitHub.PutPolicy("acme", "app", identity, fmt.Sprintf("issuer: %s\nsubject_pattern: %s\npermissions: {issues: write}\n", w.Issuer.URL(), pattern))
	}
	put("either", "repo:acme/a|repo:acme/b")
	put("dotted", "repo:acme/app:.+")
	as := func(sub string) string { return w.sign(t, w.Issuer, claims{"sub": sub}) }
	w.tryAll(t, []row{
		{"a|b, the first (accepted)", askAs("either", as("repo:acme/a")), codes.OK, ""},
		{"a|b, the second (accepted)", askAs("either", as("repo:acme/b")), codes.OK, ""},
		mismatched("a|b, something after the first", "either", as("repo:acme/a-stranger"), "mismatch: subject_pattern"),
		mismatched("a|b, something before the second", "either", as("stranger:repo:acme/b"), "mismatch: subject_pattern"),
		mismatched("a|b, both", "either", as("repo:acme/a|repo:acme/b"), "mismatch: subject_pattern"),
		mismatched("something before a pattern", "dotted", as("x repo:acme/app:y"), "mismatch: subject_pattern"),
		mismatched("another case", "dotted", as("repo:ACME/app:y"), "mismatch: subject_pattern"),
	})
}

func notPolicies(t *testing.T, w *world) {
	const dir = ".github/chainguard/"
	good := fmt.Sprintf("issuer: %s\nsubject: %s\npermissions: {issues: write}\n", w.Issuer.URL(), subject)
	w.GitHub.PutDirectory("acme", "app", dir+"directory.sts.yaml")
	w.GitHub.PutFile("acme", "app", dir+"target.yaml", good)
	w.GitHub.PutSymlink("acme", "app", dir+"symlink.sts.yaml", "target.yaml")
	w.GitHub.PutSymlink("acme", "app", dir+"dangling.sts.yaml", "nowhere")
	w.GitHub.PutSubmodule("acme", "app", dir+"submodule.sts.yaml", "https://github.com/evil/policies")
	w.GitHub.PutPolicy("acme", "app", "large", good+"#"+strings.Repeat("x", 1<<20)+"\n")
	w.GitHub.PutPolicy("acme", "app", "large-enough", good+"#"+strings.Repeat("x", 2<<20)+"\n")
	w.GitHub.PutFile("acme", "app", dir+"bare.yaml", good)
	raw := func() string { return w.sign(t, w.Issuer, nil) }
	w.tryAll(t, []row{
		mismatched("no policy at all", "absent", raw(), "no_policy: "),
		mismatched("a policy that is a directory", "directory", raw(), "policy_invalid: "),
		mismatched("a policy that is a symlink", "symlink", raw(), "symbolic link"),
		mismatched("a policy that is a symlink to nowhere", "dangling", raw(), "symbolic link"),
		mismatched("a policy that is a submodule", "submodule", raw(), "submodule"),
		mismatched("a file over 1 MiB", "large", raw(), "policy_invalid: "),
		mismatched("a file over 2 MiB", "large-enough", raw(), "policy_invalid: "),
		mismatched("a file named x.yaml", "bare", raw(), "no_policy: "),
		{"no installation", request{authorization: []string{"Bearer " + raw()}, scope: "other/app", identity: anyone}, codes.PermissionDenied, "not_installed: "},
		{"no repository", request{authorization: []string{"Bearer " + raw()}, scope: "acme/nowhere", identity: anyone}, codes.PermissionDenied, "not_installed: "},
	})
}

func repositoriesOfPolicies(t *testing.T, w *world) {
	put := func(identity, repositories string) {
		w.GitHub.PutPolicy("acme", ".github", identity, fmt.Sprintf("issuer: %s\nsubject: %s\npermissions: {issues: write}\nrepositories: %s\n", w.Issuer.URL(), subject, repositories))
	}
	put("inside", "[app]")
	put("outside", "[other/app]")
	put("unknown", "[nowhere]")
	put("both", "[app, nowhere]")
	put("none", "[]")
	put("up", "[..]")
	put("star", `["*"]`)
	org := func(identity string) request {
		return request{authorization: []string{"Bearer " + w.sign(t, w.Issuer, nil)}, scope: "acme", identity: identity}
	}
	no := codes.PermissionDenied
	w.tryAll(t, []row{
		{"repositories inside the organization (accepted)", org("inside"), codes.OK, ""},
		{"repositories outside the organization", org("outside"), no, "has a slash"},
		{"repositories that the organization has not", org("unknown"), no, "github_refused: "},
		{"one of repositories that the organization has not", org("both"), no, "github_refused: "},
		{"empty repositories", org("none"), no, "repositories is empty"},
		{"repositories with ..", org("up"), no, "no name that GitHub gives"},
		{"repositories with *", org("star"), no, "leave repositories out"},
	})
}

// actionsJobs are tokens of GitHub Actions that are genuine and not meant.
func actionsJobs(t *testing.T, w *world) {
	put := func(identity, subject, more string) {
		w.GitHub.PutPolicy("acme", "app", identity, fmt.Sprintf("issuer: %s\nsubject: %q\npermissions: {issues: write}\n%s", w.Issuer.URL(), subject, more))
	}
	put("branch", subject, "")
	put("branch-by-id", subject, "claim_pattern: {repository_id: \"22\"}\n")
	put("immutable", "repo:acme@11/app@22:ref:refs/heads/main", "")
	put("push", subject, "claim_pattern: {event_name: push}\n")
	put("environment", "repo:acme/app:environment:prod", "")
	put("colon", "repo:acme/app:environment:prod%3Aeu", "claim_pattern: {environment: \"prod:eu\"}\n")
	put("bare-colon", "repo:acme/app:environment:prod:eu", "")
	put("workflow", subject, "claim_pattern: {job_workflow_ref: acme/shared/\\.github/workflows/deploy\\.yaml@refs/heads/main}\n")
	const deploy = "/.github/workflows/deploy.yaml@refs/heads/main"
	job := func(identity string, j ststest.GitHubActions) request {
		if j.Owner == "" {
			j.Owner, j.Repo = "acme", "app"
		}
		c := j.Claims()
		c["aud"] = domain
		return askAs(identity, w.sign(t, w.Issuer, c))
	}
	type actions = ststest.GitHubActions
	no := codes.PermissionDenied
	w.tryAll(t, []row{
		{"the job that is meant (accepted)", job("branch", actions{}), codes.OK, ""},
		{"a recycled owner/repo with its ID (accepted)", job("immutable", actions{OwnerID: 11, RepoID: 22, ImmutableSubject: true}), codes.OK, ""},
		{"a recycled owner/repo with another ID", job("immutable", actions{OwnerID: 11, RepoID: 99, ImmutableSubject: true}), no, "mismatch: subject"},
		{"a recycled owner with another ID", job("immutable", actions{OwnerID: 99, RepoID: 22, ImmutableSubject: true}), no, "mismatch: subject"},
		{"a recycled owner/repo with another ID, in a claim", job("branch-by-id", actions{RepoID: 99}), no, "claim_pattern.repository_id"},
		{"an old-form subject against an @ID policy", job("immutable", actions{OwnerID: 11, RepoID: 22}), no, "mismatch: subject"},
		{"an @ID subject against an old-form policy", job("branch", actions{ImmutableSubject: true}), no, "mismatch: subject"},
		{"pull_request against a branch policy", job("branch", actions{Event: "pull_request", Ref: "refs/pull/1/merge"}), no, "mismatch: subject"},
		// GitHub gives it the base branch's subject: only the event tells.
		{"pull_request_target", job("push", actions{Event: "pull_request_target"}), no, "claim_pattern.event_name"},
		{"another branch", job("branch", actions{Ref: "refs/heads/main2"}), no, "mismatch: subject"},
		{"a tag by the branch's name", job("branch", actions{Ref: "refs/tags/main"}), no, "mismatch: subject"},
		{"a fork's token", job("branch", actions{Owner: "stranger", Repo: "app"}), no, "mismatch: subject"},
		{"a fork's token, by a name that begins alike", job("branch", actions{Owner: "acme", Repo: "app-fork"}), no, "mismatch: subject"},
		{"an environment with a colon (accepted by both its names)", job("colon", actions{Environment: "prod:eu"}), codes.OK, ""},
		{"an environment with : against one that it begins with", job("environment", actions{Environment: "prod:eu"}), no, "mismatch: subject"},
		{"an environment with : against its bare name", job("bare-colon", actions{Environment: "prod:eu"}), no, "mismatch: subject"},
		{"an environment that ends like a branch", job("branch", actions{Environment: "x:ref:refs/heads/main"}), no, "mismatch: subject"},
		{"an environment with %3A against one with :", job("colon", actions{Environment: "prod%3Aeu"}), no, "claim_pattern.environment"},
		{"the job_workflow_ref that is meant (accepted)", job("workflow", actions{JobWorkflowRef: "acme/shared" + deploy}), codes.OK, ""},
		{"a job_workflow_ref of another repository", job("workflow", actions{JobWorkflowRef: "stranger/shared" + deploy}), no, "claim_pattern.job_workflow_ref"},
		{"a job_workflow_ref of another branch", job("workflow", actions{JobWorkflowRef: "acme/shared" + deploy + "-x"}), no, "claim_pattern.job_workflow_ref"},
	})
}
