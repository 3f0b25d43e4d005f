package ststest

import (
	"maps"
	"time"
)

// InstallOptions say what an installation covers.
type InstallOptions struct {
	// Repositories are the names of those that were selected. Nil: all of the
	// owner's, also those that are added later.
	Repositories []string
	// Permissions that the owner granted. Nil: all that the App asks for.
	Permissions map[string]string
	// Suspended installations exist but mint nothing.
	Suspended bool
	// RateLimit in requests an hour. 0: GitHubConfig.RateLimit.
	RateLimit int
}

// Install installs an App for an owner, who is made as an organization where
// there is none of that name, and returns the installation's ID. GitHub
// sends the event installation created.
func (g *GitHub) Install(appID int64, ownerLogin string, o InstallOptions) int64 {
	g.world.mu.Lock()
	i := g.install(appID, ownerLogin, o)
	events := g.installationEvent("created", i)
	g.world.mu.Unlock()
	g.deliverAll(events)
	return i.id
}

// install is Install without its event. The caller holds world.mu.
func (g *GitHub) install(appID int64, ownerLogin string, o InstallOptions) *installation {
	w := &g.world
	i := &installation{
		id: w.nextID(), app: g.mustApp(appID), owner: w.owner(ownerLogin, false),
		permissions: withMetadata(o.Permissions), all: o.Repositories == nil,
		repositories: map[int64]bool{}, created: g.now(),
	}
	if o.Permissions == nil {
		i.permissions = maps.Clone(i.app.permissions)
	}
	for _, name := range o.Repositories {
		i.repositories[g.mustRepository(ownerLogin, name).id] = true
	}
	if o.Suspended {
		i.suspended = g.now()
	}
	i.rate.limit = g.config.RateLimit
	if o.RateLimit > 0 {
		i.rate.limit = o.RateLimit
	}
	w.installations[i.id] = i
	return i
}

// Uninstall removes an installation; its tokens die with it. Installation
// deleted is sent.
func (g *GitHub) Uninstall(id int64) []DeliveryRecord {
	return g.changeInstallation(id, func(i *installation) []outgoing {
		events := g.installationEvent("deleted", i)
		delete(g.world.installations, id)
		return events
	})
}

// Suspend suspends an installation: it mints nothing, and its tokens are
// refused until Unsuspend. Installation suspend is sent.
func (g *GitHub) Suspend(id int64) []DeliveryRecord {
	return g.changeInstallation(id, func(i *installation) []outgoing {
		i.suspended = g.now()
		return g.installationEvent("suspend", i)
	})
}

// Unsuspend ends Suspend. Installation unsuspend is sent.
func (g *GitHub) Unsuspend(id int64) []DeliveryRecord {
	return g.changeInstallation(id, func(i *installation) []outgoing {
		i.suspended = time.Time{}
		return g.installationEvent("unsuspend", i)
	})
}

// SetInstallationPermissions replaces what the owner granted. Tokens that were
// minted before keep no more than that. Installation new_permissions_accepted
// is sent.
func (g *GitHub) SetInstallationPermissions(id int64, permissions map[string]string) []DeliveryRecord {
	return g.changeInstallation(id, func(i *installation) []outgoing {
		i.permissions = withMetadata(permissions)
		return g.installationEvent("new_permissions_accepted", i)
	})
}

// SelectRepositories replaces the repositories that an installation covers;
// nil means all of the owner's. Installation_repositories is sent, added and
// removed, where the covered repositories change.
func (g *GitHub) SelectRepositories(id int64, names []string) []DeliveryRecord {
	return g.changeInstallation(id, func(i *installation) []outgoing {
		before := i.covered(&g.world)
		i.all, i.repositories = names == nil, map[int64]bool{}
		for _, name := range names {
			i.repositories[g.mustRepository(i.owner.login, name).id] = true
		}
		return g.selectionEvents(i, before)
	})
}

// changeInstallation does what changes an installation and sends the events.
func (g *GitHub) changeInstallation(id int64, do func(*installation) []outgoing) []DeliveryRecord {
	g.world.mu.Lock()
	events := do(g.mustInstallation(id))
	g.world.mu.Unlock()
	return g.deliverAll(events)
}
