package ststest

import (
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// binDir holds the programs: $OCTO_STS_BIN as the Makefile sets it, or they
// are built.
func binDir(t *testing.T) string {
	t.Helper()
	if dir := os.Getenv("OCTO_STS_BIN"); dir != "" {
		return dir
	}
	dir := t.TempDir()
	for _, name := range []string{"octo-stsd", "octo-sts-signer"} {
		cmd := exec.CommandContext(t.Context(), "go", "build", "-o", filepath.Join(dir, name), "github.com/octo-sts/appliance/cmd/"+name)
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("building %s: %v\n%s", name, err, out)
		}
	}
	return dir
}

func startService(t *testing.T, c ServiceConfig) *Service {
	t.Helper()
	c.BinDir = binDir(t)
	s, err := Start(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("the daemon's log:\n%s", s.Logs())
		}
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	s.GitHub.AddRepository("acme", "app")
	s.GitHub.Install(DefaultApp, "acme", InstallOptions{})
	s.GitHub.PutPolicy("acme", "app", "ci", fmt.Sprintf("issuer: %s\nsubject: repo:acme/app:ref:refs/heads/main\npermissions:\n  contents: write\n", s.Issuer.URL()))
	return s
}

// job is the ID token of a CI job of acme/app on a branch.
func job(t *testing.T, s *Service, branch string) string {
	t.Helper()
	claims := GitHubActions{Owner: "acme", Repo: "app", Ref: "refs/heads/" + branch}.Claims()
	claims["aud"] = "sts.example.com"
	token, err := s.Issuer.Sign(claims)
	if err != nil {
		t.Fatal(err)
	}
	return token
}

func TestServiceExchanges(t *testing.T) {
	for _, c := range []struct {
		name   string
		config ServiceConfig
		scheme string
	}{
		{"plain, opaque tokens", ServiceConfig{}, "http://"},
		{"TLS everywhere, GHES, JWT tokens", ServiceConfig{TLS: true, Issuer: IssuerConfig{TLS: true}, GitHub: GitHubConfig{BasePath: "/api/v3", TokenForm: JWTTokens}}, "https://"},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := startService(t, c.config)
			if !strings.HasPrefix(s.URL(), c.scheme) {
				t.Errorf("URL %s", s.URL())
			}
			x, err := s.Exchange(t.Context(), "acme/app", "ci", job(t, s, "main"))
			if err != nil || x.Status != http.StatusOK || !s.GitHub.IsLive(x.Token) || x.RequestID == "" {
				t.Fatalf("a grant: %+v %s, %v", x, x.Body, err)
			}
			// The token works, for what the policy says and no more.
			f := &fixture{GitHub: s.GitHub, t: t, client: s.GitHub.Client()}
			if r := f.do("PUT", "/repos/acme/app/contents/new", x.Token, `{"message":"m","content":"aGk="}`); r.StatusCode != http.StatusCreated {
				t.Errorf("using it: %s %s", r.Status, r.body)
			}
			if r := f.do("POST", "/repos/acme/app/issues", x.Token, `{"title":"t"}`); r.StatusCode != http.StatusForbidden {
				t.Errorf("using it for more: %s", r.Status)
			}
			x, err = s.Exchange(t.Context(), "acme/app", "ci", job(t, s, "feature"))
			if err != nil || x.Status != http.StatusForbidden || x.Token != "" || !strings.Contains(x.Message, x.RequestID) {
				t.Errorf("a stranger: %+v, %v", x, err)
			}
		})
	}
}

func TestServiceStopsAndRestarts(t *testing.T) {
	s := startService(t, ServiceConfig{})
	exchange := func() {
		t.Helper()
		if x, err := s.Exchange(t.Context(), "acme/app", "ci", job(t, s, "main")); err != nil || x.Status != http.StatusOK {
			t.Errorf("%+v %s, %v", x, x.Body, err)
		}
	}
	exchange()
	first := s.PID()
	if err := s.Kill(); err != nil || s.PID() != 0 {
		t.Fatalf("Kill: %v, PID %d", err, s.PID())
	}
	if _, err := s.Exchange(t.Context(), "acme/app", "ci", "x"); err == nil {
		t.Error("a killed daemon answered")
	}
	if err := s.Restart(t.Context()); err != nil || s.PID() == first {
		t.Fatalf("Restart: %v, PID %d after %d", err, s.PID(), first)
	}
	exchange()
	if err := s.Stop(); err != nil {
		t.Fatal(err)
	}
	if err := s.Stop(); err == nil {
		t.Error("a second Stop was no error")
	}
	dir := s.Dir
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(dir); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("%s is still there: %v", dir, err)
	}
}

func TestServiceReportsAConfigurationThatIsRefused(t *testing.T) {
	short, err := os.MkdirTemp("", "refused")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(short) })
	t.Setenv("TMPDIR", short)
	_, err = Start(t.Context(), ServiceConfig{BinDir: binDir(t), Edit: func(c map[string]any) { c["no_such_key"] = 1 }})
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.ExitCode() != 2 || !strings.Contains(err.Error(), "no_such_key") {
		t.Errorf("got %v, want exit status 2 that names no_such_key", err)
	}
	if left, _ := filepath.Glob(filepath.Join(short, "octo-sts-*")); len(left) > 0 {
		t.Errorf("files are left: %v", left)
	}
}

func TestServiceThatDiedCanBeRestarted(t *testing.T) {
	s := startService(t, ServiceConfig{})
	if err := s.Signal(os.Kill); err != nil {
		t.Fatal(err)
	}
	if err := s.Restart(t.Context()); err == nil {
		t.Fatal("Restart did not say that the daemon had been killed")
	}
	if err := s.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	if x, err := s.Exchange(t.Context(), "acme/app", "ci", job(t, s, "main")); err != nil || x.Status != http.StatusOK {
		t.Errorf("%+v %s, %v", x, x.Body, err)
	}
}

// With Webhook the daemon's configuration names a secret that it finds among
// its credentials, and GitHub's deliveries reach the daemon, also where a
// restart gave it another address.
func TestServiceWebhook(t *testing.T) {
	var section any
	s := startService(t, ServiceConfig{Webhook: true, Edit: func(config map[string]any) {
		section = config["webhook"]
	}})
	if fmt.Sprint(section) != "map[secrets:[webhook-secret]]" {
		t.Errorf("the section is %v", section)
	}
	secret, err := os.ReadFile(filepath.Join(s.Dir, "credentials", "webhook-secret"))
	if err != nil || string(secret) != s.WebhookSecret || len(secret) < 20 {
		t.Errorf("the credential is %d bytes, %v", len(secret), err)
	}
	environ, err := os.ReadFile(fmt.Sprintf("/proc/%d/environ", s.PID()))
	if err != nil || !strings.Contains(string(environ), "\x00CREDENTIALS_DIRECTORY="+filepath.Join(s.Dir, "credentials")+"\x00") {
		t.Errorf("the daemon's environment has no CREDENTIALS_DIRECTORY (%v)", err)
	}
	for range 2 {
		p := s.GitHub.Push("acme", "app", "main", []Change{{Path: "f"}})
		if len(p.Deliveries) != 2 || p.Deliveries[0].Error != "" || p.Deliveries[0].StatusCode/100 != 2 {
			t.Errorf("deliveries %+v", p.Deliveries)
		}
		if err := s.Restart(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
}
