package ststest

import (
	"crypto/rand"
	"crypto/rsa"
	"encoding/base64"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"
)

func TestSpeaksHTTP2OverTLS(t *testing.T) {
	f := newFixture(t, GitHubConfig{})
	r := f.do("GET", "/app", f.jwt(), "")
	if r.ProtoMajor != 2 || r.TLS == nil {
		t.Errorf("got %s, TLS %v; want HTTP/2 over TLS", r.Proto, r.TLS != nil)
	}
	plain := &http.Client{}
	if _, err := plain.Get(f.URL() + "/app"); err == nil {
		t.Error("a client without the fake's CA was let in")
	}
}

func TestAppJWT(t *testing.T) {
	f := newFixture(t, GitHubConfig{})
	other, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	now := time.Now().Unix()
	sign := func(key *rsa.PrivateKey, claims string) string {
		jwt, err := signRS256(key, `{"alg":"RS256"}`, claims)
		if err != nil {
			t.Fatal(err)
		}
		return jwt
	}
	good := fmt.Sprintf(`{"iss":"1234","iat":%d,"exp":%d}`, now-60, now+540)
	none := base64.RawURLEncoding.EncodeToString([]byte(`{"alg":"none"}`)) + "." + base64.RawURLEncoding.EncodeToString([]byte(good)) + "."
	ps, _ := signRS256(testKey, `{"alg":"PS256"}`, good)
	const undecodable, ahead = "A JSON web token could not be decoded", "'Expiration time' claim ('exp') is too far in the future"
	for _, c := range []struct {
		name, jwt string
		status    int
		message   string
	}{
		{"iss as a string", sign(testKey, good), 200, ""},
		{"iss as a number", sign(testKey, fmt.Sprintf(`{"iss":1234,"iat":%d,"exp":%d}`, now, now+540)), 200, ""},
		{"iss as the client ID", sign(testKey, fmt.Sprintf(`{"iss":"Iv1.00000000000004d2","iat":%d,"exp":%d}`, now, now+540)), 200, ""},
		{"iat half a minute ahead", sign(testKey, fmt.Sprintf(`{"iss":1234,"iat":%d,"exp":%d}`, now+30, now+540)), 200, ""},
		{"none", "", 401, "Requires authentication"},
		{"another key", sign(other, good), 401, undecodable},
		{"alg none", none, 401, undecodable},
		{"another alg", ps, 401, undecodable},
		{"no JWT", "gibberish", 401, undecodable},
		{"an installation token", f.mint(""), 401, undecodable},
		{"another App", sign(testKey, fmt.Sprintf(`{"iss":99,"iat":%d,"exp":%d}`, now, now+540)), 404, "Integration not found"},
		{"no iss", sign(testKey, fmt.Sprintf(`{"iat":%d,"exp":%d}`, now, now+540)), 401, "'Issuer' claim ('iss') must be an Integer"},
		{"no exp", sign(testKey, fmt.Sprintf(`{"iss":1234,"iat":%d}`, now)), 401, "Missing 'expiration time' claim ('exp') in assertion"},
		{"no iat", sign(testKey, fmt.Sprintf(`{"iss":1234,"exp":%d}`, now+300)), 401, "Missing 'issued at' claim ('iat') in assertion"},
		{"exp 11 minutes ahead", sign(testKey, fmt.Sprintf(`{"iss":1234,"iat":%d,"exp":%d}`, now, now+660)), 401, ahead},
		{"expired", sign(testKey, fmt.Sprintf(`{"iss":1234,"iat":%d,"exp":%d}`, now-600, now-1)), 401, "'Expiration time' claim ('exp') must be a numeric value representing the future time at which the assertion expires"},
		{"iat 2 minutes ahead", sign(testKey, fmt.Sprintf(`{"iss":1234,"iat":%d,"exp":%d}`, now+120, now+540)), 401, "'Issued at' claim ('iat') must be an Integer representing the time that the assertion was issued"},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := f.do("GET", "/app", c.jwt, "")
			if r.StatusCode != c.status || r.message(t) != c.message {
				t.Errorf("got %d %q, want %d %q", r.StatusCode, r.message(t), c.status, c.message)
			}
		})
	}
}

func TestVerifiedAppJWTExpiresAndDiesWithItsKey(t *testing.T) {
	f := newFixture(t, GitHubConfig{})
	jwt := f.jwt()
	if r := f.do("GET", "/app", jwt, ""); r.StatusCode != 200 {
		t.Fatal(r.Status)
	}
	f.SetClockOffset(10 * time.Minute)
	if r := f.do("GET", "/app", jwt, ""); r.StatusCode != 401 {
		t.Errorf("after its expiry: %s", r.Status)
	}
	f.SetClockOffset(0)
	f.RemoveAppKey(testApp, &testKey.PublicKey)
	if r := f.do("GET", "/app", jwt, ""); r.StatusCode != 401 {
		t.Errorf("after its key was removed: %s", r.Status)
	}
}

func TestInstallationLookup(t *testing.T) {
	f := newFixture(t, GitHubConfig{})
	f.AddUser("somebody")
	mine := f.Install(testApp, "somebody", InstallOptions{})
	f.SelectRepositories(f.installation, []string{"one"})
	f.AddApp(2, &testKey.PublicKey, nil)
	for _, c := range []struct {
		path   string
		status int
		id     int64
	}{
		{"/repos/acme/one/installation", 200, f.installation},
		{"/repos/ACME/One/installation", 200, f.installation},
		{"/orgs/Acme/installation", 200, f.installation},
		{"/users/acme/installation", 200, f.installation},
		{"/users/somebody/installation", 200, mine},
		{fmt.Sprintf("/app/installations/%d", mine), 200, mine},
		{"/repos/acme/two/installation", 404, 0}, // not selected
		{"/repos/acme/absent/installation", 404, 0},
		{"/repos/other/secret/installation", 404, 0},
		{"/orgs/other/installation", 404, 0},
		{"/orgs/somebody/installation", 404, 0}, // no organization
		{"/orgs/nobody/installation", 404, 0},
		{"/app/installations/1", 404, 0},
		{"/repos/acme/../acme/one/installation", 404, 0},
		{"/repos//acme/one/installation", 404, 0},
	} {
		r := f.do("GET", c.path, f.jwt(), "")
		if r.StatusCode != c.status {
			t.Errorf("GET %s: %s, want %d", c.path, r.Status, c.status)
		}
		if c.id != 0 && int64(r.json(t)["id"].(float64)) != c.id {
			t.Errorf("GET %s: installation %v, want %d", c.path, r.json(t)["id"], c.id)
		}
	}
}

func TestGHESBasePath(t *testing.T) {
	f := newFixture(t, GitHubConfig{BasePath: "/api/v3"})
	if r := f.do("GET", "/app", f.jwt(), ""); r.StatusCode != 200 || !strings.HasSuffix(f.URL(), "/api/v3") {
		t.Errorf("%s at %s", r.Status, f.URL())
	}
	if r := f.do("GET", strings.TrimSuffix(f.URL(), "/api/v3")+"/app", f.jwt(), ""); r.StatusCode != 404 {
		t.Errorf("without the base path: %s", r.Status)
	}
}

// FuzzAppJWT: whatever comes, only what the App's key signed is verified.
func FuzzAppJWT(f *testing.F) {
	g, err := NewGitHub(f.Context(), GitHubConfig{})
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(g.Close)
	g.AddApp(testApp, &testKey.PublicKey, nil)
	good, _, err := AppJWT(testKey, testApp, time.Unix(1_800_000_000, 0))
	if err != nil {
		f.Fatal(err)
	}
	for _, seed := range []string{good, "", "..", "a.b.c", good + "=", strings.Replace(good, ".", ".A", 1), "eyJhbGciOiJub25lIn0.e30."} {
		f.Add(seed)
	}
	input := good[:strings.LastIndexByte(good, '.')]
	f.Fuzz(func(t *testing.T, raw string) {
		j, a, ok := g.verifyAppJWT(raw)
		switch {
		case ok && !strings.HasPrefix(raw, input+"."):
			t.Errorf("%q was verified", raw)
		case ok != (j != nil) || !ok && a.status != http.StatusUnauthorized && a.status != http.StatusNotFound:
			t.Errorf("%q: answered %d", raw, a.status)
		case raw == good && !ok:
			t.Error("the App's own JWT was refused")
		}
	})
}
