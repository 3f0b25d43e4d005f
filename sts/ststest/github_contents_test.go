package ststest

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"strings"
	"testing"
)

func TestContents(t *testing.T) {
	f := newFixture(t, GitHubConfig{})
	long := strings.Repeat("a policy ", 20)
	f.PutFile("acme", "one", "dir/file", long)
	f.PutFile("acme", "one", "dir/sub/deep", "x")
	f.PutFile("acme", "one", "big", strings.Repeat("x", 1<<20+1))
	f.PutSymlink("acme", "one", "dir/link", "../dir/file")
	f.PutSymlink("acme", "one", "dir/dangling", "../../outside")
	f.PutSymlink("acme", "one", "dirlink", "dir")
	f.PutSubmodule("acme", "one", "dir/module", "https://example.com/m.git")
	f.PutDirectory("acme", "one", "empty")
	token := f.mint(`{"permissions":{"contents":"read"}}`)
	get := func(path string, header ...string) reply {
		t.Helper()
		return f.do("GET", "/repos/acme/one/contents/"+path, token, "", header...)
	}
	decode := func(v map[string]any) string {
		b, err := base64.StdEncoding.DecodeString(strings.ReplaceAll(v["content"].(string), "\n", ""))
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}

	v := get("dir/file").json(t)
	// git hash-object of the same bytes.
	if v["type"] != "file" || v["encoding"] != "base64" || v["size"] != 180.0 || v["sha"] != blobSHA([]byte(long)) || v["path"] != "dir/file" || v["name"] != "file" || decode(v) != long {
		t.Errorf("a file: %v", v)
	}
	if lines := strings.Split(v["content"].(string), "\n"); len(lines[0]) != 60 || lines[len(lines)-1] != "" {
		t.Errorf("base64 has no lines of 60: %q", v["content"])
	}
	if v := get("big").json(t); v["encoding"] != "none" || v["content"] != "" || v["size"] != float64(1<<20+1) {
		t.Errorf("a big file: encoding %v, size %v", v["encoding"], v["size"])
	}
	if r := get("big", "Accept", "application/vnd.github.raw+json"); len(r.body) != 1<<20+1 {
		t.Errorf("a big file, raw: %d bytes", len(r.body))
	}
	if r := get("dir/file", "Accept", "application/vnd.github.raw"); string(r.body) != long || !strings.HasPrefix(r.Header.Get("Content-Type"), "application/vnd.github.raw") {
		t.Errorf("raw: %q, %s", r.body, r.Header.Get("Content-Type"))
	}
	v = get("dir/link").json(t)
	if v["type"] != "file" || decode(v) != long || v["path"] != "dir/link" || v["sha"] != blobSHA([]byte("../dir/file")) {
		t.Errorf("a link to a file: %v", v)
	}
	for path, target := range map[string]string{"dir/dangling": "../../outside", "dirlink": "dir"} {
		if v := get(path).json(t); v["type"] != "symlink" || v["target"] != target || v["content"] != nil {
			t.Errorf("%s: %v", path, v)
		}
	}
	if v := get("dir/module").json(t); v["type"] != "submodule" || v["submodule_git_url"] != "https://example.com/m.git" {
		t.Errorf("a submodule: %v", v)
	}
	for _, path := range []string{"dir", "dir?ref=main", "dir?ref=refs%2Fheads%2Fmain", "dir?ref=HEAD"} {
		if got, want := listing(t, get(path).body), "dangling:symlink file:file link:symlink module:file sub:dir"; got != want {
			t.Errorf("%s: %s, want %s", path, got, want)
		}
	}
	if got, want := listing(t, get("").body), "big:file dir:dir dirlink:symlink empty:dir"; got != want {
		t.Errorf("the root: %s, want %s", got, want)
	}
	if v := get("dir", "Accept", "application/vnd.github.object+json").json(t); v["type"] != "dir" || len(v["entries"].([]any)) != 5 {
		t.Errorf("a directory as an object: %v", v)
	}
	for _, path := range []string{"absent", "dir/file/x", "dirlink/file", "dir?ref=other", "DIR/file"} {
		if r := get(path); r.StatusCode != 404 {
			t.Errorf("%s: %s, want 404", path, r.Status)
		}
	}
	f.DeleteFile("acme", "one", "dir")
	if r := get("dir/file"); r.StatusCode != 404 {
		t.Errorf("deleted: %s", r.Status)
	}
}

func listing(t *testing.T, body []byte) string {
	t.Helper()
	var entries []struct{ Name, Type string }
	if err := json.Unmarshal(body, &entries); err != nil {
		t.Fatalf("%v in %s", err, body)
	}
	var all []string
	for _, e := range entries {
		all = append(all, e.Name+":"+e.Type)
	}
	return strings.Join(all, " ")
}

func TestBlobSHAIsGits(t *testing.T) {
	// From `printf 'hello\n' | git hash-object --stdin`.
	if got, want := blobSHA([]byte("hello\n")), "ce013625030ba8dba906f756967f9e9ca394464a"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

func TestPaging(t *testing.T) {
	f := newFixture(t, GitHubConfig{BasePath: "/api/v3"})
	for i := range 63 {
		f.AddRepository("acme", fmt.Sprintf("r%d", i))
	}
	token := f.mint("")
	seen, url := 0, "/installation/repositories?per_page=30"
	for pages := 0; url != ""; pages++ {
		r := f.do("GET", url, token, "")
		seen += len(r.json(t)["repositories"].([]any))
		if r.json(t)["total_count"] != 65.0 || pages > 3 {
			t.Fatalf("page %d: %s", pages, r.body)
		}
		url = next(r.Header.Get("Link"))
	}
	if seen != 65 {
		t.Errorf("saw %d repositories, want 65", seen)
	}
}

// next is the address of rel="next", or "".
func next(link string) string {
	for part := range strings.SplitSeq(link, ", ") {
		if url, ok := strings.CutSuffix(part, `>; rel="next"`); ok {
			return strings.TrimPrefix(url, "<")
		}
	}
	return ""
}

func TestRenamedRepository(t *testing.T) {
	f := newFixture(t, GitHubConfig{BasePath: "/api/v3"})
	f.PutFile("acme", "one", "a dir/f", "1")
	f.RenameRepository("acme", "one", "uno")
	token := f.mint("")
	for _, c := range []struct{ path, token string }{
		{"/repos/acme/one", token}, {"/repos/acme/one/contents/a%20dir/f?ref=main", token}, {"/repos/acme/one/installation", f.jwt()},
	} {
		r := f.do("GET", c.path, c.token, "")
		if r.StatusCode != 301 || !strings.HasPrefix(r.Header.Get("Location"), f.URL()+"/repositories/") {
			t.Fatalf("%s: %s %v", c.path, r.Status, r.Header)
		}
		if r := f.do("GET", r.Header.Get("Location"), c.token, ""); r.StatusCode != 200 {
			t.Errorf("%s: its Location: %s %s", c.path, r.Status, r.body)
		}
	}
	if r := f.do("POST", "/repos/acme/one/issues", f.mint(""), `{"title":"t"}`); r.StatusCode != 307 {
		t.Errorf("POST: %s", r.Status)
	}
	if r := f.do("POST", fmt.Sprintf("/app/installations/%d/access_tokens", f.installation), f.jwt(), `{"repositories":["one"]}`); r.StatusCode != 422 {
		t.Errorf("mint under the old name: %s", r.Status)
	}
	// A recycled name is another repository.
	first := f.do("GET", "/repos/acme/uno", token, "").json(t)["id"]
	if id := f.AddRepository("acme", "one"); float64(id) == first {
		t.Error("a recycled name has the old ID")
	}
	if r := f.do("GET", "/repos/acme/one", token, ""); r.StatusCode != 200 {
		t.Errorf("the new repository: %s", r.Status)
	}
	f.TransferRepository("acme", "uno", "other", "moved")
	if r := f.do("GET", "/repos/acme/uno", token, ""); r.StatusCode != 404 {
		t.Errorf("transferred out of the installation: %s", r.Status)
	}
}

func TestRecycledRepository(t *testing.T) {
	f := newFixture(t, GitHubConfig{})
	f.PutFile("acme", "one", "f", "1")
	token := f.mint(`{"repositories":["one"]}`)
	f.DeleteRepository("acme", "one")
	if r := f.do("GET", "/repos/acme/one", token, ""); r.StatusCode != 404 {
		t.Errorf("deleted: %s", r.Status)
	}
	f.AddRepository("acme", "one")
	if r := f.do("GET", "/repos/acme/one", token, ""); r.StatusCode != 404 {
		t.Errorf("a token of the old repository reads the new one: %s", r.Status)
	}
	if r := f.do("GET", "/repos/acme/one/contents/f", f.mint(""), ""); r.StatusCode != 404 {
		t.Errorf("the new repository has the old one's file: %s", r.Status)
	}
}

// TestRenamedOwner: everything moves along, and the login is free.
func TestRenamedOwner(t *testing.T) {
	f := newFixture(t, GitHubConfig{})
	f.PutFile("acme", "one", "f", "x")
	id := f.do("GET", "/repos/acme/one", f.mint(""), "").json(t)["id"]
	f.RenameOwner("Acme", "acme-inc")
	token := f.mint(`{"repositories":["one"]}`)
	if v := f.do("GET", "/repos/acme-inc/one", token, "").json(t); v["id"] != id || v["full_name"] != "acme-inc/one" {
		t.Errorf("under the new name: %v", v)
	}
	v := f.do("GET", "/repos/acme-inc/one/installation", f.jwt(), "").json(t)
	if v["id"] != float64(f.installation) || !strings.Contains(fmt.Sprint(v["account"]), "login:acme-inc") {
		t.Errorf("the installation: %v", v)
	}
	status := func(path, credential string, want int) {
		t.Helper()
		if r := f.do("GET", path, credential, ""); r.StatusCode != want {
			t.Errorf("%s: %s, want %d", path, r.Status, want)
		}
	}
	status("/repos/acme/one/contents/f", token, 301)
	status("/repos/acme/one/installation", f.jwt(), 301)
	status("/orgs/acme/installation", f.jwt(), 404)
	status("/orgs/acme-inc/installation", f.jwt(), 200)

	// Somebody takes the login: their repository is theirs, the other redirects on.
	f.AddRepositoryWith("acme", "one", RepositoryOptions{Public: true})
	f.PutFile("acme", "one", "g", "y")
	status("/repos/acme/one/contents/g", token, 200)
	status("/repos/acme/one/contents/f", token, 404)
	status("/repos/acme/one/installation", f.jwt(), 404)
	status("/repos/acme/two/installation", f.jwt(), 301)
	status("/repos/acme-inc/one/contents/f", token, 200)
}
