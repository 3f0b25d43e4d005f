package main

import (
	"bufio"
	"context"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/octo-sts/appliance/sts/ststest"
)

// actionRequest is what the public GitHub Action octo-sts/action sends, byte for byte: its
// index.js on Node.js 20, whose fetch adds the headers.
const actionRequest = "GET /sts/exchange?scope=acme/app&scopes=acme/app&identity=reader HTTP/1.1\r\n" +
	"host: %s\r\nconnection: keep-alive\r\nAuthorization: Bearer %s\r\naccept: */*\r\naccept-language: *\r\nsec-fetch-mode: cors\r\n" +
	"user-agent: node\r\naccept-encoding: gzip, deflate\r\n\r\n"

// The action works unchanged, with its input domain.
func TestGitHubAction(t *testing.T) {
	r := newRig(t, ststest.ServiceConfig{TLS: true})
	conn, err := (&tls.Dialer{Config: &tls.Config{RootCAs: r.Roots(), NextProtos: []string{"http/1.1"}}}).DialContext(t.Context(), "tcp", r.Address())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	fmt.Fprintf(conn, actionRequest, r.Address(), r.job(nil))
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	var answer struct{ Token, Message string }
	if err := json.NewDecoder(resp.Body).Decode(&answer); err != nil || resp.StatusCode != http.StatusOK || !r.GitHub.IsLive(answer.Token) {
		t.Errorf("%s, %+v, %v", resp.Status, answer, err)
	}
	if dir := os.Getenv("OCTO_STS_ACTION"); dir != "" {
		t.Run("its own JavaScript", func(t *testing.T) { (&rig{r.Service, t}).runAction(dir) })
	}
}

// runAction runs the action itself, where $OCTO_STS_ACTION names a checkout of it, as a
// runner does. A domain may have a port, which then is part of the audience.
func (r *rig) runAction(dir string) {
	r.GitHub.PutPolicy("acme", "app", "action", "issuer: "+r.Issuer.URL()+"\nsubject: repo:acme/app:ref:refs/heads/main\n"+
		`audience_pattern: 127\.0\.0\.1:[0-9]+`+"\npermissions: {contents: read}\n")
	runner := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		idToken, err := r.signJob(map[string]any{"aud": req.URL.Query().Get("audience")})
		if err != nil || req.Header.Get("Authorization") != "Bearer runner-secret" {
			http.Error(w, "no", http.StatusForbidden)
			return
		}
		_ = json.NewEncoder(w).Encode(map[string]string{"value": idToken})
	}))
	defer runner.Close()
	tmp := r.t.TempDir()
	ca, output := filepath.Join(tmp, "ca.pem"), filepath.Join(tmp, "output")
	if err := os.WriteFile(ca, r.CAPEM(), 0o600); err != nil {
		r.t.Fatal(err)
	}
	run := func(identity string) (string, error) {
		ctx, cancel := context.WithTimeout(r.t.Context(), patience)
		defer cancel()
		node := exec.CommandContext(ctx, "node", filepath.Join(dir, "index.js"))
		node.Env = append(os.Environ(), "NODE_EXTRA_CA_CERTS="+ca, "ACTIONS_ID_TOKEN_REQUEST_URL="+runner.URL+"/?api-version=2.0", "ACTIONS_ID_TOKEN_REQUEST_TOKEN=runner-secret",
			"INPUT_SCOPE=acme/app", "INPUT_IDENTITY="+identity, "INPUT_DOMAIN="+r.Address(), "GITHUB_OUTPUT="+output, "GITHUB_STATE="+filepath.Join(tmp, "state"))
		out, err := node.CombinedOutput()
		return string(out), err
	}
	out, err := run("action")
	written, _ := os.ReadFile(output)
	token, found := strings.CutPrefix(string(written), "token=")
	if err != nil || !found || !r.GitHub.IsLive(token) {
		r.t.Errorf("%v, the output %q\n%s", err, written, out)
	}
	// A refusal is in its log with the request ID.
	out, err = run("no-such-policy")
	if exitStatus(err) != 1 || !strings.Contains(out, "the exchange is not allowed (request ") {
		r.t.Errorf("refused: %v\n%s", err, out)
	}
}
