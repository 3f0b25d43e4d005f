package main

import (
	"encoding/pem"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"

	"github.com/octo-sts/appliance/signer/signertest"
)

// TestKeyVerifyAsksGitHub runs `key verify` against a server that checks App JWTs as GitHub's GET /app does.
func TestKeyVerifyAsksGitHub(t *testing.T) {
	s := start(t, signertest.Config{AppIDs: []int64{12, 34}})
	// What the server says to a JWT that is good for an App.
	var mu sync.Mutex
	answers := map[string]func(w http.ResponseWriter){} // guarded by mu
	say := func(status int, body string) func(http.ResponseWriter) {
		return func(w http.ResponseWriter) {
			w.WriteHeader(status)
			fmt.Fprint(w, body)
		}
	}
	gitHub := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		raw, bearer := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
		parsed, err := jwt.ParseSigned(raw, []jose.SignatureAlgorithm{jose.RS256})
		if r.Method != http.MethodGet || r.URL.Path != "/api/v3/app" || !bearer || err != nil {
			t.Errorf("%s %s, %v", r.Method, r.URL, err)
			return
		}
		for id, answer := range map[int64]string{12: "12", 34: "34"} {
			var claims jwt.Claims
			if parsed.Claims(s.PublicKey(id), &claims) == nil && claims.Issuer == answer {
				answers[answer](w)
				return
			}
		}
		t.Error("no App's key verifies the JWT")
	}))
	gitHub.Config.ErrorLog = log.New(io.Discard, "", 0) // one case ends in a failed handshake
	gitHub.StartTLS()
	defer gitHub.Close()
	ca := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(ca, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: gitHub.Certificate().Raw}), 0o600); err != nil {
		t.Fatal(err)
	}
	verify := func(args ...string) (string, int) {
		cmd := exec.Command(binary, append([]string{"key", "verify", "--config", s.ConfigFile(), "--api-url", gitHub.URL + "/api/v3"}, args...)...)
		cmd.Env = append(os.Environ(), s.Env()...)
		out, _ := cmd.CombinedOutput()
		return string(out), cmd.ProcessState.ExitCode()
	}

	for _, test := range []struct {
		name   string
		twelve func(http.ResponseWriter)
		status int
		want   string
	}{
		{"known", say(200, `{"id": 12, "slug": "twelve"}`), 0, `GitHub knows the App as "twelve"`},
		{"another App's key", say(200, `{"id": 13, "slug": "thirteen"}`), 1, `GitHub knows this key as that of App 13 ("thirteen"), not 12`},
		{"deleted key", say(401, `{"message": "A JSON web token could not be decoded"}`), 1, `(HTTP 401, "A JSON web token could not be decoded")`},
		{"outage", say(502, `<html>`), 1, "asking GitHub: HTTP 502"},
		{"not GitHub", say(200, `<html>`), 1, "is --api-url right?"},
		{"endless", say(200, strings.Repeat(" ", maxGitHub+1)), 1, "more than 1048576 bytes"},
		{"redirect", func(w http.ResponseWriter) {
			w.Header().Set("Location", "https://elsewhere.example/app")
			w.WriteHeader(http.StatusMovedPermanently)
		}, 1, "asking GitHub: HTTP 301"},
	} {
		mu.Lock()
		answers["12"], answers["34"] = test.twelve, say(200, `{"id": 34, "slug": "thirty-four"}`)
		mu.Unlock()
		out, status := verify("--ca-file", ca)
		if status != test.status || !strings.Contains(out, test.want) || !strings.Contains(out, `GitHub knows the App as "thirty-four"`) {
			t.Errorf("%s: exit status %d, want %d with %q\n%s", test.name, status, test.status, test.want, out)
		}
		if strings.Contains(out, "eyJ") {
			t.Errorf("%s: the JWT is in the output:\n%s", test.name, out)
		}
	}
	if out, status := verify(); status != 1 || !strings.Contains(out, "certificate") {
		t.Errorf("without --ca-file: exit status %d\n%s", status, out)
	}
}
