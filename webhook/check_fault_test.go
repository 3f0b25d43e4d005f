package webhook

import (
	"errors"
	"fmt"
	"net/http"
	"slices"
	"testing"
	"time"

	"github.com/octo-sts/appliance/sts/githubapp"
	"github.com/octo-sts/appliance/sts/ststest"
)

// What GitHub does not give is no verdict.
func TestCheckFailsClosed(t *testing.T) {
	limit := ststest.SecondaryRateLimit(http.StatusForbidden, 7*time.Minute)
	for _, c := range []struct {
		name  string
		fault ststest.Fault
		kind  error
	}{
		{"limited at the comparison", with(limit, ststest.CompareRoute, 0), githubapp.ErrRateLimited},
		{"limited in the middle of the files", with(limit, ststest.ContentsRoute, 10), githubapp.ErrRateLimited},
		{"unavailable at the comparison", with(ststest.Fault{Status: 503}, ststest.CompareRoute, 0), githubapp.ErrUnavailable},
		{"unavailable in the middle of the files", with(ststest.Fault{Status: 502}, ststest.ContentsRoute, 19), githubapp.ErrUnavailable},
		{"a file that was named is not there", with(ststest.Fault{Status: 404}, ststest.ContentsRoute, 3), githubapp.ErrNotFound},
		{"a file that was named is refused", with(ststest.Fault{Status: 403}, ststest.ContentsRoute, 3), githubapp.ErrRefused},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := newCheckRig(t)
			var changes []ststest.Change
			for i := range 20 {
				changes = append(changes, write(fmt.Sprintf("%s%02d.sts.yaml", dir, i), goodPolicy))
			}
			job := branchJob(r.github.Commit("acme", "app", "b", changes...))
			r.wants(r.check(job), "success", names(20)) // and the token is proven
			r.github.Fail(c.fault)
			v, err := r.checker.check(t.Context(), r.installation("app"), job)
			if v != nil || !errors.Is(err, c.kind) {
				t.Errorf("got %+v, %v; want no verdict and %v", v, err, c.kind)
			}
			var limited *githubapp.RateLimitError
			if c.kind == githubapp.ErrRateLimited && (!errors.As(err, &limited) || limited.RetryAfter < 6*time.Minute) {
				t.Errorf("got %v, want when to come back", err)
			}
		})
	}
	t.Run("a commit that is gone", func(t *testing.T) {
		r := newCheckRig(t)
		v, err := r.checker.check(t.Context(), r.installation("app"), branchJob(unknownCommit))
		if v != nil || !errors.Is(err, githubapp.ErrNotFound) {
			t.Errorf("got %+v, %v", v, err)
		}
	})
	t.Run("a directory that cannot be listed", func(t *testing.T) {
		r := newCheckRig(t)
		job := pushJob("", r.start)
		r.github.Fail(ststest.Fault{Route: ststest.TreeRoute, Skip: 2, Status: 200, Body: `{"tree":[],"truncated":true}`})
		r.wants(r.check(job), "failure", []string{}, "could not be checked", "more entries in this commit than can be listed")
	})
	for name, status := range map[string]int{"404 on the comparison": 404, "422 on the comparison": 422} {
		t.Run(name, func(t *testing.T) {
			r := newCheckRig(t)
			job := branchJob(r.github.Commit("acme", "app", "b", write(dir+"x.sts.yaml", badPolicy)))
			r.wants(r.check(job), "failure", []string{"x.sts.yaml"})
			r.github.Fail(ststest.Fault{Route: ststest.CompareRoute, Status: status})
			r.wants(r.check(job), "failure", []string{"ci.sts.yaml", "x.sts.yaml"}) // everything is new
		})
	}
}

func with(f ststest.Fault, route string, skip int) ststest.Fault {
	f.Route, f.Skip = route, skip
	return f
}

func names(n int) []string {
	all := make([]string, n)
	for i := range all {
		all[i] = fmt.Sprintf("%02d.sts.yaml", i)
	}
	return all
}

// 3,000 policies are checked; more are not, and cost nothing.
func TestCheckOfManyPolicies(t *testing.T) {
	r := newCheckRig(t)
	var all []ststest.Change
	var paths []string
	for i := range maxPolicies + 1 {
		paths = append(paths, fmt.Sprintf("%sp%04d.sts.yaml", dir, i))
		all = append(all, write(paths[i], goodPolicy))
	}
	r.wants(r.check(branchJob(r.github.Commit("acme", "app", "b", all...))), "failure", []string{}, "More than 3000 trust policies changed at once")
	if n := r.github.Calls()[ststest.ContentsRoute]; n != 0 {
		t.Errorf("%d files were read, want none", n)
	}
	most := slices.Clone(paths[:maxPolicies])
	slices.Reverse(most)
	if got := bounded(changes{paths: most}); got.fault != "" || !slices.Equal(got.paths, paths[:maxPolicies]) {
		t.Errorf("of the most that are checked: %d paths, fault %q", len(got.paths), got.fault)
	}
}

// A comparison that is too much for GitHub (it answers 500) hides nothing: the
// directory is listed, at the commit before where that is known.
func TestCheckOfWhatGitHubCannotCompare(t *testing.T) {
	for _, c := range []struct {
		name       string
		job        func(*checkRig) checkJob
		skip       int // comparisons that GitHub makes
		conclusion string
		files      []string
	}{
		{"a pull request", func(r *checkRig) checkJob {
			return branchJob(r.github.Commit("acme", "app", "b", write(dir+"x.sts.yaml", badPolicy)))
		}, 0, "failure", []string{"ci.sts.yaml", "x.sts.yaml"}},
		{"a pull request that changes no policy", func(r *checkRig) checkJob {
			return branchJob(r.github.Commit("acme", "app", "b", write("README", "x")))
		}, 0, "success", []string{"ci.sts.yaml"}},
		{"a fork's pull request", func(r *checkRig) checkJob {
			return branchJob(r.github.OpenForkPull("acme", "app", "stranger", "main", write(dir+"x.sts.yaml", badPolicy)).HeadSHA)
		}, 0, "failure", []string{"ci.sts.yaml", "x.sts.yaml"}},
		{"a push", func(r *checkRig) checkJob {
			return pushJob(r.start, r.github.Commit("acme", "app", "main", write(dir+"x.sts.yaml", badPolicy)))
		}, 0, "failure", []string{"x.sts.yaml"}},
		{"a push beside a broken policy", func(r *checkRig) checkJob {
			broken := r.github.Commit("acme", "app", "main", write(dir+"ci.sts.yaml", badPolicy))
			return pushJob(broken, r.github.Commit("acme", "app", "main", write(dir+"x.sts.yaml", goodPolicy)))
		}, 0, "success", []string{"x.sts.yaml"}},
		{"a push from a commit that is gone", func(r *checkRig) checkJob {
			return pushJob(unknownCommit, r.start)
		}, 0, "success", []string{"ci.sts.yaml"}},
		{"a commit that was merged meanwhile", func(r *checkRig) checkJob {
			return branchJob(r.github.Commit("acme", "app", "main", write(dir+"x.sts.yaml", badPolicy)))
		}, 1, "failure", []string{"x.sts.yaml"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := newCheckRig(t)
			job := c.job(r)
			fault := r.github.Fail(ststest.Fault{Route: ststest.CompareRoute, Skip: c.skip, Status: 500,
				Body: `{"message":"Sorry, this diff is taking too long to generate."}`})
			r.wants(r.check(job), c.conclusion, c.files)
			if fault.Hits() == 0 || r.github.Calls()[ststest.TreeRoute] == 0 {
				t.Errorf("%d comparisons failed, %d trees listed", fault.Hits(), r.github.Calls()[ststest.TreeRoute])
			}
		})
	}
}
