package sts

import (
	"errors"
	"fmt"
	"strings"

	"github.com/octo-sts/appliance/sts/trustpolicy"
)

// Scope is what a token is asked for: one repository, or an organization as
// far as its own policy allows.
type Scope struct {
	Owner      string
	Repository string // empty: the organization
}

// String gives the scope as it is written on the wire.
func (s Scope) String() string {
	if s.Repository == "" {
		return s.Owner
	}
	return s.Owner + "/" + s.Repository
}

// ParseScope reads `owner/repository` or `owner`. Names are held against
// GitHub's own rules and nothing is cleaned up into something else: what is not
// a scope to the letter is refused. Letter case is kept; GitHub ignores it.
func ParseScope(s string) (Scope, error) {
	if s == "" {
		return Scope{}, errors.New("scope is missing: it is owner/repository, or owner for an organization")
	}
	owner, repository, isRepository := strings.Cut(s, "/")
	if !validOwner(owner) {
		return Scope{}, fmt.Errorf("scope %q: the owner is not a GitHub account name", clip(s))
	}
	if isRepository && !validRepository(repository) {
		return Scope{}, fmt.Errorf("scope %q: the part after the slash is not a GitHub repository name", clip(s))
	}
	return Scope{Owner: owner, Repository: repository}, nil
}

// CheckIdentity tells whether s can name a trust policy.
func CheckIdentity(s string) error {
	if s == "" {
		return errors.New("identity is missing: it names a trust policy, .github/chainguard/{identity}.sts.yaml")
	}
	if !trustpolicy.ValidIdentity(s) || looksSecret(s) {
		return fmt.Errorf("identity %q: it is one file-name segment of at most 200 letters, digits and . _ - @ +, not beginning with a dot", clip(s))
	}
	return nil
}

// validOwner follows GitHub's rule for account names: at most 39 letters,
// digits and hyphens, not beginning with a hyphen; managed users' names also
// have an underscore. Old accounts may end with a hyphen or hold two in a row.
func validOwner(s string) bool {
	return s != "" && len(s) <= 39 && s[0] != '-' && s[0] != '_' && consistsOf(s, "-_")
}

// validRepository follows GitHub's rule for repository names: at most 100
// letters, digits and `._-`; `.` and `..` and the suffixes that GitHub gives a
// meaning of their own are reserved.
func validRepository(s string) bool {
	lower := strings.ToLower(s)
	return s != "" && len(s) <= 100 && s != "." && s != ".." &&
		!strings.HasSuffix(lower, ".git") && !strings.HasSuffix(lower, ".wiki") && consistsOf(s, "._-")
}

func consistsOf(s, punctuation string) bool {
	for i := range len(s) {
		c := s[i]
		letterOrDigit := 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9'
		if !letterOrDigit && strings.IndexByte(punctuation, c) < 0 {
			return false
		}
	}
	return true
}

// clip keeps a hostile value from filling a message, or from playing with the
// terminal of whoever reads it: what is not printable ASCII becomes a question
// mark. A token that somebody put in the wrong place is not repeated.
func clip(s string) string {
	const most = 100
	if looksSecret(s) {
		return "(something like a token)"
	}
	if len(s) > most {
		return printableASCII(s[:most]) + "…"
	}
	return printableASCII(s)
}

// looksSecret tells whether there is a JWT in s, which begins with a JSON object in
// base64url, or a token of GitHub's.
func looksSecret(s string) bool {
	const least = 20 // a name is hardly as long as that, and begins so as well
	for _, begins := range []string{"eyJ", "ghs_", "ghp_", "gho_", "ghu_", "ghr_", "github_pat_"} {
		i := strings.Index(s, begins)
		if i >= 0 && len(s)-i >= least && (i == 0 || !consistsOf(s[i-1:i], "")) {
			return true
		}
	}
	return false
}

func printableASCII(s string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r > '~' {
			return '?'
		}
		return r
	}, s)
}
