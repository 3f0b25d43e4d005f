package main

import (
	"net/http"
	"net/url"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"

	"github.com/octo-sts/appliance/sts/audit"
)

func requestRows(t *testing.T, w *world) {
	t.Run("Authorization", func(t *testing.T) { authorizationRows(t, w) })
	t.Run("Scope and identity", func(t *testing.T) { scopeRows(t, w) })
	t.Run("Query, form and headers", func(t *testing.T) { queryRows(t, w) })
	t.Run("an oversized gRPC message", func(t *testing.T) { oversized(t, w) })
}

func authorizationRows(t *testing.T, w *world) {
	raw := w.sign(t, w.Issuer, nil)
	with := func(values ...string) request {
		r := ask("")
		r.authorization = values
		return r
	}
	no := codes.Unauthenticated
	w.tryAll(t, []row{
		{"no Authorization header", with(), no, "want one Authorization header, have 0"},
		{"two Authorization headers", with("Bearer "+raw, "Bearer "+raw), no, "want one Authorization header, have 2"},
		{"two Authorization headers, one of another scheme", with("Basic eDp5", "Bearer "+raw), no, "have 2"},
		{"two tokens in one header", with("Bearer " + raw + ", Bearer " + raw), no, "malformed: "},
		{"another scheme: Basic", with("Basic " + raw), no, "authorization_header"},
		{"another scheme: token", with("token " + raw), no, "authorization_header"},
		{"no scheme", with(raw), no, "authorization_header"},
		{"an empty bearer", with("Bearer "), no, "authorization_header"},
		{"a bearer of spaces", with("Bearer  "), no, ""},
		{"an empty header", with(""), no, "authorization_header"},
		{"the scheme in lower case (accepted)", with("bearer " + raw), codes.OK, ""},
	})
}

func scopeRows(t *testing.T, w *world) {
	raw := w.sign(t, w.Issuer, nil)
	as := func(scope, identity string, scopes ...string) request {
		return request{authorization: []string{"Bearer " + raw}, scope: scope, identity: identity, scopes: scopes}
	}
	for _, scope := range []string{
		"foo/../x", "org/..", "org/.", "a/b/c", "org/", "/org", "/", "org//repo", "./org", "../org", ".", "..", "acme/app/", "acme/app ", " acme/app",
		"acme%2Fapp", "acme\\app", "acme/app\x00", "acme/app\n", "acme/app?x", "acme/app#x", "acme/äpp", "acme/app.git", "acme\x00/app",
		"https://github.com/acme/app", strings.Repeat("a", 40) + "/app", "acme/" + strings.Repeat("a", 10<<10),
	} {
		w.try(t, row{"scope " + clip(scope), as(scope, anyone), codes.InvalidArgument, "invalid_scope: "})
	}
	for _, identity := range []string{
		"../x", "..", ".", "a/b", "/anyone", "anyone/", "anyone\x00", "any\x00one", "anyone ", "any one", "anyone\n", "any%2Fone", "a\\b",
		".anyone", "änyone", strings.Repeat("a", 201), strings.Repeat("a", 10<<10),
	} {
		w.try(t, row{"identity " + clip(identity), as("acme/app", identity), codes.InvalidArgument, "invalid_identity: "})
	}
	bad := codes.InvalidArgument
	w.tryAll(t, []row{
		{"no scope", as("", anyone), bad, "invalid_scope: scope is missing"},
		{"no identity", as("acme/app", ""), bad, "invalid_identity: identity is missing"},
		{"several scopes", as("", anyone, "acme/app", "acme/other"), bad, "several_scopes"},
		{"several scopes, the first right", as("acme/app", anyone, "acme/app", "acme/other"), bad, "several_scopes"},
		{"scope and scopes that disagree", as("acme/app", anyone, "acme"), bad, "several_scopes"},
		{"scope and scopes that disagree in case", as("acme/app", anyone, "acme/APP"), bad, "several_scopes"},
		{"an empty one among scopes", as("acme/app", anyone, ""), bad, "several_scopes"},
		{"scope and scopes that agree (accepted)", as("acme/app", anyone, "acme/app", "acme/app"), codes.OK, ""},
		{"scopes alone (accepted)", as("", anyone, "acme/app"), codes.OK, ""},
		{"owners in another case (accepted)", as("ACME/app", anyone), codes.OK, ""},
		{"repositories in another case (accepted)", as("aCme/ApP", anyone), codes.OK, ""},
		{"an identity in another case", as("acme/app", "Anyone"), codes.PermissionDenied, "no_policy: "},
		{"an owner that GitHub has not", as("nobody-at-all/app", anyone), codes.PermissionDenied, "not_installed: "},
	})
}

// clip makes a value fit for the name of a row.
func clip(s string) string {
	if len(s) > 40 {
		return s[:40] + "…"
	}
	return strings.NewReplacer("\x00", "NUL", "\n", "LF").Replace(s)
}

// queryRows are about what HTTP has and gRPC has not.
func queryRows(t *testing.T, w *world) {
	raw := w.sign(t, w.Issuer, nil)
	good := url.Values{"scope": {"acme/app"}, "identity": {anyone}}.Encode()
	over := func(change func(*http.Request)) func(*testing.T, request) answer {
		return func(t *testing.T, r request) answer {
			req, err := http.NewRequestWithContext(timeout(t), http.MethodGet, w.URL()+"/sts/exchange?"+good, nil)
			if err != nil {
				t.Fatal(err)
			}
			req.Header["Authorization"] = r.authorization
			change(req)
			return w.do(t, req)
		}
	}
	query := func(q string) func(*testing.T, request) answer {
		return over(func(r *http.Request) { r.URL.RawQuery = q })
	}
	form := func(q, body string) func(*testing.T, request) answer {
		return over(func(r *http.Request) {
			posted, err := http.NewRequest(http.MethodPost, w.URL(), strings.NewReader(body))
			if err != nil {
				panic(err)
			}
			r.Method, r.URL.RawQuery, r.Body, r.ContentLength = http.MethodPost, q, posted.Body, posted.ContentLength
			r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		})
	}
	bad, no := codes.InvalidArgument, codes.Unauthenticated
	for _, c := range []struct {
		name string
		ask  func(*testing.T, request) answer
		want codes.Code
		why  string
	}{
		{"a token in the query string: token", query(good + "&token=" + raw), bad, "unknown_parameter"},
		{"a token in the query string: access_token (RFC 6750, section 2.3)", query(good + "&access_token=" + raw), bad, "unknown_parameter"},
		{"a token in the query string: id_token", query(good + "&id_token=" + raw), bad, "unknown_parameter"},
		{"a token in the query string: Authorization", query(good + "&Authorization=Bearer%20" + raw), bad, "unknown_parameter"},
		{"a token in the query string: a parameter's name", query(good + "&" + raw + "=1"), bad, "unknown_parameter"},
		{"a token in the query string: identity", query("scope=acme/app&identity=" + raw), bad, "invalid_identity"},
		{"a token in the query string: scope", query("identity=anyone&scope=" + raw), bad, "invalid_scope"},
		{"a token in a form", form(good, "token="+raw), bad, "unknown_parameter"},
		{"a scope in query and form", form(good, "scope=acme/app"), bad, "malformed_request"},
		{"a scope in a form (accepted)", form("identity=anyone", "scope=acme/app"), codes.OK, ""},
		{"two scopes in the query", query(good + "&scope=acme/app"), bad, "malformed_request"},
		{"two identities in the query", query(good + "&identity=other"), bad, "malformed_request"},
		{"a query that cannot be decoded", query(good + "&x=%zz"), bad, "malformed_request"},
		{"a semicolon in the query", query(good + ";x=1"), bad, "malformed_request"},
		{"a form over the limit", form(good, "scopes="+strings.Repeat("a", 70<<10)), bad, "malformed_request"},
		{"a form that cannot be decoded", form(good, "x=%zz"), bad, "malformed_request"},
		{"a spoofed Host (accepted, and without effect)", over(func(r *http.Request) { r.Host = "evil.example" }), codes.OK, ""},
		{"spoofed X-Forwarded-* (accepted, and without effect)", over(spoof), codes.OK, ""},
		{"spoofed X-Forwarded-* in place of a token", over(func(r *http.Request) { spoof(r); r.Header.Del("Authorization") }), no, "authorization_header"},
	} {
		w.tryOn(t, row{c.name, ask(raw), c.want, c.why}, c.ask)
	}
	elsewhere := w.sign(t, w.Issuer, claims{"aud": "evil.example"})
	w.tryOn(t, row{"a spoofed Host does not become the audience", ask(elsewhere), codes.PermissionDenied, `does not match "sts.example.com"`},
		over(func(r *http.Request) { r.Host = "evil.example"; spoof(r) }))
	for record, err := range audit.Read(w.AuditDir) {
		if err != nil {
			t.Fatal(err)
		}
		if e := record.Entry; e.ClientAddress != "127.0.0.1" {
			t.Errorf("the audit log has request %s as coming from %s", e.RequestID, e.ClientAddress)
		}
	}
	if strings.Contains(w.Logs(), "198.51.100.7") {
		t.Error("the log has an address that only a header named")
	}
}

func spoof(r *http.Request) {
	for _, name := range []string{"X-Forwarded-For", "X-Real-Ip", "X-Client-Ip", "Cf-Connecting-Ip", "True-Client-Ip"} {
		r.Header.Set(name, "198.51.100.7")
	}
	r.Header.Set("Forwarded", `for=198.51.100.7;host=evil.example;proto=https`)
	r.Header.Set("X-Forwarded-Host", "evil.example")
	r.Header.Set("X-Forwarded-Proto", "https")
	r.Header.Set("X-Request-Id", "chosen-by-the-caller")
}

// oversized is refused by the gRPC library, so its text is the library's: it
// speaks of sizes and of nothing else.
func oversized(t *testing.T, w *world) {
	before := w.minted()
	r := askAs(strings.Repeat("a", 100<<10), w.sign(t, w.Issuer, nil))
	w.remember(r.authorization...)
	a := w.overGRPC(t, r)
	if a.code != codes.ResourceExhausted || a.requestID == "" || a.token != "" || w.minted() != before || !strings.Contains(a.message, "larger than") {
		t.Errorf("%+v, want ResourceExhausted", a)
	}
}
