package githubapp_test

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/octo-sts/appliance/sts/githubapp"
	"github.com/octo-sts/appliance/sts/ststest"
)

const policies = ".github/chainguard"

// files are so many changes in one directory that sorts before .github.
func files(n int) []ststest.Change {
	all := make([]ststest.Change, n)
	for i := range all {
		all[i] = ststest.Change{Path: fmt.Sprintf(".a/%05d.txt", i), Content: fmt.Sprintf("file %d\n", i)}
	}
	return all
}

func TestCompare(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	g := w.github
	root := g.SHA("acme", "app", "main")
	start := g.Commit("acme", "app", "main", ststest.Change{Path: "old.txt", Content: "the same\nlong\ntext\n"}, ststest.Change{Path: "gone.txt", Content: "x"})
	feature := g.Commit("acme", "app", "feature/one", ststest.Change{Path: "old.txt", Delete: true}, ststest.Change{Path: "new.txt", Content: "the same\nlong\ntext\n"},
		ststest.Change{Path: "gone.txt", Delete: true}, ststest.Change{Path: policyPath, Content: "changed"}, ststest.Change{Path: "more.txt", Content: "y"})
	ahead := g.Commit("acme", "app", "main", ststest.Change{Path: "elsewhere.txt", Content: "z"})
	g.Commit("acme", "app", "wide", files(299)...)
	g.Commit("acme", "app", "wider", files(300)...)
	inst := w.installation()

	t.Run("diverged", func(t *testing.T) {
		got, err := w.client.Compare(w.ctx, inst, "app", "main", "feature/one")
		if err != nil {
			t.Fatal(err)
		}
		slices.SortFunc(got.Files, func(a, b githubapp.ChangedFile) int { return strings.Compare(a.Path, b.Path) })
		want := &githubapp.Comparison{Status: "diverged", MergeBase: start, MergeBaseParent: root, Complete: true, Files: []githubapp.ChangedFile{
			{Path: policyPath, Status: "modified"}, {Path: "gone.txt", Status: "removed"}, {Path: "more.txt", Status: "added"},
			{Path: "new.txt", Previous: "old.txt", Status: "renamed"},
		}}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Error(diff)
		}
	})
	for _, c := range []struct {
		base, head, status string
		files              int
		complete           bool
	}{
		{start, feature, "ahead", 4, true}, {"main", start, "behind", 0, true}, {"main", ahead, "identical", 0, true},
		{"main", "wide", "ahead", 299, true}, {"main", "wider", "ahead", 300, false},
	} {
		t.Run(c.head+" "+c.status, func(t *testing.T) {
			got, err := w.client.Compare(w.ctx, inst, "app", c.base, c.head)
			if err != nil || got.Status != c.status || len(got.Files) != c.files || got.Complete != c.complete {
				t.Errorf("got %+v, %v", got, err)
			}
		})
	}
}

func TestCompareRefusals(t *testing.T) {
	t.Parallel()
	const unknown = "1111111111111111111111111111111111111111"
	for _, c := range []struct {
		name, base, head string
		fault            ststest.Fault
		kind             string
	}{
		{"unknown base", unknown, "main", ststest.Fault{}, "not found"},
		{"unknown head", "main", unknown, ststest.Fault{}, "not found"},
		{"another repository's branch", "main", "evil:main", ststest.Fault{Status: 500}, "refused"},
		{"a comparison in a name", "main", "a...b", ststest.Fault{Status: 500}, "refused"},
		{"a query in a name", "main", "a?per_page=1", ststest.Fault{Status: 500}, "refused"},
		{"a path in a name", "main", "../main", ststest.Fault{Status: 500}, "refused"},
		{"no name", "", "main", ststest.Fault{Status: 500}, "refused"},
		{"a redirect", "main", "main", ststest.Fault{Status: 301, Header: map[string]string{"Location": "/elsewhere"}}, "refused"},
		{"no files", "main", "main", ststest.Fault{Status: 200, Body: `{"status":"ahead","merge_base_commit":{"sha":"` + unknown + `"}}`}, "unavailable"},
		{"no merge base", "main", "main", ststest.Fault{Status: 200, Body: `{"status":"ahead","files":[]}`}, "unavailable"},
		{"no status", "main", "main", ststest.Fault{Status: 200, Body: `{"merge_base_commit":{"sha":"` + unknown + `"},"files":[]}`}, "unavailable"},
		{"cut short", "main", "main", ststest.Fault{Truncate: true}, "unavailable"},
		{"too large", "main", "main", ststest.Fault{Status: 200, Body: strings.Repeat(" ", 16<<20) + `{}`}, "too large"},
		{"too much for GitHub", "main", "main", ststest.Fault{Status: 500, Body: `{"message":"Server Error: Sorry, this diff is taking too long to generate."}`}, "too large"},
		{"too much for GitHub, as a refusal", "main", "main", ststest.Fault{Status: 422, Body: `{"errors":[{"resource":"Comparison","field":"diff","code":"not_available"}]}`}, "too large"},
		{"a bad gateway", "main", "main", ststest.Fault{Status: 502}, "unavailable"},
		{"no service", "main", "main", ststest.Fault{Status: 503}, "unavailable"},
		{"a time-out at GitHub", "main", "main", ststest.Fault{Status: 504}, "unavailable"},
		{"being made", "main", "main", ststest.Fault{Status: 202, Body: `{}`}, "unavailable"},
		{"limited", "main", "main", ststest.SecondaryRateLimit(http.StatusForbidden, 0), "rate limited"},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newWorld(t)
			inst := w.installation()
			if _, err := w.read(inst); err != nil { // the read token is proven
				t.Fatal(err)
			}
			if c.fault.Status != 0 || c.fault.Truncate {
				c.fault.Route = ststest.CompareRoute
				w.github.Fail(c.fault)
			}
			_, err := w.client.Compare(w.ctx, inst, "app", c.base, c.head)
			w.wants(err, c.kind)
		})
	}
}

// TestCompareMeansBranches: a tag of the same name is not what is compared.
func TestCompareMeansBranches(t *testing.T) {
	t.Parallel()
	w, inst := backgroundWorld(t)
	feature := w.github.Commit("acme", "app", "feature/one", ststest.Change{Path: "x", Content: "x"})
	w.github.Fail(ststest.Fault{Route: ststest.CompareRoute, Status: 404, Match: func(r *http.Request) bool {
		base, head, _ := strings.Cut(r.PathValue("basehead"), "...")
		return base != "refs/heads/main" || head != "refs/heads/feature/one" && head != feature
	}})
	for _, head := range []string{"feature/one", feature} {
		got, err := w.client.Compare(w.ctx, inst, "app", "main", head)
		if err != nil || got.Status != "ahead" || len(got.Files) != 1 {
			t.Errorf("got %+v, %v", got, err)
		}
	}
}

// TestCompareWithoutToken: a 500 to the mint of the read token is not about what is
// compared.
func TestCompareWithoutToken(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	inst := w.installation()
	w.github.Fail(ststest.Fault{Route: ststest.MintRoute, Status: 500})
	w.wants(w.compare(inst), "unavailable")
}

func TestDirectory(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	g := w.github
	empty := g.Commit("acme", "app", "empty", ststest.Change{Path: ".github", Delete: true})
	none := g.Commit("acme", "app", "none", ststest.Change{Path: policies, Delete: true}, ststest.Change{Path: ".github/x", Content: "x"})
	file := g.Commit("acme", "app", "file", ststest.Change{Path: policies, Delete: true}, ststest.Change{Path: policies, Content: "x"})
	g.PutSymlink("acme", "app", policies+"/link.sts.yaml", "ci.sts.yaml")
	g.PutSubmodule("acme", "app", policies+"/module", "https://example.com/m.git")
	head := g.Commit("acme", "app", "main", ststest.Change{Path: policies + "/sub/x.sts.yaml", Content: "x"})
	inst := w.installation()

	got, err := w.client.Directory(w.ctx, inst, "app", policies, head)
	if err != nil {
		t.Fatal(err)
	}
	var seen []string
	for _, entry := range got {
		if len(entry.SHA) != 40 {
			t.Errorf("%s has the ID %q", entry.Path, entry.SHA)
		}
		seen = append(seen, entry.Path+" "+entry.Type+" "+entry.Mode)
	}
	slices.Sort(seen)
	want := []string{policyPath + " blob 100644", policies + "/link.sts.yaml blob 120000", policies + "/module commit 160000", policies + "/sub tree 040000"}
	if diff := cmp.Diff(want, seen); diff != "" {
		t.Error(diff)
	}
	for name, commit := range map[string]string{"no .github": empty, "no chainguard": none} {
		if got, err := w.client.Directory(w.ctx, inst, "app", policies, commit); err != nil || len(got) != 0 {
			t.Errorf("%s: %v, %v; want nothing", name, got, err)
		}
	}
	_, err = w.client.Directory(w.ctx, inst, "app", policies, file)
	w.wants(err, "not a file")
	_, err = w.client.Directory(w.ctx, inst, "app", policies, strings.Repeat("1", 40))
	w.wants(err, "not found")
	_, err = w.client.Directory(w.ctx, inst, "app", policies, "main")
	w.wants(err, "refused")
}

func TestDirectoryDoubts(t *testing.T) {
	t.Parallel()
	const id = "1111111111111111111111111111111111111111"
	entry := func(path, kind string) string {
		return fmt.Sprintf(`{"path":%q,"mode":"100644","type":%q,"sha":%q}`, path, kind, id)
	}
	for _, c := range []struct {
		name string
		skip int // requests that are answered truly
		body string
		kind string
	}{
		{"truncated root", 0, `{"tree":[],"truncated":true}`, "too large"},
		{"truncated directory", 2, `{"tree":[],"truncated":true}`, "too large"},
		{"too many entries", 2, `{"tree":[` + strings.Repeat(entry("a", "blob")+",", 10_000) + entry("b", "blob") + `]}`, "too large"},
		{"too long", 2, strings.Repeat(" ", 16<<20) + `{}`, "too large"},
		{"no tree", 0, `{"message":"hello"}`, "unavailable"},
		{"a path that leads out", 2, `{"tree":[` + entry("../x", "blob") + `]}`, "unavailable"},
		{"no ID", 0, `{"tree":[{"path":".github","type":"tree","sha":"../../x"}]}`, "unavailable"},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newWorld(t)
			head, inst := w.github.SHA("acme", "app", "main"), w.installation()
			w.github.Fail(ststest.Fault{Route: ststest.TreeRoute, Skip: c.skip, Status: 200, Body: c.body})
			_, err := w.client.Directory(w.ctx, inst, "app", policies, head)
			w.wants(err, c.kind)
		})
	}
	t.Run("a tree that vanished", func(t *testing.T) {
		w := newWorld(t)
		head, inst := w.github.SHA("acme", "app", "main"), w.installation()
		w.github.Fail(ststest.Fault{Route: ststest.TreeRoute, Skip: 1, Status: 404})
		_, err := w.client.Directory(w.ctx, inst, "app", policies, head)
		w.wants(err, "unavailable") // never an empty directory, nor a missing commit
	})
}

func TestFileAt(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	g := w.github
	g.PutSymlink("acme", "app", "link", policyPath)
	g.PutSymlink("acme", "app", "dangling", "nowhere")
	g.PutSubmodule("acme", "app", "module", "https://example.com/m.git")
	first := g.Commit("acme", "app", "main", ststest.Change{Path: "file", Content: "one\n"}, ststest.Change{Path: "large", Content: strings.Repeat("x", 1<<20+1)})
	second := g.Commit("acme", "app", "main", ststest.Change{Path: "file", Content: "two\n"}, ststest.Change{Path: "a b/ü#?.txt", Content: "odd"})
	fork := g.OpenForkPull("acme", "app", "stranger", "main", ststest.Change{Path: "file", Content: "theirs\n"})
	inst := w.installation()
	for _, c := range []struct {
		path, commit, content, kind string
	}{
		{"file", first, "one\n", "ok"}, {"file", second, "two\n", "ok"}, {"file", fork.HeadSHA, "theirs\n", "ok"}, {"a b/ü#?.txt", second, "odd", "ok"},
		{"nothing", second, "", "not found"}, {"file", strings.Repeat("1", 40), "", "not found"},
		{"link", second, "", "not a file"}, {"dangling", second, "", "not a file"}, {"module", second, "", "not a file"}, {".github", second, "", "not a file"}, {"large", second, "", "not a file"},
		{"../file", second, "", "refused"}, {"file", "main", "", "refused"}, {"file", "main&x=", "", "refused"},
	} {
		t.Run(c.path+" "+c.kind, func(t *testing.T) {
			file, err := w.client.FileAt(w.ctx, inst, "app", c.path, c.commit)
			w.wants(err, c.kind)
			if err == nil && (string(file.Content) != c.content || file.Path != c.path || file.Repository != "acme/app") {
				t.Errorf("got %+v", file)
			}
		})
	}
	t.Run("keeps nothing", func(t *testing.T) {
		w.github.ResetCalls()
		for range 2 {
			if _, err := w.client.FileAt(w.ctx, inst, "app", "file", first); err != nil {
				t.Fatal(err)
			}
		}
		w.calls(ststest.ContentsRoute + "*2")
		if file, err := w.client.File(w.ctx, inst, "app", "file"); err != nil || string(file.Content) != "two\n" {
			t.Errorf("File gives %v, %v: want what is on the default branch", file, err)
		}
	})
}
