package ststest

import (
	"crypto/rand"
	"crypto/rsa"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"
)

// testKey is one RSA key for all tests: making one is slow.
var testKey = func() *rsa.PrivateKey {
	k, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		panic(err)
	}
	return k
}()

const testApp = 1234

// fixture is a fake GitHub with App 1234 installed for acme, which has the
// repositories one and two, and other for its own.
type fixture struct {
	*GitHub
	t            *testing.T
	client       *http.Client
	installation int64
}

func newFixture(t *testing.T, c GitHubConfig) *fixture {
	t.Helper()
	g, err := NewGitHub(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(g.Close)
	g.AddApp(testApp, &testKey.PublicKey, map[string]string{"contents": "write", "issues": "write", "checks": "write"})
	g.AddRepository("acme", "one")
	g.AddRepository("acme", "two")
	g.AddRepository("other", "secret")
	return &fixture{
		GitHub: g, t: t, client: g.Client(),
		installation: g.Install(testApp, "acme", InstallOptions{Permissions: map[string]string{"contents": "write", "issues": "read"}}),
	}
}

// reply is an answer of the fake.
type reply struct {
	*http.Response
	body []byte
}

func (r reply) json(t *testing.T) map[string]any {
	t.Helper()
	var v map[string]any
	if err := json.Unmarshal(r.body, &v); err != nil {
		t.Fatalf("%v in %q", err, r.body)
	}
	return v
}

func (r reply) message(t *testing.T) string {
	t.Helper()
	s, _ := r.json(t)["message"].(string)
	return s
}

// do sends a request; header is pairs.
func (f *fixture) do(method, path, credential, body string, header ...string) reply {
	f.t.Helper()
	url := path
	if strings.HasPrefix(path, "/") {
		url = f.URL() + path
	}
	req, err := http.NewRequestWithContext(f.t.Context(), method, url, strings.NewReader(body))
	if err != nil {
		f.t.Fatal(err)
	}
	if credential != "" {
		req.Header.Set("Authorization", "Bearer "+credential)
	}
	for i := 0; i+1 < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	resp, err := f.client.Do(req)
	if err != nil {
		f.t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		f.t.Fatal(err)
	}
	return reply{resp, b}
}

func (f *fixture) jwt() string {
	f.t.Helper()
	jwt, _, err := AppJWT(testKey, testApp, time.Now())
	if err != nil {
		f.t.Fatal(err)
	}
	return jwt
}

// mint is a token for the fixture's installation.
func (f *fixture) mint(body string) string {
	f.t.Helper()
	r := f.do("POST", fmt.Sprintf("/app/installations/%d/access_tokens", f.installation), f.jwt(), body)
	if r.StatusCode != http.StatusCreated {
		f.t.Fatalf("mint %s: %s %s", body, r.Status, r.body)
	}
	return r.json(f.t)["token"].(string)
}
