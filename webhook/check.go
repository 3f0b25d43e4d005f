package webhook

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/octo-sts/appliance/sts/githubapp"
	"github.com/octo-sts/appliance/sts/trustpolicy"
)

const (
	// maxPolicies bounds the files that one check reads. In the pace of checks
	// they take some minutes.
	maxPolicies = 3000

	// readersPerCheck is how many of them are read at once.
	readersPerCheck = 8
)

// checker tells whether the exchange would accept the trust policies of a commit.
type checker struct {
	github           *githubapp.Client
	policyRepository string // the organization's, by name
	permissions      trustpolicy.Catalog
	ceiling          trustpolicy.Ceiling
	unfinished       unfinished

	judging sync.Mutex // held by whoever judges a file
}

// checkJob is one commit to be checked. It is kept on disk as JSON.
//
// Trust policies count on the default branch alone, so what is checked is always
// what the commit changes for that branch, whatever event asked: one commit has
// one verdict, until the branch has it (see changes).
type checkJob struct {
	Owner, Repository string // names, as GitHub spells them
	WebURL            string // of the repository, for links; "": none
	DefaultBranch     string
	Head              string // commit ID

	// Exact: the change is Base..Head, as a push to the default branch names it.
	// A Base that is empty, all zeros or unknown makes everything new. Otherwise
	// the change is what Head would bring to DefaultBranch.
	Exact bool
	Base  string

	// Always: there is to be a verdict where no policy changed, too.
	Always bool
}

func (j *checkJob) lane() string { return lane(j.Owner, j.Repository, j.Head) }

// check reads and judges the trust policies that job changes, with the functions
// of the exchange. It returns nil where none is changed and job.Always is not set.
// Until unfinished.forget is called, what was read of the commit is not read again.
//
// What cannot be judged is never called good: where GitHub does not give what is
// needed, an error of package githubapp's is returned and the check is to be made
// again, later where it is a *githubapp.RateLimitError. ErrNotFound means that
// the commit is gone, or names a file that GitHub does not have.
func (c *checker) check(ctx context.Context, inst githubapp.Installation, job checkJob) (*verdict, error) {
	changed, err := c.changes(ctx, inst, job)
	if err != nil {
		return nil, err
	}
	if changed.none() && !job.Always {
		return nil, nil
	}
	found := c.unfinished.take(inst, job, changed.paths)
	err = c.judge(ctx, inst, job, changed.paths, found)
	c.unfinished.put(inst, job, found)
	if err != nil {
		return nil, err
	}
	found.fault, found.removed = changed.fault, changed.removed
	return c.report(job, found), nil
}

// judge reads each file at the job's head that is not among what was found, and
// adds what is to be said of it. A few are read at once, so that few are held in
// memory, and judged in order.
func (c *checker) judge(ctx context.Context, inst githubapp.Installation, job checkJob, paths []string, found *findings) error {
	for part := range slices.Chunk(paths[len(found.files):], readersPerCheck) {
		files := make([]*githubapp.File, len(part))
		unreadable := make([]error, len(part))
		group, ctx := errgroup.WithContext(ctx)
		for i, path := range part {
			if !isReadable(path) {
				continue
			}
			group.Go(func() error {
				file, err := c.github.FileAt(ctx, inst, job.Repository, path, job.Head)
				if errors.Is(err, githubapp.ErrNotAFile) {
					unreadable[i], err = err, nil
				}
				files[i] = file
				return err
			})
		}
		err := group.Wait()
		for i, path := range part {
			if isReadable(path) && files[i] == nil && unreadable[i] == nil {
				return err
			}
			found.add(path, c.judgeInTurn(inst, job, path, files[i], unreadable[i]))
		}
	}
	return nil
}

// judgeInTurn is judgeFile, one file at a time and with a pause thrice as long as it
// took: what strangers put into pull requests leaves the processors to exchanges.
func (c *checker) judgeInTurn(inst githubapp.Installation, job checkJob, path string, file *githubapp.File, unreadable error) []finding {
	c.judging.Lock()
	defer c.judging.Unlock()
	began := time.Now()
	all := c.judgeFile(inst, job, path, file, unreadable)
	time.Sleep(3 * time.Since(began))
	return all
}

// changes is what a job changes among the files of trustpolicy.Directory.
type changes struct {
	paths   []string // sorted; they are there at the head
	removed []string // paths that are not there any more
	fault   string   // why paths cannot be told, "" where they can
}

func (c changes) none() bool { return len(c.paths) == 0 && len(c.removed) == 0 && c.fault == "" }

// changes finds them by comparing commits.
//
// A head that the default branch has already (a check that is asked for again
// after a merge) would change nothing any more. What it changed is then told
// from its first parent, which is what the branch was at before where the head
// came as one commit or one merge. Where it came as several commits that is less
// than what it was judged by before; nothing waits for its check any more.
func (c *checker) changes(ctx context.Context, inst githubapp.Installation, job checkJob) (changes, error) {
	base := job.DefaultBranch
	if job.Exact {
		base = job.Base
	}
	if isNoCommit(base) {
		return c.listed(ctx, inst, job, "")
	}
	compared, err := c.github.Compare(ctx, inst, job.Repository, base, job.Head)
	if err == nil && !job.Exact && (compared.Status == "behind" || compared.Status == "identical") {
		if base = compared.MergeBaseParent; base == "" {
			return c.listed(ctx, inst, job, "")
		}
		compared, err = c.github.Compare(ctx, inst, job.Repository, base, job.Head)
	}
	switch {
	case errors.Is(err, githubapp.ErrTooLarge) && isCommit(base):
		return c.listed(ctx, inst, job, base)
	case errors.Is(err, githubapp.ErrNotFound), errors.Is(err, githubapp.ErrTooLarge), errors.Is(err, githubapp.ErrRefused):
		// The base is gone, has nothing in common with the head, or is too far from
		// it for GitHub to say where the two parted. Where the reason is another one,
		// the directory is not to be had either.
		return c.listed(ctx, inst, job, "")
	case err != nil:
		return changes{}, err
	case job.Exact && (compared.Status == "diverged" || compared.Status == "behind"):
		// A push that discards commits also changes what they had changed, and the
		// comparison begins only where the two parted.
		return c.listed(ctx, inst, job, base)
	case !compared.Complete:
		return c.listed(ctx, inst, job, compared.MergeBase)
	}
	return bounded(compareFiles(compared.Files)), nil
}

// isNoCommit reports whether base stands for no commit: GitHub writes zeros
// where there was none.
func isNoCommit(base string) bool {
	return base == "" || len(base) >= 40 && strings.Trim(base, "0") == ""
}

// listed finds the changes by listing the directory at base and at the head,
// which any number of other files cannot hide. Everything is new where base is
// "", or has no directory that can be listed.
func (c *checker) listed(ctx context.Context, inst githubapp.Installation, job checkJob, base string) (changes, error) {
	directory := strings.TrimSuffix(trustpolicy.Directory, "/")
	head, err := c.github.Directory(ctx, inst, job.Repository, directory, job.Head)
	switch {
	case errors.Is(err, githubapp.ErrNotAFile):
		return changes{fault: notADirectory}, nil
	case errors.Is(err, githubapp.ErrTooLarge):
		return changes{fault: notListed}, nil
	case err != nil:
		return changes{}, err
	}
	var before []githubapp.TreeEntry
	if base != "" {
		before, err = c.github.Directory(ctx, inst, job.Repository, directory, base)
		unknown := errors.Is(err, githubapp.ErrNotFound) || errors.Is(err, githubapp.ErrNotAFile) || errors.Is(err, githubapp.ErrTooLarge)
		if err != nil && !unknown {
			return changes{}, err
		}
	}
	return bounded(compareEntries(before, head)), nil
}

// Faults of the directory as a whole, in Markdown.
const notADirectory = "`.github/chainguard` is not a directory in this commit, so the exchange would find no trust policy. Make it one, and no symbolic link or submodule."

const notListed = "`.github/chainguard`, or a directory that holds it, has more entries in this commit than can be listed, so no trust policy could be checked. Remove what does not belong there."

var tooMany = fmt.Sprintf("More than %d trust policies changed at once, and no more are checked. Split the change.", maxPolicies)

// bounded sorts c, and makes a fault of too much.
func bounded(c changes) changes {
	slices.Sort(c.paths)
	c.paths = slices.Compact(c.paths)
	if len(c.paths) > maxPolicies {
		return changes{fault: tooMany}
	}
	return c
}

// compareFiles takes the changes from a comparison.
func compareFiles(files []githubapp.ChangedFile) changes {
	var c changes
	for _, file := range files {
		path, counts := policyPath(file.Path)
		_, counted := policyPath(file.Previous)
		switch {
		case file.Status == "unchanged":
		case counts && strings.HasPrefix(trustpolicy.Directory, path+"/"):
			if file.Status != "removed" {
				c.fault = notADirectory
			}
		case counts && file.Status == "removed", counted && !counts && file.Status == "renamed":
			c.removed = append(c.removed, cmp.Or(file.Previous, path))
		case counts:
			c.paths = append(c.paths, path)
		}
	}
	return c
}

// compareEntries takes the changes from two listings.
func compareEntries(before, after []githubapp.TreeEntry) changes {
	old := make(map[string]githubapp.TreeEntry, len(before))
	for _, entry := range before {
		old[entry.Path] = entry
	}
	var c changes
	for _, entry := range after {
		known, counts := old[entry.Path], entryCounts(entry)
		delete(old, entry.Path)
		if counts && entry != known {
			c.paths = append(c.paths, entry.Path)
		}
	}
	for _, entry := range old {
		if entryCounts(entry) {
			c.removed = append(c.removed, entry.Path)
		}
	}
	return c
}

func entryCounts(entry githubapp.TreeEntry) bool {
	path := entry.Path
	if entry.Type == "tree" {
		path += "/…" // as a comparison would name what is in it
	}
	_, counts := policyPath(path)
	return counts
}

// policyPath tells what a changed path means for trust policies: the path of a
// policy, of the list of trusted issuers, or of another YAML file that may have
// been meant as one. A file within a directory that stands in the place of one of
// the former two counts as that, and so does a file in the place of
// trustpolicy.Directory or of what holds it. Other files are nobody's policy.
func policyPath(path string) (string, bool) {
	rest, inside := strings.CutPrefix(path, trustpolicy.Directory)
	if !inside {
		return path, path != "" && strings.HasPrefix(trustpolicy.Directory, path+"/")
	}
	name, _, nested := strings.Cut(rest, "/")
	read := strings.HasSuffix(name, trustpolicy.Suffix) || name == trustpolicy.TrustedIssuersFile
	lower := strings.ToLower(name)
	yaml := strings.HasSuffix(lower, ".yaml") || strings.HasSuffix(lower, ".yml")
	return trustpolicy.Directory + name, read || yaml && !nested
}
