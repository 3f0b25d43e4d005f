package ststest

import (
	"net/http"
	"strings"
)

// Limits of a recursive listing, from GitHub's "Get a tree".
const (
	maxTreeEntries = 100_000
	maxTreeBytes   = 7 << 20
)

func (r *request) getTree() answer {
	w := &r.g.world
	w.mu.RLock()
	defer w.mu.RUnlock()
	repo, a, ok := r.visible("contents", "read")
	if !ok {
		return a
	}
	name := r.PathValue("tree_sha")
	t, sha := repo.network.trees[strings.ToLower(name)], strings.ToLower(name)
	if t == nil {
		c := repo.resolve(name)
		if c == nil {
			return refusal(http.StatusNotFound, "Not Found", "/git/trees#get-a-tree")
		}
		t, sha = c.tree, c.sha
	}
	api := r.g.url + "/repos/" + repo.owner.login + "/" + repo.name + "/git/"
	entries, bytes, truncated := []any{}, 0, false
	recursive := r.URL.Query().Has("recursive")
	add := func(file string, e entry) bool {
		d := map[string]any{"path": file, "mode": e.mode(), "sha": e.sha()}
		switch {
		case e.dir != nil:
			d["type"], d["url"] = "tree", api+"trees/"+e.dir.sha
		case e.node.kind == submoduleNode:
			d["type"] = "commit"
		default:
			d["type"], d["size"], d["url"] = "blob", len(e.node.content), api+"blobs/"+e.node.sha
		}
		if recursive {
			if bytes += len(mustMarshal(d)); bytes > maxTreeBytes || len(entries) == maxTreeEntries {
				truncated = true
				return false
			}
		}
		entries = append(entries, d)
		return true
	}
	if recursive {
		t.walk("", add)
	} else {
		for _, e := range t.entries {
			add(e.name, e)
		}
	}
	return answer{status: http.StatusOK, body: map[string]any{
		"sha": sha, "url": api + "trees/" + sha, "tree": entries, "truncated": truncated,
	}}
}
