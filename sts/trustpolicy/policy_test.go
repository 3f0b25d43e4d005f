package trustpolicy_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/octo-sts/appliance/sts/strictyaml"
	"github.com/octo-sts/appliance/sts/trustpolicy"
)

const (
	actions = "https://token.actions.githubusercontent.com"
	domain  = "sts.example.com"
	// head is a policy that lacks only what a case is about.
	head = "issuer: " + actions + "\nsubject: repo:acme/app:ref:refs/heads/main\n"
	tail = "permissions: {contents: read}\n"
)

func parse(t testing.TB, kind trustpolicy.Kind, yaml string) *trustpolicy.TrustPolicy {
	t.Helper()
	p, err := trustpolicy.Parse(kind, "p.sts.yaml", []byte(yaml), trustpolicy.GitHubPermissions())
	if err != nil {
		t.Fatalf("%v\n%s", err, yaml)
	}
	return p
}

func TestParse(t *testing.T) {
	p := parse(t, trustpolicy.Organization, `
issuer_pattern: 'https://token\.actions\.githubusercontent\.com'
subject_pattern: 'repo:acme/[a-z]+:ref:refs/heads/main'
audience: octo
claim_pattern:
  ref_protected: true
  repository_id: 123456
  https://example.com/team: blue
permissions: {contents: write, issues: read}
repositories: [app, Site.js, .github]
`)
	if diff := cmp.Diff(map[string]string{"contents": "write", "issues": "read"}, p.Permissions()); diff != "" {
		t.Errorf("Permissions (-want +got):\n%s", diff)
	}
	names, all := p.Repositories()
	if diff := cmp.Diff([]string{"app", "Site.js", ".github"}, names); diff != "" || all {
		t.Errorf("Repositories, all = %v (-want +got):\n%s", all, diff)
	}
	if diff := cmp.Diff([]string{"https://example.com/team", "ref_protected", "repository_id"}, p.ClaimNames()); diff != "" {
		t.Errorf("ClaimNames (-want +got):\n%s", diff)
	}
	p.Permissions()["administration"] = "write"
	if len(p.Permissions()) != 2 {
		t.Error("a caller can change the policy")
	}
	if names, all := parse(t, trustpolicy.Organization, head+tail).Repositories(); names != nil || !all {
		t.Errorf("without repositories: %v, %v; want all", names, all)
	}
}

func TestParseRefuses(t *testing.T) {
	const repo, org = trustpolicy.Repository, trustpolicy.Organization
	names := func(n int) string {
		var b strings.Builder
		for i := range n {
			fmt.Fprintf(&b, "  - r%d\n", i)
		}
		return b.String()
	}
	subject := func(pattern string) string {
		return "issuer: " + actions + "\nsubject_pattern: " + pattern + "\n" + tail
	}
	for _, tc := range []struct {
		name string
		kind trustpolicy.Kind
		yaml string
		want string
	}{
		// The file.
		{"empty file", repo, "", "p:1: the file is empty"},
		{"two documents", repo, head + tail + "---\n" + head + tail, "p:4: a second document begins here"},
		{"tab", repo, head + "permissions:\n\tcontents: read\n", "p:4: the line is indented with a tab"},
		{"exploding aliases", repo, "a: &a [x, x]\nb: &b [*a, *a]\nc: [*b, *b]\n" + head + tail, "p:3: alias *b: aliases are not supported"},
		{"unknown key", repo, head + tail + "subjects: x\n", `p:4: unknown key "subjects": did you mean subject?`},
		{"duplicate key", repo, head + tail + "subject: x\n", `p:4: duplicate key "subject": it is on line 2 already`},
		{"duplicate permission", repo, head + "permissions:\n  contents: read\n  contents: write\n", `p:5: duplicate key "contents"`},
		{"over 64 KiB", repo, head + tail + "#" + strings.Repeat("x", 64<<10), "over the limit of 65536"},
		{"the directory listing that GitHub answers for a directory", repo, `[{"name": "x.sts.yaml", "type": "file"}]`, "the file holds a list"},
		{"the target that a symlink's blob holds", repo, "../other.sts.yaml", "where keys and their values were expected"},

		// Exactly one of each pair.
		{"no issuer", repo, "subject: a\n" + tail, "p:1: issuer is missing: write either issuer or issuer_pattern"},
		{"no subject", repo, "issuer: " + actions + "\n" + tail, "p:1: subject is missing"},
		{"two issuers", repo, head + "issuer_pattern: x\n" + tail, "p:3: issuer and issuer_pattern exclude each other"},
		{"two subjects", repo, head + "subject_pattern: x\n" + tail, "p:3: subject and subject_pattern exclude each other"},
		{"two audiences", repo, head + "audience: a\naudience_pattern: x\n" + tail, "p:4: audience and audience_pattern exclude each other"},
		{"two subjects, one empty", repo, head + "subject_pattern: ''\n" + tail, "exclude each other"},
		{"null subject", repo, "issuer: " + actions + "\nsubject:\n" + tail, "p:2: subject has no value"},
		{"empty issuer", repo, "issuer: ''\nsubject: a\n" + tail, "p:1: issuer is empty"},
		{"empty subject", repo, "issuer: " + actions + "\nsubject: ''\n" + tail, "p:2: subject is empty"},
		{"empty audience", repo, head + "audience: ''\n" + tail, "p:3: audience is empty"},
		{"subject as a block", repo, "issuer: " + actions + "\nsubject: |\n  repo:acme/app\n" + tail, "p:2: subject has a line break"},
		{"subject with a space at the end", repo, "issuer: " + actions + "\nsubject: 'repo:acme/app '\n" + tail, "subject begins or ends with a space"},
		{"list as subject", repo, "issuer: " + actions + "\nsubject: [a, b]\n" + tail, "p:2: subject must be text, not a list"},

		// Issuers that no token can have.
		{"http issuer", repo, "issuer: http://gitlab.example\nsubject: a\n" + tail, `p:1: issuer "http://gitlab.example" must begin with https://`},
		{"issuer without a scheme", repo, "issuer: gitlab.example\nsubject: a\n" + tail, "is no URL"},
		{"file issuer", repo, "issuer: file:///etc/passwd\nsubject: a\n" + tail, "is no URL"},
		{"issuer without a host", repo, "issuer: https:///x\nsubject: a\n" + tail, "is no URL"},
		{"issuer with a user", repo, "issuer: https://a@b.example\nsubject: a\n" + tail, "has a user, a query or a fragment"},
		{"issuer with a query", repo, "issuer: https://b.example?\nsubject: a\n" + tail, "has a user, a query or a fragment"},
		{"issuer with a fragment", repo, "issuer: https://b.example#x\nsubject: a\n" + tail, "has a user, a query or a fragment"},
		{"issuer with a space", repo, "issuer: https://b.example/a b\nsubject: a\n" + tail, "is no URL"},

		// Patterns.
		{"unbalanced )|(", repo, subject(`')|('`), "p:2: subject_pattern is no valid pattern"},
		{"unbalanced, legal once it is wrapped", repo, subject(`'a)|(?:b'`), "p:2: subject_pattern is no valid pattern"},
		{"\\Q without \\E would take the anchor in", repo, subject(`'\Qrepo:acme/app'`), "cannot be anchored"},
		{"empty pattern", repo, subject(`''`), "p:2: subject_pattern is empty"},
		{"pattern of 50 KiB", repo, subject(strings.Repeat("a", 50<<10)), "subject_pattern has 51200 bytes, over the limit of 4096"},
		{"huge repeat", repo, subject(`'a{1000000}'`), "subject_pattern is no valid pattern: error parsing regexp: invalid repeat count"},
		{"multiplied repeats", repo, subject(`'((a{100}){100}){100}'`), "subject_pattern is"},
		{"multiplied repeats within the parser's bound", repo, subject(`'(([a-z]{10}){10}){10}(x{999}){1}(y{999}){1}` + strings.Repeat("z{999}", 8) + `'`), "is too large a pattern"},
		{"large classes", repo, subject("'" + strings.Repeat(`\pL`, 1365) + "'"), "is too large a pattern"},
		{"patterns too large together", repo, head + "claim_pattern:\n" + strings.ReplaceAll(strings.ReplaceAll(names(40), "- ", ""), "\n", ": '[a-z]{1,999}'\n") + tail, "makes the patterns of this file too large together"},
		{"deep nesting", repo, subject("'" + strings.Repeat("(", 1500) + strings.Repeat(")", 1500) + "'"), "is no valid pattern"},
		{"backreference", repo, subject(`'(a)\1'`), "is no valid pattern"},
		{"lookahead", repo, subject(`'(?=a)a'`), "is no valid pattern"},
		{"glob", repo, subject(`'*:main'`), "it looks like a glob"},
		{"pattern with a line break", repo, subject("|\n  a\n"), "p:2: subject_pattern has a line break"},
		{"bad audience pattern", repo, head + "audience_pattern: '['\n" + tail, "p:3: audience_pattern is no valid pattern"},
		{"bad claim pattern", repo, head + "claim_pattern:\n  ref: 'a('\n" + tail, "p:4: claim_pattern.ref is no valid pattern"},
		{"empty claim pattern", repo, head + "claim_pattern:\n  ref: ''\n" + tail, "p:4: claim_pattern.ref is empty"},
		{"65 claims", repo, head + "claim_pattern:\n" + strings.ReplaceAll(strings.ReplaceAll(names(65), "- ", ""), "\n", ": x\n") + tail, "claim_pattern names 65 claims, over the limit of 64"},

		// Permissions: an empty list means everything at GitHub.
		{"no permissions", repo, head, "p:1: permissions is missing"},
		{"empty permissions", repo, head + "permissions: {}\n", "p:3: permissions is empty"},
		{"null permissions", repo, head + "permissions:\n", "p:3: permissions has no value"},
		{"permissions as text", repo, head + "permissions: write-all\n", "p:3: permissions must be keys and their values"},
		{"unknown permission", repo, head + "permissions:\n  content: read\n", `p:4: unknown permission "content": did you mean contents?`},
		{"permission as a workflow spells it", repo, head + "permissions:\n  pull-requests: read\n", `unknown permission "pull-requests": did you mean pull_requests?`},
		{"permission in another case", repo, head + "permissions:\n  Contents: read\n", `did you mean contents?`},
		{"nothing near", repo, head + "permissions:\n  everything: read\n", `unknown permission "everything": GitHub's names are at https://`},
		{"unknown level", repo, head + "permissions:\n  contents: admin\n", `p:4: permission contents has no level "admin": it has read, write`},
		{"write where only read exists", repo, head + "permissions:\n  organization_events: write\n", `permission organization_events has no level "write": it has read`},
		{"read where only write exists", repo, head + "permissions:\n  workflows: read\n", `permission workflows has no level "read": it has write`},
		{"boolean level", repo, head + "permissions:\n  contents: true\n", `has no level "true"`},
		{"empty level", repo, head + "permissions:\n  contents: ''\n", `has no level ""`},
		{"a permission over the organization", repo, head + "permissions:\n  contents: read\n  organization_secrets: write\n", "p:5: permission organization_secrets reaches beyond this repository: a policy that grants it must stand in the organization's policy repository"},
		{"its people", repo, head + "permissions: {members: read}\n", "permission members reaches beyond this repository"},
		{"its plan, with a level that does not exist", repo, head + "permissions: {organization_plan: write}\n", `permission organization_plan has no level "write"`},
		{"none", repo, head + "permissions:\n  contents: none\n", `has no level "none"`},

		// Repositories.
		{"repositories in a repository's own policy", repo, head + tail + "repositories: [app]\n", "p:4: repositories belongs only into a policy of the organization's policy repository"},
		{"empty repositories", org, head + tail + "repositories: []\n", "p:4: repositories is empty"},
		{"null repositories", org, head + tail + "repositories:\n", "p:4: repositories has no value"},
		{"repository outside the organization", org, head + tail + "repositories: [app, other/app]\n", `p:4: repositories[1] "other/app" has a slash`},
		{"repository by glob", org, head + tail + "repositories: ['*']\n", "leave repositories out for all"},
		{"dot dot", org, head + tail + "repositories: ['..']\n", `".." is no name that GitHub gives`},
		{"space", org, head + tail + "repositories: ['a b']\n", `is no name that GitHub gives`},
		{"empty name", org, head + tail + "repositories: ['']\n", `is no name that GitHub gives`},
		{"a repository's wiki", org, head + tail + "repositories: [app, app.wiki]\n", `repositories[1] "app.wiki" is no name that GitHub gives`},
		{"a clone URL's end", org, head + tail + "repositories: [app.Git]\n", `"app.Git" is no name that GitHub gives`},
		{"named twice", org, head + tail + "repositories: [app, App]\n", `repositories[1] "App" is named twice`},
		{"501 repositories", org, head + tail + "repositories:\n" + names(501), "repositories names 501, over GitHub's limit of 500"},

		// A whole report.
		{"every fault at once", repo, "issuer: http://x.example\nsubject_pattern: '['\nsubjcet: x\npermissions:\n  content: read\n  issues: admin\n",
			"p:1: issuer \"http://x.example\" must begin with https://\np:2: subject_pattern is no valid pattern: error parsing regexp: missing closing ]: `[`\n" +
				"p:3: unknown key \"subjcet\": did you mean subject?\np:5: unknown permission \"content\": did you mean contents?\np:6: permission issues has no level \"admin\": it has read, write"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			p, err := trustpolicy.Parse(tc.kind, "p", []byte(tc.yaml), trustpolicy.GitHubPermissions())
			var problems strictyaml.Problems
			if p != nil || !errors.As(err, &problems) {
				t.Fatalf("policy %v, error %v (%T): want Problems", p, err, err)
			}
			if !strings.Contains(err.Error(), tc.want) {
				t.Errorf("error:\n%v\nwant it to contain:\n%s", err, tc.want)
			}
		})
	}
}

func TestParseAccepts(t *testing.T) {
	for name, yaml := range map[string]string{
		"a number as subject":          "issuer: https://accounts.google.com\nsubject: 102938475610293847561\n" + tail,
		"loopback":                     "issuer: http://127.0.0.1:8080\nsubject: a\n" + tail,
		"loopback by name":             "issuer: http://localhost:8080/x\nsubject: a\n" + tail,
		"slash at the issuer's end":    "issuer: https://acme.eu.auth0.com/\nsubject: a\n" + tail,
		"an escape in an issuer":       "issuer: https://oidc.example/a%20b\nsubject: a\n" + tail,
		"subject as GitHub allows it":  "issuer: " + actions + "\nsubject: 'repo:acme/app:environment:Prod (EU) {1} $x'\n" + tail,
		"folded pattern":               "issuer: " + actions + "\nsubject_pattern: >-\n  repo:acme/app:ref:refs/heads/(main|\n  next)\n" + tail,
		"64 names":                     "issuer: " + actions + "\nsubject_pattern: '(" + strings.Repeat("repo:acme/application-number-one|", 63) + "x)'\n" + tail,
		"letters of any script":        "issuer: " + actions + "\nsubject_pattern: 'repo:acme/\\pL+-\\p{Greek}{1,100}'\n" + tail,
		"bounded repeat":               "issuer: " + actions + "\nsubject_pattern: '[a-z]{1,1000}'\n" + tail,
		"no constraint in the map":     head + "claim_pattern: {}\n" + tail,
		"JSON, which is YAML":          `{"issuer":"https://a.example","subject":"a","permissions":{"contents":"read"}}`,
		"comment, directive, one mark": "%YAML 1.1\n---\n# who\n" + head + tail + "...\n",
	} {
		if _, err := trustpolicy.Parse(trustpolicy.Repository, "p", []byte(yaml), trustpolicy.GitHubPermissions()); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestOfOrganization lists, of all that GitHub has, what is not about repositories.
func TestOfOrganization(t *testing.T) {
	c := trustpolicy.GitHubPermissions().With(map[string][]string{"organization_later": {"read"}, "repository_later": {"read"}})
	var others []string
	for _, name := range c.Names() {
		file := head + "permissions: {" + name + ": " + c.Levels(name)[0] + "}\n"
		if _, err := trustpolicy.Parse(trustpolicy.Organization, "p", []byte(file), c); err != nil {
			t.Errorf("organization's policy: %v", err)
		}
		if _, err := trustpolicy.Parse(trustpolicy.Repository, "p", []byte(file), c); (err != nil) != c.OfOrganization(name) {
			t.Errorf("repository's policy with %s: %v", name, err)
		}
		if !c.OfOrganization(name) {
			others = append(others, name)
		}
	}
	if diff := cmp.Diff(strings.Fields(`actions administration artifact_metadata attestations checks code_quality codespaces contents
		dependabot_secrets deployments discussions email_addresses environments followers git_ssh_keys gpg_keys interaction_limits issues
		merge_queues metadata packages pages profile pull_requests repository_custom_properties repository_hooks repository_later
		repository_projects secret_scanning_alerts secrets security_events single_file starring statuses vulnerability_alerts workflows`), others); diff != "" {
		t.Errorf("a repository's policy may grant (-want +got):\n%s", diff)
	}
}

func TestCatalog(t *testing.T) {
	c := trustpolicy.GitHubPermissions()
	if len(c.Names()) < 50 || cmp.Diff([]string{"read", "write"}, c.Levels("contents")) != "" {
		t.Errorf("GitHub's list: %d names, contents %v", len(c.Names()), c.Levels("contents"))
	}
	more := c.With(map[string][]string{"agents": {"read"}, "workflows": {"read", "write"}})
	for _, tc := range []struct {
		catalog     trustpolicy.Catalog
		name, level string
		ok          bool
	}{
		{c, "contents", "write", true}, {c, "agents", "read", false}, {c, "workflows", "read", false},
		{more, "contents", "write", true}, {more, "agents", "read", true}, {more, "agents", "write", false}, {more, "workflows", "read", true},
		{trustpolicy.Catalog{}, "contents", "read", false}, {trustpolicy.Catalog{}.With(map[string][]string{"a": {"read"}}), "a", "read", true},
	} {
		if err := tc.catalog.Check(tc.name, tc.level); (err == nil) != tc.ok {
			t.Errorf("Check(%s, %s) = %v", tc.name, tc.level, err)
		}
	}
}

func TestCeiling(t *testing.T) {
	p := parse(t, trustpolicy.Organization, head+"permissions: {contents: write, issues: read, organization_projects: admin}\n")
	all := map[string]string{"contents": "write", "issues": "write", "organization_projects": "admin", "pages": "read"}
	with := func(name, level string) map[string]string {
		m := map[string]string{name: level}
		for k, v := range all {
			if k != name {
				m[k] = v
			}
		}
		return m
	}
	without := with("contents", "write")
	delete(without, "issues")
	for _, tc := range []struct {
		name    string
		ceiling trustpolicy.Ceiling
		kind    trustpolicy.Kind
		want    string // "" for no error
	}{
		{"none", trustpolicy.Ceiling{}, trustpolicy.Repository, ""},
		{"at and below", trustpolicy.Ceiling{Permissions: all}, trustpolicy.Repository, ""},
		{"write over read", trustpolicy.Ceiling{Permissions: with("contents", "read")}, trustpolicy.Repository, "contents: write, where the ceiling is read"},
		{"admin over write", trustpolicy.Ceiling{Permissions: with("organization_projects", "write")}, trustpolicy.Repository, "organization_projects: admin, where the ceiling is write"},
		{"a level that is none", trustpolicy.Ceiling{Permissions: with("contents", "everything")}, trustpolicy.Repository, "contents: write, where the ceiling is everything"},
		{"not named", trustpolicy.Ceiling{Permissions: without}, trustpolicy.Repository, "issues: read, which the ceiling does not name"},
		{"an empty ceiling allows nothing", trustpolicy.Ceiling{Permissions: map[string]string{}}, trustpolicy.Organization, "contents: write, which the ceiling does not name; issues: read"},
		{"organization's policies alone", trustpolicy.Ceiling{OrganizationOnly: true}, trustpolicy.Repository, "policies in single repositories do not count"},
		{"organization's policies alone, and it is one", trustpolicy.Ceiling{OrganizationOnly: true}, trustpolicy.Organization, ""},
	} {
		err := tc.ceiling.Check(tc.kind, p)
		if (err == nil) != (tc.want == "") || err != nil && !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s: %v, want %q", tc.name, err, tc.want)
		}
	}
}

// claims decodes an ID token's payload as the verifier does.
func claims(t testing.TB, object string) map[string]any {
	t.Helper()
	d := json.NewDecoder(strings.NewReader(object))
	d.UseNumber()
	var m map[string]any
	if err := d.Decode(&m); err != nil {
		t.Fatal(err)
	}
	return m
}
