package trustpolicy

import (
	"maps"
	"net/url"
	"regexp/syntax"
	"slices"
	"strings"
	"unicode"
)

// policy warns about what a policy, sound or not, says.
func (l *linter) policy(kind Kind, raw *document) {
	for _, f := range []struct {
		key            string
		exact, pattern *string
	}{
		{"issuer", raw.Issuer, raw.IssuerPattern},
		{"subject", raw.Subject, raw.SubjectPattern},
		{"audience", raw.Audience, raw.AudiencePattern},
	} {
		if f.exact != nil && strings.Contains(*f.exact, "*") {
			l.warn(f.key, RuleGlob, "%s is compared byte by byte, so * stands only for itself: use %s_pattern and a regular expression", f.key, f.key)
		}
		if f.pattern != nil {
			l.pattern(f.key+"_pattern", *f.pattern)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(raw.ClaimPattern)) {
		l.pattern("claim_pattern."+name, raw.ClaimPattern[name])
	}
	l.githubSubject(raw)
	l.reach(kind, raw)
}

// reach warns of what the token could be used for.
func (l *linter) reach(kind Kind, raw *document) {
	holdsPolicy := kind == Repository || raw.Repositories == nil ||
		slices.ContainsFunc(raw.Repositories, func(name string) bool { return strings.EqualFold(name, ".github") })
	if raw.Permissions["contents"] == "write" && holdsPolicy {
		l.warn("permissions.contents", RuleSelfWrite, "contents: write reaches the repository that holds this policy: who has the token can rewrite the policy, and take all that the App may do there")
	}
	if kind == Organization && !l.doc.Has("repositories") {
		l.warn("", RuleAllRepositories, "without repositories the token reaches every repository of the organization that the App is installed on: name those that are meant")
	}
}

// githubSubject warns of names in the subject of a GitHub Actions token.
func (l *linter) githubSubject(raw *document) {
	field, subject := "subject", raw.Subject
	if subject == nil {
		field, subject = "subject_pattern", raw.SubjectPattern
	}
	if subject == nil || !strings.HasPrefix(*subject, "repo:") || !githubIssuer(raw) {
		return
	}
	pinned := raw.ClaimPattern["repository_id"] != "" || raw.ClaimPattern["repository_owner_id"] != ""
	if !strings.Contains(*subject, "@") && !pinned {
		l.warn(field, RuleNameOnlySubject, "%s names the repository without its ID: whoever comes to own that name would inherit the access. Add repository_id to claim_pattern, or write GitHub's immutable form repo:OWNER@ID/REPOSITORY@ID", field)
	}
	// GitHub escapes a colon as %3A and leaves a percent sign alone.
	if _, environment, ok := strings.Cut(*subject, ":environment:"); ok && strings.Contains(environment, "%3A") && raw.ClaimPattern["environment"] == "" {
		l.warn(field, RuleEnvironmentColon, "an environment whose name has a colon and one whose name has %%3A in its place have the same subject: add environment to claim_pattern, which has the name itself")
	}
}

func githubIssuer(raw *document) bool {
	if raw.Issuer == nil {
		if raw.IssuerPattern == nil {
			return false
		}
		re, _, err := compilePattern(*raw.IssuerPattern)
		return err == nil && re.MatchString("https://token.actions.githubusercontent.com")
	}
	u, err := url.Parse(*raw.Issuer)
	if err != nil {
		return false
	}
	host := u.Hostname()
	return host == "token.actions.githubusercontent.com" ||
		strings.HasPrefix(host, "token.actions.") && strings.HasSuffix(host, ".ghe.com") ||
		u.Path == "/_services/token" // GitHub Enterprise Server
}

// pattern warns of one regular expression.
func (l *linter) pattern(path, source string) {
	if len(source) > MaxPattern {
		return // an error, reported by the compiler
	}
	tree, err := syntax.Parse(source, syntax.Perl)
	if err != nil {
		return // likewise
	}
	isIssuer := strings.HasPrefix(path, "issuer")
	switch {
	case isIssuer && foreignHost(tree):
		l.warn(path, RuleIssuerHost, "%s has a wildcard before the end of the host name that also matches a slash, so an issuer on a host of anybody's can match: write [a-z0-9-]+ or the like", path)
	case anything(tree):
		l.warn(path, RuleWildcard, "%s is matched by anything at all", path)
	case contains(tree, unboundedAny):
		l.warn(path, RuleWildcard, "%s has .* or .+, which also matches / : and @: say what may stand there, for example [A-Za-z0-9._-]+", path)
	}
	if (isIssuer || path == "audience_pattern" || strings.Contains(source, "://")) && contains(tree, unescapedDot) {
		l.warn(path, RuleUnescapedDot, `%s has a dot that stands for any character: write \. in host names`, path)
	}
	if contains(tree, starredLiteral) {
		l.warn(path, RuleGlob, "%s looks like a glob: * repeats the character before it, and .* stands for anything", path)
	}
}

// contains reports whether found holds for any part of the tree.
func contains(re *syntax.Regexp, found func(*syntax.Regexp) bool) bool {
	return found(re) || slices.ContainsFunc(re.Sub, func(sub *syntax.Regexp) bool { return contains(sub, found) })
}

func anyCharacter(re *syntax.Regexp) bool {
	return re.Op == syntax.OpAnyChar || re.Op == syntax.OpAnyCharNotNL
}

func unboundedAny(re *syntax.Regexp) bool {
	unbounded := re.Op == syntax.OpStar || re.Op == syntax.OpPlus || re.Op == syntax.OpRepeat && re.Max < 0
	return unbounded && anyCharacter(re.Sub[0])
}

// anything reports whether the whole pattern is .* or .+, also in parentheses.
func anything(re *syntax.Regexp) bool {
	for re.Op == syntax.OpCapture {
		re = re.Sub[0]
	}
	return unboundedAny(re)
}

// unescapedDot finds a single dot before a letter or digit, as in example.com.
func unescapedDot(re *syntax.Regexp) bool {
	for i := range re.Sub {
		if re.Op == syntax.OpConcat && dotInName(re.Sub[i:]) {
			return true
		}
	}
	return false
}

func dotInName(parts []*syntax.Regexp) bool {
	if len(parts) < 2 || !anyCharacter(parts[0]) || parts[1].Op != syntax.OpLiteral {
		return false
	}
	next := parts[1].Rune[0]
	return unicode.IsLetter(next) || unicode.IsDigit(next)
}

// starredLiteral finds the * of a glob: refs/heads/* or v*.
func starredLiteral(re *syntax.Regexp) bool {
	return re.Op == syntax.OpStar && re.Sub[0].Op == syntax.OpLiteral
}

// foreignHost reports whether a wildcard that matches a slash can stand before the
// slash that ends the host name: https://.*\.example\.com matches
// https://evil.test/x.example.com.
func foreignHost(re *syntax.Regexp) bool {
	const untilPath = 3 // the slashes of https:// and the one after the host
	foreign := false
	// walk returns how many slashes have certainly been passed after re.
	var walk func(re *syntax.Regexp, slashes int) int
	walk = func(re *syntax.Regexp, slashes int) int {
		switch re.Op {
		case syntax.OpAnyChar, syntax.OpAnyCharNotNL, syntax.OpCharClass:
			foreign = foreign || slashes < untilPath && matchesSlash(re)
		case syntax.OpLiteral:
			return slashes + strings.Count(string(re.Rune), "/")
		case syntax.OpAlternate:
			least := slashes + untilPath
			for _, sub := range re.Sub {
				least = min(least, walk(sub, slashes))
			}
			return least
		case syntax.OpStar, syntax.OpQuest:
			walk(re.Sub[0], slashes)
		case syntax.OpRepeat:
			if after := walk(re.Sub[0], slashes); re.Min > 0 {
				return after
			}
		default: // concatenation, parentheses, plus
			for i, sub := range re.Sub {
				if re.Op == syntax.OpConcat && dotInName(re.Sub[i:]) {
					continue // has a rule of its own, and says what to do
				}
				slashes = walk(sub, slashes)
			}
		}
		return slashes
	}
	walk(re, 0)
	return foreign
}

func matchesSlash(re *syntax.Regexp) bool {
	if anyCharacter(re) {
		return true
	}
	for i := 0; i+1 < len(re.Rune); i += 2 {
		if re.Rune[i] <= '/' && '/' <= re.Rune[i+1] {
			return true
		}
	}
	return false
}
