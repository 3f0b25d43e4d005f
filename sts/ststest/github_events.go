package ststest

import (
	"encoding/json"
	"maps"
	"slices"
)

// outgoing is a delivery that is still to be sent.
type outgoing struct {
	hook     *hook
	delivery *delivery
}

// somebody is who does what no App does: the sender of most events.
var somebody = &owner{id: 583231, login: "octocat", user: true}

// bot is the account in whose name the App acts.
func (a *app) bot() *owner { return &owner{id: a.id, login: a.slug + "[bot]", user: true} }

// deliverAll sends deliveries one after another and returns how each went. The
// caller holds no lock.
func (g *GitHub) deliverAll(all []outgoing) []DeliveryRecord {
	records := make([]DeliveryRecord, len(all))
	for i, o := range all {
		records[i] = g.send(o.hook, o.delivery)
	}
	return records
}

// later sends deliveries while the caller goes on: what a call of the API set
// off.
func (g *GitHub) later(all []outgoing) {
	if len(all) > 0 {
		go g.deliverAll(all)
	}
}

// event is one event of GitHub's, before it is known who receives it.
type event struct {
	name       string
	permission string      // that an installation must have; "": none
	always     bool        // also to Apps that are not subscribed to it
	only       *app        // the one App that receives it; nil: any
	repo       *repository // nil: about no repository
	sender     *owner
	fields     map[string]any // of the payload, beside those that all events have
}

// toRepository is the delivery of e to each App that is installed on e.repo.
// The event's GUID is the same for all. The caller holds world.mu.
func (g *GitHub) toRepository(e event) []outgoing {
	var all []outgoing
	guid := newGUID()
	for _, id := range slices.Sorted(maps.Keys(g.world.installations)) {
		i := g.world.installations[id]
		if i.holds(e.repo) && i.suspended.IsZero() && (e.permission == "" || permits(i.permissions[e.permission], "read")) {
			all = append(all, g.toInstallation(e, i, guid)...)
		}
	}
	return all
}

// toInstallation is the delivery of e to one installation, or none where its
// App has no webhook or is not subscribed. The caller holds world.mu.
func (g *GitHub) toInstallation(e event, i *installation, guid string) []outgoing {
	a := i.app
	if e.only != nil && e.only != a || !a.hook.active() || !e.always && !slices.Contains(a.hook.subscribed(a), e.name) {
		return nil
	}
	payload := maps.Clone(e.fields)
	payload["sender"] = g.account(e.sender)
	if payload["installation"] == nil {
		payload["installation"] = map[string]any{"id": i.id, "node_id": nodeID("I", i.id)}
	}
	if e.repo != nil {
		if payload["repository"] == nil {
			payload["repository"] = e.repo.json
		}
		if !e.repo.owner.user {
			payload["organization"] = g.organization(e.repo.owner)
		}
	}
	d := &delivery{app: a.id, event: e.name, guid: guid, payload: mustMarshal(payload)}
	d.readPayload()
	return []outgoing{{hook: &a.hook, delivery: d}}
}

// organization is GitHub's organization-simple schema.
func (g *GitHub) organization(o *owner) map[string]any {
	api := g.url + "/orgs/" + o.login
	return map[string]any{
		"login": o.login, "id": o.id, "node_id": nodeID("O", o.id), "url": api, "repos_url": api + "/repos", "events_url": api + "/events",
		"hooks_url": api + "/hooks", "issues_url": api + "/issues", "members_url": api + "/members{/member}",
		"public_members_url": api + "/public_members{/member}", "avatar_url": g.url + "/avatars/" + o.login, "description": "",
	}
}

// aboutInstallation is an event of an installation itself, which goes to its
// App in any case. The caller holds world.mu.
func (g *GitHub) aboutInstallation(name string, i *installation, fields map[string]any) []outgoing {
	if name != "installation_target" {
		fields["installation"] = g.describeInstallation(i)
	}
	return g.toInstallation(event{name: name, always: true, sender: somebody, fields: fields}, i, newGUID())
}

// installationEvent is GitHub's event installation. The caller holds world.mu.
func (g *GitHub) installationEvent(action string, i *installation) []outgoing {
	fields := map[string]any{"action": action}
	if action != "new_permissions_accepted" {
		fields["repositories"] = g.brief(i.covered(&g.world))
	}
	if action == "created" {
		fields["requester"] = nil
	}
	return g.aboutInstallation("installation", i, fields)
}

// selectionEvents are GitHub's events installation_repositories after the
// installation covered before. The caller holds world.mu.
func (g *GitHub) selectionEvents(i *installation, before []*repository) []outgoing {
	after := i.covered(&g.world)
	without := func(all, other []*repository) []*repository {
		return slices.DeleteFunc(slices.Clone(all), func(r *repository) bool { return slices.Contains(other, r) })
	}
	added, removed := without(after, before), without(before, after)
	var all []outgoing
	send := func(action string, added, removed []*repository) {
		fields := map[string]any{
			"action": action, "repositories_added": g.brief(added), "repositories_removed": g.brief(removed), "requester": nil,
			"repository_selection": i.selection(),
		}
		all = append(all, g.aboutInstallation("installation_repositories", i, fields)...)
	}
	if len(added) > 0 {
		send("added", added, nil)
	}
	if len(removed) > 0 {
		send("removed", nil, removed)
	}
	return all
}

// covered are the repositories that the installation covers, by ID. The caller
// holds mu.
func (i *installation) covered(w *world) []*repository {
	var all []*repository
	for _, id := range slices.Sorted(maps.Keys(w.repositories)) {
		if r := w.repositories[id]; i.holds(r) {
			all = append(all, r)
		}
	}
	return all
}

// selection is GitHub's word for what the installation covers.
func (i *installation) selection() string {
	if i.all {
		return "all"
	}
	return "selected"
}

// brief are repositories as the events about installations list them. The
// caller holds world.mu.
func (g *GitHub) brief(all []*repository) []any {
	described := []any{}
	for _, r := range all {
		described = append(described, map[string]any{
			"id": r.id, "node_id": nodeID("R", r.id), "name": r.name, "full_name": r.owner.login + "/" + r.name, "private": !r.public,
		})
	}
	return described
}

// repositoryEvent is GitHub's event repository. Changes is nil where the
// action has none. The caller holds world.mu.
func (g *GitHub) repositoryEvent(action string, r *repository, changes map[string]any) []outgoing {
	fields := map[string]any{"action": action}
	if changes != nil {
		fields["changes"] = changes
	}
	return g.toRepository(event{name: "repository", permission: "metadata", repo: r, sender: somebody, fields: fields})
}

// from is how GitHub writes what something was before a change.
func from(v any) map[string]any { return map[string]any{"from": v} }

// with is a described object and more fields.
func with(described json.RawMessage, more map[string]any) map[string]any {
	var v map[string]any
	if err := json.Unmarshal(described, &v); err != nil {
		panic(err)
	}
	maps.Copy(v, more)
	return v
}
