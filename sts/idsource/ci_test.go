package idsource

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"testing"
)

// TestGitHub: the runner's service wants its bearer token, a GET and the query that
// the URL came with.
func TestGitHub(t *testing.T) {
	actions := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case r.Method != http.MethodGet || r.Header.Get("Authorization") != "Bearer runner-secret" || r.FormValue("api-version") != "2.0":
			http.Error(w, `{"message":"no"}`, http.StatusUnauthorized)
		case r.FormValue("audience") == "redirect":
			http.Redirect(w, r, "/elsewhere", http.StatusFound)
		case r.FormValue("audience") == "empty":
			fmt.Fprint(w, `{"count":0}`)
		case r.FormValue("audience") == "large":
			w.Write(make([]byte, maxAnswer+1))
		default:
			fmt.Fprintf(w, `{"count":1,"value":%q}`, testJWT(r.FormValue("audience")))
		}
	}))
	t.Cleanup(actions.Close)
	env := map[string]string{"ACTIONS_ID_TOKEN_REQUEST_URL": actions.URL + "/x?api-version=2.0", "ACTIONS_ID_TOKEN_REQUEST_TOKEN": "runner-secret"}
	if got, err := get(t, newTest(t, Config{}, env)); got != testJWT(wanted) {
		t.Errorf("%q, %v", got, err)
	}
	for audience, says := range map[string]string{
		"redirect": "answered HTTP status 302 and no token", "empty": "holds no token", "large": "longer than",
	} {
		_, err := get(t, newTest(t, Config{Audience: audience}, env))
		mustSay(t, err, "token source github", says)
	}
	env["ACTIONS_ID_TOKEN_REQUEST_TOKEN"] = "stale-secret"
	_, err := get(t, newTest(t, Config{}, env))
	mustSay(t, err, "answered HTTP status 401")
	env["ACTIONS_ID_TOKEN_REQUEST_TOKEN"] = ""
	_, err = get(t, newTest(t, Config{}, env))
	mustSay(t, err, "ACTIONS_ID_TOKEN_REQUEST_TOKEN is not set", "id-token: write")
}

// program puts a shell script of that name on the PATH, and nothing else that a CI
// system has.
func program(t *testing.T, name, script string) {
	t.Helper()
	dir := t.TempDir()
	if name != "" {
		if err := os.WriteFile(filepath.Join(dir, name), []byte("#!/bin/sh\n"+script), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	t.Setenv("PATH", dir+":/usr/bin:/bin")
}

func TestBuildkite(t *testing.T) {
	env := map[string]string{"BUILDKITE": "true"}
	program(t, "buildkite-agent", `[ "$*" = "oidc request-token --audience `+wanted+`" ] && echo `+testJWT(wanted))
	if got, err := get(t, newTest(t, Config{}, env)); got != testJWT(wanted) {
		t.Errorf("%q, %v", got, err)
	}
	program(t, "buildkite-agent", `echo 'fatal: the job is finished' >&2; exit 1`)
	_, err := get(t, newTest(t, Config{}, env))
	mustSay(t, err, "running buildkite-agent: exit status 1: fatal: the job is finished")
	program(t, "", "")
	_, err = get(t, newTest(t, Config{}, env))
	mustSay(t, err, "buildkite-agent is not on the PATH", "mount-buildkite-agent")
}

func TestCircleCI(t *testing.T) {
	env := map[string]string{"CIRCLECI": "true"}
	program(t, "circleci", `[ "$1 $2 $3 $4" = "run oidc get --claims" ] && [ "$5" = '{"aud":"`+wanted+`"}' ] && [ $# = 5 ] && echo `+testJWT(wanted))
	if got, err := get(t, newTest(t, Config{}, env)); got != testJWT(wanted) {
		t.Errorf("%q, %v", got, err)
	}
	program(t, "", "")
	_, err := get(t, newTest(t, Config{}, env))
	mustSay(t, err, "circleci is not on the PATH and CIRCLE_OIDC_TOKEN_V2 is not set")
}
