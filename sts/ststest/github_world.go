package ststest

import (
	"crypto/rsa"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"maps"
	"strings"
	"sync"
	"time"
)

// world is what exists at the fake GitHub. Names are compared without regard
// to case, as GitHub does.
type world struct {
	mu            sync.RWMutex // guards everything here and all that hangs from it, except rate buckets
	apps          map[int64]*app
	owners        map[string]*owner      // by login in lower case
	repositories  map[int64]*repository  // by ID
	names         map[string]*repository // by owner/name in lower case: its name, and those that it had
	installations map[int64]*installation
	lastID        int64
}

type app struct {
	id          int64
	slug        string
	keys        []*rsa.PublicKey
	permissions map[string]string
	events      []string
	created     time.Time
}

type owner struct {
	id    int64
	login string
	user  bool // a person's account, not an organization
}

type repository struct {
	id      int64
	owner   *owner
	name    string
	public  bool
	nodes   map[string]*node // by path
	issues  int
	created time.Time
	// json is the repository as GitHub lists it, made when something changes:
	// an answer to a mint repeats it for each repository.
	json json.RawMessage
}

type installation struct {
	id           int64
	app          *app
	owner        *owner
	permissions  map[string]string
	all          bool // of the owner's repositories
	repositories map[int64]bool
	suspended    time.Time // zero: not
	created      time.Time
	rate         rateBucket // has a lock of its own
}

func (w *world) init() {
	w.apps = map[int64]*app{}
	w.owners = map[string]*owner{}
	w.repositories = map[int64]*repository{}
	w.names = map[string]*repository{}
	w.installations = map[int64]*installation{}
	w.lastID = 1000
}

// nextID is a new ID; GitHub never gives one out twice. The caller holds mu.
func (w *world) nextID() int64 {
	w.lastID++
	return w.lastID
}

func key(ownerLogin, name string) string { return strings.ToLower(ownerLogin + "/" + name) }

func (w *world) repositoryByID(id int64) (repository, bool) {
	w.mu.RLock()
	defer w.mu.RUnlock()
	r, ok := w.repositories[id]
	if !ok {
		return repository{}, false
	}
	return *r, true
}

// holds says whether the installation covers r. The caller holds mu.
func (i *installation) holds(r *repository) bool {
	return i.owner == r.owner && (i.all || i.repositories[r.id])
}

// AddApp registers a GitHub App with the public half of its key and the
// permissions that it asks for ("contents": "write"). Metadata: read is always
// among them. A second call for the same App replaces its permissions and adds
// the key.
func (g *GitHub) AddApp(id int64, publicKey *rsa.PublicKey, permissions map[string]string) {
	g.world.mu.Lock()
	defer g.world.mu.Unlock()
	a := g.world.apps[id]
	if a == nil {
		a = &app{id: id, slug: fmt.Sprintf("app-%d", id), created: g.now()}
		g.world.apps[id] = a
	}
	if publicKey != nil {
		a.keys = append(a.keys, publicKey)
	}
	a.permissions = withMetadata(permissions)
}

// RemoveAppKey removes one of the App's keys, as its owner does at the end of
// a rotation: JWTs that it signed are refused from then on.
func (g *GitHub) RemoveAppKey(id int64, publicKey *rsa.PublicKey) {
	g.world.mu.Lock()
	defer g.world.mu.Unlock()
	a := g.mustApp(id)
	kept := make([]*rsa.PublicKey, 0, len(a.keys))
	for _, k := range a.keys {
		if !k.Equal(publicKey) {
			kept = append(kept, k)
		}
	}
	a.keys = kept
	g.jwts.Clear()
}

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
// there is none of that name, and returns the installation's ID.
func (g *GitHub) Install(appID int64, ownerLogin string, o InstallOptions) int64 {
	w := &g.world
	w.mu.Lock()
	defer w.mu.Unlock()
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
	return i.id
}

// Uninstall removes an installation; its tokens die with it.
func (g *GitHub) Uninstall(id int64) {
	g.world.mu.Lock()
	defer g.world.mu.Unlock()
	g.mustInstallation(id)
	delete(g.world.installations, id)
}

// Suspend suspends an installation: it mints nothing, and its tokens are
// refused until Unsuspend.
func (g *GitHub) Suspend(id int64) {
	g.world.mu.Lock()
	defer g.world.mu.Unlock()
	g.mustInstallation(id).suspended = g.now()
}

// Unsuspend ends Suspend.
func (g *GitHub) Unsuspend(id int64) {
	g.world.mu.Lock()
	defer g.world.mu.Unlock()
	g.mustInstallation(id).suspended = time.Time{}
}

// SetInstallationPermissions replaces what the owner granted. Tokens that were
// minted before keep no more than that.
func (g *GitHub) SetInstallationPermissions(id int64, permissions map[string]string) {
	g.world.mu.Lock()
	defer g.world.mu.Unlock()
	g.mustInstallation(id).permissions = withMetadata(permissions)
}

// SelectRepositories replaces the repositories that an installation covers;
// nil means all of the owner's.
func (g *GitHub) SelectRepositories(id int64, names []string) {
	g.world.mu.Lock()
	defer g.world.mu.Unlock()
	i := g.mustInstallation(id)
	i.all, i.repositories = names == nil, map[int64]bool{}
	for _, name := range names {
		i.repositories[g.mustRepository(i.owner.login, name).id] = true
	}
}

// SetRateLimit sets what is left of an installation's primary limit, until
// reset.
func (g *GitHub) SetRateLimit(id int64, limit, remaining int, reset time.Time) {
	g.world.mu.Lock()
	defer g.world.mu.Unlock()
	g.mustInstallation(id).rate.set(limit, limit-remaining, reset)
}

// AddUser makes an account of a person; every other owner is an organization.
func (g *GitHub) AddUser(login string) {
	g.world.mu.Lock()
	defer g.world.mu.Unlock()
	g.world.owner(login, true)
}

// RenameOwner gives an owner another login. The owner, the repositories and the
// installations keep their IDs, and the old login is free for anybody. What asks
// for a repository under it is redirected as after RenameRepository, until
// somebody who took the old login makes a repository of the same name there.
func (g *GitHub) RenameOwner(login, newLogin string) {
	w := &g.world
	w.mu.Lock()
	defer w.mu.Unlock()
	o := w.owners[strings.ToLower(login)]
	if o == nil {
		panic(fmt.Sprintf("fake GitHub: there is no owner %s", login))
	}
	if other := w.owners[strings.ToLower(newLogin)]; other != nil && other != o {
		panic(fmt.Sprintf("fake GitHub: the login %s is taken", newLogin))
	}
	delete(w.owners, strings.ToLower(login))
	w.owners[strings.ToLower(newLogin)] = o
	o.login = newLogin
	for _, r := range w.repositories {
		if r.owner == o {
			w.names[key(newLogin, r.name)] = r
			g.describe(r)
		}
	}
}

// owner finds or makes an account. The caller holds mu.
func (w *world) owner(login string, user bool) *owner {
	o := w.owners[strings.ToLower(login)]
	if o == nil {
		o = &owner{id: w.nextID(), login: login, user: user}
		w.owners[strings.ToLower(login)] = o
	}
	return o
}

func (g *GitHub) mustApp(id int64) *app {
	a := g.world.apps[id]
	if a == nil {
		panic(fmt.Sprintf("fake GitHub: there is no App %d: call AddApp first", id))
	}
	return a
}

func (g *GitHub) mustInstallation(id int64) *installation {
	i := g.world.installations[id]
	if i == nil {
		panic(fmt.Sprintf("fake GitHub: there is no installation %d", id))
	}
	return i
}

// withMetadata is a copy of p with metadata: read, which GitHub always adds.
func withMetadata(p map[string]string) map[string]string {
	c := map[string]string{"metadata": "read"}
	maps.Copy(c, p)
	return c
}

// nodeID is an opaque ID as GitHub's GraphQL API has them.
func nodeID(kind string, id int64) string {
	return kind + "_" + base64.RawURLEncoding.EncodeToString(fmt.Appendf(nil, "%s%d", kind, id))
}
