package ststest

import (
	"cmp"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"
)

// maxMintRepositories is how many repositories one token may name.
const maxMintRepositories = 500

// tokenLifetime is how long an installation token lives.
const tokenLifetime = time.Hour

func (r *request) getApp() answer {
	w := &r.g.world
	w.mu.RLock()
	defer w.mu.RUnlock()
	a, count := r.app, 0
	for _, i := range w.installations {
		if i.app == a {
			count++
		}
	}
	body := r.g.describeApp(a)
	body["installations_count"] = count
	return answer{status: http.StatusOK, body: body}
}

// describeApp is GitHub's integration schema. The caller holds world.mu.
func (g *GitHub) describeApp(a *app) map[string]any {
	created := a.created.UTC().Format(timeFormat)
	belongs := a.owner
	if belongs == nil {
		belongs = &owner{id: 1, login: appOwner}
	}
	return map[string]any{
		"id": a.id, "slug": a.slug, "client_id": a.clientID(), "node_id": nodeID("A", a.id), "name": a.slug,
		"owner": g.account(belongs), "description": nil,
		"external_url": g.web() + "/apps/" + a.slug, "html_url": g.web() + "/apps/" + a.slug,
		"created_at": created, "updated_at": created, "permissions": a.permissions, "events": a.hook.subscribed(a),
	}
}

// describeInstallation is GitHub's installation schema. The caller holds
// world.mu.
func (g *GitHub) describeInstallation(i *installation) map[string]any {
	target := "Organization"
	if i.owner.user {
		target = "User"
	}
	var suspendedAt, suspendedBy any
	if !i.suspended.IsZero() {
		suspendedAt, suspendedBy = i.suspended.UTC().Format(timeFormat), g.account(i.owner)
	}
	created := i.created.UTC().Format(timeFormat)
	return map[string]any{
		"id": i.id, "client_id": i.app.clientID(), "account": g.account(i.owner), "app_id": i.app.id, "app_slug": i.app.slug,
		"target_id": i.owner.id, "target_type": target, "repository_selection": i.selection(),
		"access_tokens_url": fmt.Sprintf("%s/app/installations/%d/access_tokens", g.url, i.id),
		"repositories_url":  g.url + "/installation/repositories",
		"html_url":          fmt.Sprintf("%s/organizations/%s/settings/installations/%d", g.web(), i.owner.login, i.id),
		"permissions":       i.permissions, "events": i.app.hook.subscribed(i.app), "single_file_name": nil, "has_multiple_single_files": false,
		"single_file_paths": []string{}, "created_at": created, "updated_at": created,
		"suspended_at": suspendedAt, "suspended_by": suspendedBy,
	}
}

func (r *request) listInstallations() answer {
	w := &r.g.world
	w.mu.RLock()
	defer w.mu.RUnlock()
	var mine []*installation
	for _, i := range w.installations {
		if i.app == r.app {
			mine = append(mine, i)
		}
	}
	slices.SortFunc(mine, func(a, b *installation) int { return cmp.Compare(a.id, b.id) })
	part, link := page(r, mine)
	body := make([]any, len(part))
	for n, i := range part {
		body[n] = r.g.describeInstallation(i)
	}
	a := answer{status: http.StatusOK, body: body}
	if link != "" {
		a.header = map[string]string{"Link": link}
	}
	return a
}

// installation is the one that the path's installation_id names. The caller
// holds world.mu.
func (r *request) installation() *installation {
	id, err := strconv.ParseInt(r.PathValue("installation_id"), 10, 64)
	i := r.g.world.installations[id]
	if err != nil || i == nil || i.app != r.app {
		return nil
	}
	return i
}

func (r *request) getInstallation() answer {
	w := &r.g.world
	w.mu.RLock()
	defer w.mu.RUnlock()
	i := r.installation()
	if i == nil {
		return notFound()
	}
	return answer{status: http.StatusOK, body: r.g.describeInstallation(i)}
}

// ofOwner is the App's installation for o, or nil. The caller holds world.mu.
func (r *request) ofOwner(o *owner) *installation {
	for _, i := range r.g.world.installations {
		if i.app == r.app && i.owner == o {
			return i
		}
	}
	return nil
}

func (r *request) getRepoInstallation() answer {
	w := &r.g.world
	w.mu.RLock()
	defer w.mu.RUnlock()
	repo, a, ok := r.find()
	if repo == nil {
		return a
	}
	i := r.ofOwner(repo.owner)
	if i == nil || !i.holds(repo) {
		return notFound()
	}
	if !ok {
		return a // renamed
	}
	return answer{status: http.StatusOK, body: r.g.describeInstallation(i)}
}

func (r *request) getOrgInstallation() answer {
	return r.ownerInstallation(r.PathValue("org"), true)
}

// getUserInstallation finds organizations too, as GitHub's does.
func (r *request) getUserInstallation() answer {
	return r.ownerInstallation(r.PathValue("username"), false)
}

func (r *request) ownerInstallation(login string, organization bool) answer {
	w := &r.g.world
	w.mu.RLock()
	defer w.mu.RUnlock()
	o := w.owners[strings.ToLower(login)]
	if o == nil || organization && o.user {
		return notFound()
	}
	i := r.ofOwner(o)
	if i == nil {
		return notFound()
	}
	return answer{status: http.StatusOK, body: r.g.describeInstallation(i)}
}

// mintRequest is the body of a mint.
type mintRequest struct {
	Repositories  []string          `json:"repositories"`
	RepositoryIDs []int64           `json:"repository_ids"`
	Permissions   map[string]string `json:"permissions"`
}

func (r *request) mint() answer {
	var in mintRequest
	if a, ok := r.decode(&in); !ok {
		return a
	}
	w := &r.g.world
	w.mu.RLock()
	defer w.mu.RUnlock()
	i := r.installation()
	if i == nil {
		return notFound()
	}
	if !i.suspended.IsZero() {
		return refusal(http.StatusForbidden, "This installation has been suspended", "/apps/apps#create-an-installation-access-token-for-an-app")
	}
	permissions, a, ok := r.g.mintPermissions(i, in.Permissions)
	if !ok {
		return a
	}
	repositories, a, ok := r.mintRepositories(i, in)
	if !ok {
		return a
	}

	now := r.g.now()
	gr := &grant{
		installation: i, permissions: permissions, all: len(repositories) == 0, expiry: now.Add(time.Duration(r.g.lifetime.Load())).Truncate(time.Second),
	}
	gr.mint = Mint{
		At: now, AppID: r.app.id, InstallationID: i.id, Owner: i.owner.login, AllRepositories: gr.all,
		Permissions: permissions, Expiry: gr.expiry,
	}
	described := make([]json.RawMessage, len(repositories))
	if !gr.all {
		gr.repositories = make(map[int64]bool, len(repositories))
		for n, repo := range repositories {
			gr.repositories[repo.id] = true
			gr.mint.Repositories = append(gr.mint.Repositories, repo.name)
			described[n] = repo.json
		}
		slices.Sort(gr.mint.Repositories)
	}
	body := map[string]any{
		"token":      r.g.ledger.add(gr, r.g.config.TokenForm),
		"expires_at": gr.expiry.UTC().Format(timeFormat), "permissions": permissions, "repository_selection": gr.selection(),
	}
	if !gr.all {
		body["repositories"] = described
	}
	return answer{status: http.StatusCreated, body: body}
}

// mintPermissions is what a token gets that asks for the given permissions:
// exactly those and metadata: read, or all of the installation's where it asks
// for none. The caller holds world.mu.
func (g *GitHub) mintPermissions(i *installation, asked map[string]string) (map[string]string, answer, bool) {
	if len(asked) == 0 {
		return maps.Clone(i.permissions), answer{}, true
	}
	for name, level := range asked {
		levels, known := g.permissions[name]
		if _, has := i.app.permissions[name]; !known && !has {
			return nil, unprocessable(fmt.Sprintf("Invalid request.\n\n%q is not a permitted key.", name)), false
		}
		if known && !slices.Contains(levels, level) {
			return nil, unprocessable(fmt.Sprintf("Invalid request.\n\n%s is not a member of %q.", level, levels)), false
		}
		if !permits(i.permissions[name], level) {
			return nil, unprocessable("The permissions requested are not granted to this installation."), false
		}
	}
	return withMetadata(asked), answer{}, true
}

// mintRepositories is the repositories that a mint names, each once; none
// means all. The caller holds world.mu.
func (r *request) mintRepositories(i *installation, in mintRequest) ([]*repository, answer, bool) {
	if len(in.Repositories)+len(in.RepositoryIDs) > maxMintRepositories {
		return nil, unprocessable(fmt.Sprintf("Invalid request.\n\nNo more than %d items are allowed.", maxMintRepositories)), false
	}
	outside := unprocessable("There is at least one repository that does not exist or is not accessible to the parent installation.")
	var all []*repository
	add := func(repo *repository) bool {
		if repo == nil || !i.holds(repo) {
			return false
		}
		if !slices.Contains(all, repo) {
			all = append(all, repo)
		}
		return true
	}
	for _, name := range in.Repositories {
		repo := r.g.world.names[key(i.owner.login, name)]
		if repo != nil && !strings.EqualFold(repo.name, name) {
			repo = nil // a former name
		}
		if !add(repo) {
			return nil, outside, false
		}
	}
	for _, id := range in.RepositoryIDs {
		if !add(r.g.world.repositories[id]) {
			return nil, outside, false
		}
	}
	return all, answer{}, true
}

func (r *request) revoke() answer {
	r.grant.revoked.CompareAndSwap(0, r.g.now().UnixNano())
	return answer{status: http.StatusNoContent}
}
