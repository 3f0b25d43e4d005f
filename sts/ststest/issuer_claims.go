package ststest

import (
	"cmp"
	"fmt"
	"strings"
)

// GitHubActions describes a GitHub Actions job, as far as its ID token shows it.
// Owner and Repo are needed; the rest has defaults.
type GitHubActions struct {
	Owner, Repo     string
	OwnerID, RepoID int64 // default: 1 and 2
	// Ref that the job runs on. Default: refs/heads/main.
	Ref string
	// Event that started it. Default: push. With pull_request the subject ends
	// in pull_request.
	Event string
	// Environment that the job names; the subject ends in it.
	Environment string
	// Workflow is the workflow's file. Default: .github/workflows/ci.yaml.
	Workflow string
	// JobWorkflowRef of a reusable workflow. Default: the workflow itself.
	JobWorkflowRef string
	// ImmutableSubject writes the owner's and the repository's IDs into the
	// subject (repo:owner@ID/repo@ID:…), GitHub's default for new repositories.
	ImmutableSubject bool
}

// Claims are what GitHub puts into such a job's ID token, by "OpenID Connect
// reference" in GitHub's documentation, without those that every token has
// (iss, iat, exp, jti): pass them to Sign. All values are strings, as GitHub's
// are. The audience is GitHub's default, the owner's URL; a job that asks for
// another gets that.
func (j GitHubActions) Claims() map[string]any {
	j = j.withDefaults()
	full := j.Owner + "/" + j.Repo
	workflowRef := full + "/" + j.Workflow + "@" + j.Ref
	if j.JobWorkflowRef == "" {
		j.JobWorkflowRef = workflowRef
	}
	const sha = "0f0e0d0c0b0a09080706050403020100ffeeddcc"
	refType := "branch"
	if strings.HasPrefix(j.Ref, "refs/tags/") {
		refType = "tag"
	}
	claims := map[string]any{
		"sub": j.Subject(), "aud": "https://github.com/" + j.Owner,
		"repository": full, "repository_owner": j.Owner, "repository_id": fmt.Sprint(j.RepoID), "repository_owner_id": fmt.Sprint(j.OwnerID),
		"repository_visibility": "private", "ref": j.Ref, "ref_type": refType, "ref_protected": "false", "sha": sha,
		"workflow": "ci", "workflow_ref": workflowRef, "workflow_sha": sha, "job_workflow_ref": j.JobWorkflowRef, "job_workflow_sha": sha,
		"event_name": j.Event, "head_ref": "", "base_ref": "", "actor": "octocat", "actor_id": "583231",
		"run_id": "7000000001", "run_number": "12", "run_attempt": "1", "runner_environment": "github-hosted",
	}
	if j.Environment != "" {
		claims["environment"] = j.Environment
	}
	return claims
}

// Subject is the sub claim. A colon in an environment's name is %3A there.
func (j GitHubActions) Subject() string {
	j = j.withDefaults()
	repo := j.Owner + "/" + j.Repo
	if j.ImmutableSubject {
		repo = fmt.Sprintf("%s@%d/%s@%d", j.Owner, j.OwnerID, j.Repo, j.RepoID)
	}
	switch {
	case j.Environment != "":
		return "repo:" + repo + ":environment:" + strings.ReplaceAll(j.Environment, ":", "%3A")
	case j.Event == "pull_request":
		return "repo:" + repo + ":pull_request"
	default:
		return "repo:" + repo + ":ref:" + j.Ref
	}
}

func (j GitHubActions) withDefaults() GitHubActions {
	j.Ref = cmp.Or(j.Ref, "refs/heads/main")
	j.Event = cmp.Or(j.Event, "push")
	j.Workflow = cmp.Or(j.Workflow, ".github/workflows/ci.yaml")
	j.OwnerID = cmp.Or(j.OwnerID, 1)
	j.RepoID = cmp.Or(j.RepoID, 2)
	return j
}
