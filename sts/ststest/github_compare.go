package ststest

import (
	"net/http"
	"slices"
	"strings"
)

// Limits of GitHub's "Compare two commits" and of a commit's files.
const (
	maxDiffFiles      = 300 // a page of a commit's files; all that a comparison ever has
	maxUnpagedCommits = 250
)

func (r *request) compare() answer {
	w := &r.g.world
	w.mu.RLock()
	defer w.mu.RUnlock()
	repo, a, ok := r.visible("contents", "read")
	if !ok {
		return a
	}
	missing := refusal(http.StatusNotFound, "Not Found", "/commits/commits#compare-two-commits")
	before, after, ok := strings.Cut(r.PathValue("basehead"), "...")
	if !ok {
		return missing
	}
	base, head := r.compared(repo, before), r.compared(repo, after)
	if base == nil || head == nil {
		return missing
	}
	common := mergeBase(base, head)
	if common == nil {
		return refusal(http.StatusNotFound, "No common ancestor between "+before+" and "+after+".", "/commits/commits#compare-two-commits")
	}
	ahead, behind := head.without(base), base.without(head)
	status := "diverged"
	switch {
	case len(ahead) == 0 && len(behind) == 0:
		status = "identical"
	case len(behind) == 0:
		status = "ahead"
	case len(ahead) == 0:
		status = "behind"
	}
	part, link, first := ahead, "", true
	if query := r.URL.Query(); query.Has("page") || query.Has("per_page") {
		part, link = page(r, ahead)
		first = query.Get("page") == "" || query.Get("page") == "1"
	} else if len(part) > maxUnpagedCommits {
		part = part[len(part)-maxUnpagedCommits:]
	}
	commits := make([]any, len(part))
	for i, c := range part {
		commits[i] = r.g.describeCommit(repo, c)
	}
	full := repo.owner.login + "/" + repo.name
	range1 := "/compare/" + base.sha + "..." + head.sha
	body := map[string]any{
		"url": r.g.url + "/repos/" + full + "/compare/" + r.PathValue("basehead"), "html_url": r.g.web() + "/" + full + "/compare/" + r.PathValue("basehead"),
		"permalink_url": r.g.web() + "/" + full + range1, "diff_url": r.g.web() + "/" + full + range1 + ".diff", "patch_url": r.g.web() + "/" + full + range1 + ".patch",
		"base_commit": r.g.describeCommit(repo, base), "merge_base_commit": r.g.describeCommit(repo, common),
		"status": status, "ahead_by": len(ahead), "behind_by": len(behind), "total_commits": len(ahead), "commits": commits,
	}
	if first {
		files := diff(common.tree, head.tree)
		files = files[:min(len(files), maxDiffFiles)]
		described := make([]any, len(files))
		for i, f := range files {
			described[i] = r.g.describeDiff(repo, head, f)
		}
		body["files"] = described
	}
	return withLink(answer{status: http.StatusOK, body: body}, link)
}

// compared is the commit that one side of a comparison names: a ref of the
// repository, or OWNER:REF of a repository of its network. The caller holds
// world.mu.
func (r *request) compared(repo *repository, side string) *commit {
	login, ref, ok := strings.Cut(side, ":")
	if !ok {
		return repo.resolve(side)
	}
	for _, other := range r.g.world.repositories {
		if other.network == repo.network && strings.EqualFold(other.owner.login, login) {
			return other.resolve(ref)
		}
	}
	return nil
}

// fileDiff is how one file differs between two trees.
type fileDiff struct {
	path, previous       string // previous of a renamed file
	status               string // added, removed, modified, renamed
	node                 *node  // the new one; of a removed file, the old one
	additions, deletions int
}

// diff is how the files of two trees differ, by path. A file that was removed
// where one that is half the same was added was renamed, as git has it.
func diff(before, after *tree) []fileDiff {
	var all, added, removed []fileDiff
	compareTrees("", before, after, func(file string, old, now *node) {
		switch {
		case old == nil:
			added = append(added, fileDiff{path: file, status: "added", node: now, additions: countLines(now.content)})
		case now == nil:
			removed = append(removed, fileDiff{path: file, status: "removed", node: old, deletions: countLines(old.content)})
		default:
			d := fileDiff{path: file, status: "modified", node: now}
			d.additions, d.deletions, _ = lineDiff(old.content, now.content)
			all = append(all, d)
		}
	})
	all = append(all, findRenames(added, &removed)...)
	all = append(all, removed...)
	slices.SortFunc(all, func(a, b fileDiff) int { return strings.Compare(a.path, b.path) })
	return all
}

// findRenames are the added files, those renamed that were; their former
// selves are taken out of removed.
func findRenames(added []fileDiff, removed *[]fileDiff) []fileDiff {
	// Beyond so many pairs git looks for exact renames alone.
	exact := len(added)*len(*removed) > 1_000_000
	bySHA := map[string]int{}
	for i, old := range *removed {
		bySHA[old.node.sha] = i
	}
	gone := map[int]bool{}
	for i, d := range added {
		if len(d.node.content) == 0 {
			continue // git takes no empty file for a renamed one
		}
		best, most := -1, 0.5
		if j, ok := bySHA[d.node.sha]; ok && !gone[j] {
			best = j
		} else if !exact {
			for j, old := range *removed {
				if _, _, alike := lineDiff(old.node.content, d.node.content); !gone[j] && alike >= most {
					best, most = j, alike
				}
			}
		}
		if best < 0 {
			continue
		}
		gone[best] = true
		old := (*removed)[best]
		added[i].status, added[i].previous = "renamed", old.path
		added[i].additions, added[i].deletions, _ = lineDiff(old.node.content, d.node.content)
	}
	var rest []fileDiff
	for i, old := range *removed {
		if !gone[i] {
			rest = append(rest, old)
		}
	}
	*removed = rest
	return added
}

// compareTrees calls visit for each file that differs; one that is absent is
// nil.
func compareTrees(prefix string, before, after *tree, visit func(file string, old, now *node)) {
	if before.sha == after.sha {
		return
	}
	var names []string
	for _, t := range []*tree{before, after} {
		for _, e := range t.entries {
			names = append(names, e.name)
		}
	}
	slices.Sort(names)
	for _, name := range slices.Compact(names) {
		old, _ := before.get(name)
		now, _ := after.get(name)
		file := name
		if prefix != "" {
			file = prefix + "/" + name
		}
		if old.dir != nil || now.dir != nil {
			oldDir, nowDir := old.dir, now.dir
			if oldDir == nil {
				oldDir = &tree{}
			}
			if nowDir == nil {
				nowDir = &tree{}
			}
			compareTrees(file, oldDir, nowDir, visit)
		}
		same := old.node != nil && now.node != nil && old.node.sha == now.node.sha && old.node.kind == now.node.kind
		if (old.node != nil || now.node != nil) && !same {
			visit(file, old.node, now.node)
		}
	}
}

func countLines(content []byte) int {
	n := strings.Count(string(content), "\n")
	if len(content) > 0 && content[len(content)-1] != '\n' {
		n++
	}
	return n
}

// lineDiff counts the lines that one content has more than the other, without
// regard to their order, and says what part of the larger is in both.
func lineDiff(old, now []byte) (added, removed int, alike float64) {
	count, common := map[string]int{}, 0
	for line := range strings.Lines(string(old)) {
		count[line]++
		removed++
	}
	for line := range strings.Lines(string(now)) {
		if count[line] > 0 {
			count[line]--
			removed--
			common += len(line)
			continue
		}
		added++
	}
	return added, removed, float64(common) / float64(max(1, len(old), len(now)))
}

// describeDiff is GitHub's diff-entry schema, without the patch, which GitHub
// leaves out of large ones. The caller holds world.mu.
func (g *GitHub) describeDiff(repo *repository, at *commit, f fileDiff) map[string]any {
	full := repo.owner.login + "/" + repo.name
	d := map[string]any{
		"sha": f.node.sha, "filename": f.path, "status": f.status,
		"additions": f.additions, "deletions": f.deletions, "changes": f.additions + f.deletions,
		"blob_url": g.web() + "/" + full + "/blob/" + at.sha + "/" + f.path, "raw_url": g.web() + "/" + full + "/raw/" + at.sha + "/" + f.path,
		"contents_url": g.url + "/repos/" + full + "/contents/" + f.path + "?ref=" + at.sha,
	}
	if f.previous != "" {
		d["previous_filename"] = f.previous
	}
	return d
}
