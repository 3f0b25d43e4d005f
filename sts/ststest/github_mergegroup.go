package ststest

import (
	"fmt"
	"slices"
	"strings"
)

// MergeGroup is a group of the merge queue, and how its events were received.
type MergeGroup struct {
	HeadSHA, BaseSHA string
	HeadRef, BaseRef string // with refs/heads/
	Deliveries       []DeliveryRecord
}

// MergeGroup queues a branch to be merged into the default branch: a merge of
// both is pushed as gh-readonly-queue/…, and merge_group checks_requested is
// sent.
func (g *GitHub) MergeGroup(ownerLogin, repo, branch string) MergeGroup {
	g.world.mu.Lock()
	r := g.mustRepository(ownerLogin, repo)
	base, head := r.tip(), r.mustBranch(branch)
	d := base.tree.draft()
	compareTrees("", mergeBase(base, head).tree, head.tree, func(file string, _, now *node) { d.put(file, now) })
	merged := r.network.commit(d.tree(r.network), r.network.nextMessage(), g.now(), base, head)
	queue := fmt.Sprintf("gh-readonly-queue/%s/%s-%s", r.defaultBranch, strings.ReplaceAll(branch, "/", "-"), base.sha)
	r.branches[queue] = merged
	m := MergeGroup{HeadSHA: merged.sha, BaseSHA: base.sha, HeadRef: "refs/heads/" + queue, BaseRef: "refs/heads/" + r.defaultBranch}
	described := g.pushCommit(r, merged)
	group := map[string]any{
		"head_sha": m.HeadSHA, "head_ref": m.HeadRef, "base_sha": m.BaseSHA, "base_ref": m.BaseRef,
		"head_commit": map[string]any{
			"id": merged.sha, "tree_id": merged.tree.sha, "message": merged.message, "timestamp": described["timestamp"],
			"author": described["author"], "committer": described["committer"],
		},
	}
	events := slices.Concat(
		g.pushEvents(pushed{repo: r, branch: queue, after: merged, sender: somebody}),
		g.toRepository(event{name: "merge_group", permission: "merge_queues", repo: r, sender: somebody, fields: map[string]any{
			"action": "checks_requested", "merge_group": group,
		}}))
	g.world.mu.Unlock()
	m.Deliveries = g.deliverAll(events)
	return m
}
