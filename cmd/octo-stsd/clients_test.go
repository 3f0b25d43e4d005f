package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/octo-sts/appliance/sts/audit"
	"github.com/octo-sts/appliance/sts/ststest"
)

// The commands of docs/clients.md, as they stand there, with curl against the real daemon.
func TestDocumentedClients(t *testing.T) {
	document, err := os.ReadFile("../../docs/clients.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, program := range []string{"curl", "jq"} {
		if _, err := exec.LookPath(program); err != nil {
			t.Skip(err)
		}
	}
	r := newRig(t, ststest.ServiceConfig{TLS: true})
	r.GitHub.AddRepository("my-org", "my-repo")
	r.GitHub.Install(ststest.DefaultApp, "my-org", ststest.InstallOptions{})
	r.GitHub.PutPolicy("my-org", "my-repo", "deploy", "issuer: "+r.Issuer.URL()+"\nsubject: repo:acme/app:ref:refs/heads/main\npermissions: {contents: read}\n")
	dir := t.TempDir()
	for name, content := range map[string]string{"id-token.txt": r.job(nil), "ca.pem": string(r.CAPEM())} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	run := func(commands string) string {
		t.Helper()
		shell := exec.CommandContext(t.Context(), "sh", "-eu", "-c", commands)
		shell.Dir = dir
		shell.Env = append(os.Environ(), "OCTO_STS_URL="+r.URL(), "CURL_CA_BUNDLE="+filepath.Join(dir, "ca.pem"))
		out, err := shell.CombinedOutput()
		if err != nil {
			t.Fatalf("%v: %s\n%s", err, out, commands)
		}
		return string(out)
	}
	token := func() string {
		t.Helper()
		text, err := os.ReadFile(filepath.Join(dir, "github-token.txt"))
		if err != nil {
			t.Fatal(err)
		}
		return strings.TrimSpace(string(text))
	}
	var before string
	exchanges := 0
	for _, rest := range strings.Split(string(document), "```sh\n")[1:] {
		commands, _, _ := strings.Cut(rest, "```")
		if strings.Contains(commands, "/sts/revoke") {
			if out := run(commands); out != `{"revoked":true}` || r.GitHub.IsLive(token()) {
				t.Errorf("%s\n%s", out, commands)
			}
			continue
		}
		run(commands)
		if exchanges++; !r.GitHub.IsLive(token()) || token() == before {
			t.Errorf("no new token came of\n%s", commands)
		}
		before = token()
	}
	if exchanges != 3 || len(r.audited(audit.Filter{Kind: audit.Revocation})) != 1 {
		t.Errorf("%d exchanges, and the audit log has %+v: are the commands found?", exchanges, r.audited(audit.Filter{Kind: audit.Revocation}))
	}
}
