package main

import (
	"context"
	"encoding/json"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/oauth2"
	"golang.org/x/oauth2/clientcredentials"
	"golang.org/x/oauth2/google/externalaccount"

	"github.com/octo-sts/appliance/sts/audit"
	"github.com/octo-sts/appliance/sts/ststest"
)

// The names of RFC 8693.
const (
	grantTokenExchange = "urn:ietf:params:oauth:grant-type:token-exchange"
	typeAccessToken    = "urn:ietf:params:oauth:token-type:access_token"
	typeIDToken        = "urn:ietf:params:oauth:token-type:id_token"
	typeJWT            = "urn:ietf:params:oauth:token-type:jwt"
)

// formAnswer is what an endpoint of OAuth's said.
type formAnswer struct {
	status int
	header http.Header
	body   string

	// Of the body, where it has them.
	AccessToken     string  `json:"access_token"`
	IssuedTokenType string  `json:"issued_token_type"`
	TokenType       string  `json:"token_type"`
	ExpiresIn       float64 `json:"expires_in"`
	Error           string  `json:"error"`
	Description     string  `json:"error_description"`
	Revoked         *bool   `json:"revoked"`
}

// post sends a form to a path of the daemon.
func (r *rig) post(path string, form url.Values) formAnswer {
	r.t.Helper()
	req, err := http.NewRequestWithContext(r.t.Context(), http.MethodPost, r.URL()+path, strings.NewReader(form.Encode()))
	if err != nil {
		r.t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	return r.sendForm(req)
}

func (r *rig) sendForm(req *http.Request) formAnswer {
	r.t.Helper()
	resp, err := r.Client().Do(req)
	if err != nil {
		r.t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		r.t.Fatal(err)
	}
	a := formAnswer{status: resp.StatusCode, header: resp.Header, body: string(body)}
	if err := json.Unmarshal(body, &a); err != nil {
		r.t.Fatalf("%s %s: %s %q: %v", req.Method, req.URL, resp.Status, body, err)
	}
	return a
}

// tokenForm is a good request for acme/app as reader.
func tokenForm(idToken string) url.Values {
	return url.Values{
		"grant_type": {grantTokenExchange}, "subject_token": {idToken}, "subject_token_type": {typeIDToken},
		"scope": {"acme/app"}, "audience": {"reader"},
	}
}

// The answer is RFC 8693's, section 2.2.1, and the exchange that of the other wires.
func TestTokenExchange(t *testing.T) {
	r := newRig(t, ststest.ServiceConfig{})
	a := r.post("/sts/token", tokenForm(r.job(nil)))
	if a.status != http.StatusOK || !r.GitHub.IsLive(a.AccessToken) {
		t.Fatalf("%d %s, want a token", a.status, a.body)
	}
	if a.IssuedTokenType != typeAccessToken || a.TokenType != "Bearer" || a.ExpiresIn < 3500 || a.ExpiresIn > 3600 {
		t.Errorf("%s", a.body)
	}
	want := map[string]string{"Content-Type": "application/json", "Cache-Control": "no-store", "Pragma": "no-cache"}
	got := map[string]string{}
	for name := range want {
		got[name] = a.header.Get(name)
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("headers (-want +got):\n%s", d)
	}
	entries := r.audited(audit.Filter{RequestID: a.header.Get("X-Request-Id")})
	if len(entries) != 2 || entries[0].Kind != audit.Intent || entries[1].Kind != audit.Outcome ||
		entries[1].TokenSHA256 != tokenSHA256(a.AccessToken) || entries[1].Identity != "reader" || entries[1].Scope != "acme/app" {
		t.Errorf("the audit log has %+v", entries)
	}
}

// stockClients are public OAuth libraries, each set up by nothing but its own
// configuration.
var stockClients = map[string]func(r *rig, ctx context.Context, scope, identity string) oauth2.TokenSource{
	// The client of workload identity federation speaks RFC 8693.
	"golang.org/x/oauth2/google/externalaccount": func(r *rig, ctx context.Context, scope, identity string) oauth2.TokenSource {
		source, err := externalaccount.NewTokenSource(ctx, externalaccount.Config{
			TokenURL: r.URL() + "/sts/token", Audience: identity, Scopes: []string{scope},
			SubjectTokenType: typeJWT, SubjectTokenSupplier: supplier(func() (string, error) { return r.signJob(nil) }),
		})
		if err != nil {
			r.t.Fatal(err)
		}
		return source
	},
	// It knows another grant type, which can be replaced.
	"golang.org/x/oauth2/clientcredentials": func(r *rig, ctx context.Context, scope, identity string) oauth2.TokenSource {
		c := clientcredentials.Config{
			TokenURL: r.URL() + "/sts/token", Scopes: []string{scope}, AuthStyle: oauth2.AuthStyleInParams,
			EndpointParams: url.Values{"grant_type": {grantTokenExchange}, "audience": {identity}, "subject_token": {r.job(nil)}, "subject_token_type": {typeIDToken}},
		}
		return c.TokenSource(ctx)
	},
	// With a client's name and secret, which it cannot be kept from sending.
	"golang.org/x/oauth2/clientcredentials, with client authentication": func(r *rig, ctx context.Context, scope, identity string) oauth2.TokenSource {
		c := clientcredentials.Config{
			TokenURL: r.URL() + "/sts/token", Scopes: []string{scope}, ClientID: "ci", ClientSecret: "not looked at",
			EndpointParams: url.Values{"grant_type": {grantTokenExchange}, "audience": {identity}, "subject_token": {r.job(nil)}, "subject_token_type": {typeIDToken}},
		}
		return c.TokenSource(ctx)
	},
}

type supplier func() (string, error)

func (s supplier) SubjectToken(context.Context, externalaccount.SupplierOptions) (string, error) {
	return s()
}

func TestStockOAuthClients(t *testing.T) {
	r := newRig(t, ststest.ServiceConfig{TLS: true})
	ctx := context.WithValue(t.Context(), oauth2.HTTPClient, r.Client())
	for name, client := range stockClients {
		t.Run(name, func(t *testing.T) {
			r := &rig{r.Service, t}
			token, err := client(r, ctx, "acme/app", "reader").Token()
			if err != nil {
				t.Fatal(err)
			}
			if !r.GitHub.IsLive(token.AccessToken) || token.Type() != "Bearer" || time.Until(token.Expiry) < 50*time.Minute {
				t.Errorf("a token of type %s until %s, live: %t", token.Type(), token.Expiry, r.GitHub.IsLive(token.AccessToken))
			}
			_, err = client(r, ctx, "acme/app", "elsewhere").Token()
			if err == nil || !strings.Contains(err.Error(), "invalid_target") || !strings.Contains(err.Error(), "the exchange is not allowed (request ") {
				t.Errorf("refused with: %v", err)
			}
		})
	}
}

// oauthRow is a change to a good form, and what it gets.
type oauthRow struct {
	name   string
	change func(*http.Request, url.Values)
	status int
	error  string
	text   string // begins the description
}

// setting changes one parameter; without values it is left out.
func setting(name string, values ...string) func(*http.Request, url.Values) {
	return func(_ *http.Request, form url.Values) {
		form[name] = values
		if values == nil {
			form.Del(name)
		}
	}
}

func httpHeader(name string, values ...string) func(*http.Request, url.Values) {
	return func(r *http.Request, _ url.Values) { r.Header[name] = values }
}

func TestOAuthRequests(t *testing.T) {
	r := newRig(t, ststest.ServiceConfig{})
	idToken := r.job(nil)
	const bad, denied, unknown = "invalid request: ", "the exchange is not allowed (request ", "the ID token was not accepted (request "
	ok := func(name string, change func(*http.Request, url.Values)) oauthRow {
		return oauthRow{name, change, http.StatusOK, "", ""}
	}
	no := func(name string, change func(*http.Request, url.Values), code, text string) oauthRow {
		return oauthRow{name, change, http.StatusBadRequest, code, text}
	}
	rows := []oauthRow{
		ok("as it should be", setting("scope", "acme/app")),
		ok("subject_token_type jwt", setting("subject_token_type", typeJWT)),
		ok("requested_token_type access_token", setting("requested_token_type", typeAccessToken)),
		ok("a parameter that nobody knows (RFC 6749, section 3.2)", setting("options", `{"userProject":"x"}`)),
		ok("parameters without a value (RFC 6749, section 3.2)", func(_ *http.Request, f url.Values) { f["resource"], f["actor_token"] = []string{""}, []string{""} }),
		ok("a client's name and secret in the form", func(_ *http.Request, f url.Values) {
			f["client_id"], f["client_secret"] = []string{"ci"}, []string{"x"}
		}),
		ok("a client's name and secret in the header", httpHeader("Authorization", "Basic Y2k6eA==")),
		ok("a charset", httpHeader("Content-Type", "application/x-www-form-urlencoded; charset=UTF-8")),

		no("no grant_type", setting("grant_type"), "invalid_request", bad+"grant_type is missing"),
		no("another grant_type", setting("grant_type", "client_credentials"), "unsupported_grant_type", bad+"grant_type is not"),
		no("no subject_token", setting("subject_token"), "invalid_request", bad+"subject_token is missing"),
		no("an empty subject_token", setting("subject_token", ""), "invalid_request", bad+"subject_token is missing"),
		no("no subject_token_type", setting("subject_token_type"), "invalid_request", bad+"subject_token_type is neither"),
		no("another subject_token_type", setting("subject_token_type", typeAccessToken), "invalid_request", bad+"subject_token_type is neither"),
		no("another requested_token_type", setting("requested_token_type", typeJWT), "invalid_request", bad+"requested_token_type is not"),
		no("an actor_token", setting("actor_token", idToken), "invalid_request", bad+"there is an actor_token"),
		no("a resource", setting("resource", "https://api.github.com/"), "invalid_target", bad+"there is a resource"),
		no("no scope", setting("scope"), "invalid_scope", bad+"scope is missing"),
		no("two scopes", setting("scope", "acme/app acme/lib"), "invalid_scope", bad+"scope 'acme/app acme/lib'"),
		no("a scope that climbs", setting("scope", "acme/../app"), "invalid_scope", bad+"scope 'acme/../app'"),
		no("a scope with a quotation mark, a backslash and a newline", setting("scope", "acme/\"\\\n"), "invalid_scope", bad+"scope 'acme//'//?'"),
		no("no audience", setting("audience"), "invalid_target", bad+"identity is missing"),
		no("an audience that climbs", setting("audience", "../x"), "invalid_target", bad+"identity '../x'"),
		no("an audience with a NUL", setting("audience", "reader\x00"), "invalid_target", bad+"identity 'reader?'"),
		no("a URL for an audience", setting("audience", "https://github.com/acme"), "invalid_target", bad+"identity 'https://github.com/acme'"),

		no("two scope parameters", setting("scope", "acme/app", "acme/app"), "invalid_request", bad+"scope is given 2 times"),
		no("two audiences", setting("audience", "reader", "writer"), "invalid_request", bad+"audience is given 2 times"),
		no("two subject tokens", setting("subject_token", idToken, idToken), "invalid_request", bad+"subject_token is given 2 times"),
		no("two of a parameter that nobody knows", setting(idToken, "1", "2"), "invalid_request", bad+"a parameter is given 2 times"),
		no("another Content-Type", httpHeader("Content-Type", "application/json"), "invalid_request", bad+"the Content-Type is not"),
		no("no Content-Type", httpHeader("Content-Type"), "invalid_request", bad+"the Content-Type is not"),
		no("gRPC's Content-Type", httpHeader("Content-Type", "application/grpc"), "invalid_request", bad+"the Content-Type is not"),
		no("the ID token in the header, too", httpHeader("Authorization", "Bearer "+idToken), "invalid_request", bad+"the Authorization header is not"),
		no("two headers, one of them a client's", httpHeader("Authorization", "Basic Y2k6eA==", "Bearer "+idToken), "invalid_request", bad+"the Authorization header is not"),
		no("a query", func(r *http.Request, _ url.Values) { r.URL.RawQuery = "scope=acme/app" }, "invalid_request", bad+"the URL has a query"),
		no("a form over the limit", setting("x", strings.Repeat("a", 64<<10)), "invalid_request", bad+"the form cannot be read, or is longer than"),

		no("an ID token of nobody", setting("subject_token", "a.b.c"), "invalid_request", unknown),
		no("an ID token with a byte changed", setting("subject_token", idToken[:len(idToken)-1]), "invalid_request", unknown),
		no("a GitHub token for an ID token", setting("subject_token", "ghs_0123456789abcdefghijklmnopqrstuvwxyz"), "invalid_request", unknown),
		no("a policy that is not there", setting("audience", "nothing"), "invalid_target", denied),
		no("a policy that does not match", setting("audience", "elsewhere"), "invalid_target", denied),
		no("a policy that cannot be read", setting("audience", "broken"), "invalid_target", denied),
		no("an owner that GitHub has not", setting("scope", "nobody-at-all/app"), "invalid_target", denied),

		{"GET", func(r *http.Request, _ url.Values) { r.Method = http.MethodGet }, http.StatusMethodNotAllowed, "invalid_request", "the method is not POST"},
	}
	for _, row := range rows {
		t.Run(row.name, func(t *testing.T) { (&rig{r.Service, t}).tryForm("/sts/token", tokenForm(idToken), row) })
	}
	for where, text := range written(t, r.Service) {
		if strings.Contains(text, idToken[strings.LastIndex(idToken, ".")+1:]) {
			t.Errorf("%s holds the ID token", where)
		}
	}
}

// tryForm sends a good form with a row's change, and holds the answer against it.
func (r *rig) tryForm(path string, form url.Values, row oauthRow) {
	r.t.Helper()
	req, err := http.NewRequestWithContext(r.t.Context(), http.MethodPost, r.URL()+path, nil)
	if err != nil {
		r.t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	row.change(req, form)
	body := form.Encode()
	if req.Body = http.NoBody; body != "" {
		req.Body, req.ContentLength = io.NopCloser(strings.NewReader(body)), int64(len(body))
	}
	mints := len(r.GitHub.Mints())
	a := r.sendForm(req)
	id := a.header.Get("X-Request-Id")
	if a.status != row.status || a.Error != row.error || !strings.HasPrefix(a.Description, row.text) || id == "" || a.header.Get("Cache-Control") != "no-store" {
		r.t.Errorf("%d %s, request %q, want %d %s %q", a.status, a.body, id, row.status, row.error, row.text)
	}
	if row.status == http.StatusOK {
		return
	}
	if !strings.HasSuffix(a.Description, " (request "+id+")") || a.AccessToken != "" || len(r.GitHub.Mints()) > mints+1 { // a token to read with, at most
		r.t.Errorf("refused with %s, %d tokens minted", a.body, len(r.GitHub.Mints())-mints)
	}
	if strings.ContainsFunc(a.Description, func(c rune) bool { return c < ' ' || c > '~' || c == '"' || c == '\\' }) {
		r.t.Errorf("the description %q has a character that RFC 6749, section 5.2, rules out", a.Description)
	}
	if row.status == http.StatusMethodNotAllowed && !slices.Equal(a.header["Allow"], []string{"POST"}) {
		r.t.Errorf("Allow: %q", a.header["Allow"])
	}
}
