package githubapp

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"strings"
	"testing"
)

// FuzzContents: whatever GitHub answers, what is taken for a file is the one
// asked for, within bounds, and has the blob ID that it is known by.
func FuzzContents(f *testing.F) {
	for _, content := range []string{"", "x\n", "issuer: https://issuer.example\n", strings.Repeat("é", 100)} {
		f.Add(fmt.Appendf(nil, `{"type":"file","path":"p","sha":%q,"size":%d,"encoding":"base64","content":%q}`,
			blobID([]byte(content)), len(content), base64.StdEncoding.EncodeToString([]byte(content))+"\n"))
	}
	for _, odd := range []string{`[]`, ` [{"type":"file"}]`, `null`, `{}`, `{"type":"symlink","target":"q"}`, `{"type":"file","path":"p","size":1e99}`} {
		f.Add([]byte(odd))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		var a contentsAnswer
		if json.Unmarshal(data, &a) != nil {
			return
		}
		sha, content, failure := a.check("p")
		if failure != nil {
			if failure.kind != ErrNotAFile && failure.kind != ErrUnavailable || content != nil || sha != "" {
				t.Errorf("%v came with %q", failure, content)
			}
			return
		}
		if a.directory || a.object.Path != "p" || a.object.Type != "file" || len(content) > maxFileSize || blobID(content) != sha || a.object.SHA != sha {
			t.Errorf("%q was taken for a file", data)
		}
	})
}

// TestBlobID holds our arithmetic against git's own: `git hash-object`.
func TestBlobID(t *testing.T) {
	for content, want := range map[string]string{
		"":               "e69de29bb2d1d6434b8b29ae775ad8c2e48c5391",
		"x\n":            "587be6b4c3f93f93c489c0111bba5596147a26cb",
		"hello, world\n": "4b5fa63702dd96796042e92787f464e28f09f17d",
	} {
		if got := blobID([]byte(content)); got != want {
			t.Errorf("blobID(%q) = %s, want %s", content, got, want)
		}
	}
}

func TestEscapePath(t *testing.T) {
	for path, want := range map[string]string{
		".github/chainguard/ci.sts.yaml": ".github/chainguard/ci.sts.yaml",
		"a b/c?d#e":                      "a%20b/c%3Fd%23e",
		"%2e%2e/x":                       "%252e%252e/x",
		"...":                            "...",
		"":                               "", "/": "", "a/": "", "/a": "", "a//b": "", ".": "", "a/../b": "", "./a": "", "a\x00": "",
	} {
		got, err := escapePath(path)
		if got != want || (err == nil) != (want != "") {
			t.Errorf("escapePath(%q) = %q, %v; want %q", path, got, err, want)
		}
	}
}

func TestCovers(t *testing.T) {
	for _, c := range []struct {
		asked, given string
		want         bool
	}{
		{"read", "read", true}, {"write", "read", true}, {"admin", "write", true}, {"read", "write", false},
		{"", "read", false}, {"read", "", false}, {"odd", "odd", true}, {"admin", "odd", false}, {"odd", "read", false}, {"", "odd", false},
	} {
		if got := covers(c.asked, c.given); got != c.want {
			t.Errorf("covers(%q, %q) = %t", c.asked, c.given, got)
		}
	}
}
