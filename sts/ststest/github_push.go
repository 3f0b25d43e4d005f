package ststest

import (
	"fmt"
	"time"
)

// maxPushCommits is how many commits the payload of a push lists. That is the
// limit of old; GitHub's documentation has 2,048 now. What counts on the list
// is to fail here.
const maxPushCommits = 20

// Pushed is a push that was made, and how its events were received.
type Pushed struct {
	Before, After string // SHAs; 40 zeros where the branch was new, or was deleted
	Deliveries    []DeliveryRecord
}

// pushed is a push before its events are made.
type pushed struct {
	repo          *repository
	branch        string
	before, after *commit // nil: the branch was new, or was deleted
	sender        *owner
}

// Push adds one commit for each list of changes to a branch, which is made
// from the default branch where it is new, and sends what GitHub does: push,
// check_suite requested, and pull_request synchronize for the pull requests
// from that branch.
func (g *GitHub) Push(ownerLogin, repo, branch string, commits ...[]Change) Pushed {
	return g.push(ownerLogin, repo, branch, func(r *repository) {
		if r.branches[branch] == nil {
			r.branches[branch] = r.tip()
		}
		for _, changes := range commits {
			g.advance(r, branch, changes)
		}
	})
}

// ForcePush makes a branch one commit on top of from, a branch or SHA.
func (g *GitHub) ForcePush(ownerLogin, repo, branch, from string, changes ...Change) Pushed {
	return g.push(ownerLogin, repo, branch, func(r *repository) {
		parent := r.resolve(from)
		if parent == nil {
			panic(fmt.Sprintf("fake GitHub: %s/%s has no commit %s", ownerLogin, repo, from))
		}
		r.branches[branch] = g.commitOn(r, parent, changes)
	})
}

// DeleteBranch deletes a branch other than the default branch. Its commits can
// still be read by their SHAs.
func (g *GitHub) DeleteBranch(ownerLogin, repo, branch string) Pushed {
	return g.push(ownerLogin, repo, branch, func(r *repository) {
		r.mustBranch(branch)
		if branch == r.defaultBranch {
			panic("fake GitHub: the default branch cannot be deleted")
		}
		delete(r.branches, branch)
	})
}

// push does what changes a branch and sends the events.
func (g *GitHub) push(ownerLogin, repo, branch string, do func(*repository)) Pushed {
	g.world.mu.Lock()
	r := g.mustRepository(ownerLogin, repo)
	p := pushed{repo: r, branch: branch, before: r.branches[branch], sender: somebody}
	do(r)
	p.after = r.branches[branch]
	events := g.pushEvents(p)
	g.world.mu.Unlock()
	return Pushed{Before: shaOf(p.before), After: shaOf(p.after), Deliveries: g.deliverAll(events)}
}

// shaOf is c's SHA; 40 zeros for none.
func shaOf(c *commit) string {
	if c == nil {
		return zeroSHA
	}
	return c.sha
}

// pushEvents are the events of a push. The caller holds world.mu.
func (g *GitHub) pushEvents(p pushed) []outgoing {
	all := g.toRepository(event{name: "push", permission: "contents", repo: p.repo, sender: p.sender, fields: g.pushPayload(p)})
	if p.after == nil {
		return all
	}
	moved := g.synchronize(p) // first: a check suite names the pull requests of its commit
	all = append(all, g.requestSuites(p)...)
	return append(all, moved...)
}

// pushPayload is what is in the event push alone. The caller holds world.mu.
func (g *GitHub) pushPayload(p pushed) map[string]any {
	full := g.web() + "/" + p.repo.owner.login + "/" + p.repo.name
	commits, forced, compare := []*commit{}, false, full+"/compare/"+p.branch
	var head, baseRef any
	if p.after != nil {
		against := p.before
		if against == nil && p.repo.tip() != p.after {
			against = p.repo.tip()
		}
		commits = p.after.without(against)
		if p.before == nil && against == nil {
			commits, baseRef = nil, "refs/heads/"+p.repo.defaultBranch
		}
		head = g.pushCommit(p.repo, p.after)
	}
	if p.before != nil && p.after != nil {
		forced = !p.after.ancestors()[p.before]
		compare = full + "/compare/" + p.before.sha[:12] + "..." + p.after.sha[:12]
	}
	listed := []any{}
	for _, c := range commits[max(0, len(commits)-maxPushCommits):] {
		listed = append(listed, g.pushCommit(p.repo, c))
	}
	now := g.now().Unix()
	login := p.repo.owner.login
	return map[string]any{
		"ref": "refs/heads/" + p.branch, "before": shaOf(p.before), "after": shaOf(p.after), "base_ref": baseRef,
		"created": p.before == nil, "deleted": p.after == nil, "forced": forced, "compare": compare,
		"commits": listed, "head_commit": head,
		"pusher": map[string]any{"name": p.sender.login, "email": p.sender.login + "@users.noreply.github.test"},
		"repository": with(p.repo.json, map[string]any{
			"created_at": p.repo.created.Unix(), "pushed_at": now, "stargazers": 0, "master_branch": p.repo.defaultBranch,
			"owner": with(mustMarshal(g.account(p.repo.owner)), map[string]any{"name": login, "email": nil}),
		}),
	}
}

// pushCommit is a commit as the event push lists it. The caller holds world.mu.
func (g *GitHub) pushCommit(r *repository, c *commit) map[string]any {
	added, removed, modified := []string{}, []string{}, []string{}
	before := &tree{}
	if len(c.parents) > 0 {
		before = c.parents[0].tree
	}
	compareTrees("", before, c.tree, func(file string, old, now *node) {
		switch {
		case old == nil:
			added = append(added, file)
		case now == nil:
			removed = append(removed, file)
		default:
			modified = append(modified, file)
		}
	})
	who := map[string]any{"name": "Octo Cat", "email": "octocat@github.test", "username": somebody.login, "date": c.at.Format(time.RFC3339)}
	return map[string]any{
		"id": c.sha, "tree_id": c.tree.sha, "distinct": true, "message": c.message, "timestamp": c.at.Format(time.RFC3339),
		"url":    g.web() + "/" + r.owner.login + "/" + r.name + "/commit/" + c.sha,
		"author": who, "committer": who, "added": added, "removed": removed, "modified": modified,
	}
}
