package ststest

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// SHAs are git's own: git itself, given the same files, names the tree alike.
func TestTreeSHAIsGits(t *testing.T) {
	git, err := exec.LookPath("git")
	if err != nil {
		t.Fatal(err)
	}
	f := newFixture(t, GitHubConfig{})
	dir := t.TempDir()
	files := map[string]string{"a.txt": "1", "a/b": "2", "a/c/d": "3", "a-b": "4", "z": ""}
	for name, content := range files {
		f.PutFile("acme", "one", name, content)
		if err := os.MkdirAll(filepath.Dir(filepath.Join(dir, name)), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	var want string
	for _, args := range [][]string{{"init", "-q"}, {"add", "."}, {"write-tree"}} {
		cmd := exec.CommandContext(t.Context(), git, append([]string{"-c", "core.autocrlf=false"}, args...)...)
		cmd.Dir = dir
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("git %v: %v: %s", args, err, out)
		}
		want = strings.TrimSpace(string(out))
	}
	v := f.do("GET", "/repos/acme/one/commits/main", f.mint(""), "").json(t)
	if got := v["commit"].(map[string]any)["tree"].(map[string]any)["sha"]; got != want {
		t.Errorf("the tree is %v, git says %s", got, want)
	}
}

// A ref of the contents API: a branch in each of its forms, or the SHA of any
// commit, also one of a fork, or of a branch that is gone.
func TestContentsAtRef(t *testing.T) {
	f := newFixture(t, GitHubConfig{})
	f.PutFile("acme", "one", "dir/f", "first")
	first := f.SHA("acme", "one", "main")
	second := f.Commit("acme", "one", "main", Change{Path: "dir/f", Content: "second"})
	topic := f.Commit("acme", "one", "feature/x", Change{Path: "dir/f", Content: "topic"}, Change{Path: "dir/g", Content: "g"})
	gone := f.Commit("acme", "one", "gone", Change{Path: "dir", Delete: true}, Change{Path: "dir", Content: "a file now"})
	f.DeleteBranch("acme", "one", "gone")
	fork := f.OpenForkPull("acme", "one", "stranger", "main", Change{Path: "dir/f", Content: "fork"})
	elsewhere := f.Commit("acme", "two", "main", Change{Path: "x"})
	token := f.mint("")
	for _, c := range []struct{ path, ref, want string }{
		{"dir/f", "", "second"}, {"dir/f", "main", "second"}, {"dir/f", "HEAD", "second"}, {"dir/f", second, "second"},
		{"dir/f", first, "first"}, {"dir/f", strings.ToUpper(first), "first"}, {"dir/f", "feature/x", "topic"},
		{"dir/f", "refs/heads/feature/x", "topic"}, {"dir/f", "heads/feature/x", "topic"}, {"dir/f", topic, "topic"},
		{"dir", gone, "a file now"}, {"dir/f", fork.HeadSHA, "fork"},
		{"dir/g", "main", "404 Not Found"}, {"dir/f", gone, "404 Not Found"},
		{"dir/f", "absent", "404 No commit found for the ref absent"}, {"dir/f", "gone", "404 No commit found for the ref gone"},
		{"dir/f", zeroSHA, "404 No commit found for the ref " + zeroSHA}, {"dir/f", elsewhere, "404 No commit found for the ref " + elsewhere},
	} {
		r := f.do("GET", "/repos/acme/one/contents/"+c.path+"?ref="+strings.ReplaceAll(c.ref, "/", "%2F"), token, "", "Accept", "application/vnd.github.raw")
		got := string(r.body)
		if r.StatusCode != 200 {
			got = fmt.Sprintf("%d %s", r.StatusCode, r.message(t))
		}
		if got != c.want {
			t.Errorf("%s at %q: %q, want %q", c.path, c.ref, got, c.want)
		}
	}
	if got := listing(t, f.do("GET", "/repos/acme/one/contents/dir?ref=feature/x", token, "").body); got != "f:file g:file" {
		t.Errorf("a directory at a ref: %s", got)
	}
	// The default branch is the one that counts without a ref.
	f.SetDefaultBranch("acme", "one", "feature/x")
	if r := f.do("GET", "/repos/acme/one/contents/dir/f", token, "", "Accept", "application/vnd.github.raw"); string(r.body) != "topic" {
		t.Errorf("after SetDefaultBranch: %s", r.body)
	}
}

func TestCommits(t *testing.T) {
	f := newFixture(t, GitHubConfig{})
	parent := f.SHA("acme", "one", "main")
	changes := make([]Change, 650)
	for i := range changes {
		changes[i] = Change{Path: fmt.Sprintf("d/f%03d", i), Content: "x\n"}
	}
	sha := f.Commit("acme", "one", "main", changes...)
	token := f.mint("")
	for _, ref := range []string{sha, "main", "heads/main", "HEAD"} {
		r := f.do("GET", "/repos/acme/one/commits/"+ref, token, "")
		v := r.json(t)
		if r.StatusCode != 200 || v["sha"] != sha || v["parents"].([]any)[0].(map[string]any)["sha"] != parent {
			t.Errorf("%s: %s", ref, r.Status)
		}
		if v["stats"].(map[string]any)["additions"] != 650.0 {
			t.Errorf("%s: stats %v", ref, v["stats"])
		}
	}
	files, url := 0, "/repos/acme/one/commits/"+sha
	for pages := 0; url != "" && pages < 5; pages++ { // 300 files a page
		r := f.do("GET", url, token, "")
		files += len(r.json(t)["files"].([]any))
		url = next(r.Header.Get("Link"))
	}
	if files != 650 {
		t.Errorf("%d files over all pages, want 650", files)
	}
	if r := f.do("GET", "/repos/acme/one/commits/absent", token, ""); r.StatusCode != 422 || r.message(t) != "No commit found for SHA: absent" {
		t.Errorf("absent: %s %s", r.Status, r.body)
	}
	if r := f.do("GET", "/repos/other/secret/commits/main", token, ""); r.StatusCode != 404 {
		t.Errorf("outside the scope: %s", r.Status)
	}
}

func TestTrees(t *testing.T) {
	f := newFixture(t, GitHubConfig{})
	f.PutFile("acme", "one", "a/b/c", "1")
	f.PutFile("acme", "one", "a/d", "22")
	f.PutFile("acme", "one", "a.x", "3")
	f.PutSymlink("acme", "one", "link", "a/d")
	f.PutSubmodule("acme", "one", "module", "https://example.com/m.git")
	token := f.mint(`{"repositories":["one"],"permissions":{"contents":"read"}}`)
	type entry struct {
		Path, Mode, Type, SHA string
		Size                  *int
	}
	get := func(name string) (entries []entry, truncated bool) {
		t.Helper()
		r := f.do("GET", "/repos/acme/one/git/trees/"+name, token, "")
		var v struct {
			Tree      []entry
			Truncated bool
		}
		if r.StatusCode != 200 {
			t.Fatalf("%s: %s %s", name, r.Status, r.body)
		}
		unmarshal(t, r.body, &v)
		return v.Tree, v.Truncated
	}
	list := func(all []entry) string {
		var s []string
		for _, e := range all {
			line := e.Path + " " + e.Mode + " " + e.Type
			if e.Size != nil {
				line += fmt.Sprint(" ", *e.Size)
			}
			s = append(s, line)
		}
		return strings.Join(s, ", ")
	}
	root, _ := get("main")
	if got, want := list(root), "a.x 100644 blob 1, a 040000 tree, link 120000 blob 3, module 160000 commit"; got != want {
		t.Errorf("the root: %s, want %s", got, want)
	}
	sub, _ := get(root[1].SHA) // paths are relative to the tree that was asked for
	if got, want := list(sub), "b 040000 tree, d 100644 blob 2"; got != want {
		t.Errorf("a directory by its SHA: %s, want %s", got, want)
	}
	if sub[1].SHA != blobSHA([]byte("22")) {
		t.Errorf("a blob is %s", sub[1].SHA)
	}
	for _, query := range []string{"?recursive=1", "?recursive=0", "?recursive=false"} { // "any value", by GitHub's documentation
		all, truncated := get(f.SHA("acme", "one", "main") + query)
		if got, want := list(all), "a.x 100644 blob 1, a 040000 tree, a/b 040000 tree, a/b/c 100644 blob 1, a/d 100644 blob 2, link 120000 blob 3, module 160000 commit"; got != want || truncated {
			t.Errorf("%s: %s, want %s", query, got, want)
		}
	}
	if r := f.do("GET", "/repos/acme/one/git/trees/"+zeroSHA, token, ""); r.StatusCode != 404 {
		t.Errorf("absent: %s", r.Status)
	}
	// Beyond 7 MB of a recursive listing the rest is cut off, and said to be.
	changes := make([]Change, 40_000)
	for i := range changes {
		changes[i] = Change{Path: fmt.Sprintf("many/%05d", i)}
	}
	f.Commit("acme", "one", "main", changes...)
	all, truncated := get("main?recursive=1")
	if !truncated || len(all) < 20_000 || len(all) >= 40_000 {
		t.Errorf("40,000 files: %d listed, truncated %v", len(all), truncated)
	}
	if r := f.do("GET", "/repos/acme/one/contents/many", token, ""); len(strings.Split(r.Header.Get("Content-Type"), ",")) != 1 || strings.Count(string(r.body), `"path"`) != maxDirectoryEntries {
		t.Errorf("the contents API lists %d files of a directory, want 1,000", strings.Count(string(r.body), `"path"`))
	}
}
