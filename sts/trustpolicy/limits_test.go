package trustpolicy_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/octo-sts/appliance/sts/strictyaml"
	"github.com/octo-sts/appliance/sts/trustpolicy"
)

// TestReportIsBounded holds that a file costs little and says little, however many faults its author put into it.
func TestReportIsBounded(t *testing.T) {
	many := func(n int, format string) string {
		var b strings.Builder
		for i := range n {
			fmt.Fprintf(&b, format, i)
		}
		return b.String()
	}
	long := strings.Repeat("x", 10_000)
	for _, tc := range []struct {
		name, yaml string
		want       int    // problems
		last       string // of their messages
	}{
		{"1,500 permissions", head + "permissions:\n" + many(1500, "  organization_secretz%05d: read\n"), 1, "permissions names 1500 permissions, over the limit of 100"},
		{"100 permissions", head + "permissions:\n" + many(100, "  content%d: read\n"), 51, "and 50 more problems"},
		{"3,000 claims", head + "claim_pattern:\n" + many(3000, "  c%d: '.*('\n") + tail, 1, "claim_pattern names 3000 claims, over the limit of 64"},
		{"3,000 repositories", head + tail + "repositories:\n" + many(3000, "  - a/%d\n"), 1, "repositories names 3000, over GitHub's limit of 500: leave the key out for all, or split the policy"},
		{"500 repositories", head + tail + "repositories:\n" + many(500, "  - a/%d\n"), 51, "and 450 more problems"},
		{"unknown keys and everything else", many(3000, "subjet%d: x\n") + "permissions:\n" + many(80, "  content%d: read\n"), 51, "and 3032 more problems"},
		{"long values", "issuer: " + long + "\nsubject_pattern: " + long + "\npermissions: {contents: " + long + "}\nrepositories: [" + long + ", a/" + long + "]\n", 6, `repositories[1] "a/` + long[:298] + `"… has a slash: write the name alone, a policy reaches no other organization`},
		{"long patterns", head + "claim_pattern:\n" + many(64, "  c%d: '("+long[:900]+"'\n") + tail, 51, "and 14 more problems"},
		{"a claim that forges a line", head + "claim_pattern:\n  \"a\\np:1: \\e[2J\": ''\n" + tail, 1, "claim_pattern.a p:1: \ufffd[2J is empty"},
	} {
		_, err := trustpolicy.Parse(trustpolicy.Organization, "p", []byte(tc.yaml), trustpolicy.GitHubPermissions())
		var problems strictyaml.Problems
		if !errors.As(err, &problems) || len(problems) != tc.want || problems[len(problems)-1].Message != tc.last {
			t.Errorf("%s: %d problems, want %d ending in %q:\n%.500v", tc.name, len(problems), tc.want, tc.last, err)
			continue
		}
		if n := len(err.Error()); n > 32<<10 {
			t.Errorf("%s: the report has %d bytes", tc.name, n)
		}
		findings := trustpolicy.LintKind(trustpolicy.Organization, "p.sts.yaml", []byte(tc.yaml), trustpolicy.GitHubPermissions())
		if len(findings) > 200 {
			t.Errorf("%s: %d findings", tc.name, len(findings))
		}
		for _, f := range findings {
			if strings.ContainsAny(f.Message, "\n\x1b") {
				t.Errorf("%s: finding %q", tc.name, f.Message)
			}
		}
	}
}
