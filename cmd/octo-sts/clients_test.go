package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/octo-sts/appliance/sts/ststest"
)

// TestClientScripts runs what a CI job would, each script against an appliance of its
// own, and git against repositories that the fake GitHub serves with git's own
// http-backend to whoever has a token that was minted here. Each script gets:
//
//	$URL        the appliance
//	$GITHUB     host and port of the fake GitHub, which git trusts
//	job.idtoken the ID token of a job that the policies let in: reader of acme/app (contents:
//	            read), writer of acme/app (contents: write), org of acme (all of them, read)
//	stranger.idtoken that of a job of another repository
//
// and the commands
//
//	live N          fails where not N tokens are alive
//	minted N        fails where not N tokens were minted
//	lifetime D      tokens minted from now on live for D
//	expire          every token expires
func TestClientScripts(t *testing.T) {
	bin := programs(t)
	var services sync.Map // $WORK → *ststest.Service
	of := func(ts *testscript.TestScript) *ststest.Service {
		s, _ := services.Load(ts.Getenv("WORK"))
		return s.(*ststest.Service)
	}
	testscript.Run(t, testscript.Params{
		Dir: "testdata/clients", RequireExplicitExec: true, RequireUniqueNames: true,
		UpdateScripts: os.Getenv("UPDATE_SCRIPTS") != "",
		Setup: func(e *testscript.Env) error {
			service := startService(t, bin)
			services.Store(e.WorkDir, service)
			return setUpClient(t, service, e)
		},
		Condition: func(name string) (bool, error) { // soak: those that take minutes run too
			if name != "soak" {
				return false, fmt.Errorf("the condition is %q", name)
			}
			return os.Getenv("OCTO_STS_SOAK") != "", nil
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"live": func(ts *testscript.TestScript, _ bool, args []string) {
				wantCount(ts, "alive", len(alive(of(ts))), args)
			},
			"minted": func(ts *testscript.TestScript, _ bool, args []string) {
				wantCount(ts, "minted", len(forJobs(of(ts))), args)
			},
			"lifetime": func(ts *testscript.TestScript, _ bool, args []string) {
				d, err := time.ParseDuration(args[0])
				ts.Check(err)
				of(ts).GitHub.SetTokenLifetime(d)
			},
			"expire": func(ts *testscript.TestScript, _ bool, _ []string) {
				of(ts).GitHub.ExpireTokens()
			},
		},
	})
}

// forJobs is every token that a job got: not those that the appliance minted to read
// policies.
func forJobs(s *ststest.Service) []ststest.Mint {
	var mints []ststest.Mint
	for _, m := range s.GitHub.Mints() {
		if m.Permissions["contents"] == "write" || m.Permissions["issues"] == "read" {
			mints = append(mints, m)
		}
	}
	return mints
}

// alive is those of them that have neither expired nor been revoked.
func alive(s *ststest.Service) []ststest.Mint {
	return slices.DeleteFunc(forJobs(s), func(m ststest.Mint) bool { return !m.Revoked.IsZero() || !time.Now().Before(m.Expiry) })
}

func wantCount(ts *testscript.TestScript, what string, have int, args []string) {
	if want, err := strconv.Atoi(args[0]); err != nil || have != want {
		ts.Fatalf("%d tokens are %s, want %s", have, what, args[0])
	}
}

// clientPolicies are those of the scripts, by repository and identity, without their
// issuer. Each has something that no policy reader's token has, so that jobs' tokens
// are told apart.
var clientPolicies = map[[2]string]string{
	{"app", "reader"}:  "subject: repo:acme/app:ref:refs/heads/main\npermissions: {contents: read, issues: read}\n",
	{"app", "writer"}:  "subject: repo:acme/app:ref:refs/heads/main\npermissions: {contents: write}\n",
	{".github", "org"}: "subject: repo:acme/app:ref:refs/heads/main\npermissions: {contents: read, issues: read}\n",
}

func setUpClient(t *testing.T, service *ststest.Service, e *testscript.Env) error {
	service.GitHub.AddRepository("acme", "lib")
	service.GitHub.AddRepository("acme", ".github")
	for where, rest := range clientPolicies {
		service.GitHub.PutPolicy("acme", where[0], where[1], "issuer: "+service.Issuer.URL()+"\n"+rest)
	}
	dir := filepath.Join(e.WorkDir, "served")
	for _, repository := range []string{"app", "lib"} {
		if err := makeRepository(t, filepath.Join(dir, "acme", repository+".git")); err != nil {
			return err
		}
	}
	if err := service.GitHub.ServeGit(t.Context(), dir); err != nil {
		return err
	}
	e.Setenv("URL", service.URL())
	e.Setenv("GITHUB", service.GitHub.Address())
	e.Setenv("GIT_SSL_CAINFO", filepath.Join(e.WorkDir, "github.pem"))
	e.Setenv("GIT_TERMINAL_PROMPT", "0")
	e.Setenv("GIT_CONFIG_NOSYSTEM", "1")
	e.Setenv("HOME", e.WorkDir)
	for name, text := range map[string]string{
		"github.pem":       string(service.GitHub.CAPEM()),
		"job.idtoken":      idToken(t, service, ststest.GitHubActions{Owner: "acme", Repo: "app"}),
		"stranger.idtoken": idToken(t, service, ststest.GitHubActions{Owner: "somebody", Repo: "else"}),
		".gitconfig":       "[user]\n\tname = A Job\n\temail = job@example.com\n",
	} {
		if err := os.WriteFile(filepath.Join(e.WorkDir, name), []byte(text), 0o600); err != nil {
			return err
		}
	}
	return nil
}

// makeRepository makes a bare repository with one commit on main, by git.
func makeRepository(t *testing.T, dir string) error {
	script := `set -e
git init -q --bare -b main "$1"
cd "$1"
tree=$(printf '100644 blob %s\tREADME.md\n' $(echo "# hello" | git hash-object -w --stdin) | git mktree)
git update-ref refs/heads/main $(git -c user.name=A -c user.email=a@example.com commit-tree -m first $tree)`
	out, err := exec.CommandContext(t.Context(), "sh", "-c", script, "sh", dir).CombinedOutput()
	if err != nil {
		return fmt.Errorf("making a repository: %w\n%s", err, out)
	}
	return nil
}
