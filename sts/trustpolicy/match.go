package trustpolicy

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
)

// Actor is what a verified ID token says about its bearer.
type Actor struct {
	Issuer   string
	Subject  string
	Audience []string
	// Claims are all claims of the token, decoded from JSON with numbers as
	// json.Number: a float64 matches nothing, since it may have lost digits.
	Claims map[string]any
}

// Check is one comparison of a policy with a token.
type Check struct {
	Field string `json:"field"` // the policy's key: issuer, subject_pattern, claim_pattern.ref …
	Want  string `json:"want"`  // the policy's value or pattern as written; for a default audience the service's domain
	Got   string `json:"got"`   // the token's value; where there is none that could match, a word in parentheses
	OK    bool   `json:"ok"`
}

// String returns one line for an operator.
func (c Check) String() string {
	verb := "does not match"
	if c.OK {
		verb = "matches"
	}
	return fmt.Sprintf("%s: the ID token's %s %s %s", c.Field, quote(c.Got), verb, quote(c.Want))
}

// Decision is what a policy says about a token, and why.
type Decision struct {
	Granted bool `json:"granted"`
	// Checks are all comparisons: issuer, subject, audience, then each claim by name.
	// None is left out after one has failed.
	Checks []Check `json:"checks"`
}

// Reason returns the first check that failed as one line for the operator, "" where
// the policy grants. It quotes the policy: it is not for the caller.
func (d Decision) Reason() string {
	if d.Granted {
		return ""
	}
	for _, c := range d.Checks {
		if !c.OK {
			return c.String()
		}
	}
	return "there is no trust policy"
}

// Match compares a token with the policy. domain is the audience that is wanted where
// the policy names none.
func (p *TrustPolicy) Match(a Actor, domain string) Decision {
	if p == nil || p.issuer.want == "" {
		return Decision{}
	}
	checks := make([]Check, 0, 4+len(p.claims))
	checks = append(checks, p.issuer.text(a.Issuer), p.subject.text(a.Subject))
	audience := p.audience
	if audience.want == "" {
		audience = matcher{field: "audience", want: domain}
	}
	checks = append(checks, audience.any(a.Audience))
	for i := range p.claims {
		value, present := a.Claims[p.claims[i].name]
		checks = append(checks, p.claims[i].claim(value, present))
	}
	if check, applies := p.pullRequestTarget(a); applies {
		checks = append(checks, check)
	}
	granted := true
	for i := range checks {
		granted = granted && checks[i].OK
	}
	return Decision{Granted: granted, Checks: checks}
}

// pullRequestTarget refuses a job of GitHub's event pull_request_target to a policy
// that does not speak of events. Anybody who can open a pull request starts such a
// job, from a fork even, and its subject is the one of a push to the base branch:
// nobody who wrote that subject into a policy meant strangers' pull requests.
func (p *TrustPolicy) pullRequestTarget(a Actor) (_ Check, applies bool) {
	const claim, event = "event_name", "pull_request_target"
	if a.Claims[claim] != event || slices.Contains(p.ClaimNames(), claim) {
		return Check{}, false
	}
	return Check{Field: "claim_pattern." + claim, Want: "(anything but " + event + ", unless the policy names it)", Got: event}, true
}

func (m *matcher) text(got string) Check {
	return Check{Field: m.field, Want: m.want, Got: got, OK: m.matches(got)}
}

// any checks an audience, of which one has to match.
func (m *matcher) any(got []string) Check {
	for _, s := range got {
		if m.matches(s) {
			return Check{Field: m.field, Want: m.want, Got: s, OK: true}
		}
	}
	c := Check{Field: m.field, Want: m.want, Got: "(none)"}
	if len(got) > 0 {
		c.Got = strings.Join(got, " ")
	}
	return c
}

func (m *matcher) claim(value any, present bool) Check {
	c := Check{Field: m.field, Want: m.want}
	if s, ok := scalar(value); ok {
		return m.text(s)
	}
	switch v := value.(type) {
	case []any:
		for _, element := range v {
			if s, ok := scalar(element); ok && m.matches(s) {
				c.Got, c.OK = s, true
				return c
			}
		}
		c.Got = "(unprintable array)"
		if encoded, err := json.Marshal(v); err == nil {
			c.Got = string(encoded)
		}
	case nil:
		c.Got = "(null)"
		if !present {
			c.Got = "(absent)"
		}
	case map[string]any:
		c.Got = "(object)"
	default:
		c.Got = fmt.Sprintf("(%T)", v)
	}
	return c
}

// scalar returns the text that a pattern is compared with.
func scalar(value any) (string, bool) {
	switch v := value.(type) {
	case string:
		return v, true
	case json.Number:
		return v.String(), true
	case bool:
		if v {
			return "true", true
		}
		return "false", true
	}
	return "", false
}

// maxQuote is how many bytes of a value a message repeats.
const maxQuote = 300

// quote quotes a value for a line in a log, and shortens one that would fill it.
func quote(s string) string {
	if len(s) > maxQuote {
		return fmt.Sprintf("%q…", strings.ToValidUTF8(s[:maxQuote], ""))
	}
	return fmt.Sprintf("%q", s)
}

// shorten is quote for what is a sentence already.
func shorten(s string) string {
	if len(s) > maxQuote {
		return strings.ToValidUTF8(s[:maxQuote], "") + "…"
	}
	return s
}
