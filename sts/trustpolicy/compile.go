package trustpolicy

import (
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"net/url"
	"regexp"
	"regexp/syntax"
	"slices"
	"strings"
	"unicode"

	"github.com/octo-sts/appliance/sts/strictyaml"
)

// maxProgram bounds what one pattern compiles to, in states of some 40 bytes, and
// maxPrograms all patterns of a file together. A pattern of MaxPattern bytes gets there
// only by counted repetition or by many large classes: without a bound
// `((a{9}){9}){9}` and `\pL\pL\pL` fill memory while the file stays small.
const (
	maxProgram  = 2 * MaxPattern
	maxPrograms = 4 * maxProgram
)

// compiler turns a decoded file into matchers and collects its faults.
type compiler struct {
	doc      *strictyaml.Document
	problems strictyaml.Problems
	size     int // of the patterns so far, against maxPrograms
}

func (c *compiler) add(path, format string, args ...any) {
	c.problems = append(c.problems, c.doc.Problemf(path, format, args...))
}

// either compiles the one of key and key_pattern that is there.
func (c *compiler) either(key string, exact, pattern *string) matcher {
	patternKey := key + "_pattern"
	switch {
	case c.doc.Has(key) && c.doc.Has(patternKey):
		c.add(patternKey, "%s and %s exclude each other: remove one", key, patternKey)
	case !c.doc.Has(key) && !c.doc.Has(patternKey):
		c.add("", "%s is missing: write either %s or %s", key, key, patternKey)
	case exact != nil:
		if err := checkText(*exact); err != nil {
			c.add(key, "%s %v", key, err)
		}
		return matcher{field: key, want: *exact}
	case pattern != nil:
		return matcher{field: patternKey, want: *pattern, re: c.pattern(patternKey, *pattern)}
	}
	return matcher{}
}

func (c *compiler) pattern(path, pattern string) *regexp.Regexp {
	if c.size > maxPrograms {
		return nil // reported for the one that went over
	}
	re, size, err := compilePattern(pattern)
	if c.size += size; err == nil && c.size > maxPrograms {
		err = errors.New("makes the patterns of this file too large together")
	}
	if err != nil {
		c.add(path, "%s %v", path, err)
	}
	return re
}

func (c *compiler) issuerURL(path, issuer string) {
	if err := checkIssuer(issuer); err != nil {
		c.add(path, "%s %s %v", path, quote(issuer), err)
	}
}

// limit reports and empties a mapping that has more than most keys.
func (c *compiler) limit(key, what string, mapping *map[string]string, most int) {
	if n := len(*mapping); n > most {
		c.add(key, "%s names %d %s, over the limit of %d", key, n, what, most)
		*mapping = nil
	}
}

func (c *compiler) permissions(kind Kind, permissions map[string]string, known Catalog) map[string]string {
	switch {
	case !c.doc.Has("permissions"):
		c.add("", "permissions is missing: name each permission that the token gets")
	case permissions != nil && len(permissions) == 0:
		// GitHub would read an empty list as everything that the App has.
		c.add("permissions", "permissions is empty: name each permission that the token gets")
	}
	for _, name := range slices.Sorted(maps.Keys(permissions)) {
		path := "permissions." + name
		if err := known.Check(name, permissions[name]); err != nil {
			c.add(path, "%v", err)
		} else if kind == Repository && known.OfOrganization(name) {
			// Or else anybody who can write to one repository could make himself an owner of all.
			c.add(path, "permission %s reaches beyond this repository: a policy that grants it must stand in the organization's policy repository, and be asked for with the organization as scope", name)
		}
	}
	return permissions
}

// repositoryName follows GitHub: letters, digits, dots, dashes, underscores, at
// most 100 of them. reservedName is what GitHub gives a meaning of its own.
var (
	repositoryName = regexp.MustCompile(`^[A-Za-z0-9._-]{1,100}$`)
	reservedName   = regexp.MustCompile(`(?i)^\.\.?$|\.git$|\.wiki$`)
)

func (c *compiler) repositories(kind Kind, names []string) []string {
	const key = "repositories"
	switch {
	case !c.doc.Has(key):
		return nil
	case kind == Repository:
		c.add(key, "repositories belongs only into a policy of the organization's policy repository: a policy here is about this repository alone, so remove it")
		return nil
	case names != nil && len(names) == 0:
		c.add(key, "repositories is empty: name at least one, or leave the key out for all of the organization's")
	case len(names) > MaxRepositories:
		c.add(key, "repositories names %d, over GitHub's limit of %d: leave the key out for all, or split the policy", len(names), MaxRepositories)
		return nil
	}
	seen := make(map[string]bool)
	for i, name := range names {
		path := fmt.Sprintf("%s[%d]", key, i)
		folded := strings.ToLower(name) // GitHub's names differ in more than case
		switch {
		case strings.Contains(name, "/"):
			c.add(path, "%s %s has a slash: write the name alone, a policy reaches no other organization", path, quote(name))
		case name == "*":
			c.add(path, "%s is *: leave repositories out for all of the organization's", path)
		case !repositoryName.MatchString(name) || reservedName.MatchString(name):
			c.add(path, "%s %s is no name that GitHub gives a repository", path, quote(name))
		case seen[folded]:
			c.add(path, "%s %q is named twice", path, name)
		}
		seen[folded] = true
	}
	return names
}

// checkText refuses exact values that no token could have, or that look in the
// file like another value.
func checkText(s string) error {
	switch {
	case s == "":
		return errors.New("is empty")
	case len(s) > MaxPattern:
		return fmt.Errorf("has %d bytes, over the limit of %d", len(s), MaxPattern)
	case strings.ContainsFunc(s, unicode.IsControl):
		return errors.New("has a line break or another control character: write it on one line, without | or >")
	case strings.TrimSpace(s) != s:
		return errors.New("begins or ends with a space")
	}
	return nil
}

// checkIssuer refuses what cannot be an issuer: OpenID Connect Core 1.0, section 2,
// wants an https URL without query and fragment. http is for loopback, in tests.
func checkIssuer(issuer string) error {
	u, err := url.Parse(issuer)
	switch {
	case err != nil || u.Hostname() == "" || strings.ContainsFunc(issuer, unicode.IsSpace):
		return errors.New("is no URL: write it as the token's iss claim has it")
	case !strings.HasPrefix(issuer, "https://") && (!strings.HasPrefix(issuer, "http://") || !loopback(u.Hostname())):
		return errors.New("must begin with https://")
	case u.User != nil || strings.ContainsAny(issuer, "?#"):
		return errors.New("has a user, a query or a fragment: an issuer has none")
	}
	return nil
}

func loopback(host string) bool {
	addr, err := netip.ParseAddr(host)
	return host == "localhost" || err == nil && addr.IsLoopback()
}

// compilePattern compiles p so that it must match a whole value, and returns its size
// as well. It compiles p by itself first: only then do the parentheses around it hold
// everything, also for `)|(`, and `a|b` is anchored at both ends of both branches.
func compilePattern(p string) (*regexp.Regexp, int, error) {
	if err := checkText(p); err != nil {
		return nil, 0, err
	}
	tree, err := syntax.Parse(p, syntax.Perl)
	if err != nil {
		if strings.HasPrefix(p, "*") || strings.Contains(p, "**") {
			return nil, 0, fmt.Errorf("is no valid pattern: %s; it looks like a glob, and patterns are regular expressions (https://github.com/google/re2/wiki/Syntax)", shorten(err.Error()))
		}
		return nil, 0, fmt.Errorf("is no valid pattern: %s", shorten(err.Error()))
	}
	size := min(states(tree)+classes(tree), maxProgram+1)
	if size > maxProgram {
		return nil, size, errors.New("is too large a pattern: its repetitions or character classes come to too many states")
	}
	re, err := regexp.Compile("^(?:" + p + ")$")
	if err != nil { // \Q without \E takes our parenthesis in
		return nil, size, fmt.Errorf("is no valid pattern: it cannot be anchored at both ends: %s", shorten(err.Error()))
	}
	return re, size, nil
}

// states estimates how many states re compiles to, at most maxProgram+1.
func states(re *syntax.Regexp) int {
	n := 1
	switch re.Op {
	case syntax.OpLiteral:
		n = len(re.Rune)
	case syntax.OpCapture:
		n = 2
	}
	for _, sub := range re.Sub {
		n = min(n+states(sub), maxProgram+1)
	}
	if re.Op == syntax.OpRepeat {
		n *= max(re.Min+1, re.Max, 1) // at most 1000 each, or the parser refuses
	}
	return min(n, maxProgram+1)
}

// classes is the room that the character classes of re take, in states. Repetition
// shares them.
func classes(re *syntax.Regexp) int {
	n := 0
	if re.Op == syntax.OpCharClass {
		n = len(re.Rune) / 10 // 4 bytes each
	}
	for _, sub := range re.Sub {
		n += classes(sub)
	}
	return n
}
