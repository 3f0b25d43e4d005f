package githubapp_test

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/octo-sts/appliance/sts/githubapp"
	"github.com/octo-sts/appliance/sts/ststest"
)

func TestMint(t *testing.T) {
	t.Parallel()
	for _, form := range []ststest.TokenForm{ststest.OpaqueTokens, ststest.JWTTokens} {
		w := newWorld(t, func(o *options) { o.github.TokenForm = form })
		inst := w.installation()
		for _, r := range []githubapp.MintRequest{
			{Repositories: []string{"app"}, Permissions: map[string]string{"issues": "write"}},
			{Repositories: []string{".github", "APP"}, Permissions: map[string]string{"issues": "read", "contents": "read"}},
			{AllRepositories: true, Permissions: map[string]string{"contents": "write", "metadata": "read"}},
		} {
			minted, err := w.client.Mint(w.ctx, inst, r)
			w.wants(err, "ok")
			all := w.github.Mints()
			last := all[len(all)-1]
			if !w.github.IsLive(minted.Token) || !minted.Expiry.Equal(last.Expiry) || last.InstallationID != w.acme || last.AllRepositories != r.AllRepositories || len(last.Repositories) != len(r.Repositories) {
				t.Errorf("asked for %+v, got %+v", r, last)
			}
			if diff := cmp.Diff(r.Repositories, minted.Repositories); diff != "" {
				t.Error(diff)
			}
			want := map[string]string{"metadata": "read"}
			for name, level := range r.Permissions {
				want[name] = level
			}
			if diff := cmp.Diff(want, minted.Permissions); diff != "" {
				t.Error(diff)
			}
		}
	}
}

// TestMintIsRefusedHere: what must never reach GitHub.
func TestMintIsRefusedHere(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	inst := w.installation()
	read := map[string]string{"issues": "read"}
	for name, r := range map[string]githubapp.MintRequest{
		"neither some repositories nor all": {Permissions: read},
		"an empty list":                     {Repositories: []string{}, Permissions: read},
		"some repositories and all":         {Repositories: []string{"app"}, AllRepositories: true, Permissions: read},
		"501 repositories":                  {Repositories: make([]string, 501), Permissions: read},
		"an empty name":                     {Repositories: []string{"app", ""}, Permissions: read},
		"an owner in a name":                {Repositories: []string{"acme/app"}, Permissions: read},
		"no permissions":                    {Repositories: []string{"app"}},
		"empty permissions":                 {Repositories: []string{"app"}, Permissions: map[string]string{}},
		"a permission without a level":      {Repositories: []string{"app"}, Permissions: map[string]string{"issues": ""}},
		"a level without a permission":      {Repositories: []string{"app"}, Permissions: map[string]string{"": "read"}},
	} {
		_, err := w.client.Mint(w.ctx, inst, r)
		if kindOf(err) != "refused" {
			t.Errorf("%s: got %v", name, err)
		}
	}
	for _, bad := range []githubapp.Installation{{}, {AppID: 99, ID: inst.ID, Owner: "acme"}, {AppID: appID, Owner: "acme"}} {
		_, err := w.client.Mint(w.ctx, bad, readIssues)
		w.wants(err, "refused")
	}
	w.calls()
}

// TestMintIsRefusedThere: the operator is told in GitHub's words.
func TestMintIsRefusedThere(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name    string
		prepare func(*world)
		request githubapp.MintRequest
		words   string
		again   bool // the installation is looked up again
	}{
		{"a permission that the App lacks", nil, githubapp.MintRequest{AllRepositories: true, Permissions: map[string]string{"actions": "read"}}, "not granted", false},
		{"a repository that is not there", nil, githubapp.MintRequest{Repositories: []string{"nothing"}, Permissions: map[string]string{"issues": "read"}}, "at least one repository", false},
		{"an installation that is gone", func(w *world) { w.github.Uninstall(w.acme) }, readIssues, "GitHub answered 404", true},
		{"an installation that is suspended", func(w *world) { w.github.Suspend(w.acme) }, readIssues, "suspended", true},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			inst := w.installation()
			if c.prepare != nil {
				c.prepare(w)
			}
			_, err := w.client.Mint(w.ctx, inst, c.request)
			w.wants(err, "refused", c.words, "GitHub request ID")
			w.calls(ststest.MintRoute)
			w.github.ResetCalls()
			_, err = w.client.Installation(w.ctx, "acme", "app")
			if c.again {
				w.wants(err, "not installed")
				w.calls(ststest.RepoInstallRoute)
			} else {
				w.wants(err, "ok")
				w.calls()
			}
		})
	}
}

// TestMintedTooMuch: a token that can do other than what was asked is revoked.
func TestMintedTooMuch(t *testing.T) {
	t.Parallel()
	const good = `{"token":"TOKEN","expires_at":"EXPIRY","permissions":{"issues":"read","metadata":"read"},"repository_selection":"selected","repositories":[{"full_name":"Acme/App"}]}`
	for _, c := range []struct{ name, old, new, kind, words string }{
		{"as asked", "", "", "ok", ""},
		{"less than was asked", `"issues":"read",`, ``, "ok", ""},
		{"a permission more", `"issues":"read"`, `"issues":"read","contents":"read"`, "unavailable", `"contents": "read"`},
		{"a higher level", `"issues":"read"`, `"issues":"write"`, "unavailable", `"issues": "write"`},
		{"an unknown level", `"issues":"read"`, `"issues":"all"`, "unavailable", `"all"`},
		{"metadata: write", `"metadata":"read"`, `"metadata":"write"`, "unavailable", "metadata"},
		{"no permissions told", `"permissions":{"issues":"read","metadata":"read"},`, ``, "unavailable", "does not say"},
		{"all repositories", `"selected"`, `"all"`, "unavailable", `"all" repositories`},
		{"another repository", `[{"full_name":"Acme/App"}]`, `[{"full_name":"acme/app"},{"full_name":"acme/secrets"}]`, "unavailable", "secrets"},
		{"another owner's repository", `Acme/App`, `acme-inc/app`, "unavailable", "acme-inc/app"},
		{"a repository without an owner", `Acme/App`, `app`, "unavailable", `"app"`},
		{"no repositories told", `[{"full_name":"Acme/App"}]`, `[]`, "unavailable", "does not say for which"},
		{"expired", "EXPIRY", "2001-02-03T04:05:06Z", "unavailable", "not within the hour"},
		{"for ever", "EXPIRY", "2999-02-03T04:05:06Z", "unavailable", "not within the hour"},
		{"no expiry", `"expires_at":"EXPIRY",`, "", "unavailable", "not within the hour"},
		{"an expiry that is no time", "EXPIRY", "soon", "unavailable", "JSON"},
		{"no token", `"token":"TOKEN",`, "", "unavailable", "no token"},
		{"a token with a line end", "TOKEN", `a\r\nb`, "unavailable", "no token"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			inst := w.installation()
			real, err := w.client.Mint(w.ctx, inst, readIssues)
			w.wants(err, "ok")
			body := strings.Replace(good, c.old, c.new, 1)
			body = strings.NewReplacer("TOKEN", real.Token, "EXPIRY", w.clock.now().Add(time.Hour).UTC().Format(time.RFC3339)).Replace(body)
			w.github.Fail(ststest.Fault{Route: ststest.MintRoute, Status: 201, Body: body})
			minted, err := w.client.Mint(w.ctx, inst, readIssues)
			w.wants(err, c.kind, c.words)
			if err != nil && minted.Token != "" {
				t.Error("a token came with the error")
			}
			readable := strings.Contains(body, real.Token) && c.words != "JSON"
			if live := w.github.IsLive(real.Token); live != (err == nil || !readable) {
				t.Errorf("the token is live: %t, after %v", live, err)
			}
		})
	}
}

// TestMintFiveHundredRepositories: the answer is far over 1 MiB.
func TestMintFiveHundredRepositories(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	inst := w.installation()
	r := githubapp.MintRequest{Permissions: map[string]string{"issues": "read"}}
	for i := range 500 {
		r.Repositories = append(r.Repositories, fmt.Sprintf("repository-%d", i))
		w.github.AddRepository("acme", r.Repositories[i])
	}
	minted, err := w.client.Mint(w.ctx, inst, r)
	w.wants(err, "ok")
	if len(minted.Repositories) != 500 {
		t.Errorf("got %d repositories", len(minted.Repositories))
	}
}

// TestMintBody holds what is sent against GitHub's documentation.
func TestMintBody(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	inst := w.installation()
	var sent map[string]any
	var header http.Header
	w.github.Fail(ststest.Fault{Route: ststest.MintRoute, Match: func(r *http.Request) bool {
		body, _ := io.ReadAll(r.Body)
		sent = nil
		if err := json.Unmarshal(body, &sent); err != nil {
			t.Error(err)
		}
		header = r.Header
		if r.ProtoMajor != 2 {
			t.Errorf("the mint came over %s, want HTTP/2", r.Proto)
		}
		return true
	}, Status: 422})
	_, err := w.client.Mint(w.ctx, inst, readIssues)
	w.wants(err, "refused")
	if diff := cmp.Diff(map[string]any{"repositories": []any{"app"}, "permissions": map[string]any{"issues": "read"}}, sent); diff != "" {
		t.Error(diff)
	}
	_, err = w.client.Mint(w.ctx, inst, githubapp.MintRequest{AllRepositories: true, Permissions: map[string]string{"issues": "read"}})
	w.wants(err, "refused")
	if diff := cmp.Diff(map[string]any{"permissions": map[string]any{"issues": "read"}}, sent); diff != "" {
		t.Error(diff)
	}
	if header.Get("X-GitHub-Api-Version") != "2022-11-28" || header.Get("User-Agent") != "octo-sts-appliance" || !strings.HasPrefix(header.Get("Authorization"), "Bearer ey") {
		t.Errorf("the headers are %v", header)
	}
}

func TestRevoke(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name  string
		fault *ststest.Fault
		kind  string
		words string
		live  bool
		calls int
	}{
		{name: "at once", kind: "ok", calls: 1},
		{name: "401 for a moment", fault: &ststest.Fault{Status: 401, Count: 1}, kind: "ok", calls: 2},
		{name: "404 for a moment", fault: &ststest.Fault{Status: 404, Count: 2}, kind: "ok", calls: 3},
		{name: "502 once", fault: &ststest.Fault{Status: 502, Count: 1}, kind: "ok", calls: 2},
		{name: "the answer lost", fault: &ststest.Fault{Lost: true, Count: 1}, kind: "ok", calls: 3},
		{name: "502 for good", fault: &ststest.Fault{Status: 502}, kind: "unavailable", live: true, calls: 3},
		{name: "403", fault: &ststest.Fault{Status: 403}, kind: "refused", live: true, calls: 1},
		{name: "307", fault: &ststest.Fault{Status: 307, Header: map[string]string{"Location": "https://evil.example/"}}, kind: "refused", live: true, calls: 1},
		{name: "rate limited", fault: &[]ststest.Fault{ststest.SecondaryRateLimit(429, time.Minute)}[0], kind: "rate limited", live: true, calls: 1},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			minted, err := w.client.Mint(w.ctx, w.installation(), readIssues)
			w.wants(err, "ok")
			w.github.ResetCalls()
			if c.fault != nil {
				c.fault.Route = ststest.RevokeRoute
				w.github.Fail(*c.fault)
			}
			err = w.client.Revoke(w.ctx, minted.Token)
			w.wants(err, c.kind, c.words)
			if w.github.IsLive(minted.Token) != c.live {
				t.Errorf("the token is live: %t", !c.live)
			}
			if n := w.totalCalls(); n != c.calls {
				t.Errorf("%d calls, want %d", n, c.calls)
			}
		})
	}
}

func TestRevokeOfWhatIsNoToken(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	for _, raw := range []string{"", "a b", "a\r\nHost: evil", "\x00", "ghs_ünï"} {
		w.wants(w.client.Revoke(w.ctx, raw), "refused")
	}
	w.calls()
	w.wants(w.client.Revoke(w.ctx, "ghs_unknown"), "ok") // as dead as can be
	w.calls(ststest.RevokeRoute + "*3")
}
