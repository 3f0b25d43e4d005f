package webhook

import (
	"strings"
	"testing"

	"github.com/octo-sts/appliance/sts/trustpolicy"
)

// What the exchange reads nothing from is refused by its path.
func TestCheckOfWhatIsNoFile(t *testing.T) {
	r := newCheckRig(t)
	r.github.PutSymlink("acme", "app", dir+"link.sts.yaml", "ci.sts.yaml")
	r.github.PutSubmodule("acme", "app", dir+"module.sts.yaml", "https://example.com/m.git")
	head := r.github.Commit("acme", "app", "main", write(dir+"large.sts.yaml", strings.Repeat("#", 1<<20+1)))
	v := r.check(pushJob(r.start, head))
	r.wants(v, "failure", []string{"large.sts.yaml", "link.sts.yaml", "module.sts.yaml"}, "3 of 3 trust policies would be refused", "no symbolic link, directory or submodule")
}

// The same file is judged by where it stands.
func TestCheckByKind(t *testing.T) {
	for _, c := range []struct {
		repository, file, content, conclusion, says string
	}{
		{"app", "x.sts.yaml", goodOrgPolicy, "failure", "repositories belongs only into"},
		{".github", "x.sts.yaml", goodOrgPolicy, "success", "1 trust policy would be accepted"},
		{".github", "x.sts.yaml", goodPolicy, "neutral", "every repository of the organization"},
		{"app", "x.sts.yaml", strings.Replace(goodPolicy, "contents", "members", 1), "failure", "reaches beyond this repository"},
		{".github", "x.sts.yaml", badPolicy, "failure", "--organization"},
		{".github", "trusted-token-issuers.yaml", "issuers: [https://gitlab.corp.example]\n", "success", "accepted"},
		{".github", "trusted-token-issuers.yaml", "issuers: []\n", "failure", "trusts no issuer"},
		{".github", "trusted-token-issuers.yaml", "issuer_patterns: ['https://.*']\n", "neutral", "host of anybody"},
		{"app", "trusted-token-issuers.yaml", "issuers: []\n", "neutral", "counts only in the organization"},
	} {
		t.Run(c.repository+" "+c.file+" "+c.conclusion, func(t *testing.T) {
			r := newCheckRig(t)
			job := branchJob(r.github.Commit("acme", c.repository, "b", write(dir+c.file, c.content)))
			job.Repository = c.repository
			r.wants(r.check(job), c.conclusion, []string{c.file}, c.says)
		})
	}
	t.Run("the policy repository's name in another case", func(t *testing.T) {
		r := newCheckRig(t)
		r.checker.policyRepository = "APP"
		r.wants(r.check(branchJob(r.github.Commit("acme", "app", "b", write(dir+"x.sts.yaml", goodOrgPolicy)))), "success", []string{"x.sts.yaml"})
	})
}

// What the installation lacks and what the operator forbids is said before
// anybody asks for a token.
func TestCheckOfPermissions(t *testing.T) {
	r := newCheckRig(t)
	write1 := strings.Replace(goodPolicy, "contents: read", "issues: write", 1)
	job := branchJob(r.github.Commit("acme", "app", "b", write(dir+"x.sts.yaml", write1)))
	r.wants(r.check(job), "failure", []string{"x.sts.yaml"}, "issues: write is more than the App's installation has (nothing)", "x.sts.yaml#L4", "Permissions & events", "an owner of `acme`")

	r.checker.ceiling = trustpolicy.Ceiling{Permissions: map[string]string{"contents": "read"}}
	r.wants(r.check(job), "failure", []string{"x.sts.yaml"}, "issues: write, which the ceiling does not name", "the operator of the token exchange")

	job.Head = r.start
	r.checker.ceiling = trustpolicy.Ceiling{OrganizationOnly: true}
	r.wants(r.check(job), "failure", []string{"ci.sts.yaml"}, "policies in single repositories do not count here")
}
