package ststest

import (
	"fmt"
	"net/http"
	"path"
	"strings"
)

// Change is one change of a commit: a file that is written, or deleted.
type Change struct {
	Path    string
	Content string
	Delete  bool // what is at Path, a directory with all that it holds
}

// zeroSHA is what an event has in the place of a commit that does not exist.
const zeroSHA = "0000000000000000000000000000000000000000"

// Commit adds a commit to a branch, which is made from the default branch
// where it is new, and returns the commit's SHA. No event is sent.
func (g *GitHub) Commit(ownerLogin, repo, branch string, changes ...Change) string {
	g.world.mu.Lock()
	defer g.world.mu.Unlock()
	return g.advance(g.mustRepository(ownerLogin, repo), branch, changes).sha
}

// SHA is the commit that a branch is at. It panics where there is no such
// branch.
func (g *GitHub) SHA(ownerLogin, repo, branch string) string {
	g.world.mu.RLock()
	defer g.world.mu.RUnlock()
	return g.mustRepository(ownerLogin, repo).mustBranch(branch).sha
}

// advance adds a commit to a branch. The caller holds world.mu.
func (g *GitHub) advance(r *repository, branch string, changes []Change) *commit {
	tip := r.branches[branch]
	if tip == nil {
		tip = r.tip()
	}
	c := g.commitOn(r, tip, changes)
	r.branches[branch] = c
	return c
}

// commitOn makes a commit that follows parent, on no branch. The caller holds
// world.mu.
func (g *GitHub) commitOn(r *repository, parent *commit, changes []Change) *commit {
	d := parent.tree.draft()
	for _, c := range changes {
		var n *node
		if !c.Delete {
			n = &node{kind: fileNode, content: []byte(c.Content), sha: blobSHA([]byte(c.Content))}
		}
		d.put(path.Clean(c.Path), n)
	}
	return r.network.commit(d.tree(r.network), r.network.nextMessage(), g.now(), parent)
}

// tip is the commit that the default branch is at.
func (r *repository) tip() *commit { return r.branches[r.defaultBranch] }

func (r *repository) mustBranch(branch string) *commit {
	c := r.branches[branch]
	if c == nil {
		panic(fmt.Sprintf("fake GitHub: %s/%s has no branch %s", r.owner.login, r.name, branch))
	}
	return c
}

// resolve is the commit that a ref names: a branch, with or without
// refs/heads/ or heads/, HEAD, or the SHA of any commit of the network. Nil
// where there is none. The caller holds world.mu.
func (r *repository) resolve(ref string) *commit {
	if c := r.branches[ref]; c != nil {
		return c
	}
	if ref == "HEAD" {
		return r.tip()
	}
	if c := r.branches[strings.TrimPrefix(strings.TrimPrefix(ref, "refs/"), "heads/")]; c != nil {
		return c
	}
	return r.network.commits[strings.ToLower(ref)]
}

// noCommit is GitHub's answer where a ref of the commits and checks APIs names
// nothing.
func noCommit(ref string) answer {
	return refusal(http.StatusUnprocessableEntity, "No commit found for SHA: "+ref, "/commits/commits#get-a-commit")
}

func (r *request) getCommit() answer {
	w := &r.g.world
	w.mu.RLock()
	defer w.mu.RUnlock()
	repo, a, ok := r.visible("contents", "read")
	if !ok {
		return a
	}
	c := repo.resolve(r.PathValue("ref"))
	if c == nil {
		return noCommit(r.PathValue("ref"))
	}
	body := r.g.describeCommit(repo, c)
	before := &tree{}
	if len(c.parents) > 0 {
		before = c.parents[0].tree
	}
	files := diff(before, c.tree)
	part, link := pageOf(r, files, maxDiffFiles, maxDiffFiles)
	added, removed := 0, 0
	described := make([]any, len(part))
	for i, f := range files {
		added, removed = added+f.additions, removed+f.deletions
		if i < len(described) {
			described[i] = r.g.describeDiff(repo, c, part[i])
		}
	}
	body["stats"] = map[string]any{"additions": added, "deletions": removed, "total": added + removed}
	body["files"] = described
	return withLink(answer{status: http.StatusOK, body: body}, link)
}

// describeCommit is GitHub's commit schema without its files. The caller holds
// world.mu.
func (g *GitHub) describeCommit(repo *repository, c *commit) map[string]any {
	full := repo.owner.login + "/" + repo.name
	api, html := g.url+"/repos/"+full, g.web()+"/"+full
	who := map[string]any{"name": "Octo Cat", "email": "octocat@github.test", "date": c.at.Format(timeFormat)}
	parents := []any{}
	for _, p := range c.parents {
		parents = append(parents, map[string]any{"sha": p.sha, "url": api + "/commits/" + p.sha, "html_url": html + "/commit/" + p.sha})
	}
	person := g.account(somebody)
	return map[string]any{
		"sha": c.sha, "node_id": "C_" + c.sha, "url": api + "/commits/" + c.sha, "html_url": html + "/commit/" + c.sha,
		"comments_url": api + "/commits/" + c.sha + "/comments", "author": person, "committer": person, "parents": parents,
		"commit": map[string]any{
			"url": api + "/git/commits/" + c.sha, "author": who, "committer": who, "message": c.message, "comment_count": 0,
			"tree":         map[string]any{"sha": c.tree.sha, "url": api + "/git/trees/" + c.tree.sha},
			"verification": map[string]any{"verified": false, "reason": "unsigned", "signature": nil, "payload": nil, "verified_at": nil},
		},
	}
}
