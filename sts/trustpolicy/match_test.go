package trustpolicy_test

import (
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/octo-sts/appliance/sts/trustpolicy"
)

const mainSubject = "repo:acme/app:ref:refs/heads/main"

// actor is a GitHub Actions job on acme/app's main branch.
func actor(t testing.TB) trustpolicy.Actor {
	return trustpolicy.Actor{
		Issuer: actions, Subject: mainSubject, Audience: []string{domain},
		Claims: claims(t, `{"iss": "`+actions+`", "sub": "`+mainSubject+`", "aud": "`+domain+`", "ref": "refs/heads/main",
			"job_workflow_ref": "acme/ci/.github/workflows/release.yaml@refs/tags/v1", "repository_id": "123456", "event_name": "push",
			"run_attempt": 1, "big": 12345678901234567890123, "ratio": 1.50, "ref_protected": true, "nothing": null, "empty": "", "nested": {"a": "b"},
			"groups": ["dev", "ops", 7, false, null, ["deep"], {"x": "y"}], "none": []}`),
	}
}

func TestMatchSubject(t *testing.T) {
	for _, tc := range []struct {
		name, policy, subject string
		granted               bool
	}{
		{"exact", "subject: " + mainSubject, mainSubject, true},
		{"exact in another case", "subject: repo:Acme/app:ref:refs/heads/main", mainSubject, false},
		{"exact is no prefix", "subject: " + mainSubject, mainSubject + "2", false},
		{"exact is no pattern", "subject: repo:acme/.*", "repo:acme/app", false},
		{"a trailing line break counts", "subject: a", "a\n", false},
		{"pattern", "subject_pattern: 'repo:acme/[a-z]+:ref:refs/heads/main'", mainSubject, true},
		{"pattern is no prefix", "subject_pattern: repo:acme/app", mainSubject, false},
		{"pattern is no suffix", "subject_pattern: main", mainSubject, false},
		{"pattern and a trailing line break", "subject_pattern: a", "a\n", false},
		{"multi-line mode does not move the anchors", "subject_pattern: '(?m)a'", "a\nb", false},
		{"a|b matches a", "subject_pattern: 'repo:acme/a|repo:acme/b'", "repo:acme/a", true},
		{"a|b matches b", "subject_pattern: 'repo:acme/a|repo:acme/b'", "repo:acme/b", true},
		{"a|b is anchored behind a", "subject_pattern: 'repo:acme/a|repo:acme/b'", "repo:acme/attacker", false},
		{"a|b is anchored before b", "subject_pattern: 'repo:acme/a|repo:acme/b'", "x-repo:acme/b", false},
		{"empty subject", "subject_pattern: '.*'", "", true},
		{"subject with spaces, braces and $", "subject: 'repo:acme/app:environment:Prod (EU) {1} $x'", "repo:acme/app:environment:Prod (EU) {1} $x", true},

		{"recycled name with another ID", "subject: repo:acme@1/app@2:ref:refs/heads/main", "repo:acme@1/app@3:ref:refs/heads/main", false},
		{"immutable subject against its policy", "subject: repo:acme@1/app@2:ref:refs/heads/main", "repo:acme@1/app@2:ref:refs/heads/main", true},
		{"old form against an ID policy", "subject: repo:acme@1/app@2:ref:refs/heads/main", mainSubject, false},
		{"immutable subject against an old-form policy", "subject: " + mainSubject, "repo:acme@1/app@2:ref:refs/heads/main", false},
		{"both forms in one pattern", `subject_pattern: 'repo:acme(@1)?/app(@2)?:ref:refs/heads/main'`, "repo:acme@1/app@2:ref:refs/heads/main", true},
		{"pull request against a branch policy", "subject: " + mainSubject, "repo:acme/app:pull_request", false},
		{"a fork", "subject: " + mainSubject, "repo:mallory/app:ref:refs/heads/main", false},
		{"environment with a colon", "subject: repo:acme/app:environment:a:b", "repo:acme/app:environment:a%3Ab", false},
		{"environment with %3A", "subject: repo:acme/app:environment:a%3Ab", "repo:acme/app:environment:a%3Ab", true},
	} {
		t.Run(tc.name, func(t *testing.T) {
			p := parse(t, trustpolicy.Repository, "issuer: "+actions+"\n"+tc.policy+"\n"+tail)
			a := actor(t)
			a.Subject = tc.subject
			if d := p.Match(a, domain); d.Granted != tc.granted || (d.Reason() == "") != tc.granted {
				t.Errorf("granted = %v, reason %q", d.Granted, d.Reason())
			}
		})
	}
}

func TestMatchIssuer(t *testing.T) {
	for _, tc := range []struct {
		policy, issuer string
		granted        bool
	}{
		{"issuer: " + actions, actions, true},
		{"issuer: " + actions, actions + "/", false},
		{"issuer: " + actions, "https://token.actions.githubusercontent.com.evil.test", false},
		{"issuer: " + actions, "HTTPS://token.actions.githubusercontent.com", false},
		{`issuer_pattern: 'https://token\.actions\.githubusercontent\.com'`, actions, true},
		{`issuer_pattern: 'https://token\.actions\.githubusercontent\.com'`, "https://token-actions.githubusercontent.com", false},
		{`issuer_pattern: 'https://[a-z]+\.example|https://b\.example'`, "https://a.example", true},
		{`issuer_pattern: 'https://[a-z]+\.example|https://b\.example'`, "https://a.example.evil.test", false},
		{"issuer: " + actions, "", false},
	} {
		p := parse(t, trustpolicy.Repository, tc.policy+"\nsubject: "+mainSubject+"\n"+tail)
		a := actor(t)
		a.Issuer = tc.issuer
		if d := p.Match(a, domain); d.Granted != tc.granted {
			t.Errorf("%s, issuer %q: granted = %v (%s)", tc.policy, tc.issuer, d.Granted, d.Reason())
		}
	}
}

func TestMatchAudience(t *testing.T) {
	for _, tc := range []struct {
		policy   string
		audience []string
		granted  bool
	}{
		{"", []string{domain}, true},
		{"", []string{"odd", domain}, true},
		{"", nil, false},
		{"", []string{""}, false},
		{"", []string{"https://" + domain}, false},
		{"", []string{domain + ".evil.test"}, false},
		{"", []string{"x." + domain}, false},
		{"", []string{"STS.example.com"}, false},
		{"", []string{"https://github.com/acme"}, false},
		{"audience: octo", []string{"octo"}, true},
		{"audience: octo", []string{domain}, false},
		{"audience_pattern: 'octo-[0-9]+'", []string{"x", "octo-1"}, true},
		{"audience_pattern: 'octo-[0-9]+'", []string{"octo-1x"}, false},
		{"audience_pattern: 'octo-[0-9]+'", []string{domain}, false},
		{"audience_pattern: '.*'", nil, false},
	} {
		p := parse(t, trustpolicy.Repository, head+tc.policy+"\n"+tail)
		a := actor(t)
		a.Audience = tc.audience
		if d := p.Match(a, domain); d.Granted != tc.granted {
			t.Errorf("%q, audience %q: granted = %v (%s)", tc.policy, tc.audience, d.Granted, d.Reason())
		}
	}
	a := actor(t)
	a.Audience = []string{""}
	if parse(t, trustpolicy.Repository, head+tail).Match(a, "").Granted {
		t.Error("an empty domain matches an empty audience")
	}
}

func TestMatchClaims(t *testing.T) {
	for _, tc := range []struct {
		claim, pattern string
		granted        bool
		got            string
	}{
		{"ref", "refs/heads/main", true, "refs/heads/main"},
		{"ref", "refs/heads", false, "refs/heads/main"},
		{"empty", ".*", true, ""},
		{"run_attempt", "1", true, "1"},
		{"run_attempt", "'1\\.0'", false, "1"},
		{"big", "'12345678901234567890123'", true, "12345678901234567890123"}, // no float64 in between
		{"ratio", "'1\\.50'", true, "1.50"},
		{"ref_protected", "true", true, "true"},
		{"ref_protected", "'false|1'", false, "true"},
		{"groups", "ops", true, "ops"},
		{"groups", "'7'", true, "7"},
		{"groups", "false", true, "false"},
		{"groups", "op", false, `["dev","ops",7,false,null,["deep"],{"x":"y"}]`},
		{"groups", "deep", false, `["dev","ops",7,false,null,["deep"],{"x":"y"}]`}, // arrays in arrays do not count
		{"groups", "'null|y|'", false, `["dev","ops",7,false,null,["deep"],{"x":"y"}]`},
		{"none", ".*", false, "[]"},
		{"nothing", ".*", false, "(null)"},
		{"nested", ".*", false, "(object)"},
		{"missing", ".*", false, "(absent)"},
		{"REF", ".*", false, "(absent)"},
		{"job_workflow_ref", `'acme/ci/\.github/workflows/release\.yaml@refs/tags/v[0-9]+'`, true, "acme/ci/.github/workflows/release.yaml@refs/tags/v1"},
		{"job_workflow_ref", `'other/ci/\.github/workflows/release\.yaml@refs/tags/v[0-9]+'`, false, "acme/ci/.github/workflows/release.yaml@refs/tags/v1"},
		{"event_name", "push|workflow_dispatch", true, "push"}, // refuses pull_request_target, whose subject may be the branch's
	} {
		p := parse(t, trustpolicy.Repository, head+"claim_pattern:\n  "+tc.claim+": "+tc.pattern+"\n"+tail)
		d := p.Match(actor(t), domain)
		if d.Granted != tc.granted || len(d.Checks) != 4 || d.Checks[3].Got != tc.got {
			t.Errorf("%s: %s: granted = %v, %+v", tc.claim, tc.pattern, d.Granted, d.Checks)
		}
	}
	p := parse(t, trustpolicy.Repository, head+"claim_pattern: {n: '.*'}\n"+tail)
	a := actor(t)
	a.Claims = map[string]any{"n": 1.0}
	if d := p.Match(a, domain); d.Granted || d.Checks[3].Got != "(float64)" {
		t.Errorf("a float64 matches: %+v", d)
	}
}

// Anybody who can open a pull request can start a job of pull_request_target, with the subject of the base branch.
func TestPullRequestTarget(t *testing.T) {
	const policy = "issuer: " + actions + "\nsubject_pattern: .+\naudience_pattern: .+\n"
	for _, tc := range []struct {
		claims, event string
		granted       bool
	}{
		{"", "pull_request_target", false},
		{"claim_pattern: {ref: .+}\n", "pull_request_target", false},
		{"claim_pattern: {event_name: pull_request_target}\n", "pull_request_target", true},
		{"claim_pattern: {event_name: push}\n", "pull_request_target", false},
		{"", "push", true},
		{"", "pull_request", true}, // has a subject of its own
	} {
		a := actor(t)
		a.Claims["event_name"] = tc.event
		d := parse(t, trustpolicy.Repository, policy+tc.claims+tail).Match(a, domain)
		if d.Granted != tc.granted || !d.Granted && !strings.Contains(d.Reason(), "pull_request_target") {
			t.Errorf("%q, event %s: granted = %v, %s", tc.claims, tc.event, d.Granted, d.Reason())
		}
	}
}

// TestDecision holds the order of checks, that each is made, and what is said of them.
func TestDecision(t *testing.T) {
	p := parse(t, trustpolicy.Repository, "issuer: "+actions+"\nsubject_pattern: 'repo:acme/site:.+'\naudience: octo\nclaim_pattern: {z: a, ref: 'refs/heads/main'}\n"+tail)
	d := p.Match(actor(t), domain)
	want := trustpolicy.Decision{Checks: []trustpolicy.Check{
		{Field: "issuer", Want: actions, Got: actions, OK: true},
		{Field: "subject_pattern", Want: "repo:acme/site:.+", Got: mainSubject},
		{Field: "audience", Want: "octo", Got: domain},
		{Field: "claim_pattern.ref", Want: "refs/heads/main", Got: "refs/heads/main", OK: true},
		{Field: "claim_pattern.z", Want: "a", Got: "(absent)"},
	}}
	if diff := cmp.Diff(want, d); diff != "" {
		t.Errorf("decision (-want +got):\n%s", diff)
	}
	if got, want := d.Reason(), `subject_pattern: the ID token's "`+mainSubject+`" does not match "repo:acme/site:.+"`; got != want {
		t.Errorf("Reason() = %s\nwant       %s", got, want)
	}
	long := trustpolicy.Decision{Checks: []trustpolicy.Check{{Field: "subject", Want: "a", Got: strings.Repeat("é\n", 5000)}}}
	if got := long.Reason(); len(got) > 1000 || strings.Contains(got, "\n") {
		t.Errorf("a long value makes a reason of %d bytes", len(got))
	}
}

func TestNoPolicyGrantsNothing(t *testing.T) {
	for _, p := range []*trustpolicy.TrustPolicy{nil, {}} {
		if d := p.Match(trustpolicy.Actor{Audience: []string{""}}, ""); d.Granted || d.Reason() != "there is no trust policy" {
			t.Errorf("%+v", d)
		}
	}
}

func TestHints(t *testing.T) {
	const immutable = "repo:acme@1/app@2:ref:refs/heads/main"
	subject := func(s string) func(*trustpolicy.Actor) { return func(a *trustpolicy.Actor) { a.Subject = s } }
	audience := func(s string) func(*trustpolicy.Actor) {
		return func(a *trustpolicy.Actor) { a.Audience = []string{s} }
	}
	for _, tc := range []struct {
		name, policy string
		change       func(*trustpolicy.Actor)
		want         []string
	}{
		{"granted", head, subject(mainSubject), nil},
		{"a stranger", head, subject("repo:mallory/app:ref:refs/heads/main"), nil},
		{"immutable token, old policy", head, subject(immutable), []string{"write subject: " + immutable}},
		{"immutable token, old pattern", "issuer: " + actions + "\nsubject_pattern: 'repo:acme/[a-z]+:ref:refs/heads/main'\n", subject(immutable), []string{"but for the IDs it would match"}},
		{"immutable token of another repository", head, subject("repo:acme@1/site@9:ref:refs/heads/main"), []string{"the policy only the names"}},
		{"old token, immutable policy", "issuer: " + actions + "\nsubject: " + immutable + "\n", subject(mainSubject), []string{"opt the repository into immutable subjects"}},
		{"old token, immutable pattern", "issuer: " + actions + "\nsubject_pattern: 'repo:acme@[0-9]+/app@\\d+:.+'\n", subject(mainSubject), []string{"opt the repository into immutable subjects"}},
		{"pull request, branch policy", head, subject("repo:acme/app:pull_request"), []string{"ends in :pull_request and names no branch"}},
		{"environment, branch policy", head, subject("repo:acme/app:environment:prod"), []string{"in place of the branch"}},
		{"colon in an environment", "issuer: " + actions + "\nsubject: repo:acme/app:environment:a:b\n", subject("repo:acme/app:environment:a%3Ab"), []string{"as %3A"}},
		{"%3A for nothing", "issuer: " + actions + "\nsubject: repo:acme/app:environment:a%3Ab\n", subject("repo:acme/app:environment:ab"), []string{"environment has none"}},
		{"case", head, subject("repo:Acme/app:ref:refs/heads/main"), []string{"differ only in upper and lower case"}},
		{"case against a pattern", "issuer: " + actions + "\nsubject_pattern: 'repo:acme/[a-z]+:.+'\n", subject("repo:Acme/App:pull_request"), []string{"differ only in upper and lower case"}},
		{"default audience", head, audience("https://github.com/acme"), []string{"for which the job asked no other: request it with audience \"sts.example.com\""}},
		{"audience as a URL", head, audience("https://sts.example.com"), []string{"differ only in https://"}},
		{"slash at the issuer's end", head, func(a *trustpolicy.Actor) { a.Issuer += "/" }, []string{"differ only in a slash"}},
		{"two at once", head, func(a *trustpolicy.Actor) {
			a.Subject, a.Audience = "repo:acme/app:pull_request", []string{"https://github.com/acme"}
		}, []string{"names no branch", "request it with audience"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			a := actor(t)
			tc.change(&a)
			got := parse(t, trustpolicy.Repository, tc.policy+tail).Match(a, domain).Hints()
			if len(got) != len(tc.want) {
				t.Fatalf("got %q, want %q", got, tc.want)
			}
			for i := range got {
				if !strings.Contains(got[i], tc.want[i]) {
					t.Errorf("got %q, want it to contain %q", got[i], tc.want[i])
				}
			}
		})
	}
}

// FuzzParse holds that no file panics, that what is accepted names a permission, and
// that no pattern of it is anchored on one side only.
func FuzzParse(f *testing.F) {
	for _, seed := range []string{
		head + tail, head + "claim_pattern: {a: 'b|c', d: true}\n" + tail, head + "repositories: [a]\n" + tail, head + "permissions: {}\n",
		"issuer_pattern: 'a|b'\nsubject_pattern: ')|('\n" + tail, "issuer_pattern: '\\Qa'\nsubject_pattern: '(?m)^a$|b'\naudience_pattern: '(?i)x{2,}'\n" + tail,
		"issuer: &a b\nsubject: *a\n", "\t", "{}", "[]", "a: b\n---\nc: d\n",
	} {
		f.Add([]byte(seed), "repo:acme/app")
	}
	known := trustpolicy.GitHubPermissions()
	f.Fuzz(func(t *testing.T, data []byte, value string) {
		for _, kind := range []trustpolicy.Kind{trustpolicy.Repository, trustpolicy.Organization} {
			p, err := trustpolicy.Parse(kind, "f", data, known)
			findings := trustpolicy.LintKind(kind, "f.sts.yaml", data, known)
			refused := false
			for _, finding := range findings {
				refused = refused || finding.Severity == trustpolicy.Error
			}
			if refused != (err != nil) {
				t.Fatalf("Parse says %v, lint says %v", err, findings)
			}
			if err != nil {
				continue
			}
			if len(p.Permissions()) == 0 {
				t.Fatal("a policy without permissions")
			}
			if names, all := p.Repositories(); all != (len(names) == 0) {
				t.Fatalf("repositories %q, all = %v", names, all)
			}
			checkAnchored(t, p, value)
			_ = p.Match(trustpolicy.Actor{Issuer: value, Subject: value}, domain).Hints()
		}
	})
}

// checkAnchored compares each decision with one made by \A and \z, which no flag of the
// pattern can move.
func checkAnchored(t *testing.T, p *trustpolicy.TrustPolicy, value string) {
	t.Helper()
	d := p.Match(trustpolicy.Actor{Issuer: value, Subject: value, Audience: []string{value}}, domain)
	for _, c := range d.Checks[:3] {
		full, err := fullMatch(c.Field, c.Want, value)
		if err != nil {
			t.Fatalf("%s %q was accepted: %v", c.Field, c.Want, err)
		}
		if c.OK != full {
			t.Fatalf("%s %q and %q: %v, but as a whole %v", c.Field, c.Want, value, c.OK, full)
		}
	}
}

// fullMatch is what a pattern means, written as plainly as can be.
func fullMatch(field, want, value string) (bool, error) {
	if !strings.HasSuffix(field, "_pattern") {
		return want == value && want != "", nil
	}
	re, err := regexp.Compile(`\A(?:` + want + `)\z`)
	if err != nil {
		return false, err
	}
	if _, err := regexp.Compile(want); err != nil {
		return false, err
	}
	return re.MatchString(value), nil
}

func BenchmarkMatch(b *testing.B) {
	a := actor(b)
	for name, yaml := range map[string]string{
		"exact":   head + tail,
		"pattern": "issuer_pattern: 'https://token\\.actions\\.githubusercontent\\.com'\nsubject_pattern: 'repo:acme/[a-z]+:ref:refs/heads/main'\nclaim_pattern: {repository_id: '[0-9]+', event_name: push, ref_protected: true}\n" + tail,
	} {
		p := parse(b, trustpolicy.Repository, yaml)
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if !p.Match(a, domain).Granted {
					b.Fatal("refused")
				}
			}
		})
	}
}

// TestMatchAllocates holds that a warm match costs one allocation: its list of checks.
func TestMatchAllocates(t *testing.T) {
	p := parse(t, trustpolicy.Repository, "issuer: "+actions+"\nsubject_pattern: 'repo:acme/[a-z]+:ref:refs/heads/main'\nclaim_pattern: {repository_id: '[0-9]+', groups: ops, ref_protected: true}\n"+tail)
	a := actor(t)
	if n := testing.AllocsPerRun(100, func() { p.Match(a, domain) }); n > 2 {
		t.Errorf("a match allocates %v times", n)
	}
}
