package setup

import (
	"net/url"
	"slices"
	"strings"
)

// form is what the page's form shows.
type form struct {
	Title        string
	Problems     []string
	Domain       string
	GitHub       string
	Choice       Choice
	Needs        []needRow
	Events       []eventRow
	Repository   []permissionRow
	Organization []permissionRow
}

type needRow struct {
	Need
	When string
}

type eventRow struct {
	Event
	Picked bool
}

type permissionRow struct {
	Name   string
	Levels []string
	Picked string
}

// permissionField begins the names of the fields of permissions.
const permissionField = "permission."

func (p *Page) formOf(choice Choice, problems []string) form {
	f := form{Title: "A GitHub App for " + p.config.Domain, Problems: problems, Domain: p.config.Domain, GitHub: p.config.GitHub.WebURL, Choice: choice}
	for _, need := range Needs() {
		when := "always"
		if need.For != nil {
			when = "with " + strings.Join(need.For, ", ")
		}
		f.Needs = append(f.Needs, needRow{need, when})
	}
	for _, event := range Events() {
		f.Events = append(f.Events, eventRow{event, slices.Contains(choice.Events, event.Name)})
	}
	for _, name := range p.config.Catalog.Names() {
		row := permissionRow{name, p.config.Catalog.Levels(name), choice.Permissions[name]}
		if p.config.Catalog.OfOrganization(name) {
			f.Organization = append(f.Organization, row)
		} else {
			f.Repository = append(f.Repository, row)
		}
	}
	return f
}

// readChoice takes what the form sent. Problems says what is wrong with it.
func readChoice(values url.Values) Choice {
	c := Choice{
		Owner:       strings.TrimSpace(values.Get("owner")),
		Name:        strings.TrimSpace(values.Get("name")),
		Public:      values.Get("public") != "",
		Permissions: map[string]string{},
		Events:      values["event"],
	}
	for field := range values {
		if name, ok := strings.CutPrefix(field, permissionField); ok && values.Get(field) != "" {
			c.Permissions[name] = values.Get(field)
		}
	}
	return c
}
