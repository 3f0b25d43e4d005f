package ststest

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"
)

func TestMint(t *testing.T) {
	f := newFixture(t, GitHubConfig{})
	many := strings.Repeat(`"one",`, 500) + `"one"`
	ids := fmt.Sprint(f.AddRepository("acme", "three"))
	for _, c := range []struct {
		name, body   string
		status       int
		want         string // permissions as JSON, or the message
		repositories string
	}{
		{"everything", ``, 201, `{"contents":"write","issues":"read","metadata":"read"}`, "all"},
		{"an empty list is everything", `{"repositories":[],"permissions":{}}`, 201, `{"contents":"write","issues":"read","metadata":"read"}`, "all"},
		{"one repository", `{"repositories":["ONE"],"permissions":{"contents":"read"}}`, 201, `{"contents":"read","metadata":"read"}`, "one"},
		{"by ID", `{"repository_ids":[` + ids + `]}`, 201, `{"contents":"write","issues":"read","metadata":"read"}`, "three"},
		{"level beyond", `{"permissions":{"issues":"write"}}`, 422, "The permissions requested are not granted to this installation.", ""},
		{"permission beyond", `{"permissions":{"checks":"read"}}`, 422, "The permissions requested are not granted to this installation.", ""},
		{"unknown permission", `{"permissions":{"content":"read"}}`, 422, "Invalid request.\n\n\"content\" is not a permitted key.", ""},
		{"unknown level", `{"permissions":{"contents":"admin"}}`, 422, "Invalid request.\n\nadmin is not a member of [\"read\" \"write\"].", ""},
		{"unknown repository", `{"repositories":["absent"]}`, 422, "There is at least one repository that does not exist or is not accessible to the parent installation.", ""},
		{"another owner's", `{"repositories":["secret"]}`, 422, "There is at least one repository that does not exist or is not accessible to the parent installation.", ""},
		{"with the owner's name", `{"repositories":["acme/one"]}`, 422, "There is at least one repository that does not exist or is not accessible to the parent installation.", ""},
		{"501 repositories", `{"repositories":[` + many + `]}`, 422, "Invalid request.\n\nNo more than 500 items are allowed.", ""},
		{"no JSON", `{`, 400, "Problems parsing JSON", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			before := len(f.Mints())
			r := f.do("POST", fmt.Sprintf("/app/installations/%d/access_tokens", f.installation), f.jwt(), c.body)
			if r.StatusCode != c.status {
				t.Fatalf("got %s %s, want %d", r.Status, r.body, c.status)
			}
			v := r.json(t)
			if c.status != 201 {
				if v["message"] != c.want {
					t.Errorf("got %q, want %q", v["message"], c.want)
				}
				if len(f.Mints()) != before {
					t.Error("a refused mint was recorded")
				}
				return
			}
			if p, _ := json.Marshal(v["permissions"]); string(p) != c.want {
				t.Errorf("permissions %s, want %s", p, c.want)
			}
			m := f.Mints()[before]
			sum := sha256.Sum256([]byte(v["token"].(string)))
			if m.TokenSHA256 != hex.EncodeToString(sum[:]) || m.InstallationID != f.installation || m.AppID != testApp {
				t.Errorf("recorded %+v", m)
			}
			if got := strings.Join(m.Repositories, ","); m.AllRepositories != (c.repositories == "all") || !m.AllRepositories && got != c.repositories {
				t.Errorf("recorded repositories %q, all %v", got, m.AllRepositories)
			}
			if expiry, err := time.Parse(time.RFC3339, v["expires_at"].(string)); err != nil || !expiry.Equal(m.Expiry) || time.Until(expiry) > time.Hour {
				t.Errorf("expires_at %v (%v)", v["expires_at"], err)
			}
		})
	}
}

func TestMintForSuspendedAndUnknownInstallation(t *testing.T) {
	f := newFixture(t, GitHubConfig{})
	token := f.mint("")
	path := fmt.Sprintf("/app/installations/%d/access_tokens", f.installation)
	f.Suspend(f.installation)
	if r := f.do("POST", path, f.jwt(), ""); r.StatusCode != 403 || !strings.Contains(r.message(t), "suspended") {
		t.Errorf("suspended: %s %s", r.Status, r.body)
	}
	if r := f.do("GET", "/repos/acme/one", token, ""); r.StatusCode != 403 {
		t.Errorf("use of a token of a suspended installation: %s", r.Status)
	}
	f.Unsuspend(f.installation)
	if r := f.do("GET", "/repos/acme/one", token, ""); r.StatusCode != 200 {
		t.Errorf("after the suspension: %s", r.Status)
	}
	f.Uninstall(f.installation)
	if r := f.do("POST", path, f.jwt(), ""); r.StatusCode != 404 {
		t.Errorf("uninstalled: %s", r.Status)
	}
	if r := f.do("GET", "/repos/acme/one", token, ""); r.StatusCode != 401 {
		t.Errorf("use of a token of a removed installation: %s", r.Status)
	}
}

func TestTokenForms(t *testing.T) {
	f := newFixture(t, GitHubConfig{})
	if token := f.mint(""); len(token) != 40 || !strings.HasPrefix(token, "ghs_") {
		t.Errorf("opaque: %q", token)
	}
	f = newFixture(t, GitHubConfig{TokenForm: JWTTokens})
	token := f.mint("")
	if !strings.HasPrefix(token, "ghs_1234_ey") || strings.Count(token, ".") != 2 || len(token) < 450 || len(token) > 600 {
		t.Errorf("JWT form (%d characters): %q", len(token), token)
	}
	if r := f.do("GET", "/repos/acme/one", token, ""); r.StatusCode != 200 {
		t.Errorf("its use: %s", r.Status)
	}
}

func TestTokenScope(t *testing.T) {
	f := newFixture(t, GitHubConfig{})
	f.PutFile("acme", "one", "f", "1")
	f.PutFile("acme", "two", "f", "2")
	f.AddRepositoryWith("other", "open", RepositoryOptions{Public: true})
	f.PutFile("other", "open", "f", "3")
	readOne := f.mint(`{"repositories":["one"],"permissions":{"contents":"read"}}`)
	issues := f.mint(`{"permissions":{"issues":"read"}}`)
	write := f.mint(`{"permissions":{"contents":"write"}}`)
	put := `{"message":"m","content":"aGk="}`
	for _, c := range []struct {
		name, method, path, token, body string
		status                          int
	}{
		{"read", "GET", "/repos/acme/one/contents/f", readOne, "", 200},
		{"read in another case", "GET", "/repos/ACME/ONE/contents/f", readOne, "", 200},
		{"another repository", "GET", "/repos/acme/two/contents/f", readOne, "", 404},
		{"another owner", "GET", "/repos/other/secret/contents/f", readOne, "", 404},
		{"a public repository", "GET", "/repos/other/open/contents/f", readOne, "", 200},
		{"writing to a public repository", "PUT", "/repos/other/open/contents/g", write, put, 403},
		{"without contents", "GET", "/repos/acme/one/contents/f", issues, "", 403},
		{"metadata is always readable", "GET", "/repos/acme/one", issues, "", 200},
		{"read-only write", "PUT", "/repos/acme/one/contents/g", readOne, put, 403},
		{"write", "PUT", "/repos/acme/one/contents/g", write, put, 201},
		{"what was written", "GET", "/repos/acme/one/contents/g", readOne, "", 200},
		{"overwriting without its SHA", "PUT", "/repos/acme/one/contents/g", write, put, 422},
		{"a workflow without workflows: write", "PUT", "/repos/acme/one/contents/.github/workflows/w.yaml", write, put, 403},
		{"an issue without issues: write", "POST", "/repos/acme/one/issues", issues, `{"title":"t"}`, 403},
		{"an App JWT", "GET", "/repos/acme/one/contents/f", f.jwt(), "", 403},
		{"no credential", "GET", "/repos/acme/one/contents/f", "", "", 401},
		{"an unknown token", "GET", "/repos/acme/one/contents/f", "ghs_x", "", 401},
	} {
		t.Run(c.name, func(t *testing.T) {
			if r := f.do(c.method, c.path, c.token, c.body); r.StatusCode != c.status {
				t.Errorf("%s, want %d: %s", r.Status, c.status, r.body)
			}
		})
	}
	if r := f.do("PUT", "/repos/acme/one/contents/h", readOne, put); r.message(t) != "Resource not accessible by integration" {
		t.Errorf("message %q", r.message(t))
	}
	// What the owner takes back is gone from tokens that exist.
	f.SetInstallationPermissions(f.installation, map[string]string{"contents": "read"})
	if r := f.do("PUT", "/repos/acme/one/contents/h", write, put); r.StatusCode != 403 {
		t.Errorf("write after the owner took it back: %s", r.Status)
	}
	if r := f.do("GET", "/repos/acme/one/contents/f", issues, ""); r.StatusCode != 403 {
		t.Errorf("a permission that the token never had: %s", r.Status)
	}
}

func TestIssueIsMade(t *testing.T) {
	f := newFixture(t, GitHubConfig{})
	f.SetInstallationPermissions(f.installation, map[string]string{"issues": "write"})
	r := f.do("POST", "/repos/acme/one/issues", f.mint(`{"permissions":{"issues":"write"}}`), `{"title":"hello"}`)
	if v := r.json(t); r.StatusCode != 201 || v["number"] != 1.0 || v["title"] != "hello" {
		t.Errorf("%s %s", r.Status, r.body)
	}
}

func TestRevocationAndExpiry(t *testing.T) {
	f := newFixture(t, GitHubConfig{})
	revoked, expired := f.mint(""), f.mint("")
	if !f.IsLive(revoked) || f.IsLive("ghs_unknown") || len(f.LiveMints()) != 2 {
		t.Fatal("wrong account of live tokens")
	}
	if r := f.do("DELETE", "/installation/token", revoked, ""); r.StatusCode != 204 || len(r.body) != 0 {
		t.Errorf("revoking: %s %q", r.Status, r.body)
	}
	if r := f.do("DELETE", "/installation/token", revoked, ""); r.StatusCode != 401 {
		t.Errorf("revoking again: %s", r.Status)
	}
	if f.IsLive(revoked) || len(f.LiveMints()) != 1 || f.Mints()[0].Revoked.IsZero() || !f.Mints()[1].Revoked.IsZero() {
		t.Error("wrong account after a revocation")
	}
	f.SetClockOffset(time.Hour + time.Second)
	if r := f.do("GET", "/repos/acme/one", expired, ""); r.StatusCode != 401 || r.message(t) != "Bad credentials" {
		t.Errorf("an hour later: %s %s", r.Status, r.body)
	}
	if f.IsLive(expired) || len(f.LiveMints()) != 0 {
		t.Error("an expired token counts as live")
	}
}
