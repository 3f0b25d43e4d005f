package githubapp

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
)

const (
	// maxTreeEntries bounds what Directory returns.
	maxTreeEntries = 10_000

	// treeBodyLimit has room for several times that many: a repository's root
	// may be larger than a directory that anybody wants listed.
	treeBodyLimit = 16 << 20
)

// TreeEntry is what one path of a directory holds.
type TreeEntry struct {
	Path string // from the repository's root
	Type string // blob, tree (a directory) or commit (a submodule)
	Mode string // git's, which tells a file (100644, 100755) from a symbolic link (120000)
	SHA  string // git's name of the object
}

// treeAnswer is the part of GitHub's git-tree object that is used.
type treeAnswer struct {
	Tree      *[]TreeEntry `json:"tree"` // paths are relative to it
	Truncated bool         `json:"truncated"`
}

// Directory lists what stands directly in dir, a path such as .github/chainguard,
// at commit. A directory that is not there has no entries and is no error. It
// walks GET /repos/{owner}/{repo}/git/trees/{tree_sha} down from the root: one
// call, and one for each segment of dir that is there.
//
// Errors: ErrNotFound (there is no such commit), ErrNotAFile (what is there is no
// directory), ErrTooLarge (over 10,000 entries, or over what GitHub lists),
// ErrRefused, ErrRateLimited, ErrUnavailable.
func (c *Client) Directory(ctx context.Context, inst Installation, repo, dir, commit string) ([]TreeEntry, error) {
	doing := fmt.Sprintf("listing %s of %s/%s at %s", dir, inst.Owner, repo, quote(commit))
	_, err := escapePath(dir)
	if err := errors.Join(checkRepository(inst, repo), err, checkObjectID(commit)); err != nil {
		return nil, &apiError{kind: ErrRefused, doing: doing, cause: err}
	}
	entries, err := c.tree(ctx, inst, repo, doing, commit)
	if err != nil {
		return nil, err
	}
	for segment := range strings.SplitSeq(dir, "/") {
		next, ok := entryNamed(entries, segment)
		switch {
		case !ok:
			return nil, nil
		case next.Type != "tree":
			return nil, &apiError{kind: ErrNotAFile, doing: doing, status: http.StatusOK, detail: segment + " is no directory"}
		}
		if entries, err = c.tree(ctx, inst, repo, doing, next.SHA); err != nil {
			if errors.Is(err, ErrNotFound) { // GitHub has just named it
				err = &apiError{kind: ErrUnavailable, doing: doing, detail: err.Error()}
			}
			return nil, err
		}
	}
	if len(entries) > maxTreeEntries {
		return nil, &apiError{kind: ErrTooLarge, doing: doing, status: http.StatusOK,
			detail: fmt.Sprintf("it has %d entries, and %d are looked at", len(entries), maxTreeEntries)}
	}
	for i := range entries {
		entries[i].Path = dir + "/" + entries[i].Path
	}
	return entries, nil
}

func entryNamed(entries []TreeEntry, name string) (TreeEntry, bool) {
	for _, entry := range entries {
		if entry.Path == name {
			return entry, true
		}
	}
	return TreeEntry{}, false
}

// tree reads one tree, whole. object names it, or a commit that has it.
func (c *Client) tree(ctx context.Context, inst Installation, repo, doing, object string) ([]TreeEntry, error) {
	var got treeAnswer
	_, err := c.read(ctx, inst, call{
		operation:  "read_tree",
		doing:      doing,
		method:     http.MethodGet,
		path:       fmt.Sprintf("repos/%s/%s/git/trees/%s", inst.Owner, repo, object),
		bodyLimit:  treeBodyLimit,
		missing:    ErrNotFound,
		background: true,
	}, &got)
	switch {
	case err != nil:
		return nil, tooLarge(doing, err)
	case got.Truncated:
		return nil, &apiError{kind: ErrTooLarge, doing: doing, status: http.StatusOK, detail: "GitHub lists only a part of it"}
	case got.Tree == nil:
		return nil, &apiError{kind: ErrUnavailable, doing: doing, status: http.StatusOK, detail: "GitHub's answer has no tree"}
	}
	for _, entry := range *got.Tree {
		if entry.Path == "" || strings.Contains(entry.Path, "/") || !isObjectID(entry.SHA) {
			return nil, &apiError{kind: ErrUnavailable, doing: doing, status: http.StatusOK,
				detail: fmt.Sprintf("GitHub's answer has the entry %s with the ID %s", quote(entry.Path), quote(entry.SHA))}
		}
	}
	return *got.Tree, nil
}
