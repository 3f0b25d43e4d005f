package githubapp

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
)

const (
	// maxComparedFiles is how many files GitHub names in a comparison, however
	// many there are.
	maxComparedFiles = 300

	// compareBodyLimit has room for the patches of that many files, which GitHub
	// sends unasked and nobody reads.
	compareBodyLimit = 16 << 20
)

// ChangedFile is one file that differs between two commits.
type ChangedFile struct {
	Path     string // from the repository's root
	Previous string // where Status is "renamed" or "copied"; else ""
	Status   string // as GitHub names it: added, removed, modified, renamed, copied, changed, unchanged
}

// Comparison is what a head has that the merge base with its base has not.
type Comparison struct {
	// Status is where the head stands, seen from the base: ahead, behind,
	// identical or diverged. Behind and identical: the base has all of it.
	Status string

	// MergeBase is a commit ID: the head's own where the base has all of it.
	// MergeBaseParent is that of its first parent, "" where it has none.
	MergeBase, MergeBaseParent string

	Files []ChangedFile

	// Complete: Files are all that there are. GitHub names at most 300, on no
	// page more.
	Complete bool
}

// Compare tells what head changes relative to where it left base. Both are a
// commit ID or the name of a branch of the repository, never that of a tag (commits
// of its forks are to be had by their ID). GET /repos/{owner}/{repo}/compare/{basehead},
// one call.
//
// Errors: ErrNotFound (one of the two, or a common ancestor, is not there),
// ErrTooLarge (for what is looked at here, or for GitHub to compare), ErrRefused,
// ErrRateLimited, ErrUnavailable.
func (c *Client) Compare(ctx context.Context, inst Installation, repo, base, head string) (*Comparison, error) {
	doing := fmt.Sprintf("comparing %s with %s in %s/%s", quote(base), quote(head), inst.Owner, repo)
	if err := errors.Join(checkRepository(inst, repo), checkRef(base), checkRef(head)); err != nil {
		return nil, &apiError{kind: ErrRefused, doing: doing, cause: err}
	}
	var got struct {
		Status    string `json:"status"`
		MergeBase struct {
			SHA     string `json:"sha"`
			Parents []struct {
				SHA string `json:"sha"`
			} `json:"parents"`
		} `json:"merge_base_commit"`
		Files *[]struct {
			Filename         string `json:"filename"`
			PreviousFilename string `json:"previous_filename"`
			Status           string `json:"status"`
		} `json:"files"`
	}
	_, err := c.read(ctx, inst, call{
		operation: "compare_commits",
		doing:     doing,
		method:    http.MethodGet,
		// Pages are of commits, which nobody reads; all the files come with the first.
		path:       fmt.Sprintf("repos/%s/%s/compare/%s...%s?per_page=1&page=1", inst.Owner, repo, refOf(base), refOf(head)),
		bodyLimit:  compareBodyLimit,
		missing:    ErrNotFound,
		unable:     ErrTooLarge, // "Sorry, this diff is taking too long to generate", as either of the two
		background: true,
	}, &got)
	if err != nil {
		return nil, tooLarge(doing, err)
	}
	if got.Files == nil || !isObjectID(got.MergeBase.SHA) || !isComparisonStatus(got.Status) {
		return nil, &apiError{kind: ErrUnavailable, doing: doing, status: http.StatusOK, detail: "GitHub's answer has no files, no merge base or no status"}
	}
	result := &Comparison{Status: got.Status, MergeBase: got.MergeBase.SHA, Complete: len(*got.Files) < maxComparedFiles}
	if parents := got.MergeBase.Parents; len(parents) > 0 {
		result.MergeBaseParent = parents[0].SHA
	}
	for _, file := range *got.Files {
		result.Files = append(result.Files, ChangedFile{Path: file.Filename, Previous: file.PreviousFilename, Status: file.Status})
	}
	return result, nil
}

func isComparisonStatus(status string) bool {
	return status == "ahead" || status == "behind" || status == "identical" || status == "diverged"
}

// checkRepository refuses names that could change which path is called.
func checkRepository(inst Installation, repo string) error {
	return errors.Join(checkName(inst.Owner), checkName(repo))
}

// checkRef refuses what git allows no branch to be called, which also keeps out
// everything that has a meaning in a comparison's address: "..", and the colon
// that names a fork.
func checkRef(ref string) error {
	bad := ref == "" || len(ref) > 1024 || strings.HasPrefix(ref, "-") || strings.HasSuffix(ref, ".") || strings.Contains(ref, "..") ||
		strings.ContainsFunc(ref, func(r rune) bool { return r <= ' ' || r == 0x7f || strings.ContainsRune(`~^:?*[\`, r) })
	for segment := range strings.SplitSeq(ref, "/") {
		bad = bad || segment == "" || strings.HasPrefix(segment, ".")
	}
	if bad {
		return fmt.Errorf("%s is neither a commit ID nor a name that git gives a branch", quote(ref))
	}
	return nil
}

// refOf names a commit or a branch within a comparison's address. A bare name could
// also be a tag's, which git prefers.
func refOf(name string) string {
	if isObjectID(name) {
		return name
	}
	return url.PathEscape("refs/heads/" + name)
}

// isObjectID reports whether s is git's name of an object, in SHA-1 or SHA-256.
func isObjectID(s string) bool {
	return (len(s) == 40 || len(s) == 64) && strings.Trim(s, "0123456789abcdef") == ""
}

func checkObjectID(s string) error {
	if !isObjectID(s) {
		return fmt.Errorf("%s is not a commit ID", quote(s))
	}
	return nil
}

// tooLarge makes an ErrTooLarge of an error that says so, whatever its kind.
func tooLarge(doing string, err error) error {
	if errors.Is(err, errBodyTooLarge) {
		return &apiError{kind: ErrTooLarge, doing: doing, status: statusOf(err), detail: errBodyTooLarge.Error()}
	}
	return err
}
