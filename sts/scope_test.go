package sts

import (
	"strings"
	"testing"
)

func TestParseScope(t *testing.T) {
	long := strings.Repeat("a", 100)
	for _, c := range []struct {
		in   string
		want Scope
		ok   bool
	}{
		{"my-org", Scope{Owner: "my-org"}, true},
		{"my-org/my.repo_1", Scope{"my-org", "my.repo_1"}, true},
		{"My-Org/Repo", Scope{"My-Org", "Repo"}, true}, // as given: GitHub ignores case
		{"my-org/.github", Scope{"my-org", ".github"}, true},
		{"someone_corp/repo", Scope{"someone_corp", "repo"}, true}, // a managed user
		{"old-/repo", Scope{"old-", "repo"}, true},
		{"o/" + long, Scope{"o", long}, true},

		{in: ""},
		{in: "/"},
		{in: "/org"},
		{in: "org/"},
		{in: "org//repo"},
		{in: "./org"},
		{in: "../org"},
		{in: "org/."},
		{in: "org/.."},
		{in: "foo/../x"},
		{in: "a/b/c"},
		{in: "-org/repo"},
		{in: "_org/repo"},
		{in: "or g/repo"},
		{in: "org/re po"},
		{in: "org/repo\n"},
		{in: "org/repo\x00"},
		{in: "org/repo%2F"},
		{in: "org/repo?ref=x"},
		{in: "org/repo#x"},
		{in: "org\\repo"},
		{in: "örg/repo"},
		{in: "org/repo.git"},
		{in: "org/repo.WIKI"},
		{in: "org/" + long + "a"},
		{in: strings.Repeat("a", 40)},
	} {
		got, err := ParseScope(c.in)
		if c.ok != (err == nil) || got != c.want {
			t.Errorf("ParseScope(%q) = %+v, %v", c.in, got, err)
		}
	}
}

func TestCheckIdentity(t *testing.T) {
	for in, ok := range map[string]bool{
		"deploy": true, "Deploy-1.2_x@y+z": true, "_": true, strings.Repeat("a", 200): true,

		"": false, ".": false, "..": false, ".hidden": false, "../x": false, "a/b": false, `a\b`: false, "a b": false,
		"a\x00": false, "a\n": false, "a%2Fb": false, "a?b": false, "ä": false,
		strings.Repeat("a", 201): false, strings.Repeat("a", 10<<10): false,
	} {
		if err := CheckIdentity(in); ok != (err == nil) {
			t.Errorf("CheckIdentity(%q): %v", in, err)
		}
	}
}

// What parses as a scope is the scope: nothing is cleaned up into something else.
func FuzzParseScope(f *testing.F) {
	for _, seed := range []string{"org", "org/repo", "org/../x", "org//x", "./org", "a/b/c"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, in string) {
		s, err := ParseScope(in)
		if err != nil {
			return
		}
		if s.String() != in {
			t.Errorf("ParseScope(%q) gives %q", in, s)
		}
		if strings.Contains(in, "..") && s.Repository == ".." || strings.Count(in, "/") > 1 {
			t.Errorf("ParseScope accepts %q", in)
		}
	})
}

// What strangers send is written into logs and messages, and read by people.
func TestClip(t *testing.T) {
	for in, want := range map[string]string{
		"acme/app":                "acme/app",
		"a\x1b[2Jb\u009bc\u202ed": "a?[2Jb?c?d",
		strings.Repeat("a", 1000): strings.Repeat("a", 100) + "…",
	} {
		if got := clip(in); got != want {
			t.Errorf("clip(%q) = %q, want %q", in, got, want)
		}
	}
}
