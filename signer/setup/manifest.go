package setup

import (
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
	"unicode"

	"github.com/octo-sts/appliance/sts/trustpolicy"
)

// maxAppName is the longest name that GitHub takes for an App, in characters.
const maxAppName = 34

// maxOwner is the longest login of an account at GitHub, in bytes.
const maxOwner = 39

// ownerPattern is GitHub's rule for logins; the underscore is in those of managed users.
var ownerPattern = regexp.MustCompile(`^[A-Za-z0-9](?:[A-Za-z0-9_-]*[A-Za-z0-9_])?$`)

// Choice is what the operator picks.
type Choice struct {
	Owner       string            // login of the organization that shall own the App; "": the person's own account
	Name        string            // of the App
	Public      bool              // accounts other than the owner may install it
	Permissions map[string]string // name → level, both as the catalogue has them
	Events      []string          // that GitHub tells the webhook; none: the webhook is off
}

// Need is a permission that the appliance itself uses, beside those that trust policies are to grant.
type Need struct {
	Permission string
	Level      string
	Why        string
	// For are the events that need it; nil: it is needed in any case.
	For []string
}

// Event is something that GitHub can tell the webhook.
type Event struct {
	Name string
	Why  string
}

// Events are those that the webhook knows what to do with, in the order to show them in.
func Events() []Event {
	return []Event{
		{"push", "a policy that changed or was deleted counts at once, and is checked"},
		{"pull_request", "policies in pull requests are checked, also those from forks"},
		{"merge_group", "policies in merge queues are checked"},
		{"check_suite", "“Re-run all checks” works"},
		{"check_run", "“Re-run” works"},
		{"repository", "a repository that was renamed, moved or archived counts at once"},
		{"installation_target", "an organization that was renamed counts at once"},
	}
}

// Needs are the appliance's own needs, with the reasons, in the order to show them in.
func Needs() []Need {
	return []Need{
		{"metadata", "read", "GitHub gives it to every App", nil},
		{"contents", "read", "trust policies are files of repositories", nil},
		{"checks", "write", "the webhook marks policies that are wrong with a check", []string{"push", "pull_request", "merge_group", "check_suite", "check_run"}},
		{"pull_requests", "read", "the event pull_request", []string{"pull_request"}},
		{"merge_queues", "read", "the event merge_group", []string{"merge_group"}},
	}
}

// DefaultChoice is what the page begins with: every event, and the permissions that they need.
func DefaultChoice() Choice {
	c := Choice{Permissions: map[string]string{}}
	for _, event := range Events() {
		c.Events = append(c.Events, event.Name)
	}
	for _, need := range Needs() {
		c.Permissions[need.Permission] = need.Level
	}
	return c
}

// Problems lists what GitHub would refuse, or what would leave the appliance without something that it needs.
func (c Choice) Problems(catalog trustpolicy.Catalog) []string {
	var problems []string
	add := func(format string, args ...any) { problems = append(problems, fmt.Sprintf(format, args...)) }
	if c.Owner != "" && (len(c.Owner) > maxOwner || !ownerPattern.MatchString(c.Owner)) {
		add("%q is not the name of an organization as it stands in addresses", c.Owner)
	}
	if n := len([]rune(c.Name)); n == 0 || n > maxAppName || strings.ContainsFunc(c.Name, unicode.IsControl) {
		add("the App's name has 1 to %d characters", maxAppName)
	}
	for _, name := range slices.Sorted(maps.Keys(c.Permissions)) {
		if err := catalog.Check(name, c.Permissions[name]); err != nil {
			add("%v", err)
		}
	}
	known := Events()
	for _, event := range c.Events {
		if !slices.ContainsFunc(known, func(e Event) bool { return e.Name == event }) {
			add("the webhook does nothing with the event %q", event)
		}
	}
	for _, need := range Needs() {
		for_, needed := need.neededBy(c.Events)
		if needed && !covers(catalog, need.Permission, c.Permissions[need.Permission], need.Level) {
			add("the permission %s: %s is needed%s: %s", need.Permission, need.Level, for_, need.Why)
		}
	}
	return problems
}

// neededBy says whether the need is one with these events, and of which.
func (n Need) neededBy(events []string) (text string, needed bool) {
	if n.For == nil {
		return "", true
	}
	var which []string
	for _, event := range n.For {
		if slices.Contains(events, event) {
			which = append(which, event)
		}
	}
	return " for " + strings.Join(which, ", "), len(which) > 0
}

// covers reports whether the level have of a permission includes want: the catalogue lists levels with the least first.
func covers(catalog trustpolicy.Catalog, permission, have, want string) bool {
	levels := catalog.Levels(permission)
	return have != "" && slices.Index(levels, have) >= slices.Index(levels, want)
}

// Manifest is what GitHub makes the App from ("GitHub App Manifest parameters" in "Registering a GitHub App from a
// manifest").
type Manifest struct {
	Name           string            `json:"name"`
	URL            string            `json:"url"`
	Description    string            `json:"description"`
	Public         bool              `json:"public"`
	RedirectURL    string            `json:"redirect_url"`
	HookAttributes HookAttributes    `json:"hook_attributes"`
	Permissions    map[string]string `json:"default_permissions"`
	Events         []string          `json:"default_events"`
}

// HookAttributes is the App's webhook.
type HookAttributes struct {
	URL    string `json:"url"`
	Active bool   `json:"active"`
}

// Manifest is the manifest of a choice for the appliance at domain; redirectURL is where GitHub sends the browser back to.
func (c Choice) Manifest(domain, redirectURL string) Manifest {
	events := c.Events
	if events == nil {
		events = []string{}
	}
	return Manifest{
		Name:           c.Name,
		URL:            "https://" + domain,
		Description:    "Short-lived tokens for CI jobs, by trust policies in .github/chainguard. Run at " + domain + ".",
		Public:         c.Public,
		RedirectURL:    redirectURL,
		HookAttributes: HookAttributes{URL: "https://" + domain + "/webhook", Active: len(events) > 0},
		Permissions:    c.Permissions,
		Events:         events,
	}
}
