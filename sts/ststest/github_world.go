package ststest

import (
	"crypto/rsa"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
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
	checkRuns     map[int64]*checkRun
	lastID        int64
}

type app struct {
	id          int64
	slug        string
	keys        []*rsa.PublicKey
	permissions map[string]string
	created     time.Time
	rate        atomic.Pointer[rateBucket] // of calls with the App's JWT; nil: none
	hook        hook                       // has a lock of its own
	owner       *owner                     // of an App made from a manifest; nil: appOwner
}

// appOwner is whom an App belongs to that a fixture made, and who is signed in at
// GitHub's pages unless SignIn says otherwise.
const appOwner = "app-owner"

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
	network *network // with its forks
	created time.Time

	defaultBranch string
	branches      map[string]*commit // never without the default branch
	archived      bool
	fork          bool
	pulls         []*pull
	numbers       int                      // of issues and pull requests, given out so far
	suites        map[string][]*checkSuite // by commit

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
	w.checkRuns = map[int64]*checkRun{}
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
		a.hook.id = g.world.nextID()
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

// SetRateLimit sets what is left of an installation's primary limit, until
// reset.
func (g *GitHub) SetRateLimit(id int64, limit, remaining int, reset time.Time) {
	g.world.mu.Lock()
	defer g.world.mu.Unlock()
	g.mustInstallation(id).rate.set(limit, limit-remaining, reset)
}

// SetAppRateLimit sets what is left of the limit of calls with an App's JWT,
// until reset. Before the first call of it there is none, and answers say
// nothing of it.
func (g *GitHub) SetAppRateLimit(appID int64, limit, remaining int, reset time.Time) {
	g.world.mu.RLock()
	defer g.world.mu.RUnlock()
	g.mustApp(appID).rate.Store(&rateBucket{limit: limit, used: limit - remaining, reset: reset})
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
// Installation_target renamed is sent.
func (g *GitHub) RenameOwner(login, newLogin string) []DeliveryRecord {
	g.world.mu.Lock()
	events := g.renameOwner(login, newLogin)
	g.world.mu.Unlock()
	return g.deliverAll(events)
}

// renameOwner renames, and is the events about it. The caller holds world.mu.
func (g *GitHub) renameOwner(login, newLogin string) []outgoing {
	w := &g.world
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
	var events []outgoing
	for _, id := range slices.Sorted(maps.Keys(w.installations)) {
		i := w.installations[id]
		if i.owner != o {
			continue
		}
		described := g.describeInstallation(i)
		events = append(events, g.aboutInstallation("installation_target", i, map[string]any{
			"action": "renamed", "account": g.account(o), "target_type": described["target_type"],
			"changes": map[string]any{"login": from(login)},
		})...)
	}
	return events
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
