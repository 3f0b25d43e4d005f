// Package trustpolicy is the language of trust policies: who, by the claims of an
// ID token, may have which GitHub permissions. It parses, compiles, matches,
// explains and lints.
//
// All of it is pure: no network, no files, no clock. Whether a token is genuine
// was decided before (an [Actor] is what a verified ID token says), where a policy
// comes from and what is minted is decided elsewhere. The exchange, the webhook's
// check and the linter call the same [Parse] and the same [TrustPolicy.Match], so
// they cannot disagree.
//
// # The language
//
// A policy is one YAML document, .github/chainguard/IDENTITY.sts.yaml, of octo-sts's
// keys (https://github.com/octo-sts/app):
//
//	issuer: https://token.actions.githubusercontent.com   # or issuer_pattern
//	subject: repo:acme/app:ref:refs/heads/main            # or subject_pattern
//	audience: sts.example.com                             # or audience_pattern; left out: the service's domain
//	claim_pattern:                                        # each must match; may be left out
//	  repository_id: "123456"
//	permissions:                                          # at least one
//	  contents: read
//	repositories: [app, site]                             # organization's policies alone; left out: all
//
// Text is compared byte by byte. A pattern is an RE2 expression that must match the
// whole value: `a|b` matches "a" and "b" and nothing that merely begins or ends so.
// A claim matches where it is a string, a number (as the token spells it), a boolean
// ("true", "false"), or an array one of whose elements is such a value and matches.
// A claim that is null, an object or missing never matches.
package trustpolicy

import (
	"maps"
	"regexp"
	"slices"

	"github.com/octo-sts/appliance/sts/strictyaml"
)

// Limits of a policy, beyond strictyaml.MaxSize for the file.
const (
	MaxPattern      = 4 << 10 // bytes of one pattern or of one exact value
	MaxClaims       = 64      // keys of claim_pattern
	MaxPermissions  = 100     // keys of permissions
	MaxRepositories = 500     // GitHub takes no more in one request for an installation token
)

// Kind says for which scope a policy is read, and so where it stands.
type Kind int

const (
	// Repository policies stand in the repository that they are about, and grant
	// access to that repository alone: scope "owner/repo".
	Repository Kind = iota
	// Organization policies stand in the organization's policy repository and may
	// name the repositories that they are about: scope "owner".
	Organization
)

// String returns "repository" or "organization".
func (k Kind) String() string {
	if k == Organization {
		return "organization"
	}
	return "repository"
}

// TrustPolicy is one compiled policy. It never changes and may be used by many
// goroutines. Only Parse makes one that grants anything: the zero value and nil
// refuse everybody.
type TrustPolicy struct {
	issuer, subject matcher
	audience        matcher // without a want: the service's domain
	claims          []claimMatcher
	permissions     map[string]string
	repositories    []string // nil for all of the organization's
	lines           map[string]int
}

// claimMatcher is one entry of claim_pattern.
type claimMatcher struct {
	name string
	matcher
}

// matcher is one comparison that a policy asks for.
type matcher struct {
	field string // the policy's key, such as "subject_pattern"
	want  string // as written; "" matches nothing
	re    *regexp.Regexp
}

func (m *matcher) matches(s string) bool {
	switch {
	case m.want == "":
		return false
	case m.re != nil:
		return m.re.MatchString(s)
	}
	return s == m.want
}

// document is a policy as written. Pointers tell a value that is empty from one
// that was faulty and has been reported.
type document struct {
	Issuer          *string           `json:"issuer"`
	IssuerPattern   *string           `json:"issuer_pattern"`
	Subject         *string           `json:"subject"`
	SubjectPattern  *string           `json:"subject_pattern"`
	Audience        *string           `json:"audience"`
	AudiencePattern *string           `json:"audience_pattern"`
	ClaimPattern    map[string]string `json:"claim_pattern"`
	Permissions     map[string]string `json:"permissions"`
	Repositories    []string          `json:"repositories"`
}

// Parse reads and compiles the policy in data. file is only for messages. known
// holds the permissions that may be asked for. The error is [strictyaml.Problems]
// and holds the faults of the file, strictyaml.MaxProblems at most.
func Parse(kind Kind, file string, data []byte, known Catalog) (*TrustPolicy, error) {
	p, _, _, err := parse(kind, file, data, known)
	return p, err
}

// parse is Parse that also returns what lint looks at. The policy is nil where
// there is an error, the Document is nil where the file is no YAML mapping.
func parse(kind Kind, file string, data []byte, known Catalog) (*TrustPolicy, *document, *strictyaml.Document, error) {
	var raw document
	doc, err := strictyaml.Decode(file, data, &raw)
	if doc == nil {
		return nil, nil, nil, err
	}
	c := &compiler{doc: doc}
	// What is over a limit is reported once and not looked at, neither here nor by lint.
	c.limit("claim_pattern", "claims", &raw.ClaimPattern, MaxClaims)
	c.limit("permissions", "permissions", &raw.Permissions, MaxPermissions)
	p := &TrustPolicy{
		issuer:      c.either("issuer", raw.Issuer, raw.IssuerPattern),
		subject:     c.either("subject", raw.Subject, raw.SubjectPattern),
		claims:      c.claims(raw.ClaimPattern),
		permissions: c.permissions(kind, raw.Permissions, known),
		lines:       make(map[string]int),
	}
	if doc.Has("audience") || doc.Has("audience_pattern") {
		p.audience = c.either("audience", raw.Audience, raw.AudiencePattern)
	}
	if p.issuer.re == nil && p.issuer.want != "" {
		c.issuerURL("issuer", p.issuer.want)
	}
	p.repositories = c.repositories(kind, raw.Repositories)
	for name := range p.permissions {
		p.lines[name] = doc.Line("permissions." + name)
	}
	if err := strictyaml.Join(err, c.problems); err != nil {
		return nil, &raw, doc, err
	}
	return p, &raw, doc, nil
}

// Permissions returns a copy of the permissions that the policy grants, by name.
// It is never empty for a policy that Parse returned.
func (p *TrustPolicy) Permissions() map[string]string { return maps.Clone(p.permissions) }

// Repositories returns the repositories of the organization that the policy is
// about, as plain names in the order of the file, or all for every one that the
// installation has. It has a meaning only for a policy of kind Organization.
func (p *TrustPolicy) Repositories() (names []string, all bool) {
	return slices.Clone(p.repositories), p.repositories == nil
}

// ClaimNames returns the claims that claim_pattern names, sorted.
func (p *TrustPolicy) ClaimNames() []string {
	names := make([]string, len(p.claims))
	for i := range p.claims {
		names[i] = p.claims[i].name
	}
	return names
}

// claims compiles claim_pattern, in the order in which Match will check it.
func (c *compiler) claims(patterns map[string]string) []claimMatcher {
	var ms []claimMatcher
	for _, name := range slices.Sorted(maps.Keys(patterns)) {
		path := "claim_pattern." + name
		pattern := patterns[name]
		ms = append(ms, claimMatcher{name, matcher{field: path, want: pattern, re: c.pattern(path, pattern)}})
	}
	return ms
}
