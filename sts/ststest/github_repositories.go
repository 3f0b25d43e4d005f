package ststest

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
)

// RepositoryOptions are what AddRepositoryWith may set.
type RepositoryOptions struct {
	// Public repositories are readable with any installation token.
	Public bool
}

// AddRepository makes a private repository, and its owner (an organization)
// where there is none, and returns the repository's ID. A name that another
// repository had before (deleted, renamed) is free to be used again, and the
// new one has an ID of its own.
func (g *GitHub) AddRepository(ownerLogin, name string) int64 {
	return g.AddRepositoryWith(ownerLogin, name, RepositoryOptions{})
}

// AddRepositoryWith is AddRepository with options.
func (g *GitHub) AddRepositoryWith(ownerLogin, name string, o RepositoryOptions) int64 {
	w := &g.world
	w.mu.Lock()
	defer w.mu.Unlock()
	if old := w.names[key(ownerLogin, name)]; old != nil && strings.EqualFold(old.name, name) && strings.EqualFold(old.owner.login, ownerLogin) {
		panic(fmt.Sprintf("fake GitHub: %s/%s exists", ownerLogin, name))
	}
	r := &repository{
		id: w.nextID(), owner: w.owner(ownerLogin, false), name: name, public: o.Public,
		defaultBranch: defaultBranch, branches: map[string]*commit{}, suites: map[string][]*checkSuite{}, created: g.now(),
	}
	r.network, r.branches[defaultBranch] = newNetwork(r.id, r.created)
	w.repositories[r.id] = r
	w.names[key(ownerLogin, name)] = r
	g.describe(r)
	return r.id
}

// DeleteRepository removes a repository and its names. Nothing is sent: GitHub's
// documentation says that Apps do not receive repository deleted.
func (g *GitHub) DeleteRepository(ownerLogin, name string) {
	w := &g.world
	w.mu.Lock()
	defer w.mu.Unlock()
	r := g.mustRepository(ownerLogin, name)
	delete(w.repositories, r.id)
	for k, other := range w.names {
		if other == r {
			delete(w.names, k)
		}
	}
	for _, i := range w.installations {
		delete(i.repositories, r.id)
	}
}

// RenameRepository renames a repository: what asks for it under the old name
// is redirected (301, or 307 where the method is not GET) to /repositories/ID.
// Repository renamed is sent.
func (g *GitHub) RenameRepository(ownerLogin, name, newName string) []DeliveryRecord {
	return g.changeRepository(ownerLogin, name, func(r *repository) []outgoing {
		old := r.name
		g.move(r, r.owner.login, newName)
		return g.repositoryEvent("renamed", r, map[string]any{"repository": map[string]any{"name": from(old)}})
	})
}

// TransferRepository gives a repository to another owner, under a new name.
// The old name redirects as after RenameRepository. Repository transferred is
// sent to the Apps of the new owner alone, as GitHub's documentation has it;
// those of the old owner that had selected the repository get
// installation_repositories removed.
func (g *GitHub) TransferRepository(ownerLogin, name, newOwner, newName string) []DeliveryRecord {
	return g.changeRepository(ownerLogin, name, func(r *repository) []outgoing {
		var events []outgoing
		old := r.owner
		g.move(r, newOwner, newName)
		for _, id := range slices.Sorted(maps.Keys(g.world.installations)) {
			if i := g.world.installations[id]; i.owner == old && old != r.owner && i.repositories[r.id] {
				delete(i.repositories, r.id)
				events = append(events, g.selectionEvents(i, append(i.covered(&g.world), r))...)
			}
		}
		kind := "organization"
		if old.user {
			kind = "user"
		}
		return append(events, g.repositoryEvent("transferred", r, map[string]any{"owner": from(map[string]any{kind: g.account(old)})})...)
	})
}

// ArchiveRepository makes a repository read-only. Repository archived is sent.
func (g *GitHub) ArchiveRepository(ownerLogin, name string) []DeliveryRecord {
	return g.changeRepository(ownerLogin, name, func(r *repository) []outgoing {
		r.archived = true
		g.describe(r)
		return g.repositoryEvent("archived", r, nil)
	})
}

// SetDefaultBranch makes a branch, which must exist, the default branch.
// Repository edited is sent.
func (g *GitHub) SetDefaultBranch(ownerLogin, name, branch string) []DeliveryRecord {
	return g.changeRepository(ownerLogin, name, func(r *repository) []outgoing {
		r.mustBranch(branch)
		old := r.defaultBranch
		r.defaultBranch = branch
		g.describe(r)
		return g.repositoryEvent("edited", r, map[string]any{"default_branch": from(old)})
	})
}

// changeRepository does what changes a repository and sends the events.
func (g *GitHub) changeRepository(ownerLogin, name string, do func(*repository) []outgoing) []DeliveryRecord {
	g.world.mu.Lock()
	events := do(g.mustRepository(ownerLogin, name))
	g.world.mu.Unlock()
	return g.deliverAll(events)
}

// move gives a repository an owner and a name. The caller holds world.mu.
func (g *GitHub) move(r *repository, newOwner, newName string) {
	w := &g.world
	r.owner, r.name = w.owner(newOwner, false), newName
	w.names[key(newOwner, newName)] = r
	g.describe(r)
}

// mustRepository is the repository of that name, now or earlier. The caller
// holds world.mu.
func (g *GitHub) mustRepository(ownerLogin, name string) *repository {
	r := g.world.names[key(ownerLogin, name)]
	if r == nil {
		panic(fmt.Sprintf("fake GitHub: there is no repository %s/%s: call AddRepository first", ownerLogin, name))
	}
	return r
}

// find is the repository that the request's path names. Where that is not its
// name any more, the answer is a redirect. The caller holds world.mu.
func (r *request) find() (*repository, answer, bool) {
	name := key(r.PathValue("owner"), r.PathValue("repo"))
	repo := r.g.world.names[name]
	if repo == nil {
		return nil, notFound(), false
	}
	if key(repo.owner.login, repo.name) == name {
		return repo, answer{}, true
	}
	_, rest, _ := strings.Cut(strings.TrimPrefix(r.URL.EscapedPath(), "/repos/"), "/")
	_, rest, _ = strings.Cut(rest, "/")
	url := fmt.Sprintf("%s/repositories/%d", r.g.url, repo.id)
	if rest != "" {
		url += "/" + rest
	}
	if r.URL.RawQuery != "" {
		url += "?" + r.URL.RawQuery
	}
	a := answer{status: http.StatusMovedPermanently, header: map[string]string{"Location": url}, body: map[string]any{
		"message": "Moved Permanently", "url": url,
		"documentation_url": "https://docs.github.com/rest/guides/best-practices-for-using-the-rest-api#follow-redirects",
	}}
	if r.Method != http.MethodGet {
		a.status = http.StatusTemporaryRedirect
	}
	return repo, a, false
}

// visible is find for an installation token: a repository outside the token's
// scope is not found unless it is public. Level is what the operation needs of
// permission; "" needs none. The caller holds world.mu.
func (r *request) visible(permission, level string) (*repository, answer, bool) {
	repo, a, ok := r.find()
	if repo == nil {
		return nil, a, false
	}
	inScope := r.grant.covers(repo)
	if !inScope && !repo.public {
		return nil, notFound(), false
	}
	if !ok {
		return nil, a, false
	}
	if repo.public && level == "read" || permission == "" {
		return repo, answer{}, true
	}
	if !inScope || !permits(r.grant.effective(permission), level) {
		return nil, forbidden(permission + "=" + level), false
	}
	return repo, answer{}, true
}

func (r *request) getRepository() answer {
	w := &r.g.world
	w.mu.RLock()
	defer w.mu.RUnlock()
	repo, a, ok := r.visible("metadata", "read")
	if !ok {
		return a
	}
	return answer{status: http.StatusOK, raw: repo.json}
}

func (r *request) listRepositories() answer {
	w := &r.g.world
	w.mu.RLock()
	defer w.mu.RUnlock()
	var all []json.RawMessage
	for _, repo := range w.repositories {
		if r.grant.covers(repo) {
			all = append(all, repo.json)
		}
	}
	sortByID(all)
	part, link := page(r, all)
	a := answer{status: http.StatusOK, body: map[string]any{
		"total_count": len(all), "repository_selection": r.grant.selection(), "repositories": orEmpty(part),
	}}
	if link != "" {
		a.header = map[string]string{"Link": link}
	}
	return a
}

func (r *request) createIssue() answer {
	var in struct {
		Title string `json:"title"`
		Body  string `json:"body"`
	}
	if a, ok := r.decode(&in); !ok {
		return a
	}
	w := &r.g.world
	w.mu.Lock()
	defer w.mu.Unlock()
	repo, a, ok := r.visible("issues", "write")
	if !ok {
		return a
	}
	if in.Title == "" {
		return unprocessable("Invalid request.\n\n\"title\" wasn't supplied.")
	}
	repo.numbers++
	api := r.g.url + "/repos/" + repo.owner.login + "/" + repo.name
	url := fmt.Sprintf("%s/issues/%d", api, repo.numbers)
	now := r.g.now().UTC().Format(timeFormat)
	return answer{status: http.StatusCreated, header: map[string]string{"Location": url}, body: map[string]any{
		"id": w.nextID(), "node_id": nodeID("I", int64(repo.numbers)), "number": repo.numbers, "url": url,
		"repository_url": api, "labels_url": url + "/labels{/name}", "comments_url": url + "/comments",
		"events_url": url + "/events", "html_url": url, "state": "open", "title": in.Title, "body": in.Body,
		"user": r.g.account(&owner{id: r.app.id, login: r.app.slug + "[bot]", user: true}), "labels": []any{}, "assignee": nil,
		"assignees": []any{}, "milestone": nil, "locked": false, "comments": 0, "closed_at": nil,
		"created_at": now, "updated_at": now, "author_association": "NONE",
	}}
}

// createBlob makes an object that nothing refers to, and which is therefore not kept.
func (r *request) createBlob() answer {
	var in struct {
		Content  *string `json:"content"`
		Encoding string  `json:"encoding"`
	}
	if a, ok := r.decode(&in); !ok {
		return a
	}
	w := &r.g.world
	w.mu.RLock()
	defer w.mu.RUnlock()
	repo, a, ok := r.visible("contents", "write")
	if !ok {
		return a
	}
	if in.Content == nil {
		return unprocessable("Invalid request.\n\n\"content\" wasn't supplied.")
	}
	content := []byte(*in.Content)
	if in.Encoding == "base64" {
		decoded, err := base64.StdEncoding.DecodeString(*in.Content)
		if err != nil {
			return unprocessable("Problems parsing the content")
		}
		content = decoded
	}
	sha := blobSHA(content)
	url := r.g.url + "/repos/" + repo.owner.login + "/" + repo.name + "/git/blobs/" + sha
	return answer{status: http.StatusCreated, header: map[string]string{"Location": url}, body: map[string]any{"url": url, "sha": sha}}
}
