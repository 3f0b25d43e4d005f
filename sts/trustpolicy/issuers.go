package trustpolicy

import (
	"fmt"
	"regexp"

	"github.com/octo-sts/appliance/sts/strictyaml"
)

// Where the files of this language stand, in every repository: a policy is
// Directory + IDENTITY + Suffix. TrustedIssuersFile, in the organization's policy
// repository alone, lists the issuers that the organization trusts.
const (
	Directory          = ".github/chainguard/"
	Suffix             = ".sts.yaml"
	TrustedIssuersFile = "trusted-token-issuers.yaml"
	TrustedIssuersPath = Directory + TrustedIssuersFile
)

// Limits of an organization's list of trusted issuers.
const (
	MaxTrustedIssuers  = 64 // entries of issuers
	MaxTrustedPatterns = 16 // entries of issuer_patterns
)

// TrustedIssuers is an organization's own list of the issuers that any policy in it
// may rely on. It never changes. The operator's list comes before it: an issuer that
// is not configured there is refused whatever an organization trusts.
type TrustedIssuers struct {
	audit    bool
	exact    map[string]bool
	patterns []*regexp.Regexp
}

type trustedIssuersDocument struct {
	Mode           *string  `json:"mode"`
	Issuers        []string `json:"issuers"`
	IssuerPatterns []string `json:"issuer_patterns"`
}

// ParseTrustedIssuers reads trusted-token-issuers.yaml:
//
//	mode: enforce          # or audit; enforce where left out
//	issuers: [https://token.actions.githubusercontent.com]
//	issuer_patterns: ['https://oidc\.example\.com/[a-z]+']
//
// An issuer is trusted where it is one of issuers, byte by byte, or matches one of
// issuer_patterns as a whole. A file without any entry is an error: it would be
// anybody's guess whether it means everyone or no one. The error is
// [strictyaml.Problems].
func ParseTrustedIssuers(file string, data []byte) (*TrustedIssuers, error) {
	t, _, _, err := parseTrustedIssuers(file, data)
	return t, err
}

func parseTrustedIssuers(file string, data []byte) (*TrustedIssuers, *trustedIssuersDocument, *strictyaml.Document, error) {
	var raw trustedIssuersDocument
	doc, err := strictyaml.Decode(file, data, &raw)
	if doc == nil {
		return nil, nil, nil, err
	}
	c := &compiler{doc: doc}
	t := &TrustedIssuers{exact: make(map[string]bool)}
	if raw.Mode != nil {
		t.audit = *raw.Mode == "audit"
		if !t.audit && *raw.Mode != "enforce" {
			c.add("mode", "mode is %s: it must be enforce or audit", quote(*raw.Mode))
		}
	}
	if len(raw.Issuers)+len(raw.IssuerPatterns) == 0 && err == nil {
		c.add("", "the file trusts no issuer: name at least one in issuers or issuer_patterns, or remove the file to trust each that the operator lists")
	}
	if n := len(raw.Issuers); n > MaxTrustedIssuers {
		c.add("issuers", "issuers has %d entries, over the limit of %d", n, MaxTrustedIssuers)
		raw.Issuers = nil
	}
	if n := len(raw.IssuerPatterns); n > MaxTrustedPatterns {
		c.add("issuer_patterns", "issuer_patterns has %d entries, over the limit of %d", n, MaxTrustedPatterns)
		raw.IssuerPatterns = nil
	}
	for i, issuer := range raw.Issuers {
		c.issuerURL(fmt.Sprintf("issuers[%d]", i), issuer)
		t.exact[issuer] = true
	}
	for i, pattern := range raw.IssuerPatterns {
		if re := c.pattern(fmt.Sprintf("issuer_patterns[%d]", i), pattern); re != nil {
			t.patterns = append(t.patterns, re)
		}
	}
	if err := strictyaml.Join(err, c.problems); err != nil {
		return nil, &raw, doc, err
	}
	return t, &raw, doc, nil
}

// Allows reports whether the organization trusts issuer, whatever the mode.
func (t *TrustedIssuers) Allows(issuer string) bool {
	if t == nil || issuer == "" {
		return false
	}
	if t.exact[issuer] {
		return true
	}
	for _, re := range t.patterns {
		if re.MatchString(issuer) {
			return true
		}
	}
	return false
}

// Enforced reports whether an issuer that Allows refuses is to be refused (enforce)
// or only to be logged (audit).
func (t *TrustedIssuers) Enforced() bool { return t == nil || !t.audit }
