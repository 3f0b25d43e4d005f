package trustpolicy_test

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/octo-sts/appliance/sts/strictyaml"
	"github.com/octo-sts/appliance/sts/trustpolicy"
)

func TestTrustedIssuers(t *testing.T) {
	trusted, err := trustpolicy.ParseTrustedIssuers("i", []byte(`
issuers: [https://token.actions.githubusercontent.com, https://gitlab.example/a%20b]
issuer_patterns: ['https://[a-z]+\.ci\.example|https://buildkite\.example', 'https://oidc\.example/[a-z]+']
`))
	if err != nil {
		t.Fatal(err)
	}
	if !trusted.Enforced() {
		t.Error("without a mode the list is not enforced")
	}
	for issuer, want := range map[string]bool{
		actions:                        true,
		"https://gitlab.example/a%20b": true,
		"https://gitlab.example/a b":   false,
		actions + "/":                  false,
		"https://TOKEN.actions.githubusercontent.com": false,
		"https://one.ci.example":                      true,
		"https://one.ci.example.evil.test":            false,
		"https://one-ci.example":                      false,
		"https://evil.test/https://buildkite.example": false,
		"https://buildkite.example":                   true,
		"https://oidc.example/team":                   true,
		"https://oidc.example/team/other":             false,
		"":                                            false,
	} {
		if got := trusted.Allows(issuer); got != want {
			t.Errorf("Allows(%q) = %v", issuer, got)
		}
	}
	var none *trustpolicy.TrustedIssuers
	if none.Allows(actions) || !none.Enforced() {
		t.Error("a nil list trusts")
	}
}

func TestTrustedIssuersMode(t *testing.T) {
	for mode, enforced := range map[string]bool{"mode: enforce\n": true, "mode: audit\n": false, "": true} {
		trusted, err := trustpolicy.ParseTrustedIssuers("i", []byte(mode+"issuers: ["+actions+"]\n"))
		if err != nil || trusted.Enforced() != enforced || trusted.Allows("https://x.example") {
			t.Errorf("%q: %v", mode, err)
		}
	}
}

func TestParseTrustedIssuersRefuses(t *testing.T) {
	list := func(n int, format string) string {
		var b strings.Builder
		for i := range n {
			fmt.Fprintf(&b, format, i)
		}
		return b.String()
	}
	for _, tc := range []struct{ name, yaml, want string }{
		{"empty file", "", "i:1: the file is empty"},
		{"no entry", "mode: enforce\n", "i:1: the file trusts no issuer"},
		{"empty lists", "issuers: []\nissuer_patterns: []\n", "i:1: the file trusts no issuer"},
		{"null list", "issuers:\n", "i:1: issuers has no value"},
		{"unknown mode", "mode: off\nissuers: [" + actions + "]\n", `i:1: mode is "off": it must be enforce or audit`},
		{"mode in another case", "mode: Enforce\nissuers: [" + actions + "]\n", `mode is "Enforce"`},
		{"unknown key", "issuer: [" + actions + "]\nissuers: [" + actions + "]\n", `unknown key "issuer": did you mean issuers?`},
		{"text for a list", "issuers: " + actions + "\n", "i:1: issuers must be a list"},
		{"http", "issuers:\n  - " + actions + "\n  - http://x.example\n", `i:3: issuers[1] "http://x.example" must begin with https://`},
		{"a host alone", "issuers: [x.example]\n", "is no URL"},
		{"empty issuer", "issuers: ['']\n", "is no URL"},
		{"empty pattern", "issuer_patterns: ['']\n", "issuer_patterns[0] is empty"},
		{"bad pattern", "issuer_patterns: [a, '[']\n", "i:1: issuer_patterns[1] is no valid pattern"},
		{"unbalanced pattern", "issuer_patterns: [')|(']\n", "is no valid pattern"},
		{"65 issuers", "issuers:\n" + list(65, "  - https://i%d.example\n"), "issuers has 65 entries, over the limit of 64"},
		{"17 patterns", "issuer_patterns:\n" + list(17, "  - p%d\n"), "issuer_patterns has 17 entries, over the limit of 16"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			trusted, err := trustpolicy.ParseTrustedIssuers("i", []byte(tc.yaml))
			var problems strictyaml.Problems
			if trusted != nil || !errors.As(err, &problems) || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("got %v, %v; want %s", trusted, err, tc.want)
			}
		})
	}
}

func FuzzParseTrustedIssuers(f *testing.F) {
	for _, seed := range []string{
		"issuers: [" + actions + "]\n", "mode: audit\nissuer_patterns: ['a|b', '(?i)https://x']\n", "issuers: []\n", "issuer_patterns: [')|(', '\\Q']\n", "mode: 1\n", "- a\n",
	} {
		f.Add([]byte(seed), actions)
	}
	f.Fuzz(func(t *testing.T, data []byte, issuer string) {
		trusted, err := trustpolicy.ParseTrustedIssuers("i", data)
		refused := false
		for _, finding := range trustpolicy.Lint(trustpolicy.TrustedIssuersFile, data, trustpolicy.Catalog{}) {
			refused = refused || finding.Severity == trustpolicy.Error
		}
		if refused != (err != nil) {
			t.Fatalf("ParseTrustedIssuers says %v, lint refuses: %v", err, refused)
		}
		if trusted.Allows("") {
			t.Fatal("an empty issuer is trusted")
		}
		if err != nil {
			return
		}
		// What the file means, decided once more from its lists.
		var list struct {
			Mode           string   `json:"mode"`
			Issuers        []string `json:"issuers"`
			IssuerPatterns []string `json:"issuer_patterns"`
		}
		if _, err := strictyaml.Decode("", data, &list); err != nil {
			t.Fatal(err)
		}
		want := slices.Contains(list.Issuers, issuer)
		for _, pattern := range list.IssuerPatterns {
			full, err := fullMatch("issuer_pattern", pattern, issuer)
			if err != nil {
				t.Fatalf("%q was accepted: %v", pattern, err)
			}
			want = want || full && issuer != ""
		}
		if trusted.Allows(issuer) != want {
			t.Fatalf("Allows(%q) = %v with %q", issuer, !want, data)
		}
	})
}
