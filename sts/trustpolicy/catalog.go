package trustpolicy

import (
	_ "embed"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/octo-sts/appliance/sts/strictyaml"
)

// githubPermissions is GitHub's list of what an App's installation may be given, from
// the app-permissions schema of GitHub's OpenAPI description
// (https://github.com/github/rest-api-description).
//
//go:embed app-permissions.json
var githubPermissions []byte

// Catalog is a list of permission names, each with the levels that it has. It never
// changes. The zero value knows no permission.
type Catalog struct {
	levels map[string][]string
}

// GitHubPermissions returns GitHub's own list, as of the release of this program.
func GitHubPermissions() Catalog {
	var c Catalog
	if err := json.Unmarshal(githubPermissions, &c.levels); err != nil {
		panic(fmt.Sprintf("reading the built-in permissions: %v", err)) // a broken build
	}
	return c
}

// With returns a catalog that knows the names and levels in extra as well: for
// permissions that GitHub came up with after the release of this program.
func (c Catalog) With(extra map[string][]string) Catalog {
	levels := maps.Clone(c.levels)
	if levels == nil {
		levels = make(map[string][]string)
	}
	for name, more := range extra {
		all := slices.Clone(levels[name])
		for _, level := range more {
			if !slices.Contains(all, level) {
				all = append(all, level)
			}
		}
		levels[name] = all
	}
	return Catalog{levels}
}

// Names returns the names of all permissions, sorted.
func (c Catalog) Names() []string { return slices.Sorted(maps.Keys(c.levels)) }

// Levels returns the levels that the permission name has, the least first; none for
// a name that the catalog does not know.
func (c Catalog) Levels(name string) []string { return slices.Clone(c.levels[name]) }

// OfOrganization reports whether the permission name is one over the organization or
// the enterprise as a whole, its people and its settings, and not over repositories. It
// goes by GitHub's way of naming them, so that it also holds for permissions that With
// added (https://docs.github.com/rest/authentication/permissions-required-for-github-apps).
func (c Catalog) OfOrganization(name string) bool {
	return name == "members" || name == "team_discussions" ||
		strings.HasPrefix(name, "organization_") || strings.HasPrefix(name, "enterprise_") ||
		strings.HasSuffix(name, "_for_organizations") || strings.HasSuffix(name, "_for_enterprises")
}

// Check returns an error that says what to write instead where there is no such
// permission or no such level of it.
func (c Catalog) Check(name, level string) error {
	levels, known := c.levels[name]
	switch {
	case !known:
		if near := strictyaml.Nearest(name, c.Names()); near != "" {
			return fmt.Errorf("unknown permission %s: did you mean %s?", quote(name), near)
		}
		return fmt.Errorf("unknown permission %s: GitHub's names are at https://docs.github.com/rest/apps/apps#create-an-installation-access-token-for-an-app", quote(name))
	case !slices.Contains(levels, level):
		return fmt.Errorf("permission %s has no level %s: it has %s", name, quote(level), strings.Join(levels, ", "))
	}
	return nil
}

// covers reports whether the level have includes the level want: at GitHub write
// includes read, and admin includes both. A level of another name covers itself.
func covers(have, want string) bool {
	rank := func(level string) int { return 1 + slices.Index([]string{"read", "write", "admin"}, level) }
	return have == want && want != "" || rank(want) > 0 && rank(have) > rank(want)
}
