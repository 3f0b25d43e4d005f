package webhook

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"unicode"

	"github.com/google/go-cmp/cmp"

	"github.com/octo-sts/appliance/sts/githubapp"
	"github.com/octo-sts/appliance/sts/trustpolicy"
)

// judged is what a check says of these files, by name in the policy directory,
// as GitHub gave them.
func judged(c *checker, inst githubapp.Installation, job checkJob, files ...[2]string) *findings {
	found := &findings{}
	for _, file := range files {
		path := dir + file[0]
		found.add(path, c.judgeFile(inst, job, path, &githubapp.File{Path: path, Content: []byte(file[1])}, nil))
	}
	return found
}

// TestReport compares whole reports with the files in testdata/report. With
// UPDATE_GOLDEN=1 in the environment it writes them.
func TestReport(t *testing.T) {
	plain := &checker{policyRepository: ".github", permissions: trustpolicy.GitHubPermissions()}
	ceiling := &checker{policyRepository: ".github", permissions: trustpolicy.GitHubPermissions(),
		ceiling: trustpolicy.Ceiling{Permissions: map[string]string{"contents": "read", "issues": "read"}}}
	inst := githubapp.Installation{Owner: "acme", Permissions: map[string]string{"contents": "write", "issues": "write"}}
	job := branchJob("2c26b46b68ffc68ff99b453c1d30413413422d70")
	orgJob := job
	orgJob.Repository, orgJob.WebURL = ".github", "https://ghe.example.com/acme/.github"
	many := make([][2]string, 40)
	for i := range many {
		many[i] = [2]string{fmt.Sprintf("p%02d.sts.yaml", i), "colour: red\nshape: round\nissuer: https://gitlab.corp.example\nsubject: x\npermissions:\n  contents: all\n"}
	}
	for _, c := range []struct {
		name    string
		checker *checker
		job     checkJob
		found   *findings
	}{
		{"all-good", plain, job, judged(plain, inst, job, [2]string{"a.sts.yaml", goodPolicy}, [2]string{"b.sts.yaml", goodPolicy})},
		{"none-changed", plain, job, &findings{}},
		{"removed", plain, job, &findings{removed: []string{dir + "a.sts.yaml", dir + "b.sts.yaml"}}},
		{"trusted-issuers-removed", plain, orgJob, &findings{removed: []string{trustpolicy.TrustedIssuersPath}}},
		{"mixed", plain, job, judged(plain, inst, job, [2]string{"a.sts.yaml", goodPolicy}, [2]string{"bad.sts.yaml", badPolicy},
			[2]string{"syntax.sts.yaml", "issuer: [\n"}, [2]string{"warned.sts.yaml", warnedPolicy}, [2]string{"x.yaml", goodPolicy})},
		{"only-warnings", plain, job, judged(plain, inst, job, [2]string{"a.sts.yaml", goodPolicy}, [2]string{"warned.sts.yaml", warnedPolicy})},
		{"120-problems", plain, job, judged(plain, inst, job, many...)},
		{"lacking", plain, job, judged(plain, inst, job, [2]string{"a.sts.yaml", strings.Replace(goodPolicy, "contents: read", "pull_requests: write", 1)})},
		{"over-the-ceiling", ceiling, job, judged(ceiling, inst, job, [2]string{"a.sts.yaml", strings.Replace(goodPolicy, "contents: read", "issues: write", 1)})},
		{"trusted-issuers", plain, orgJob, judged(plain, inst, orgJob, [2]string{"trusted-token-issuers.yaml", "mode: strict\nissuers: ['http://x']\n"})},
		{"not-a-directory", plain, job, &findings{fault: notADirectory}},
		{"hostile", plain, job, judged(plain, inst, job, [2]string{"x`](http:evil) @team.sts.yaml", goodPolicy},
			[2]string{"a.sts.yaml", "\"`` @everyone <img src=x> ](http://evil) \\u202e\": x\nissuer: https://gitlab.corp.example\nsubject: x\npermissions: {contents: read}\n"})},
	} {
		t.Run(c.name, func(t *testing.T) {
			v := c.checker.report(c.job, c.found)
			var b strings.Builder
			fmt.Fprintf(&b, "%s: %s\n\n%s\n", v.conclusion, v.title, v.summary)
			for _, a := range v.annotations {
				fmt.Fprintf(&b, "[%s] %s:%d %s: %s\n", a.Level, a.Path, a.Line, a.Title, a.Message)
			}
			golden := filepath.Join("testdata", "report", c.name+".md")
			if os.Getenv("UPDATE_GOLDEN") != "" {
				if err := os.MkdirAll(filepath.Dir(golden), 0o755); err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(golden, []byte(b.String()), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(golden)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(string(want), b.String()); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// However much there is to say, it is within what GitHub takes, in whole lines,
// with failures before warnings.
func TestReportIsBounded(t *testing.T) {
	c := &checker{policyRepository: ".github", permissions: trustpolicy.GitHubPermissions()}
	found := &findings{removed: []string{dir + "x.sts.yaml"}}
	long := strings.Repeat("`x` ", 1000)
	for i := range maxPolicies {
		path := fmt.Sprintf("%s%04d%s.sts.yaml", dir, i, strings.Repeat("y", 190))
		found.add(path, []finding{{path: path, level: levelWarning, message: long}, {path: path, line: 7, level: levelFailure, title: titleLacking, message: long}})
	}
	if len(found.failures) != maxKept || len(found.warnings) != maxKept || found.failed != maxPolicies {
		t.Errorf("%d failures and %d warnings are kept", len(found.failures), len(found.warnings))
	}
	v := c.report(branchJob(unknownCommit), found)
	if len(v.summary) > 65_535 {
		t.Errorf("the summary has %d bytes", len(v.summary))
	}
	if n := strings.Count(v.summary, "- and "); n != 3 {
		t.Errorf("%d lists say that there is more, want 3", n)
	}
	if !strings.HasSuffix(v.summary, "octo-sts policy lint .github/chainguard/*.yaml\n```\n") {
		t.Error("the summary does not end with what to do")
	}
	if len(v.annotations) != maxKept || v.annotations[maxKept-1].Level != levelFailure {
		t.Errorf("%d annotations, the last of which is a %s", len(v.annotations), v.annotations[len(v.annotations)-1].Level)
	}
}

func TestLink(t *testing.T) {
	for _, c := range []struct{ web, path, want string }{
		{"https://github.com/acme/app", dir + "x.sts.yaml", "[`text`](https://github.com/acme/app/blob/HEAD/.github/chainguard/x.sts.yaml#L3)"},
		{"https://ghe.example.com/acme/app/", "a b/(c)#?.yaml", "[`text`](https://ghe.example.com/acme/app/blob/HEAD/a%20b/%28c%29%23%3F.yaml#L3)"},
		{"", "x", "`text`"},
		{"javascript:alert(1)", "x", "`text`"},
		{"https://github.com/acme/app)(http://evil", "x", "`text`"},
		{"https://github.com/acme/app", strings.Repeat("é", 400), "`text`"},
	} {
		if got := link(checkJob{WebURL: c.web, Head: "HEAD"}, c.path, 3, "text"); got != c.want {
			t.Errorf("link(%q, %q) = %s, want %s", c.web, c.path, got, c.want)
		}
	}
}

// FuzzCode: a code span is on one line, and ends where it is meant to. CommonMark
// ends it at the first run of as many backticks as began it.
func FuzzCode(f *testing.F) {
	for _, seed := range []string{"", "`", "``", "a`b", "`a", "a``` ```b", " ", " a ", "a\nb", "\xff", "\u202e", strings.Repeat("`", 1000)} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		got := code(text)
		if strings.ContainsFunc(got, func(r rune) bool { return !unicode.IsPrint(r) }) {
			t.Fatalf("%q is not printable, or not on one line", got)
		}
		fence := len(got) - len(strings.TrimLeft(got, "`"))
		rest, run := got[fence:], 0
		for i := 0; i <= len(rest); i++ {
			if i < len(rest) && rest[i] == '`' {
				run++
				continue
			}
			if run == fence && i != len(rest) {
				t.Fatalf("%q ends before its end", got)
			}
			if i == len(rest) && run != fence {
				t.Fatalf("%q does not end", got)
			}
			run = 0
		}
	})
}
