package main

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/octo-sts/appliance/sts/ststest"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"octo-sts": main})
}

// TestScripts runs what a person at a shell or a CI job would, against the whole
// appliance. Each script gets:
//
//	$URL             the appliance
//	$ADMIN           its admin listener, $GITHUB its GitHub, with the CA github-ca.pem
//	$AUDIT           its audit log, and $VKEY the key that signs it
//	job.idtoken      the ID token of a job that the policy acme/app, ci, lets in
//	stranger.idtoken that of a job of another repository
//	$BIN             the directory of the daemons
//	$DOCS            this project's docs
//	$ACTIONS_URL     what a job of GitHub Actions finds in ACTIONS_ID_TOKEN_REQUEST_URL;
//	                 it hands the same job's ID token to the bearer of "runner-secret"
//	log, audit.vkey, old.checkpoint, stranger.vkey
//	                 a signed audit log and its key, see makeSignedLog
func TestScripts(t *testing.T) {
	bin := programs(t)
	service := startService(t, bin)
	job := idToken(t, service, ststest.GitHubActions{Owner: "acme", Repo: "app"})
	stranger := idToken(t, service, ststest.GitHubActions{Owner: "somebody", Repo: "else"})
	actions := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") != "Bearer runner-secret" || r.FormValue("audience") != "127.0.0.1" || r.FormValue("api-version") != "2" {
			http.Error(w, "{}", http.StatusUnauthorized)
			return
		}
		fmt.Fprintf(w, `{"value":%q}`, job)
	}))
	t.Cleanup(actions.Close)
	docs, err := filepath.Abs("../../docs")
	if err != nil {
		t.Fatal(err)
	}
	signed := t.TempDir()
	makeSignedLog(t, signed)
	testscript.Run(t, testscript.Params{
		Dir: "testdata/script", RequireExplicitExec: true, RequireUniqueNames: true,
		UpdateScripts: os.Getenv("UPDATE_SCRIPTS") != "",
		Setup: func(e *testscript.Env) error {
			e.Setenv("URL", service.URL())
			e.Setenv("ADMIN", service.AdminURL())
			e.Setenv("GITHUB", service.GitHub.URL())
			e.Setenv("AUDIT", service.AuditDir)
			e.Setenv("DOCS", docs)
			e.Setenv("BIN", bin)
			e.Setenv("VKEY", service.Signer.VerifierKey())
			e.Setenv("ACTIONS_URL", actions.URL+"/token?api-version=2")
			if err := os.CopyFS(e.WorkDir, os.DirFS(signed)); err != nil {
				return err
			}
			if err := os.WriteFile(filepath.Join(e.WorkDir, "github-ca.pem"), service.GitHub.CAPEM(), 0o600); err != nil {
				return err
			}
			if err := os.WriteFile(filepath.Join(e.WorkDir, "stranger.idtoken"), []byte(stranger), 0o600); err != nil {
				return err
			}
			return os.WriteFile(filepath.Join(e.WorkDir, "job.idtoken"), []byte(job+"\n"), 0o600)
		},
	})
}

func startService(t *testing.T, bin string) *ststest.Service {
	t.Helper()
	service, err := ststest.Start(t.Context(), ststest.ServiceConfig{BinDir: bin})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := service.Close(); err != nil {
			t.Error(err)
		}
	})
	service.GitHub.AddRepository("acme", "app")
	service.GitHub.Install(ststest.DefaultApp, "acme", ststest.InstallOptions{})
	service.GitHub.PutPolicy("acme", "app", "ci", fmt.Sprintf(
		"issuer: %s\nsubject: repo:acme/app:ref:refs/heads/main\npermissions: {contents: read}\n", service.Issuer.URL()))
	return service
}

func idToken(t *testing.T, service *ststest.Service, job ststest.GitHubActions) string {
	t.Helper()
	claims := job.Claims()
	claims["aud"] = "sts.example.com"
	token, err := service.Issuer.Sign(claims)
	if err != nil {
		t.Fatal(err)
	}
	return token
}

// programs is where `make build` put the programs, or a directory with fresh ones.
func programs(t *testing.T) string {
	t.Helper()
	if dir := os.Getenv("OCTO_STS_BIN"); dir != "" {
		return dir
	}
	dir := t.TempDir()
	build := exec.CommandContext(t.Context(), "go", "build", "-o", dir, "../octo-stsd", "../octo-sts-signer", ".")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("building the programs: %v\n%s", err, out)
	}
	return dir
}
