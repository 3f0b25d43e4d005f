package webhook

import (
	"maps"
	"slices"

	lru "github.com/hashicorp/golang-lru/v2"

	"github.com/octo-sts/appliance/sts/githubapp"
)

// maxUnfinished bounds the checks of which it is kept what was found. Each is at
// most maxPolicies paths and twice maxKept findings.
const maxUnfinished = 32

// unfinished is what was found by checks that are not reported yet: one that
// GitHub's quota or a failure cut short goes on where it stopped. Otherwise a
// check that needs more than an hour's quota would never come to an end. It is in
// memory alone. Who works on a commit's lane owns what it holds of the commit.
type unfinished struct {
	byLane *lru.Cache[string, unfinishedCheck] // locks itself
}

// unfinishedCheck is the findings in some of a commit's files, and what else they
// rest on.
type unfinishedCheck struct {
	installation int64
	permissions  map[string]string // the installation's
	found        *findings
}

func newUnfinished() (unfinished, error) {
	byLane, err := lru.New[string, unfinishedCheck](maxUnfinished)
	return unfinished{byLane}, err
}

// take returns what was found in the first of the paths; nothing where it would be
// found otherwise now.
func (u *unfinished) take(inst githubapp.Installation, job checkJob, paths []string) *findings {
	was, ok := u.byLane.Get(job.lane())
	if !ok || was.installation != inst.ID || !maps.Equal(was.permissions, inst.Permissions) || !was.found.begins(paths) {
		return &findings{}
	}
	return was.found
}

// put keeps what was found.
func (u *unfinished) put(inst githubapp.Installation, job checkJob, found *findings) {
	if len(found.files) > 0 {
		u.byLane.Add(job.lane(), unfinishedCheck{inst.ID, inst.Permissions, found})
	}
}

// forget is called when the check is reported: who asks for it again wants it made
// again.
func (u *unfinished) forget(job checkJob) { u.byLane.Remove(job.lane()) }

// begins says whether the findings are those in the first of the paths.
func (f *findings) begins(paths []string) bool {
	return len(f.files) <= len(paths) && slices.EqualFunc(f.files, paths[:len(f.files)],
		func(file fileResult, path string) bool { return file.path == path })
}
