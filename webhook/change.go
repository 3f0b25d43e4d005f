package webhook

import (
	"errors"
	"fmt"
	"slices"
	"strings"
)

// trustChange is something that exchanges rest on and that changed.
type trustChange struct {
	// Reason is what happened, in words.
	Reason string `json:"reason"`
	// Paths are the policies that changed, at most maxAuditedPaths; More is how
	// many others did.
	Paths []string `json:"paths,omitempty"`
	More  int      `json:"more,omitempty"`
	// Incomplete: GitHub does not say which others changed.
	Incomplete bool `json:"incomplete,omitempty"`
	// Repositories are names without their owner.
	Repositories []string `json:"repositories,omitempty"`
}

// repository handles the events of a repository that change what is known of it.
func (e *event) repository(p *payload) (*event, error) {
	owner, name := e.item.Owner, e.item.Repository
	changes := p.Changes
	if changes == nil {
		changes = &changesObject{}
	}
	what := "the repository was " + p.Action
	oldOwner, oldName := owner, name
	switch p.Action {
	case "deleted", "archived", "unarchived":
	case "privatized":
		what = "the repository became private"
	case "publicized":
		what = "the repository became public"
	case "edited":
		if changes.DefaultBranch == nil {
			return nil, nil
		}
		what = fmt.Sprintf("the default branch changed from %s to %s",
			clip(changes.DefaultBranch.From, 255), clip(p.Repository.DefaultBranch, 255))
	case "renamed":
		if changes.Repository == nil || !isName(changes.Repository.Name.From) {
			return nil, errors.New("the payload of a renamed repository does not say what its name was")
		}
		oldName = changes.Repository.Name.From
		what = fmt.Sprintf("the repository was renamed from %s", oldName)
	case "transferred":
		if oldOwner = changes.oldOwner(); !isName(oldOwner) {
			return nil, errors.New("the payload of a transferred repository does not say whose it was")
		}
		what = fmt.Sprintf("the repository was transferred from %s", oldOwner)
	default:
		return nil, nil
	}
	e.forget = []forgetting{{owner: owner, repository: name}}
	if oldOwner != owner || oldName != name {
		e.forget = append(e.forget, forgetting{owner: oldOwner, repository: oldName})
		e.owners = append(e.owners, oldOwner)
	}
	e.item.Change = &trustChange{Reason: what}
	return e, nil
}

func (c *changesObject) oldOwner() string {
	switch {
	case c.Owner == nil:
		return ""
	case c.Owner.From.Organization != nil:
		return c.Owner.From.Organization.Login
	case c.Owner.From.User != nil:
		return c.Owner.From.User.Login
	}
	return ""
}

// installation handles the events about an installation and its account.
func (e *event) installation(name string, p *payload) (*event, error) {
	account := p.Account
	if name != "installation_target" {
		if p.Installation == nil {
			return nil, fmt.Errorf("the payload of an %s event names no installation", name)
		}
		account = p.Installation.Account
	}
	switch {
	case account != nil && account.Login == "" && account.Slug != "":
		return nil, nil // an enterprise, which has no repositories
	case account == nil || !isName(account.Login) || p.Installation == nil || p.Installation.ID <= 0:
		return nil, fmt.Errorf("the payload of an %s event does not name an installation and its account", name)
	}
	e.item.Owner = account.Login
	e.owners = []string{account.Login}
	e.forget = []forgetting{{owner: account.Login, installation: p.Installation.ID}}
	change, err := e.installationChange(name, p)
	if change == nil || err != nil {
		return nil, err
	}
	e.item.Change = change
	return e, nil
}

// installationChange returns what to write of it; nil where nothing changed.
func (e *event) installationChange(name string, p *payload) (*trustChange, error) {
	switch name + " " + p.Action {
	case "installation created":
		return &trustChange{Reason: "the App was installed"}, nil
	case "installation deleted":
		return &trustChange{Reason: "the App was uninstalled"}, nil
	case "installation suspend":
		return &trustChange{Reason: "the installation was suspended"}, nil
	case "installation unsuspend":
		return &trustChange{Reason: "the installation's suspension was lifted"}, nil
	case "installation new_permissions_accepted":
		return &trustChange{Reason: "new permissions were accepted for the installation"}, nil
	case "installation_repositories added":
		return &trustChange{Reason: "repositories were added to the installation", Repositories: repositoryNames(p.Added)}, nil
	case "installation_repositories removed":
		return &trustChange{Reason: "repositories were removed from the installation", Repositories: repositoryNames(p.Removed)}, nil
	case "installation_target renamed":
		if p.Changes == nil || p.Changes.Login == nil || !isName(p.Changes.Login.From) {
			return nil, errors.New("the payload of a renamed account does not say what its name was")
		}
		old := p.Changes.Login.From
		e.owners = append(e.owners, old)
		e.forget = append(e.forget, forgetting{owner: old, installation: p.Installation.ID})
		return &trustChange{Reason: "the account was renamed from " + old}, nil
	}
	return nil, nil
}

// repositoryNames returns the good ones among the names of the repositories.
func repositoryNames(l *listOf[repositoryObject]) []string {
	if l == nil {
		return nil
	}
	var names []string
	for _, r := range l.items {
		if isName(r.Name) {
			names = append(names, r.Name)
		}
	}
	slices.SortFunc(names, strings.Compare)
	if l.more {
		names = append(names, "…")
	}
	return names
}
