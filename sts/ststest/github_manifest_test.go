package ststest

import (
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"maps"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"
)

// testManifest is one that GitHub takes.
var testManifest = map[string]any{
	"name": "Test App", "url": "https://sts.example.com", "redirect_url": "http://127.0.0.1:1/made?kept=1", "public": false,
	"hook_attributes":     map[string]any{"url": "https://sts.example.com/webhook"},
	"default_permissions": map[string]any{"contents": "read", "checks": "write"},
	"default_events":      []any{"push", "check_run", "installation_target"},
}

// post posts a manifest as a form at a page of GitHub's would.
func (f *fixture) post(page string, manifest any) reply {
	f.t.Helper()
	text, err := json.Marshal(manifest)
	if err != nil {
		f.t.Fatal(err)
	}
	return f.do("POST", f.web()+page, "", url.Values{"manifest": {string(text)}}.Encode(), "Content-Type", "application/x-www-form-urlencoded")
}

// agree is the code for a manifest of acme's.
func (f *fixture) agree(manifest any) string {
	f.t.Helper()
	r := f.post("/organizations/acme/settings/apps/new?state=s", manifest)
	back, err := url.Parse(r.Header.Get("Location"))
	if r.StatusCode != http.StatusFound || err != nil || back.Host != "127.0.0.1:1" || back.Query().Get("state") != "s" || back.Query().Get("kept") != "1" {
		f.t.Fatalf("%s %s: %s", r.Status, back, r.body)
	}
	return back.Query().Get("code")
}

// An App comes from a manifest once, within an hour, for the owner of the page.
func TestManifestFlow(t *testing.T) {
	now := time.Now()
	f := newFixture(t, GitHubConfig{BasePath: "/api/v3", Now: func() time.Time { return now }})
	f.SignIn("octocat")
	convert := func(code string) reply { return f.do("POST", "/app-manifests/"+code+"/conversions", "", "") }
	mine := f.post("/settings/apps/new", testManifest)
	back, _ := url.Parse(mine.Header.Get("Location"))
	for _, c := range []struct{ code, slug, owner string }{
		{back.Query().Get("code"), "test-app", "octocat"},
		{f.agree(changed(testManifest, "name", "Of acme")), "of-acme", "acme"},
	} {
		r := convert(c.code)
		var app struct {
			ID            int64
			Slug, PEM     string
			Owner         struct{ Login string }
			WebhookSecret string            `json:"webhook_secret"`
			Permissions   map[string]string `json:"permissions"`
			Events        []string
			ClientSecret  string `json:"client_secret"`
		}
		if err := json.Unmarshal(r.body, &app); err != nil || r.StatusCode != http.StatusCreated {
			t.Fatalf("%s %s", r.Status, r.body)
		}
		if app.Slug != c.slug || app.Owner.Login != c.owner || app.WebhookSecret == "" || app.ClientSecret == "" || len(app.Events) != 3 ||
			!maps.Equal(app.Permissions, map[string]string{"metadata": "read", "contents": "read", "checks": "write"}) {
			t.Errorf("%+v", app)
		}
		block, _ := pem.Decode([]byte(app.PEM))
		key, err := x509.ParsePKCS1PrivateKey(block.Bytes)
		if err != nil {
			t.Fatal(err)
		}
		jwt, _, _ := AppJWT(key, app.ID, now)
		if got := f.do("GET", "/app", jwt, "").json(t)["slug"]; got != c.slug {
			t.Errorf("GitHub knows the App as %v", got)
		}
		if known := f.AppKeys(app.ID); len(known) != 1 || !known[0].Equal(&key.PublicKey) {
			t.Error("the settings page lists another key")
		}
		if r := convert(c.code); r.StatusCode != http.StatusNotFound {
			t.Errorf("the same code again: %s", r.Status)
		}
	}
	late := f.agree(changed(testManifest, "name", "Late"))
	now = now.Add(time.Hour)
	if r := convert(late); r.StatusCode != http.StatusNotFound {
		t.Errorf("a code of an hour ago: %s", r.Status)
	}
	for _, page := range []string{"/organizations/nobody/settings/apps/new", "/organizations/octocat/settings/apps/new", "/settings/apps"} {
		if r := f.post(page, testManifest); r.StatusCode != http.StatusNotFound {
			t.Errorf("%s: %s", page, r.Status)
		}
	}
}

func changed(manifest map[string]any, key string, value any) map[string]any {
	m := maps.Clone(manifest)
	m[key] = value
	return m
}

// What GitHub does not take is refused before there is a code.
func TestManifestRefused(t *testing.T) {
	f := newFixture(t, GitHubConfig{})
	f.post("/settings/apps/new", testManifest)
	for name, c := range map[string]struct {
		key   string
		value any
		want  string
	}{
		"no name":                  {"name", "", "Name must have"},
		"long name":                {"name", strings.Repeat("x", 35), "Name must have"},
		"a name that is taken":     {"name", "App 1234", "already taken"},
		"no home page":             {"url", "", "Url must be"},
		"no way back":              {"redirect_url", "/made", "Redirect url must be"},
		"a hook on loopback":       {"hook_attributes", map[string]any{"url": "https://127.0.0.1/webhook"}, "public Internet"},
		"events and no hook":       {"hook_attributes", nil, "Hook can't be blank"},
		"an unknown permission":    {"default_permissions", map[string]any{"content": "read"}, "content: read"},
		"an unknown level":         {"default_permissions", map[string]any{"contents": "admin"}, "contents: admin"},
		"an event not permitted":   {"default_permissions", map[string]any{"contents": "read"}, "check_run"},
		"an event that is none":    {"default_events", []any{"pushed"}, "pushed"},
		"a parameter that is none": {"permissions", map[string]any{}, "unknown field"},
	} {
		r := f.post("/settings/apps/new", changed(testManifest, c.key, c.value))
		if r.StatusCode != http.StatusUnprocessableEntity || !strings.Contains(string(r.body), c.want) {
			t.Errorf("%s: %s %s", name, r.Status, r.body)
		}
	}
}
