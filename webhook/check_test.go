package webhook

import (
	"context"
	"crypto/rand"
	"crypto/rsa"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/octo-sts/appliance/sts/githubapp"
	"github.com/octo-sts/appliance/sts/ststest"
	"github.com/octo-sts/appliance/sts/trustpolicy"
)

const (
	checkApp = 1234
	dir      = ".github/chainguard/"

	goodPolicy = `issuer: https://gitlab.corp.example
subject: project_path:acme/app:ref_type:branch:ref:main
permissions:
  contents: read
`
	badPolicy     = "issuer: https://gitlab.corp.example\npermissions:\n  contents: everything\n"
	warnedPolicy  = "issuer: https://gitlab.corp.example\nsubject_pattern: .*\npermissions:\n  contents: read\n"
	goodOrgPolicy = goodPolicy + "repositories: [app]\n"
)

var checkKey = sync.OnceValue(func() *rsa.PrivateKey {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		panic(err)
	}
	return key
})

// checkRig is a checker, and a fake GitHub with the repositories acme/app and
// acme/.github.
type checkRig struct {
	*testing.T
	github  *ststest.GitHub
	checker *checker
	start   string // acme/app's default branch at first
}

func newCheckRig(t *testing.T) *checkRig {
	t.Helper()
	g, err := ststest.NewGitHub(t.Context(), ststest.GitHubConfig{})
	if err != nil {
		t.Fatal(err)
	}
	g.AddApp(checkApp, &checkKey().PublicKey, map[string]string{"contents": "write", "checks": "write"})
	g.AddRepository("acme", "app")
	g.AddRepository("acme", ".github")
	g.Install(checkApp, "acme", ststest.InstallOptions{})
	ca := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(ca, g.CAPEM(), 0o600); err != nil {
		t.Fatal(err)
	}
	client, err := githubapp.New(t.Context(), githubapp.Config{
		APIURL: g.URL(), CAFile: ca, Apps: []githubapp.App{{ID: checkApp, Organizations: []string{"*"}}},
		AppJWT: func(_ context.Context, id int64) (string, time.Time, error) {
			return ststest.AppJWT(checkKey(), id, time.Now())
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	return &checkRig{
		T: t, github: g, start: g.Commit("acme", "app", "main", write(dir+"ci.sts.yaml", goodPolicy)),
		checker: &checker{github: client, policyRepository: ".github", permissions: trustpolicy.GitHubPermissions(),
			unfinished: must(newUnfinished())(t)},
	}
}

func write(path, content string) ststest.Change {
	return ststest.Change{Path: path, Content: content}
}

func remove(path string) ststest.Change { return ststest.Change{Path: path, Delete: true} }

// crowd are n changes whose paths come before those of any policy.
func crowd(n int) []ststest.Change {
	all := make([]ststest.Change, n)
	for i := range all {
		all[i] = write(fmt.Sprintf(".a/%05d", i), fmt.Sprintf("%d\n", i))
	}
	return all
}

func (r *checkRig) installation(repo string) githubapp.Installation {
	r.Helper()
	inst, err := r.checker.github.Installation(r.Context(), "acme", repo)
	if err != nil {
		r.Fatal(err)
	}
	return inst
}

// branchJob is a check of what head would bring to acme/app's default branch.
func branchJob(head string) checkJob {
	return checkJob{Owner: "acme", Repository: "app", WebURL: "https://github.com/acme/app", DefaultBranch: "main", Head: head, Always: true}
}

// pushJob is a check of a push to acme/app's default branch.
func pushJob(before, after string) checkJob {
	job := branchJob(after)
	job.Exact, job.Base = true, before
	return job
}

func (r *checkRig) check(job checkJob) *verdict {
	r.Helper()
	v, err := r.checker.check(r.Context(), r.installation(job.Repository), job)
	if err != nil {
		r.Fatalf("check: %v", err)
	}
	r.checker.unfinished.forget(job) // it is reported
	return v
}

// wants checks a verdict's conclusion, files (below dir), and that each of words
// is in its summary.
func (r *checkRig) wants(v *verdict, conclusion string, files []string, words ...string) {
	r.Helper()
	if v == nil {
		r.Fatal("there is no verdict")
	}
	if v.conclusion != conclusion {
		r.Errorf("conclusion %s (%s), want %s\n%s", v.conclusion, v.title, conclusion, v.summary)
	}
	got := []string{}
	for _, file := range v.files {
		got = append(got, strings.TrimPrefix(file, dir))
	}
	if !slices.Equal(got, files) {
		r.Errorf("checked %q, want %q", got, files)
	}
	for _, word := range words {
		if !strings.Contains(v.title+"\n"+v.summary, word) {
			r.Errorf("the report does not say %q:\n%s\n%s", word, v.title, v.summary)
		}
	}
}

const unknownCommit = "1111111111111111111111111111111111111111"

var zeroCommit = strings.Repeat("0", 40)

// What a commit changes, however it came.
func TestCheckFindsWhatChanged(t *testing.T) {
	for _, c := range []struct {
		name       string
		job        func(*checkRig) checkJob
		conclusion string
		files      []string
	}{
		{"the 31st file of a pull request", func(r *checkRig) checkJob {
			return branchJob(r.github.Commit("acme", "app", "b", append(crowd(30), write(dir+"x.sts.yaml", badPolicy))...))
		}, "failure", []string{"x.sts.yaml"}},
		{"the 300th file of a pull request", func(r *checkRig) checkJob {
			return branchJob(r.github.Commit("acme", "app", "b", append(crowd(299), write(dir+"x.sts.yaml", badPolicy))...))
		}, "failure", []string{"x.sts.yaml"}},
		{"the 301st file of a pull request", func(r *checkRig) checkJob {
			return branchJob(r.github.Commit("acme", "app", "b", append(crowd(300), write(dir+"x.sts.yaml", badPolicy))...))
		}, "failure", []string{"x.sts.yaml"}},
		{"one policy among 3,000 files", func(r *checkRig) checkJob {
			return branchJob(r.github.Commit("acme", "app", "b", append(crowd(2999), write(dir+"x.sts.yaml", badPolicy))...))
		}, "failure", []string{"x.sts.yaml"}},
		{"none among 3,000 files", func(r *checkRig) checkJob {
			return branchJob(r.github.Commit("acme", "app", "b", crowd(3000)...))
		}, "success", []string{}},
		{"among 3,000 files, the branch having moved on", func(r *checkRig) checkJob {
			head := r.github.Commit("acme", "app", "b", append(crowd(3000), write(dir+"x.sts.yaml", goodPolicy))...)
			r.github.Commit("acme", "app", "main", write(dir+"ci.sts.yaml", badPolicy)) // not the pull request's doing
			return branchJob(head)
		}, "success", []string{"x.sts.yaml"}},
		{"a push of 25 commits", func(r *checkRig) checkJob {
			head := r.github.Commit("acme", "app", "main", write(dir+"x.sts.yaml", badPolicy))
			for i := range 24 {
				head = r.github.Commit("acme", "app", "main", write("README", fmt.Sprint(i)))
			}
			return pushJob(r.start, head)
		}, "failure", []string{"x.sts.yaml"}},
		{"added and deleted in one push", func(r *checkRig) checkJob {
			r.github.Commit("acme", "app", "main", write(dir+"x.sts.yaml", badPolicy))
			return pushJob(r.start, r.github.Commit("acme", "app", "main", remove(dir+"x.sts.yaml")))
		}, "success", []string{}},
		{"made worse and better in one push", func(r *checkRig) checkJob {
			r.github.Commit("acme", "app", "main", write(dir+"ci.sts.yaml", badPolicy))
			return pushJob(r.start, r.github.Commit("acme", "app", "main", write(dir+"ci.sts.yaml", goodPolicy+"# better\n")))
		}, "success", []string{"ci.sts.yaml"}},
		{"deleted", func(r *checkRig) checkJob {
			return branchJob(r.github.Commit("acme", "app", "b", remove(dir+"ci.sts.yaml")))
		}, "success", []string{}},
		{"deleted among 3,000 files", func(r *checkRig) checkJob {
			return branchJob(r.github.Commit("acme", "app", "b", append(crowd(3000), remove(dir+"ci.sts.yaml"))...))
		}, "success", []string{}},
		{"renamed", func(r *checkRig) checkJob {
			return branchJob(r.github.Commit("acme", "app", "b", remove(dir+"ci.sts.yaml"), write(dir+"cd.sts.yaml", goodPolicy)))
		}, "success", []string{"cd.sts.yaml"}},
		{"renamed into the directory", func(r *checkRig) checkJob {
			r.github.Commit("acme", "app", "main", write("draft.yaml", badPolicy))
			return branchJob(r.github.Commit("acme", "app", "b", remove("draft.yaml"), write(dir+"x.sts.yaml", badPolicy)))
		}, "failure", []string{"x.sts.yaml"}},
		{"renamed out of the directory", func(r *checkRig) checkJob {
			return branchJob(r.github.Commit("acme", "app", "b", remove(dir+"ci.sts.yaml"), write("old.yaml", goodPolicy)))
		}, "success", []string{}},
		{"a push of a new branch's zero commit", func(r *checkRig) checkJob {
			return pushJob(zeroCommit, r.github.Commit("acme", "app", "main", write(dir+"x.sts.yaml", badPolicy)))
		}, "failure", []string{"ci.sts.yaml", "x.sts.yaml"}},
		{"a push without a commit before it", func(r *checkRig) checkJob {
			return pushJob("", r.start)
		}, "success", []string{"ci.sts.yaml"}},
		{"a push whose commit before it is gone", func(r *checkRig) checkJob {
			return pushJob(unknownCommit, r.github.Commit("acme", "app", "main", write(dir+"x.sts.yaml", goodPolicy)))
		}, "success", []string{"ci.sts.yaml", "x.sts.yaml"}},
		{"a push that takes a repair back", func(r *checkRig) checkJob {
			broken := r.github.Commit("acme", "app", "main", write(dir+"ci.sts.yaml", badPolicy))
			repaired := r.github.Commit("acme", "app", "main", write(dir+"ci.sts.yaml", goodPolicy))
			return pushJob(repaired, broken)
		}, "failure", []string{"ci.sts.yaml"}},
		{"a push that replaces a repair", func(r *checkRig) checkJob {
			r.github.Commit("acme", "app", "main", write(dir+"ci.sts.yaml", badPolicy))
			r.github.Commit("acme", "app", "b", write("README", "x"))
			repaired := r.github.Commit("acme", "app", "main", write(dir+"ci.sts.yaml", goodPolicy))
			return pushJob(repaired, r.github.Commit("acme", "app", "b", write("README", "y")))
		}, "failure", []string{"ci.sts.yaml"}},
		{"a commit that was merged meanwhile", func(r *checkRig) checkJob {
			r.github.Commit("acme", "app", "main", write("README", "x"))
			head := r.github.Commit("acme", "app", "main", write(dir+"x.sts.yaml", badPolicy))
			r.github.Commit("acme", "app", "main", write("README", "y"))
			return branchJob(head)
		}, "failure", []string{"x.sts.yaml"}},
		{"the default branch's own head", func(r *checkRig) checkJob {
			return branchJob(r.github.Commit("acme", "app", "main", write(dir+"x.sts.yaml", badPolicy)))
		}, "failure", []string{"x.sts.yaml"}},
		{"a fork's pull request", func(r *checkRig) checkJob {
			return branchJob(r.github.OpenForkPull("acme", "app", "stranger", "main", write(dir+"x.sts.yaml", badPolicy)).HeadSHA)
		}, "failure", []string{"x.sts.yaml"}},
		{"a merge group", func(r *checkRig) checkJob {
			r.github.Commit("acme", "app", "b", write(dir+"x.sts.yaml", badPolicy))
			return branchJob(r.github.MergeGroup("acme", "app", "b").HeadSHA)
		}, "failure", []string{"x.sts.yaml"}},
		{"the directory is a file", func(r *checkRig) checkJob {
			return branchJob(r.github.Commit("acme", "app", "b", remove(".github"), write(".github/chainguard", "x")))
		}, "failure", []string{}},
		{"the directory is a file, among 3,000 files", func(r *checkRig) checkJob {
			return branchJob(r.github.Commit("acme", "app", "b", append(crowd(3000), remove(".github"), write(".github/chainguard", "x"))...))
		}, "failure", []string{}},
		{"a policy is a directory", func(r *checkRig) checkJob {
			return branchJob(r.github.Commit("acme", "app", "b", write(dir+"x.sts.yaml/y", goodPolicy)))
		}, "failure", []string{"x.sts.yaml"}},
		{"a policy is a directory, among 3,000 files", func(r *checkRig) checkJob {
			return branchJob(r.github.Commit("acme", "app", "b", append(crowd(3000), write(dir+"x.sts.yaml/y", goodPolicy), write(dir+"sub.yaml/y", badPolicy))...))
		}, "failure", []string{"x.sts.yaml"}},
		{"what is no policy", func(r *checkRig) checkJob {
			return branchJob(r.github.Commit("acme", "app", "b", write(dir+"README.md", badPolicy), write(dir+"sub/x.sts.yaml", badPolicy), write("x.sts.yaml", badPolicy), write(".github/chainguardian/x.sts.yaml", badPolicy)))
		}, "success", []string{}},
		{"another name", func(r *checkRig) checkJob {
			return branchJob(r.github.Commit("acme", "app", "b", write(dir+"x.yaml", goodPolicy), write(dir+"y.sts.yml", goodPolicy), write(dir+"a b.sts.yaml", badPolicy)))
		}, "neutral", []string{"a b.sts.yaml", "x.yaml", "y.sts.yml"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := newCheckRig(t)
			r.wants(r.check(c.job(r)), c.conclusion, c.files)
		})
	}
}

func TestCheckIsSilentWhereNothingChanged(t *testing.T) {
	r := newCheckRig(t)
	job := branchJob(r.github.Commit("acme", "app", "b", write("README", "x")))
	r.wants(r.check(job), "success", []string{}, "No trust policy changed")
	job.Always = false
	if v := r.check(job); v != nil {
		t.Errorf("got the verdict %q, want none", v.title)
	}
	job.Head = r.github.Commit("acme", "app", "b", remove(dir+"ci.sts.yaml"))
	r.wants(r.check(job), "success", []string{}, "1 trust policy removed")
}

// GitHub is not asked to compare with a commit that is none.
func TestCheckWithoutABase(t *testing.T) {
	for _, base := range []string{"", zeroCommit, strings.Repeat("0", 64)} {
		r := newCheckRig(t)
		r.wants(r.check(pushJob(base, r.start)), "success", []string{"ci.sts.yaml"})
		if n := r.github.Calls()[ststest.CompareRoute]; n != 0 {
			t.Errorf("base %q: %d comparisons, want none", base, n)
		}
	}
}

// Without the list more issuers are trusted: that is said, whichever way it is seen.
func TestCheckOfARemovedList(t *testing.T) {
	for _, others := range []int{0, 300} {
		r := newCheckRig(t)
		r.github.Commit("acme", ".github", "main", write(trustpolicy.TrustedIssuersPath, "issuers: [https://gitlab.corp.example]\n"))
		job := branchJob(r.github.Commit("acme", ".github", "b", append(crowd(others), remove(trustpolicy.TrustedIssuersPath))...))
		job.Repository = ".github"
		r.wants(r.check(job), "success", []string{}, "The list of trusted issuers is removed")
	}
}

// A file that became a symbolic link to its own text has the blob ID that it had.
func TestCompareEntriesSeesModes(t *testing.T) {
	entry := githubapp.TreeEntry{Path: dir + "x.sts.yaml", Type: "blob", Mode: "100644", SHA: unknownCommit}
	link := entry
	link.Mode = "120000"
	got := compareEntries([]githubapp.TreeEntry{entry}, []githubapp.TreeEntry{link})
	if diff := cmp.Diff([]string{entry.Path}, got.paths); diff != "" || len(got.removed) != 0 {
		t.Error(got, diff)
	}
}

// FuzzPolicyPath: what counts stands in the directory or in its place, and what
// an exchange could ask for always counts.
func FuzzPolicyPath(f *testing.F) {
	for _, seed := range []string{dir + "x.sts.yaml", dir + "x.sts.yaml/y", dir, ".github", ".github/chainguard", "x", dir + "../x.sts.yaml", dir + "X.YAML", ""} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, path string) {
		got, counts := policyPath(path)
		switch {
		case counts && strings.HasPrefix(dir, got+"/") && got == path:
		case counts && (!strings.HasPrefix(path+"/", got+"/") || strings.Count(got, "/") != 2 || !strings.HasPrefix(got, dir)):
			t.Errorf("%q counts as %q", path, got)
		}
		identity, ok := strings.CutSuffix(strings.TrimPrefix(path, dir), trustpolicy.Suffix)
		if ok && strings.HasPrefix(path, dir) && trustpolicy.ValidIdentity(identity) && (!counts || got != path || !isReadable(path)) {
			t.Errorf("%q is a policy and counts as %q, %v", path, got, counts)
		}
	})
}
