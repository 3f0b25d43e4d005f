package ststest

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/coreos/go-oidc/v3/oidc"
)

func newTestIssuer(t *testing.T, c IssuerConfig) *Issuer {
	t.Helper()
	i, err := NewIssuer(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(i.Close)
	return i
}

// verify is what a relying party that knows nothing of this package says.
func verify(t *testing.T, i *Issuer, raw, alg string) (*oidc.IDToken, error) {
	t.Helper()
	ctx := oidc.ClientContext(t.Context(), i.Client())
	p, err := oidc.NewProvider(ctx, i.URL())
	if err != nil {
		return nil, err
	}
	return p.Verifier(&oidc.Config{ClientID: "sts.example.com", SupportedSigningAlgs: []string{alg}}).Verify(ctx, raw)
}

func TestARelyingPartyVerifiesItsTokens(t *testing.T) {
	for _, alg := range []string{"RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"} {
		t.Run(alg, func(t *testing.T) {
			i := newTestIssuer(t, IssuerConfig{TLS: alg == "RS256", Alg: alg, Audience: "sts.example.com"})
			raw, err := i.Sign(map[string]any{"sub": "me", "n": 7})
			if err != nil {
				t.Fatal(err)
			}
			token, err := verify(t, i, raw, alg)
			if err != nil {
				t.Fatal(err)
			}
			var claims struct {
				N   int
				JTI string
			}
			if err := token.Claims(&claims); err != nil || claims.N != 7 || len(claims.JTI) != 32 || token.Subject != "me" {
				t.Errorf("claims %+v, subject %q, %v", claims, token.Subject, err)
			}
			if d := time.Until(token.Expiry); d > 5*time.Minute || d < 4*time.Minute {
				t.Errorf("expires in %v", d)
			}
			forged, err := i.SignWith(Signing{Claims: map[string]any{"sub": "me"}, Sign: func([]byte) ([]byte, error) { return make([]byte, 64), nil }})
			if err != nil {
				t.Fatal(err)
			}
			if _, err := verify(t, i, forged, alg); err == nil {
				t.Error("a forged signature was verified")
			}
		})
	}
}

func TestIssuerWithAPath(t *testing.T) {
	i := newTestIssuer(t, IssuerConfig{Path: "/tenant%20one", Audience: "sts.example.com"})
	raw, err := i.Sign(nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := verify(t, i, raw, "RS256"); err != nil {
		t.Error(err)
	}
	if r := i.Requests(); r["/tenant%20one/jwks"] != 1 || r["/tenant%20one/.well-known/openid-configuration"] != 1 || i.KeySetFetches() != 1 || i.Connections() == 0 {
		t.Errorf("requests %v, connections %d", r, i.Connections())
	}
}

func TestRotation(t *testing.T) {
	i := newTestIssuer(t, IssuerConfig{Alg: "ES256", Audience: "sts.example.com"})
	old := i.SigningKey()
	before, _ := i.Sign(nil)
	fresh, err := i.Rotate()
	if err != nil || fresh.ID == old.ID || i.SigningKey() != fresh {
		t.Fatalf("rotation: %v", err)
	}
	after, _ := i.Sign(nil)
	for name, raw := range map[string]string{"before": before, "after": after} {
		if _, err := verify(t, i, raw, "ES256"); err != nil {
			t.Errorf("%s the rotation: %v", name, err)
		}
	}
	i.Retire(old)
	if _, err := verify(t, i, before, "ES256"); err == nil {
		t.Error("a retired key still verifies")
	}
	if _, err := verify(t, i, after, "ES256"); err != nil {
		t.Error(err)
	}
}

func segment(t *testing.T, raw string, n int) string {
	t.Helper()
	b, err := base64.RawURLEncoding.DecodeString(strings.Split(raw, ".")[n])
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func TestTokensThatNoIssuerSigns(t *testing.T) {
	i := newTestIssuer(t, IssuerConfig{})
	sign := func(s Signing) string {
		raw, err := i.SignWith(s)
		if err != nil {
			t.Fatal(err)
		}
		return raw
	}
	if raw := sign(Signing{Alg: "none"}); !strings.HasSuffix(raw, ".") || !strings.Contains(segment(t, raw, 0), `"alg":"none"`) {
		t.Errorf("none: %s", raw)
	}
	if raw := sign(Signing{Alg: "HS256", Secret: []byte("x")}); len(segment(t, raw, 2)) != 32 {
		t.Errorf("HS256: %s", raw)
	}
	if raw := sign(Signing{Header: map[string]any{"alg": "ES256", "kid": Omit, "crit": []string{"x"}}}); segment(t, raw, 0) != `{"alg":"ES256","crit":["x"],"typ":"JWT"}` || len(segment(t, raw, 2)) != 256 {
		t.Errorf("header: %s", segment(t, raw, 0))
	}
	if raw := sign(Signing{Payload: []byte("[]"), RawHeader: []byte("{}")}); segment(t, raw, 0) != "{}" || segment(t, raw, 1) != "[]" {
		t.Errorf("raw: %s", raw)
	}
	if raw := sign(Signing{Claims: map[string]any{"exp": Omit, "iat": Omit, "jti": Omit, "iss": "x", "sub": nil}}); segment(t, raw, 1) != `{"iss":"x","sub":null}` {
		t.Errorf("claims: %s", segment(t, raw, 1))
	}
	if _, err := i.SignWith(Signing{Alg: "XX999"}); err == nil {
		t.Error("an unknown algorithm was signed by")
	}
}

func TestOddKeys(t *testing.T) {
	i := newTestIssuer(t, IssuerConfig{Alg: "ES256"})
	off, err := OffCurveJWK()
	if err != nil {
		t.Fatal(err)
	}
	weak, err := NewWeakKey()
	if err != nil {
		t.Fatal(err)
	}
	many, err := ManyJWKs(100)
	if err != nil {
		t.Fatal(err)
	}
	i.PublishJWKs(many...)
	i.PublishJWKs(off, weak.JWK(), SymmetricJWK("hs", []byte("secret")), i.SigningKey().PrivateJWK())
	var set struct{ Keys []map[string]any }
	if err := json.Unmarshal(i.KeySet(), &set); err != nil || len(set.Keys) != 105 {
		t.Fatalf("%d keys, %v", len(set.Keys), err)
	}
	if set.Keys[104]["d"] == nil || set.Keys[103]["kty"] != "oct" || len(set.Keys[102]["n"].(string)) > 172 {
		t.Errorf("odd keys: %v", set.Keys[101:])
	}
	i.SetKeySet([]byte("oops"))
	if string(i.KeySet()) != "oops" {
		t.Error("SetKeySet did nothing")
	}
}

func TestMisbehaviours(t *testing.T) {
	i := newTestIssuer(t, IssuerConfig{})
	get := func() (*http.Response, []byte, error) {
		t.Helper()
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		defer cancel()
		req, _ := http.NewRequestWithContext(ctx, "GET", i.DiscoveryURL(), nil)
		r, err := i.Client().Do(req)
		if err != nil {
			return nil, nil, err
		}
		defer r.Body.Close()
		b, err := io.ReadAll(r.Body)
		return r, b, err
	}
	member := func(b []byte, name string) any {
		var v map[string]any
		json.Unmarshal(b, &v)
		return v[name]
	}
	for _, c := range []struct {
		name string
		m    Misbehaviour
		ok   func(r *http.Response, b []byte, err error) bool
	}{
		{"well behaved", Misbehaviour{}, func(r *http.Response, b []byte, err error) bool { return err == nil && member(b, "issuer") == i.URL() }},
		{"another issuer", Misbehaviour{Discovery: map[string]any{"issuer": "https://evil.example", "jwks_uri": Omit}}, func(_ *http.Response, b []byte, _ error) bool {
			return member(b, "issuer") == "https://evil.example" && member(b, "jwks_uri") == nil
		}},
		{"500", Misbehaviour{Status: 500}, func(r *http.Response, _ []byte, _ error) bool { return r.StatusCode == 500 }},
		{"a redirect", Misbehaviour{RedirectTo: "https://evil.example/"}, func(r *http.Response, _ []byte, _ error) bool {
			return r.StatusCode == 302 && r.Header.Get("Location") == "https://evil.example/"
		}},
		{"a body", Misbehaviour{Body: []byte("oops")}, func(_ *http.Response, b []byte, _ error) bool { return string(b) == "oops" }},
		{"a big body", Misbehaviour{Padding: 3 << 20}, func(_ *http.Response, b []byte, _ error) bool {
			return len(b) > 3<<20 && member(b, "issuer") == i.URL()
		}},
		{"a gzip bomb", Misbehaviour{GzipBomb: 30 << 20}, func(r *http.Response, b []byte, _ error) bool {
			return r.Uncompressed && len(b) > 30<<20 && member(b, "issuer") == i.URL()
		}},
		{"dripping", Misbehaviour{Drip: time.Microsecond}, func(_ *http.Response, b []byte, err error) bool { return err == nil && member(b, "issuer") == i.URL() }},
		{"truncated", Misbehaviour{Truncate: true}, func(_ *http.Response, b []byte, err error) bool { return err != nil && len(b) > 0 }},
		{"a content type", Misbehaviour{ContentType: "text/html"}, func(r *http.Response, _ []byte, _ error) bool { return r.Header.Get("Content-Type") == "text/html" }},
	} {
		i.Misbehave(i.DiscoveryURL(), c.m)
		if r, b, err := get(); !c.ok(r, b, err) {
			t.Errorf("%s: %v, %d bytes, %v", c.name, r, len(b), err)
		}
	}
	i.Behave()
	if _, b, err := get(); err != nil || member(b, "issuer") != i.URL() {
		t.Errorf("after Behave: %v", err)
	}
}

func TestIssuerCertificates(t *testing.T) {
	i := newTestIssuer(t, IssuerConfig{TLS: true})
	client := i.Client()
	try := func() error {
		r, err := client.Get(i.JWKSURL())
		if err == nil {
			r.Body.Close()
		}
		return err
	}
	for _, c := range []struct {
		name string
		use  func() error
		want string
	}{
		{"good", i.UseGoodCertificate, ""},
		{"expired", i.UseExpiredCertificate, "expired"},
		{"another host's", func() error { return i.UseCertificateFor("evil.example") }, "127.0.0.1"},
		{"good again", i.UseGoodCertificate, ""},
	} {
		if err := c.use(); err != nil {
			t.Fatal(err)
		}
		if err := try(); (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v", c.name, err)
		}
	}
}

func TestGitHubActionsClaims(t *testing.T) {
	for want, j := range map[string]GitHubActions{
		"repo:acme/one:ref:refs/heads/main":     {},
		"repo:acme/one:ref:refs/tags/v1":        {Ref: "refs/tags/v1"},
		"repo:acme/one:pull_request":            {Event: "pull_request", Ref: "refs/pull/1/merge"},
		"repo:acme/one:environment:prod (eu)":   {Environment: "prod (eu)"},
		"repo:acme/one:environment:a%3Ab":       {Environment: "a:b", Event: "pull_request"},
		"repo:acme@1/one@2:ref:refs/heads/main": {ImmutableSubject: true},
		"repo:acme@7/one@1:ref:refs/heads/main": {ImmutableSubject: true, OwnerID: 7, RepoID: 1},
	} {
		j.Owner, j.Repo = "acme", "one"
		c := j.Claims()
		if c["sub"] != want || c["repository"] != "acme/one" || c["aud"] != "https://github.com/acme" {
			t.Errorf("got %q, want %q", c["sub"], want)
		}
		for name, v := range c {
			if _, ok := v.(string); !ok {
				t.Errorf("%s is %T: GitHub's claims are strings", name, v)
			}
		}
	}
}
