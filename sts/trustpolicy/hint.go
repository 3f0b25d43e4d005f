package trustpolicy

import (
	"fmt"
	"net/url"
	"regexp"
	"strings"
)

// Forms of the subject in a GitHub Actions ID token, see
// https://docs.github.com/actions/reference/security/oidc.
var (
	immutableSubject = regexp.MustCompile(`^repo:([^/@:]+)@[0-9]+/([^/@:]+)@[0-9]+(:.*)?$`)
	namedSubject     = regexp.MustCompile(`^repo:[^/@:]+/[^/@:]+(:.*)?$`)
	// An ID in a policy: digits, or a pattern for them.
	subjectID = regexp.MustCompile(`@(\d|\[|\\d)`)
)

// Hints returns what probably went wrong, one sentence each, for the person who asks
// why a policy says no. They quote the policy and the token. They are guesses: the
// decision rests on Checks alone.
func (d Decision) Hints() []string {
	var hints []string
	for _, c := range d.Checks {
		if c.OK {
			continue
		}
		switch {
		case strings.HasPrefix(c.Field, "subject"):
			hints = append(hints, subjectHints(c)...)
		case strings.HasPrefix(c.Field, "audience"):
			hints = append(hints, audienceHints(c)...)
		case strings.HasPrefix(c.Field, "issuer"):
			if c.matches(strings.TrimSuffix(c.Got, "/")) || c.matches(c.Got+"/") {
				hints = append(hints, fmt.Sprintf("%s: the issuers differ only in a slash at the end", c.Field))
			}
		}
		if c.matchesFolded() {
			hints = append(hints, fmt.Sprintf("%s: the values differ only in upper and lower case, which counts", c.Field))
		}
	}
	return hints
}

// matches repeats the check with another value.
func (c Check) matches(got string) bool {
	m := matcher{want: c.Want}
	if c.pattern() {
		re, _, err := compilePattern(c.Want)
		if err != nil {
			return false
		}
		m.re = re
	}
	return m.matches(got)
}

func (c Check) matchesFolded() bool {
	if !c.pattern() {
		return strings.EqualFold(c.Want, c.Got)
	}
	re, err := regexp.Compile("(?i)^(?:" + c.Want + ")$")
	return err == nil && re.MatchString(c.Got)
}

func (c Check) pattern() bool {
	return strings.HasSuffix(c.Field, "_pattern") || strings.HasPrefix(c.Field, "claim_pattern.")
}

func subjectHints(c Check) []string {
	var hints []string
	add := func(text string) { hints = append(hints, c.Field+": "+text) }
	got, want := c.Got, c.Want
	parts := immutableSubject.FindStringSubmatch(got)
	switch {
	case parts != nil && strings.HasPrefix(want, "repo:") && !strings.Contains(want, "@"):
		text := "the ID token has GitHub's immutable subject, repo:OWNER@ID/REPOSITORY@ID, the policy only the names"
		if c.matches("repo:" + parts[1] + "/" + parts[2] + parts[3]) {
			text += fmt.Sprintf("; but for the IDs it would match: write subject: %s", got)
		}
		add(text)
	case namedSubject.MatchString(got) && subjectID.MatchString(want):
		add("the policy has GitHub's immutable subject, repo:OWNER@ID/REPOSITORY@ID, the ID token only the names: opt the repository into immutable subjects, or write the names and pin repository_id in claim_pattern")
	}
	branch := strings.Contains(want, ":ref:") || strings.Contains(want, "refs/heads")
	switch {
	case strings.HasSuffix(got, ":pull_request") && branch:
		add("the job ran for a pull request: such a subject ends in :pull_request and names no branch")
	case strings.Contains(got, ":environment:") && branch:
		add("the job names an environment, which stands in the subject in place of the branch")
	}
	if strings.Contains(got, ":environment:") {
		plain := strings.ReplaceAll(got, "%3A", ":")
		switch {
		case plain != got && c.matches(plain):
			add("GitHub writes a colon in the name of an environment as %3A: so must the policy")
		case plain == got && strings.Contains(want, "%3A"):
			add("the policy names an environment with %3A, which GitHub writes for a colon; the ID token's environment has none")
		}
	}
	return hints
}

func audienceHints(c Check) []string {
	u, err := url.Parse(c.Got)
	switch {
	case err != nil || c.Got == "":
		return nil
	case c.matches(u.Host) || c.matches("https://"+c.Got):
		return []string{c.Field + ": the audiences differ only in https://; an audience is text, compared byte by byte"}
	case u.Host == "github.com" && strings.Count(strings.Trim(u.Path, "/"), "/") == 0:
		return []string{fmt.Sprintf("%s: %s is the audience of a GitHub token for which the job asked no other: request it with audience %q", c.Field, c.Got, c.Want)}
	}
	return nil
}
