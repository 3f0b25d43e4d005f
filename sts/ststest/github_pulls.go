package ststest

import (
	"fmt"
)

// Pull is a pull request as it was left by what returned it, and how the
// events were received.
type Pull struct {
	Number           int
	HeadSHA, BaseSHA string
	Deliveries       []DeliveryRecord
}

// pull is a pull request.
type pull struct {
	id       int64
	number   int
	base     string // a branch of the repository
	headRepo *repository
	head     string // a branch of headRepo
	baseTip  *commit
	headTip  *commit
}

// OpenPull opens a pull request from one branch to another of the same
// repository and sends pull_request opened.
func (g *GitHub) OpenPull(ownerLogin, repo, head, base string) Pull {
	g.world.mu.Lock()
	r := g.mustRepository(ownerLogin, repo)
	p := g.openPull(r, r, head, base)
	events := g.pullEvent("opened", r, p, nil)
	result := p.result()
	g.world.mu.Unlock()
	result.Deliveries = g.deliverAll(events)
	return result
}

// OpenForkPull makes a fork of the repository, or uses that which forkOwner
// has, commits the changes to a new branch of it and opens a pull request. As
// at GitHub, the fork's commits can be read by their SHAs in the repository
// itself, and no push and no check suite is reported to it.
func (g *GitHub) OpenForkPull(ownerLogin, repo, forkOwner, base string, changes ...Change) Pull {
	g.world.mu.Lock()
	r := g.mustRepository(ownerLogin, repo)
	fork := g.forkOf(r, forkOwner)
	branch := fmt.Sprintf("patch-%d", len(fork.branches))
	fork.branches[branch] = g.commitOn(fork, r.mustBranch(base), changes)
	p := g.openPull(r, fork, branch, base)
	events := g.pullEvent("opened", r, p, nil)
	result := p.result()
	g.world.mu.Unlock()
	result.Deliveries = g.deliverAll(events)
	return result
}

// UpdatePull commits to a pull request's head and sends pull_request
// synchronize, and what a push sends where the head is no fork's.
func (g *GitHub) UpdatePull(ownerLogin, repo string, number int, changes ...Change) Pull {
	g.world.mu.Lock()
	r := g.mustRepository(ownerLogin, repo)
	p := r.mustPull(number)
	before := p.headRepo.mustBranch(p.head)
	after := g.advance(p.headRepo, p.head, changes)
	events := g.pushEvents(pushed{repo: p.headRepo, branch: p.head, before: before, after: after, sender: somebody})
	result := p.result()
	g.world.mu.Unlock()
	result.Deliveries = g.deliverAll(events)
	return result
}

func (p *pull) result() Pull {
	return Pull{Number: p.number, HeadSHA: p.headTip.sha, BaseSHA: p.baseTip.sha}
}

func (r *repository) mustPull(number int) *pull {
	for _, p := range r.pulls {
		if p.number == number {
			return p
		}
	}
	panic(fmt.Sprintf("fake GitHub: %s/%s has no pull request %d", r.owner.login, r.name, number))
}

// openPull records a pull request. The caller holds world.mu.
func (g *GitHub) openPull(r, headRepo *repository, head, base string) *pull {
	r.numbers++
	p := &pull{
		id: g.world.nextID(), number: r.numbers, base: base, headRepo: headRepo, head: head,
		baseTip: r.mustBranch(base), headTip: headRepo.mustBranch(head),
	}
	r.pulls = append(r.pulls, p)
	return p
}

// forkOf is forkOwner's fork of r. The caller holds world.mu.
func (g *GitHub) forkOf(r *repository, forkOwner string) *repository {
	w := &g.world
	if f := w.names[key(forkOwner, r.name)]; f != nil && f.network == r.network && f != r {
		return f
	}
	f := &repository{
		id: w.nextID(), owner: w.owner(forkOwner, true), name: r.name, public: r.public, network: r.network, fork: true,
		defaultBranch: r.defaultBranch, branches: map[string]*commit{r.defaultBranch: r.tip()},
		suites: map[string][]*checkSuite{}, created: g.now(),
	}
	w.repositories[f.id] = f
	w.names[key(forkOwner, f.name)] = f
	g.describe(f)
	return f
}

// synchronize moves the pull requests whose head a push moved, and is the
// events about it. The caller holds world.mu.
func (g *GitHub) synchronize(p pushed) []outgoing {
	var all []outgoing
	for _, r := range g.world.repositories {
		if r.network != p.repo.network {
			continue
		}
		for _, pull := range r.pulls {
			if pull.headRepo == p.repo && pull.head == p.branch && pull.headTip != p.after {
				before := pull.headTip
				pull.headTip = p.after
				pull.baseTip = r.mustBranch(pull.base)
				all = append(all, g.pullEvent("synchronize", r, pull, map[string]any{"before": before.sha, "after": p.after.sha})...)
			}
		}
	}
	return all
}

// pullEvent is GitHub's event pull_request. The caller holds world.mu.
func (g *GitHub) pullEvent(action string, r *repository, p *pull, more map[string]any) []outgoing {
	fields := map[string]any{"action": action, "number": p.number, "pull_request": g.describePull(r, p)}
	for k, v := range more {
		fields[k] = v
	}
	return g.toRepository(event{name: "pull_request", permission: "pull_requests", repo: r, sender: somebody, fields: fields})
}

// describePull is GitHub's pull-request schema, without what only a person who
// reviews would look at. The caller holds world.mu.
func (g *GitHub) describePull(r *repository, p *pull) map[string]any {
	full := r.owner.login + "/" + r.name
	api, html := fmt.Sprintf("%s/repos/%s/pulls/%d", g.url, full, p.number), fmt.Sprintf("%s/%s/pull/%d", g.web(), full, p.number)
	issue := fmt.Sprintf("%s/repos/%s/issues/%d", g.url, full, p.number)
	statuses := g.url + "/repos/" + full + "/statuses/" + p.headTip.sha
	now := g.now().UTC().Format(timeFormat)
	side := func(repo *repository, branch string, tip *commit) map[string]any {
		return map[string]any{
			"label": repo.owner.login + ":" + branch, "ref": branch, "sha": tip.sha, "user": g.account(repo.owner), "repo": repo.json,
		}
	}
	d := map[string]any{
		"url": api, "id": p.id, "node_id": nodeID("PR", p.id), "html_url": html, "diff_url": html + ".diff", "patch_url": html + ".patch",
		"issue_url": issue, "number": p.number, "state": "open", "locked": false, "title": fmt.Sprintf("Pull request %d", p.number),
		"user": g.account(p.author()), "body": nil, "created_at": now, "updated_at": now, "closed_at": nil, "merged_at": nil,
		"merge_commit_sha": nil, "assignee": nil, "assignees": []any{}, "requested_reviewers": []any{}, "requested_teams": []any{},
		"labels": []any{}, "milestone": nil, "draft": false, "commits_url": api + "/commits", "review_comments_url": api + "/comments",
		"review_comment_url": g.url + "/repos/" + full + "/pulls/comments{/number}", "comments_url": issue + "/comments", "statuses_url": statuses,
		"head": side(p.headRepo, p.head, p.headTip), "base": side(r, p.base, p.baseTip), "author_association": "CONTRIBUTOR",
		"auto_merge": nil, "active_lock_reason": nil, "merged": false, "mergeable": nil, "rebaseable": nil, "mergeable_state": "unknown",
		"merged_by": nil, "comments": 0, "review_comments": 0, "maintainer_can_modify": false,
	}
	links := map[string]any{}
	for name, url := range map[string]string{
		"self": api, "html": html, "issue": issue, "comments": issue + "/comments", "review_comments": api + "/comments",
		"review_comment": g.url + "/repos/" + full + "/pulls/comments{/number}", "commits": api + "/commits", "statuses": statuses,
	} {
		links[name] = map[string]any{"href": url}
	}
	d["_links"] = links
	added, removed := 0, 0
	base := mergeBase(p.baseTip, p.headTip)
	files := diff(base.tree, p.headTip.tree)
	for _, f := range files {
		added, removed = added+f.additions, removed+f.deletions
	}
	d["commits"], d["changed_files"], d["additions"], d["deletions"] = len(p.headTip.without(p.baseTip)), len(files), added, removed
	return d
}

// author is who opened the pull request: of a fork, its owner.
func (p *pull) author() *owner {
	if p.headRepo.fork {
		return p.headRepo.owner
	}
	return somebody
}

// pullsAt are the open pull requests between branches of the repository itself
// whose head is at a commit, as checks list them. The caller holds world.mu.
func (g *GitHub) pullsAt(r *repository, sha string) []any {
	brief := func(branch string, tip *commit) map[string]any {
		return map[string]any{"ref": branch, "sha": tip.sha, "repo": map[string]any{
			"id": r.id, "url": g.url + "/repos/" + r.owner.login + "/" + r.name, "name": r.name,
		}}
	}
	all := []any{}
	for _, p := range r.pulls {
		if p.headRepo == r && p.headTip.sha == sha {
			all = append(all, map[string]any{
				"url": fmt.Sprintf("%s/repos/%s/%s/pulls/%d", g.url, r.owner.login, r.name, p.number), "id": p.id, "number": p.number,
				"head": brief(p.head, p.headTip), "base": brief(p.base, p.baseTip),
			})
		}
	}
	return all
}
