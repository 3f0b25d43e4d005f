package setup

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/octo-sts/appliance/sts/trustpolicy"
)

var testGitHub = GitHub{WebURL: "https://github.example.com", APIURL: "https://github.example.com/api/v3"}

func newTestPage(t *testing.T) *Page {
	t.Helper()
	p, err := NewPage(t.Context(), PageConfig{GitHub: testGitHub, Domain: "sts.example.com", Catalog: trustpolicy.GitHubPermissions()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := p.Close(); err != nil {
			t.Error(err)
		}
	})
	return p
}

// ask sends a request to the page's listener, whatever its headers say. header is pairs.
func ask(t *testing.T, p *Page, method, path string, form url.Values, header ...string) (status int, body string, got http.Header) {
	t.Helper()
	request, err := http.NewRequest(method, "http://"+p.address()+path, strings.NewReader(form.Encode()))
	if err != nil {
		t.Fatal(err)
	}
	request.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	for i := 0; i < len(header); i += 2 {
		request.Header.Set(header[i], header[i+1])
		if header[i] == "Host" {
			request.Host = header[i+1]
		}
	}
	response, err := new(http.Transport).RoundTrip(request)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	return response.StatusCode, string(text), response.Header
}

// goodForm is what the page's form sends where the operator only gives a name.
func goodForm() url.Values {
	form := url.Values{"name": {"Our STS"}, "owner": {"acme"}}
	for name, level := range DefaultChoice().Permissions {
		form.Set(permissionField+name, level)
	}
	form["event"] = DefaultChoice().Events
	return form
}

var stateIn = regexp.MustCompile(`action="https://github\.example\.com/organizations/acme/settings/apps/new\?state=(\w+)"`)

// manifest composes a manifest and is its state.
func manifest(t *testing.T, p *Page) string {
	t.Helper()
	status, body, _ := ask(t, p, "POST", "/"+p.secret+"/manifest", goodForm())
	found := stateIn.FindStringSubmatch(body)
	if status != http.StatusOK || found == nil {
		t.Fatalf("%d: %s", status, body)
	}
	return found[1]
}

// Only the operator's own browser, at the address that the terminal shows, is served.
func TestPageIsForOneBrowser(t *testing.T) {
	p := newTestPage(t)
	path := "/" + p.secret + "/"
	port := p.address()[len("127.0.0.1"):]
	for _, c := range []struct {
		name, method, path string
		header             []string
		status             int
	}{
		{"the page", "GET", path, nil, 200},
		{"from a terminal's link", "GET", path, []string{"Sec-Fetch-Site", "none"}, 200},
		{"another name that resolves here", "GET", path, []string{"Host", "evil.example.com" + port}, 421},
		{"a name without the port", "GET", path, []string{"Host", "127.0.0.1"}, 421},
		{"localhost", "GET", path, []string{"Host", "localhost" + port}, 421},
		{"a redirect under another name", "GET", "/made?state=x&code=y", []string{"Host", "evil.example.com" + port}, 421},
		{"without the secret", "GET", "/", nil, 404},
		{"with another secret", "GET", "/" + strings.Repeat("A", len(p.secret)) + "/", nil, 404},
		{"the manifest", "POST", path + "manifest", nil, 200},
		{"the manifest, by the page's own form", "POST", path + "manifest", []string{"Sec-Fetch-Site", "same-origin", "Origin", "http://" + p.address()}, 200},
		{"the manifest, by another site's form", "POST", path + "manifest", []string{"Sec-Fetch-Site", "cross-site", "Origin", "https://evil.example.com"}, 403},
		{"the same, from an old browser", "POST", path + "manifest", []string{"Origin", "https://evil.example.com"}, 403},
		{"the manifest, by GET", "GET", path + "manifest", nil, 405},
	} {
		status, body, header := ask(t, p, c.method, c.path, goodForm(), c.header...)
		if status != c.status {
			t.Errorf("%s: %d, want %d: %s", c.name, status, c.status, body)
		}
		if header.Get("Cache-Control") != "no-store" || !strings.Contains(header.Get("Content-Security-Policy"), "default-src 'none'") ||
			!strings.Contains(header.Get("Content-Security-Policy"), "frame-ancestors 'none'") || header.Get("Referrer-Policy") != "origin" {
			t.Errorf("%s: headers %v", c.name, header)
		}
	}
	if status, _, _ := ask(t, p, "POST", path+"manifest", url.Values{"name": {strings.Repeat("x", maxForm)}}); status != http.StatusBadRequest {
		t.Errorf("a form that is too long: %d", status)
	}
}

// GitHub's redirect counts once, and only with a state that was made here.
func TestRedirectCountsOnce(t *testing.T) {
	p := newTestPage(t)
	first, second := manifest(t, p), manifest(t, p)
	if first == second {
		t.Fatal("two manifests have one state")
	}
	made := func(query string) int {
		status, _, _ := ask(t, p, "GET", "/made?"+query, nil, "Sec-Fetch-Site", "cross-site")
		return status
	}
	for _, c := range []struct {
		name, query string
		status      int
	}{
		{"no state", "code=abc", 403},
		{"another state", "code=abc&state=" + strings.Repeat("A", len(first)), 403},
		{"part of a state", "code=abc&state=" + first[:10], 403},
		{"no code", "state=" + first, 400},
		{"as it should be, with the earlier manifest", "code=abc&state=" + first, 200},
		{"again", "code=abc&state=" + first, 410},
		{"the other manifest", "code=def&state=" + second, 410},
	} {
		if status := made(c.query); status != c.status {
			t.Errorf("%s: %d, want %d", c.name, status, c.status)
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	agreed, err := p.Wait(ctx)
	if err != nil || agreed.Code != "abc" || agreed.Choice.Owner != "acme" || agreed.Choice.Name != "Our STS" || !slices.Equal(agreed.Choice.Events, DefaultChoice().Events) {
		t.Errorf("%+v, %v", agreed, err)
	}
	cancel()
	if _, err := p.Wait(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("a second App: %v", err)
	}
}

// What is wrong with the form is said beside it, with what was filled in; what other people might have put there is text.
func TestFormIsShownAgain(t *testing.T) {
	p := newTestPage(t)
	form := goodForm()
	form.Set("name", `"><script>alert(1)</script>`)
	form.Set("owner", "-acme-")
	form.Set("permission.issues", "write")
	form.Del("permission.checks")
	status, body, _ := ask(t, p, "POST", "/"+p.secret+"/manifest", form)
	for _, want := range []string{"is not the name of an organization", "the permission checks: write is needed for push, pull_request", "&lt;script&gt;"} {
		if !strings.Contains(body, want) {
			t.Errorf("no %q in the page", want)
		}
	}
	if status != http.StatusUnprocessableEntity || strings.Contains(body, "<script>") {
		t.Errorf("%d: %s", status, body)
	}
	if !regexp.MustCompile(`name="permission\.issues"><option value="">none</option><option>read</option><option selected>write`).MatchString(body) {
		t.Error("the permission that was picked is not picked any more")
	}
}

// The number of states is bounded.
func TestManifestsAreBounded(t *testing.T) {
	p := newTestPage(t)
	for range maxStates {
		manifest(t, p)
	}
	if status, body, _ := ask(t, p, "POST", "/"+p.secret+"/manifest", goodForm()); status != http.StatusTooManyRequests {
		t.Errorf("%d: %s", status, body)
	}
}
