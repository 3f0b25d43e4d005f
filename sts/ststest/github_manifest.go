package ststest

import (
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"
)

// The manifest flow, from GitHub's "Registering a GitHub App from a manifest": a
// form posts a manifest to a page of GitHub's, the person there agrees, GitHub
// redirects with a code, and the code is converted, once and within an hour,
// into the App with its secrets.

// manifestLifetime is how long the three steps of the flow may take.
const manifestLifetime = time.Hour

// maxAppName is the longest name of an App.
const maxAppName = 34

// manifest is what a form posts. GitHub's table of the parameters, but for those
// about OAuth.
type manifest struct {
	Name           string            `json:"name"`
	URL            string            `json:"url"`
	HookAttributes *hookAttributes   `json:"hook_attributes"`
	RedirectURL    string            `json:"redirect_url"`
	Description    string            `json:"description"`
	Public         bool              `json:"public"`
	Events         []string          `json:"default_events"`
	Permissions    map[string]string `json:"default_permissions"`
}

type hookAttributes struct {
	URL    string `json:"url"`
	Active *bool  `json:"active"` // nil: yes
}

// manifests are the manifests that persons agreed to and nobody has converted.
type manifests struct {
	mu     sync.Mutex // guards the rest
	person string     // who is signed in at the pages of GitHub's
	agreed map[string]agreedManifest
	last   AppSecrets
}

// AppSecrets are what GitHub hands out once, with an App that it made from a manifest.
type AppSecrets struct {
	AppID         int64
	PEM           string // the private key
	WebhookSecret string // "": the manifest has no webhook
	ClientSecret  string
}

// LastSecrets are those of the App that was made last, for a test that looks for them where they should not be.
func (g *GitHub) LastSecrets() AppSecrets {
	g.manifests.mu.Lock()
	defer g.manifests.mu.Unlock()
	return g.manifests.last
}

// DescribeApp is what GET /app says of an App.
func (g *GitHub) DescribeApp(id int64) map[string]any {
	g.world.mu.RLock()
	defer g.world.mu.RUnlock()
	return g.describeApp(g.mustApp(id))
}

type agreedManifest struct {
	manifest
	owner   string
	started time.Time
}

// SignIn says whose browser it is that GitHub's pages see: Apps made for "your own
// account" belong to that person. Default: app-owner.
func (g *GitHub) SignIn(login string) {
	g.AddUser(login)
	g.manifests.mu.Lock()
	defer g.manifests.mu.Unlock()
	g.manifests.person = login
}

// AppKeys are the public halves of the keys that GitHub knows an App by: what its
// settings page lists as private keys, the oldest first.
func (g *GitHub) AppKeys(id int64) []*rsa.PublicKey {
	g.world.mu.RLock()
	defer g.world.mu.RUnlock()
	return slices.Clone(g.mustApp(id).keys)
}

// pages serves what is GitHub's website and not its API: the one page of the
// manifest flow, at which the person agrees at once. False: there is no such page.
func (g *GitHub) pages(w http.ResponseWriter, r *http.Request) bool {
	var owner string
	switch parts := strings.Split(strings.TrimPrefix(r.URL.Path, "/"), "/"); {
	case r.Method != http.MethodPost:
		return false
	case slices.Equal(parts, []string{"settings", "apps", "new"}):
		g.manifests.mu.Lock()
		owner = g.manifests.person
		g.manifests.mu.Unlock()
	case len(parts) == 5 && parts[0] == "organizations" && slices.Equal(parts[2:], []string{"settings", "apps", "new"}):
		g.world.mu.RLock()
		o := g.world.owners[strings.ToLower(parts[1])]
		g.world.mu.RUnlock()
		if o == nil || o.user {
			http.Error(w, "This is not the web page you are looking for.", http.StatusNotFound)
			return true
		}
		owner = o.login
	default:
		return false
	}
	m, problem := g.readManifest(w, r)
	if problem != "" {
		http.Error(w, "Invalid GitHub App configuration: "+problem, http.StatusUnprocessableEntity)
		return true
	}
	target, _ := url.Parse(m.RedirectURL) // readManifest did
	query := target.Query()
	query.Set("code", g.manifests.agree(agreedManifest{m, owner, g.now()}))
	if state := r.URL.Query().Get("state"); state != "" {
		query.Set("state", state)
	}
	target.RawQuery = query.Encode()
	w.Header().Set("Location", target.String())
	w.WriteHeader(http.StatusFound)
	return true
}

func (g *GitHub) readManifest(w http.ResponseWriter, r *http.Request) (m manifest, problem string) {
	r.Body = http.MaxBytesReader(w, r.Body, 1<<20)
	if err := r.ParseForm(); err != nil {
		return m, "the form cannot be read"
	}
	decoder := json.NewDecoder(strings.NewReader(r.PostForm.Get("manifest")))
	decoder.DisallowUnknownFields() // GitHub ignores them; a test wants to know
	if err := decoder.Decode(&m); err != nil {
		return m, "the manifest is no JSON object of the parameters that there are: " + err.Error()
	}
	return m, g.manifestProblem(m)
}

// manifestProblem is what GitHub refuses a manifest for, "" where it does not.
func (g *GitHub) manifestProblem(m manifest) string {
	switch {
	case m.Name == "" || len(m.Name) > maxAppName:
		return fmt.Sprintf("Name must have 1 to %d characters", maxAppName)
	case g.appBySlug(slugOf(m.Name)) != nil:
		return "Name is already taken"
	case !isWebURL(m.URL, false):
		return "Url must be a valid URL"
	case !isWebURL(m.RedirectURL, false):
		return "Redirect url must be a valid URL"
	case m.HookAttributes == nil && len(m.Events) > 0:
		return "Hook can't be blank"
	case m.HookAttributes != nil && !isWebURL(m.HookAttributes.URL, true):
		return "Hook url is not supported because it isn't reachable over the public Internet"
	}
	for name, level := range m.Permissions {
		if levels, known := g.permissions[name]; !known || !slices.Contains(levels, level) {
			return fmt.Sprintf("Default permission records resource is not included in the list: %s: %s", name, level)
		}
	}
	for _, event := range m.Events {
		// Installation_target is told to every App that asks for it, and to no other.
		permission := map[string]string{"installation_target": "metadata"}[event]
		for _, s := range subscriptions {
			if s.event == event {
				permission = s.permission
			}
		}
		if !permits(withMetadata(m.Permissions)[permission], "read") {
			return "Default events unsupported: " + event
		}
	}
	return ""
}

// isWebURL says whether text is an absolute web address, and one that the public
// can reach where it has to be.
func isWebURL(text string, public bool) bool {
	u, err := url.Parse(text)
	if err != nil || u.Scheme != "https" && u.Scheme != "http" || u.Host == "" {
		return false
	}
	return !public || u.Hostname() != "localhost" && !strings.HasPrefix(u.Hostname(), "127.")
}

// agree keeps a manifest and makes the code for it: 40 hexadecimal digits.
func (m *manifests) agree(a agreedManifest) (code string) {
	b := make([]byte, 20)
	rand.Read(b)
	code = hex.EncodeToString(b)
	m.mu.Lock()
	defer m.mu.Unlock()
	m.agreed[code] = a
	return code
}

// take takes the manifest of a code, which is good once.
func (m *manifests) take(code string, now time.Time) (agreedManifest, bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	a, ok := m.agreed[code]
	delete(m.agreed, code)
	return a, ok && now.Sub(a.started) < manifestLifetime
}

// convert is "Create a GitHub App from a manifest".
func (r *request) convert() answer {
	m, ok := r.g.manifests.take(r.PathValue("code"), r.g.now())
	if !ok {
		return notFound()
	}
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		panic(fmt.Sprintf("fake GitHub: making an App's key: %v", err))
	}
	w := &r.g.world
	w.mu.Lock()
	id := w.nextID()
	w.mu.Unlock()
	r.g.AddApp(id, &key.PublicKey, m.Permissions)
	r.g.SetAppEvents(id, m.Events...)
	secrets := AppSecrets{AppID: id, ClientSecret: rand.Text()}
	secrets.PEM = string(pem.EncodeToMemory(&pem.Block{Type: "RSA PRIVATE KEY", Bytes: x509.MarshalPKCS1PrivateKey(key)}))
	if m.HookAttributes != nil {
		secrets.WebhookSecret = rand.Text()
		if m.HookAttributes.Active == nil || *m.HookAttributes.Active {
			r.g.SetWebhook(id, Webhook{URL: m.HookAttributes.URL, Secret: secrets.WebhookSecret})
		}
	}
	r.g.manifests.mu.Lock()
	r.g.manifests.last = secrets
	r.g.manifests.mu.Unlock()
	w.mu.Lock()
	defer w.mu.Unlock()
	a := w.apps[id]
	a.slug, a.owner = slugOf(m.Name), w.owner(m.owner, true)
	body := r.g.describeApp(a)
	body["name"], body["pem"], body["client_secret"], body["webhook_secret"] = m.Name, secrets.PEM, secrets.ClientSecret, nil
	if secrets.WebhookSecret != "" {
		body["webhook_secret"] = secrets.WebhookSecret
	}
	return answer{status: http.StatusCreated, body: body}
}

var notSlug = regexp.MustCompile(`[^a-z0-9]+`)

// slugOf is an App's name in addresses.
func slugOf(name string) string {
	return strings.Trim(notSlug.ReplaceAllString(strings.ToLower(name), "-"), "-")
}

func (g *GitHub) appBySlug(slug string) *app {
	g.world.mu.RLock()
	defer g.world.mu.RUnlock()
	for _, a := range g.world.apps {
		if a.slug == slug {
			return a
		}
	}
	return nil
}
