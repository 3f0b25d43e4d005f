package trustpolicy

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strings"

	"github.com/octo-sts/appliance/sts/strictyaml"
)

// Severity says what a finding means for the file.
type Severity int

const (
	// Error: the exchange refuses the file.
	Error Severity = iota
	// Warning: the exchange accepts the file, and it probably does not do what its
	// author wants.
	Warning
)

// String returns "error" or "warning".
func (s Severity) String() string {
	if s == Warning {
		return "warning"
	}
	return "error"
}

// MarshalText writes a Severity as its String.
func (s Severity) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// Rules of findings. They are stable, for those who filter by them.
const (
	RuleInvalid          = "invalid"           // the file is refused
	RuleFileName         = "file-name"         // the exchange would not find the file under this name
	RuleKind             = "kind"              // the file was taken for an organization's policy by its content alone
	RuleWildcard         = "wildcard"          // .* or .+ in a pattern
	RuleUnescapedDot     = "unescaped-dot"     // a dot in a host name that stands for any character
	RuleIssuerHost       = "issuer-host"       // an issuer pattern that other hosts can match
	RuleGlob             = "glob"              // a glob where text or a regular expression is expected
	RuleSelfWrite        = "self-write"        // contents: write on the repository that holds the policy
	RuleNameOnlySubject  = "name-only-subject" // a GitHub subject that a recycled name would inherit
	RuleEnvironmentColon = "environment-colon" // a GitHub environment that two names share
	RuleAllRepositories  = "all-repositories"  // an organization's policy without repositories
	RuleNotInstalled     = "not-installed"     // a permission that the installation lacks
)

// Finding is one remark on a file.
type Finding struct {
	Line     int      `json:"line"` // counted from 1; 0 for the file as a whole
	Severity Severity `json:"severity"`
	Rule     string   `json:"rule"` // one of the Rule constants
	Message  string   `json:"message"`
}

// Lint reads a file of .github/chainguard and returns its findings in the order of
// the lines; none for a good file. Every Error is a problem of Parse or of
// ParseTrustedIssuers, and the other way round.
//
// path tells what the file is. trusted-token-issuers.yaml is that list. A policy is
// the organization's where its path says that it stands in a repository called
// .github (…/.github/.github/chainguard/NAME.sts.yaml), or else where it has the key
// repositories, which comes with a warning; otherwise it is a repository's own. Who
// knows the kind calls LintKind.
func Lint(path string, data []byte, known Catalog) []Finding {
	slashed := "/" + filepath.ToSlash(path)
	if strings.HasSuffix(slashed, "/"+TrustedIssuersFile) {
		return lintTrustedIssuers(data)
	}
	if strings.Contains(slashed, "/.github/.github/chainguard/") {
		return LintKind(Organization, path, data, known)
	}
	var raw document
	doc, _ := strictyaml.Decode("", data, &raw)
	if !doc.Has("repositories") {
		return LintKind(Repository, path, data, known)
	}
	findings := append(LintKind(Organization, path, data, known), Finding{
		Line: doc.Line("repositories"), Severity: Warning, Rule: RuleKind,
		Message: "read as an organization's policy because of this key: in a repository's own policy it is an error",
	})
	return sorted(findings)
}

// LintKind is Lint for a policy whose kind is known.
func LintKind(kind Kind, path string, data []byte, known Catalog) []Finding {
	l := &linter{}
	base := filepath.Base(filepath.ToSlash(path))
	if identity, ok := strings.CutSuffix(base, Suffix); path != "" && path != "-" && (!ok || !ValidIdentity(identity)) {
		l.file(RuleFileName, "%s is not read: a policy's file is called IDENTITY.sts.yaml, with an identity of letters, digits and . _ - @ +", quote(base))
	}
	_, raw, doc, err := parse(kind, "", data, known)
	l.problems(err)
	if doc != nil {
		l.doc = doc
		l.policy(kind, raw)
	}
	return sorted(l.findings)
}

func lintTrustedIssuers(data []byte) []Finding {
	l := &linter{}
	_, raw, doc, err := parseTrustedIssuers("", data)
	l.problems(err)
	if doc != nil {
		l.doc = doc
		for i, pattern := range raw.IssuerPatterns {
			l.pattern(fmt.Sprintf("issuer_patterns[%d]", i), pattern)
		}
	}
	return sorted(l.findings)
}

// Lacking returns a warning for each permission of the policy that an installation
// with these permissions cannot give: GitHub would answer every exchange with 422.
func (p *TrustPolicy) Lacking(installation map[string]string) []Finding {
	l := &linter{}
	for _, name := range slices.Sorted(maps.Keys(p.permissions)) {
		want, have := p.permissions[name], installation[name]
		if covers(have, want) {
			continue
		}
		l.findings = append(l.findings, Finding{
			Line: p.lines[name], Severity: Warning, Rule: RuleNotInstalled,
			Message: fmt.Sprintf("%s: %s is more than the App's installation has (%s): an owner must grant it to the App first", name, want, cmp.Or(have, "nothing")),
		})
	}
	return sorted(l.findings)
}

// linter collects the findings of one file.
type linter struct {
	doc      *strictyaml.Document
	findings []Finding
}

func (l *linter) warn(path, rule, format string, args ...any) {
	p := l.doc.Problemf(path, format, args...)
	l.findings = append(l.findings, Finding{Line: p.Line, Severity: Warning, Rule: rule, Message: p.Message})
}

func (l *linter) file(rule, format string, args ...any) {
	l.findings = append(l.findings, Finding{Severity: Warning, Rule: rule, Message: fmt.Sprintf(format, args...)})
}

func (l *linter) problems(err error) {
	var problems strictyaml.Problems
	if errors.As(err, &problems) {
		for _, p := range problems {
			l.findings = append(l.findings, Finding{Line: p.Line, Severity: Error, Rule: RuleInvalid, Message: p.Message})
		}
	}
}

func sorted(findings []Finding) []Finding {
	slices.SortStableFunc(findings, func(a, b Finding) int {
		return cmp.Or(cmp.Compare(a.Line, b.Line), cmp.Compare(a.Severity, b.Severity))
	})
	return findings
}
