package trustpolicy_test

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/octo-sts/appliance/sts/trustpolicy"
)

// lines renders findings as "line severity rule".
func lines(findings []trustpolicy.Finding) []string {
	var out []string
	for _, f := range findings {
		out = append(out, fmt.Sprintf("%d %s %s", f.Line, f.Severity, f.Rule))
	}
	return out
}

func TestLint(t *testing.T) {
	const (
		path = ".github/chainguard/release.sts.yaml"
		// good has nothing to remark on.
		good = "issuer: " + actions + "\nsubject: repo:acme@1/app@2:ref:refs/heads/main\npermissions:\n  contents: read\n"
	)
	subject := func(pattern string) string {
		return "issuer: https://ci.example\nsubject_pattern: '" + pattern + "'\n" + tail
	}
	issuer := func(pattern string) string { return "issuer_pattern: '" + pattern + "'\nsubject: a\n" + tail }
	for _, tc := range []struct {
		name, path, yaml string
		want             []string
	}{
		{"good", path, good, nil},
		{"from standard input", "-", good, nil},

		// Errors are Parse's.
		{"no YAML", path, "a: [\n", []string{"1 error invalid"}},
		{"errors and warnings together", path, "issuer: https://ci.example\nsubject_pattern: '.*'\npermissions:\n  content: read\n", []string{"2 warning wildcard", "4 error invalid"}},

		// File names.
		{"x.yaml", ".github/chainguard/x.yaml", good, []string{"0 warning file-name"}},
		{"x.sts.yml", ".github/chainguard/x.sts.yml", good, []string{"0 warning file-name"}},
		{".sts.yaml", ".github/chainguard/.sts.yaml", good, []string{"0 warning file-name"}},
		{"a space", ".github/chainguard/a b.sts.yaml", good, []string{"0 warning file-name"}},
		{"two dots", ".github/chainguard/..sts.yaml", good, []string{"0 warning file-name"}},

		// Wildcards.
		{"matches anything", path, subject(".*"), []string{"2 warning wildcard"}},
		{"matches anything, in parentheses", path, subject("(.+)"), []string{"2 warning wildcard"}},
		{".* within", path, subject("repo:acme/app:.*"), []string{"2 warning wildcard"}},
		{".{3,} within", path, subject("repo:acme/app:.{3,}"), []string{"2 warning wildcard"}},
		{".* in an audience", path, "issuer: https://ci.example\nsubject: a\naudience_pattern: '.*'\n" + tail, []string{"3 warning wildcard"}},
		{".* in a claim", path, "issuer: https://ci.example\nsubject: a\nclaim_pattern:\n  email: '.*@example\\.com'\n" + tail, []string{"4 warning wildcard"}},
		{"a bounded class", path, subject("repo:acme/app:ref:refs/tags/v[0-9.]+"), nil},

		// Hosts.
		{"unescaped dots in a host", path, issuer("https://token.actions.githubusercontent.com"), []string{"1 warning unescaped-dot"}},
		{"escaped dots", path, issuer(`https://ci\.example`), nil},
		{"unescaped dot in a URL elsewhere", path, subject("https://host.example/x"), []string{"2 warning unescaped-dot"}},
		{"a dot in a repository's name", path, subject("repo:acme@1/app.js@2:x"), nil},
		{"wildcard host", path, issuer(`https://.*\.example\.com`), []string{"1 warning issuer-host"}},
		{"wildcard without a scheme", path, issuer(`.*`), []string{"1 warning issuer-host"}},
		{"negated class in the host", path, issuer(`https://[^.]+\.example\.com`), []string{"1 warning issuer-host"}},
		{"one branch with a wildcard host", path, issuer(`https://ci\.example/.*|https://.+\.example`), []string{"1 warning issuer-host"}},
		{"wildcard that may be all there is before the path", path, issuer(`https://ci(/a)?.+`), []string{"1 warning issuer-host"}},
		{"class without a slash in the host", path, issuer(`https://[a-z0-9-]+\.example\.com`), nil},
		{"wildcard in the path", path, issuer(`https://ci\.example/realms/.+`), []string{"1 warning wildcard"}},
		{"alternative hosts", path, issuer(`https://(a|b)\.example/[a-z]+`), nil},

		// Globs.
		{"glob in a pattern", path, subject("repo:acme/app:ref:refs/heads/*"), []string{"2 warning glob"}},
		{"glob behind a letter", path, subject("refs/tags/v*"), []string{"2 warning glob"}},
		{"glob as exact subject", path, "issuer: https://ci.example\nsubject: repo:acme/*\n" + tail, []string{"2 warning glob"}},
		{"regular expression as exact subject", path, "issuer: https://ci.example\nsubject: repo:acme/.*\n" + tail, []string{"2 warning glob"}},
		{"glob that does not compile", path, subject("*"), []string{"2 error invalid"}},

		// Reach.
		{"contents: write on its own repository", path, strings.Replace(good, "read", "write", 1), []string{"4 warning self-write"}},
		{"organization's, contents: write on others", "x/.github/" + path, strings.Replace(good, "read", "write", 1) + "repositories: [app]\n", nil},
		{"organization's, contents: write on the policy repository", "x/.github/" + path, strings.Replace(good, "read", "write", 1) + "repositories: [app, .GitHub]\n", []string{"4 warning self-write"}},
		{"organization's, contents: write on all", "x/.github/" + path, strings.Replace(good, "read", "write", 1), []string{"1 warning all-repositories", "4 warning self-write"}},
		{"organization's, all repositories", ".github/" + path, good, []string{"1 warning all-repositories"}},
		{"repositories, and the path does not tell", path, good + "repositories: [app]\n", []string{"5 warning kind"}},
		{"repositories faulty, and the path does not tell", path, good + "repositories: []\n", []string{"5 error invalid", "5 warning kind"}},

		// GitHub's subjects.
		{"name-only subject", path, head + tail, []string{"2 warning name-only-subject"}},
		{"name-only pattern", path, "issuer: " + actions + "\nsubject_pattern: 'repo:acme/app:ref:refs/heads/[a-z]+'\n" + tail, []string{"2 warning name-only-subject"}},
		{"name-only at GHE.com", path, "issuer: https://token.actions.acme.ghe.com\nsubject: repo:acme/app:x\n" + tail, []string{"2 warning name-only-subject"}},
		{"name-only at an Enterprise Server", path, "issuer: https://ghe.example/_services/token\nsubject: repo:acme/app:x\n" + tail, []string{"2 warning name-only-subject"}},
		{"name-only, issuer by pattern", path, "issuer_pattern: 'https://token\\.actions\\.githubusercontent\\.com'\nsubject: repo:acme/app:x\n" + tail, []string{"2 warning name-only-subject"}},
		{"name and a pinned ID", path, head + "claim_pattern: {repository_id: '2'}\n" + tail, nil},
		{"another issuer's repo:", path, "issuer: https://ci.example\nsubject: repo:acme/app:x\n" + tail, nil},
		{"environment with %3A", path, "issuer: " + actions + "\nsubject: repo:acme@1/app@2:environment:a%3Ab\n" + tail, []string{"2 warning environment-colon"}},
		{"environment with %3A, and its claim", path, "issuer: " + actions + "\nsubject: repo:acme@1/app@2:environment:a%3Ab\nclaim_pattern: {environment: 'a:b'}\n" + tail, nil},

		// The organization's issuers.
		{"trusted issuers", ".github/chainguard/trusted-token-issuers.yaml", "issuers: [" + actions + "]\n", nil},
		{"trusted issuers by a loose pattern", "trusted-token-issuers.yaml", "mode: audit\nissuer_patterns:\n  - 'https://a\\.example'\n  - 'https://.*\\.example'\n  - https://b.example\n", []string{"4 warning issuer-host", "5 warning unescaped-dot"}},
		{"trusted issuers, faulty", "trusted-token-issuers.yaml", "issuers: [x]\n", []string{"1 error invalid"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			got := trustpolicy.Lint(tc.path, []byte(tc.yaml), trustpolicy.GitHubPermissions())
			if diff := cmp.Diff(tc.want, lines(got)); diff != "" {
				t.Errorf("findings (-want +got):\n%s\n%+v", diff, got)
			}
		})
	}
}

func TestLacking(t *testing.T) {
	p := parse(t, trustpolicy.Organization, head+"permissions:\n  contents: write\n  issues: read\n  pages: write\n  organization_projects: admin\n")
	got := p.Lacking(map[string]string{"contents": "read", "issues": "write", "organization_projects": "admin"})
	if diff := cmp.Diff([]string{"4 warning not-installed", "6 warning not-installed"}, lines(got)); diff != "" {
		t.Errorf("findings (-want +got):\n%s", diff)
	}
	if !strings.HasPrefix(got[0].Message, "contents: write is more than the App's installation has (read)") || !strings.Contains(got[1].Message, "(nothing)") {
		t.Errorf("messages: %+v", got)
	}
}

func TestFindingAsJSON(t *testing.T) {
	encoded, err := json.Marshal(trustpolicy.Finding{Line: 2, Severity: trustpolicy.Warning, Rule: trustpolicy.RuleGlob, Message: "m"})
	if want := `{"line":2,"severity":"warning","rule":"glob","message":"m"}`; err != nil || string(encoded) != want {
		t.Errorf("%s, %v; want %s", encoded, err, want)
	}
}
