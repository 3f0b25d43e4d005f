package probe

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
)

// unsigned is an ID token of a kind. Whoever answers below does not look at signatures.
func unsigned(kind Kind) string {
	encode := base64.RawURLEncoding.EncodeToString
	return encode([]byte(`{"alg":"ES256","kid":"1"}`)) + "." + encode(fmt.Appendf(nil, `{"sub":%q}`, kind)) + ".AAAA"
}

// presented is which ID token a request shows, and for which identity: a Kind, forged, or
// missing.
func presented(r *http.Request) string {
	raw := strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer ")
	for _, kind := range []Kind{Good, WrongAudience, WrongSubject} {
		if raw == unsigned(kind) {
			if r.URL.Query().Get("identity") != "probe" {
				return "missing-identity"
			}
			return string(kind)
		}
	}
	return "stranger"
}

// A probe of an appliance that is wrong in a way that ours cannot be made to be.
func TestNegative(t *testing.T) {
	type said struct {
		status int
		body   string
	}
	denied := said{http.StatusForbidden, `{"code":7,"message":"no (request ID)"}`}
	right := map[string]said{"stranger": {http.StatusUnauthorized, "{}"}, "missing-identity": denied, "wrong-audience": denied, "wrong-subject": denied}
	granted := said{http.StatusOK, `{"token":"ghs_x","expiry":"2030-01-01T00:00:00Z"}`}
	for _, c := range []struct {
		name    string
		differs map[string]said
		finds   string // the checks that fail
		revoked int32
	}{
		{"all is refused", nil, "", 0},
		{"anybody's signature is good", map[string]said{"stranger": granted}, "stranger", 1},
		{"audiences do not count", map[string]said{"wrong-audience": granted}, "wrong-audience", 1},
		{"subjects do not count", map[string]said{"wrong-subject": granted}, "wrong-subject", 1},
		{"identities do not count", map[string]said{"missing-identity": granted}, "missing-identity", 1},
		{"nothing counts", map[string]said{"stranger": granted, "wrong-audience": granted, "wrong-subject": granted, "missing-identity": granted},
			"stranger missing-identity wrong-audience wrong-subject", 4},
		{"a refusal tells that there is no policy", map[string]said{"missing-identity": {http.StatusForbidden, `{"message":"no policy"}`}}, "alike", 0},
		{"a refusal tells what the policy says", map[string]said{"wrong-subject": {http.StatusForbidden, `{"message":"want subject x"}`}}, "alike", 0},
		{"a status tells that there is no policy", map[string]said{"missing-identity": {http.StatusNotFound, "{}"}}, "missing-identity", 0},
		{"a stranger is told of the policy", map[string]said{"stranger": denied}, "stranger", 0},
		{"there were too many", map[string]said{"wrong-audience": {http.StatusTooManyRequests, "{}"}}, "wrong-audience", 0},
		{"a proxy is in the way", map[string]said{"stranger": {http.StatusBadGateway, "<html>"}}, "stranger", 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			var asked, revoked atomic.Int32
			server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if r.Method == http.MethodDelete {
					revoked.Add(1)
					return
				}
				who := presented(r)
				answer, ok := c.differs[who]
				if !ok {
					answer = right[who]
				}
				id := fmt.Sprintf("REQUEST%d", asked.Add(1))
				w.Header().Set("X-Request-Id", id)
				w.WriteHeader(answer.status)
				_, _ = w.Write([]byte(strings.ReplaceAll(answer.body, "ID", id)))
			}))
			defer server.Close()
			report := newProber(t, server.URL, func(_ context.Context, kind Kind) (string, error) { return unsigned(kind), nil }).Negative(t.Context())
			if got := failuresOf(t, report); got != c.finds || report.Success != (c.finds == "") {
				t.Errorf("found %q, want %q: %+v", got, c.finds, report.Checks)
			}
			if revoked.Load() != c.revoked {
				t.Errorf("%d tokens were revoked, want %d", revoked.Load(), c.revoked)
			}
		})
	}
}

// An appliance that is away is a failure of each check, never a success.
func TestNothingAnswers(t *testing.T) {
	server := httptest.NewServer(http.NotFoundHandler())
	server.Close()
	p := newProber(t, server.URL, func(_ context.Context, kind Kind) (string, error) { return unsigned(kind), nil })
	report := p.Negative(t.Context())
	if got := failuresOf(t, report); got != "stranger missing-identity wrong-audience wrong-subject" || report.Success {
		t.Errorf("found %q: %+v", got, report.Checks)
	}
	none := newProber(t, server.URL, func(context.Context, Kind) (string, error) { return "", ErrNoSuchIDToken })
	if report := none.Negative(t.Context()); report.Success || failuresOf(t, report) != "" {
		t.Errorf("a probe that could try nothing succeeded: %+v", report)
	}
}

func newProber(t *testing.T, url string, idToken func(context.Context, Kind) (string, error)) *Prober {
	t.Helper()
	p, err := New(t.Context(), Config{URL: url, GitHubURL: url, Scope: "o/r", Identity: "probe", IDToken: idToken})
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func failuresOf(t *testing.T, r Report) string {
	t.Helper()
	var names []string
	for _, c := range r.Checks {
		if c.State == Failed {
			names = append(names, c.Name)
			if c.Expected == "" || c.Came == "" || c.Do == "" {
				t.Errorf("a failure without words: %+v", c)
			}
		}
	}
	return strings.Join(names, " ")
}

func TestNewRefuses(t *testing.T) {
	good := Config{URL: "https://sts.example.com", GitHubURL: "https://api.github.com", Scope: "o/r", Identity: "probe",
		IDToken: func(context.Context, Kind) (string, error) { return "", nil }}
	if _, err := New(t.Context(), good); err != nil {
		t.Fatal(err)
	}
	for _, change := range []func(*Config){
		func(c *Config) { c.URL = "http://sts.example.com" }, func(c *Config) { c.URL = "" }, func(c *Config) { c.URL = "https://u:p@h" },
		func(c *Config) { c.GitHubURL = "http://github.example.com" }, func(c *Config) { c.Scope = "o" }, func(c *Config) { c.Scope = "o/" },
		func(c *Config) { c.Scope = "o/r/x" }, func(c *Config) { c.Scope = "o/r?x" }, func(c *Config) { c.Identity = "" },
		func(c *Config) { c.Identity = "../x" }, func(c *Config) { c.IDToken = nil },
	} {
		c := good
		change(&c)
		if _, err := New(t.Context(), c); err == nil {
			t.Errorf("%+v was taken", c)
		}
	}
}

// A forged ID token says what the other one says, and is signed by nobody.
func TestForge(t *testing.T) {
	for _, alg := range []string{"ES256", "RS256", "EdDSA"} {
		header := base64.RawURLEncoding.EncodeToString(fmt.Appendf(nil, `{"alg":%q,"kid":"7","x5u":"https://elsewhere.example"}`, alg))
		forged, err := Forge(header + ".eyJhIjoxfQ.c2ln")
		if err != nil {
			t.Fatal(err)
		}
		parts := strings.Split(forged, ".")
		raw, err := base64.RawURLEncoding.DecodeString(parts[0])
		var got map[string]string
		if err != nil || json.Unmarshal(raw, &got) != nil || got["kid"] != "7" || len(got) != 2 || parts[1] != "eyJhIjoxfQ" || parts[2] == "c2ln" {
			t.Errorf("%s: %s: %s, %v", alg, forged, raw, err)
		}
		again, err := Forge(header + ".eyJhIjoxfQ.c2ln")
		if err != nil || again == forged {
			t.Errorf("%s: the same signature twice, %v", alg, err)
		}
	}
}

func FuzzForge(f *testing.F) {
	f.Add(unsigned(Good))
	f.Add("..")
	f.Add("e30.e30.")
	f.Fuzz(func(t *testing.T, idToken string) {
		forged, err := Forge(idToken)
		if err == nil && (strings.Count(forged, ".") < 2 || forged == idToken) {
			t.Errorf("%q became %q", idToken, forged)
		}
	})
}

func FuzzPolicyAtGitHub(f *testing.F) {
	f.Add([]byte(`{"content":"cGVybWlzc2lvbnM6IHtjb250ZW50czogcmVhZH0K"}`))
	f.Add([]byte(`{"content":"cGVybWlzc2lvbnM6IHtjb250ZW50czogd3JpdGV9Cg=="}`))
	f.Fuzz(func(t *testing.T, body []byte) {
		came, err := grantsReadAlone(body)
		if (err == nil) != (came != "") {
			t.Errorf("%q: %q, %v", body, came, err)
		}
	})
}
