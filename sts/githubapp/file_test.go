package githubapp_test

import (
	"bytes"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/octo-sts/appliance/sts/ststest"
)

// TestFileThatGitHubLosesForAMoment: what was there, and is said not to be there,
// is asked for again within 30 s, however long PolicyMaxAge is.
func TestFileThatGitHubLosesForAMoment(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	inst := w.installation()
	_, err := w.read(inst)
	w.wants(err, "ok")
	w.clock.advance(61 * time.Second)
	fault := w.github.Fail(ststest.Fault{Route: ststest.ContentsRoute, Status: 404})
	_, err = w.read(inst)
	w.wants(err, "not found")
	fault.Clear()
	w.clock.advance(20 * time.Second)
	_, err = w.read(inst)
	w.wants(err, "not found")
	w.clock.advance(6 * time.Second)
	_, err = w.read(inst)
	w.wants(err, "ok")
}

func TestFile(t *testing.T) {
	t.Parallel()
	largest := strings.Repeat("x", 64<<10)
	for _, c := range []struct {
		name    string
		prepare func(*ststest.GitHub)
		repo    string
		path    string
		content string
		kind    string
		words   string
	}{
		{name: "a file", repo: "app", path: policyPath, content: "issuer: https://issuer.example\n", kind: "ok"},
		{name: "a repository in another case", repo: "APP", path: policyPath, content: "issuer: https://issuer.example\n", kind: "ok"},
		{name: "a path in another case", repo: "app", path: ".github/chainguard/CI.sts.yaml", kind: "not found"},
		{name: "an empty file", prepare: put("x", ""), repo: "app", path: "x", content: "", kind: "ok"},
		{name: "a file of 64 KiB", prepare: put("x", largest), repo: "app", path: "x", content: largest, kind: "ok"},
		{name: "a file of 64 KiB and a byte", prepare: put("x", largest+"x"), repo: "app", path: "x", kind: "not a file", words: "65537 bytes"},
		{name: "a file of 1 MiB", prepare: put("x", strings.Repeat(largest, 16)), repo: "app", path: "x", kind: "not a file", words: "more than 65536 bytes"},
		{name: "bytes that are no text", prepare: put("x", "\x00\xff\xfe"), repo: "app", path: "x", content: "\x00\xff\xfe", kind: "ok"},
		{name: "a name to escape", prepare: put("a b/c?d#e%2f", "y"), repo: "app", path: "a b/c?d#e%2f", content: "y", kind: "ok"},
		{name: "no file", repo: "app", path: "nothing", kind: "not found", words: "GitHub answered 404"},
		{name: "no repository", repo: "nothing", path: policyPath, kind: "not found"},
		{name: "a directory", prepare: func(g *ststest.GitHub) { g.PutDirectory("acme", "app", "d.sts.yaml") }, repo: "app", path: "d.sts.yaml", kind: "not a file", words: "directory"},
		{name: "a symbolic link to a file", prepare: func(g *ststest.GitHub) { g.PutSymlink("acme", "app", ".github/chainguard/l", "ci.sts.yaml") }, repo: "app", path: ".github/chainguard/l", kind: "not a file", words: "symbolic link"},
		{name: "a symbolic link to nothing", prepare: func(g *ststest.GitHub) { g.PutSymlink("acme", "app", "l", "gone") }, repo: "app", path: "l", kind: "not a file", words: "symbolic link"},
		{name: "a submodule", prepare: func(g *ststest.GitHub) { g.PutSubmodule("acme", "app", "s", "https://github.com/evil/s.git") }, repo: "app", path: "s", kind: "not a file", words: "submodule"},
		{name: "a renamed repository", prepare: func(g *ststest.GitHub) { g.RenameRepository("acme", "app", "new") }, repo: "app", path: policyPath, kind: "refused", words: "renamed or moved"},
		{name: "a path upwards", repo: "app", path: "../x", kind: "refused"},
		{name: "an absolute path", repo: "app", path: "/x", kind: "refused"},
		{name: "no path", repo: "app", path: "", kind: "refused"},
		{name: "an owner for a repository", repo: "../evil/x", path: "x", kind: "refused"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			inst := w.installation()
			if c.prepare != nil {
				c.prepare(w.github)
			}
			asked := w.clock.now()
			file, err := w.client.File(w.ctx, inst, c.repo, c.path)
			w.wants(err, c.kind, c.words)
			if err != nil {
				return
			}
			if string(file.Content) != c.content || file.Path != c.path || file.Repository != "acme/"+c.repo || len(file.SHA) != 40 {
				t.Errorf("got %d bytes of %s in %s (%s)", len(file.Content), file.Path, file.Repository, file.SHA)
			}
			if file.FetchedAt.Before(asked) || file.FetchedAt.After(w.clock.now()) {
				t.Errorf("FetchedAt is %s, which is not when it was fetched", file.FetchedAt)
			}
		})
	}
}

func put(path, content string) func(*ststest.GitHub) {
	return func(g *ststest.GitHub) { g.PutFile("acme", "app", path, content) }
}

// TestOddFiles are answers that contradict themselves or the question.
func TestOddFiles(t *testing.T) {
	t.Parallel()
	const sha = "587be6b4c3f93f93c489c0111bba5596147a26cb" // of "x\n"
	for _, c := range []struct{ name, body, kind, words string }{
		{"as it should be", `{"type":"file","path":"p","sha":"` + sha + `","size":2,"encoding":"base64","content":"eAo=\n"}`, "ok", ""},
		{"of another path", `{"type":"file","path":"q","sha":"` + sha + `","size":2,"encoding":"base64","content":"eAo=\n"}`, "not a file", `\"q\"`},
		{"of another blob", `{"type":"file","path":"p","sha":"` + strings.Repeat("0", 40) + `","size":2,"encoding":"base64","content":"eAo=\n"}`, "not a file", "symbolic link"},
		{"of another size", `{"type":"file","path":"p","sha":"` + sha + `","size":3,"encoding":"base64","content":"eAo=\n"}`, "unavailable", "2 bytes"},
		{"a negative size", `{"type":"file","path":"p","sha":"` + sha + `","size":-1,"encoding":"base64","content":"eAo=\n"}`, "unavailable", "2 bytes"},
		{"no content", `{"type":"file","path":"p","sha":"` + sha + `","size":2,"encoding":"none","content":""}`, "unavailable", "none"},
		{"no base64", `{"type":"file","path":"p","sha":"` + sha + `","size":2,"encoding":"base64","content":"!"}`, "unavailable", "base64"},
		{"stray bits", `{"type":"file","path":"p","sha":"` + sha + `","size":2,"encoding":"base64","content":"eAp="}`, "unavailable", "base64"},
		{"a target", `{"type":"file","path":"p","target":"q","sha":"` + sha + `","size":2,"encoding":"base64","content":"eAo=\n"}`, "not a file", "symbolic link"},
		{"a submodule that says file", `{"type":"file","path":"p","submodule_git_url":"u","sha":"` + sha + `","size":0}`, "not a file", "submodule"},
		{"another type", `{"type":"commit","path":"p"}`, "unavailable", "commit"},
		{"an empty directory", `[]`, "not a file", "directory"},
		{"cut short", `{"type":"file","path":"p","sha":"` + sha + `","size":2,"enc`, "unavailable", "JSON"},
		{"nothing", ``, "unavailable", "JSON"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			inst := w.installation()
			body := c.body
			if body == "" {
				body = " "
			}
			w.github.Fail(ststest.Fault{Route: ststest.ContentsRoute, Status: 200, Body: body})
			file, err := w.client.File(w.ctx, inst, "app", "p")
			w.wants(err, c.kind, strings.ReplaceAll(c.words, `\`, ""))
			if err == nil && (file.SHA != sha || string(file.Content) != "x\n") {
				t.Errorf("got %q (%s)", file.Content, file.SHA)
			}
		})
	}
}

// TestFileIsAskedForAgain: when a known version is used, and what asking costs.
func TestFileIsAskedForAgain(t *testing.T) {
	t.Parallel()
	for _, weak := range []bool{false, true} {
		w := newWorld(t, func(o *options) { o.github.WeakETags = weak })
		inst := w.installation()
		first, err := w.read(inst)
		w.wants(err, "ok")
		w.github.ResetCalls()

		w.clock.advance(55 * time.Second)
		again, err := w.read(inst)
		w.wants(err, "ok")
		if again != first {
			t.Error("within its age a file is another one")
		}
		w.calls()

		w.clock.advance(6 * time.Second)
		conditional := 0
		w.github.Fail(ststest.Fault{Route: ststest.ContentsRoute, Count: 1, Delay: time.Nanosecond, Match: func(r *http.Request) bool {
			if r.Header.Get("If-None-Match") != "" {
				conditional++
			}
			return true
		}})
		confirmed, err := w.read(inst)
		w.wants(err, "ok")
		w.calls(ststest.ContentsRoute, ststest.RepoInstallRoute)
		if conditional != 1 || confirmed == first || !confirmed.FetchedAt.After(first.FetchedAt) || &confirmed.Content[0] != &first.Content[0] || confirmed.SHA != first.SHA {
			t.Errorf("a version that GitHub confirms should be the same content, with a newer time: %d conditional requests, %v and %v", conditional, first.FetchedAt, confirmed.FetchedAt)
		}

		w.github.PutFile("acme", "app", policyPath, "changed")
		w.clock.advance(time.Minute)
		changed, err := w.read(inst)
		w.wants(err, "ok")
		if string(changed.Content) != "changed" || !bytes.HasPrefix(first.Content, []byte("issuer")) {
			t.Errorf("after the change the file is %q, and what was handed out before is %q", changed.Content, first.Content)
		}

		w.github.DeleteFile("acme", "app", policyPath)
		w.clock.advance(time.Minute)
		_, err = w.read(inst)
		w.wants(err, "not found")
		_, err = w.read(inst)
		w.wants(err, "not found")
	}
}

func TestPolicyMaxAgeZeroAlwaysAsks(t *testing.T) {
	t.Parallel()
	w := newWorld(t, func(o *options) { o.config.PolicyMaxAge = 0 })
	inst := w.installation()
	for range 3 {
		_, err := w.read(inst)
		w.wants(err, "ok")
	}
	w.calls(ststest.MintRoute, ststest.ContentsRoute+"*3")
	w.github.DeleteFile("acme", "app", policyPath)
	_, err := w.read(inst)
	w.wants(err, "not found")
	w.github.PutFile("acme", "app", policyPath, "back")
	_, err = w.read(inst)
	w.wants(err, "ok")
}

// TestAbsenceIsKept for exactly as long as a file is.
func TestAbsenceIsKept(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	inst := w.installation()
	_, err := w.client.File(w.ctx, inst, "app", "late")
	w.wants(err, "not found")
	w.github.ResetCalls()
	w.github.PutFile("acme", "app", "late", "here")
	w.clock.advance(55 * time.Second)
	_, err = w.client.File(w.ctx, inst, "app", "late")
	w.wants(err, "not found")
	w.calls()
	w.clock.advance(6 * time.Second)
	_, err = w.client.File(w.ctx, inst, "app", "late")
	w.wants(err, "ok")
}

// TestFreshReadToken: GitHub refuses its own token for a while. The file must
// not pass for absent meanwhile.
func TestFreshReadToken(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name   string
		status int
		uses   int
		path   string
		kind   string
		words  string
	}{
		{"401 once", 401, 1, policyPath, "ok", ""},
		{"403 twice", 403, 2, policyPath, "ok", ""},
		{"404 once", 404, 1, policyPath, "ok", ""},
		{"404 three times", 404, 3, policyPath, "ok", ""},
		{"404 anyway", 404, 3, "nothing", "not found", ""},
		{"401 for good", 401, 1 << 30, policyPath, "unavailable", "does not yet serve the token"},
		{"404 for good", 404, 1 << 30, policyPath, "unavailable", "does not yet serve the token"},
		{"403 for good", 403, 1 << 30, policyPath, "refused", "Resource not accessible"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			inst := w.installation()
			w.github.RefuseFreshTokens(c.uses, c.status)
			_, err := w.client.File(w.ctx, inst, "app", c.path)
			w.wants(err, c.kind, c.words)
			w.github.RefuseFreshTokens(0, 0)
			w.clock.advance(29 * time.Second)
			_, err = w.read(inst)
			w.wants(err, "ok")
		})
	}
}

// TestAbsenceOnColdToken costs two calls more, and only the first time.
func TestAbsenceOnColdToken(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	inst := w.installation()
	_, err := w.client.File(w.ctx, inst, ".github", "nothing")
	w.wants(err, "not found")
	w.calls(ststest.MintRoute, ststest.ContentsRoute+"*2", proveRoute)
	w.github.ResetCalls()
	_, err = w.client.File(w.ctx, inst, "app", "nothing")
	w.wants(err, "not found")
	w.calls(ststest.ContentsRoute)
}

func TestReadTokenIsReplaced(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	inst := w.installation()
	_, err := w.read(inst)
	w.wants(err, "ok")
	mints := w.github.Mints()
	if len(mints) != 1 || !mints[0].AllRepositories || mints[0].Permissions["contents"] != "read" || len(mints[0].Permissions) != 2 {
		t.Errorf("the read token is %+v, want contents: read (and metadata: read) for all repositories", mints)
	}
	w.github.ResetCalls()
	w.clock.advance(54 * time.Minute)
	_, err = w.read(inst)
	w.wants(err, "ok")
	w.calls(ststest.ContentsRoute, ststest.RepoInstallRoute)

	w.github.ResetCalls()
	w.clock.advance(2 * time.Minute) // under 5 minutes are left
	_, err = w.read(inst)
	w.wants(err, "ok")
	w.calls(ststest.MintRoute, ststest.ContentsRoute, ststest.RepoInstallRoute)

	w.github.ResetCalls()
	w.clock.advance(2 * time.Minute)
	w.github.ExpireTokens()
	_, err = w.read(inst)
	w.wants(err, "ok")
	w.calls(ststest.MintRoute, ststest.ContentsRoute+"*2", ststest.RepoInstallRoute)
}

// TestStaleFile: under a rate limit what GitHub said less than 10 minutes ago
// serves, also that there is no such file; for no other reason.
func TestStaleFile(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	inst := w.installation()
	first, err := w.read(inst)
	w.wants(err, "ok")
	_, err = w.client.File(w.ctx, inst, "app", "nothing")
	w.wants(err, "not found")
	w.clock.advance(5 * time.Minute)
	broken := w.github.Fail(ststest.Fault{Route: ststest.ContentsRoute, Status: 502})
	_, err = w.read(inst)
	w.wants(err, "unavailable")
	broken.Clear()

	w.github.Fail(ststest.SecondaryRateLimit(429, 30*time.Minute))
	w.github.ResetCalls()
	for range 3 {
		stale, err := w.read(inst)
		w.wants(err, "ok")
		if stale != first {
			t.Error("want the version that GitHub confirmed last")
		}
		_, err = w.client.File(w.ctx, inst, "app", "nothing")
		w.wants(err, "not found")
	}
	if n := w.totalCalls(); n != 1 {
		t.Errorf("%d calls before the time that GitHub set, want the one that drew the limit", n)
	}
	w.clock.advance(5 * time.Minute)
	_, err = w.read(inst)
	w.wants(err, "rate limited")
	_, err = w.client.File(w.ctx, inst, "app", "nothing")
	w.wants(err, "rate limited")
}
