package webhook

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/octo-sts/appliance/sts/trustpolicy"
)

// push handles a push. Trust policies count on the default branch alone: what
// happens elsewhere takes nothing out of the caches.
func (e *event) push(p *payload) (*event, error) {
	if p.Ref == nil || !isObject(p.Before) || !isObject(p.After) {
		return nil, errors.New("the payload of a push event has no ref, before and after")
	}
	branch, isBranch := strings.CutPrefix(*p.Ref, "refs/heads/")
	if !isBranch {
		return nil, nil
	}
	paths, complete := p.changedPolicies()
	if branch == p.Repository.DefaultBranch {
		e.defaultBranch(p, paths, complete)
	}
	if !isCommit(p.After) {
		return e, nil // the branch was deleted
	}
	if complete && len(paths) == 0 {
		e.settled = lane(e.item.Owner, e.item.Repository, p.After)
		return e, nil
	}
	job, err := p.job(p.After)
	if err != nil {
		return nil, err
	}
	if branch == p.Repository.DefaultBranch {
		job.Exact = true
		if isCommit(p.Before) && !p.Forced {
			job.Base = p.Before
		}
	}
	e.item.Check = job
	return e, nil
}

// defaultBranch says what a push to the default branch takes out of the caches
// and what the audit log is to say.
//
// A push that names no policy may have changed one for all that. GitHub does not
// document what it lists of a merge commit. Where a branch took in the default
// branch but kept its own files (git merge -s ours) and is pushed there, it takes
// back what stood there, and against its first parent the merge changes nothing. So
// all of the repository's files are forgotten then, too, which costs a read each. An
// entry in the audit log, or a check, of every push would say nothing.
func (e *event) defaultBranch(p *payload, paths []string, complete bool) {
	var policies []string
	for _, path := range paths {
		if strings.HasSuffix(path, trustpolicy.Suffix) || path == trustpolicy.TrustedIssuersPath {
			policies = append(policies, path)
		}
	}
	forget := forgetting{owner: e.item.Owner, repository: e.item.Repository, files: true}
	if complete && len(policies) > 0 {
		forget.paths = paths
	}
	e.forget = []forgetting{forget}
	if complete && len(policies) == 0 {
		return
	}
	listed := min(len(policies), maxAuditedPaths)
	e.item.Change = &trustChange{
		Reason: fmt.Sprintf("push %s…%s to %s", abbreviated(p.Before), abbreviated(p.After),
			clip(p.Repository.DefaultBranch, 100)),
		Paths:      policies[:listed],
		More:       len(policies) - listed,
		Incomplete: !complete,
	}
}

// changedPolicies returns the paths in the policies' directory that the push
// names, sorted, each once; complete is false where others may have changed.
func (p *payload) changedPolicies() (paths []string, complete bool) {
	if p.Commits == nil {
		return nil, false
	}
	complete = !p.Created && !p.Deleted && !p.Forced && isCommit(p.Before) &&
		!p.Commits.more && len(p.Commits.items) < maxCommits &&
		slices.ContainsFunc(p.Commits.items, func(c pushCommit) bool { return c.ID == p.After })
	for _, c := range p.Commits.items {
		files := 0
		for _, named := range []*policyPaths{c.Added, c.Removed, c.Modified} {
			if named == nil {
				complete = false
				continue
			}
			files += named.total
			complete = complete && !named.more
			paths = append(paths, named.kept...)
		}
		complete = complete && files < maxCommitFiles
	}
	slices.Sort(paths)
	paths = slices.Compact(paths)
	if len(paths) > maxPolicyPaths {
		return paths[:maxPolicyPaths], false
	}
	return paths, complete
}

// isObject says whether s is a commit, or GitHub's way of saying that there is
// none.
func isObject(s string) bool {
	return isCommit(s) || (len(s) == 40 || len(s) == 64) && strings.Trim(s, "0") == ""
}

func abbreviated(sha string) string { return sha[:7] }
