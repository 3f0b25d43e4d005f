//go:build packages

package packaging_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/octo-sts/appliance/sts/ststest"
)

const (
	officerPIN = "8765-4321"
	userPIN    = "4711-0815"
)

// appliance is a machine on which docs/install.md was followed.
type appliance struct {
	*machine
	world       *world
	page        *page
	verifierKey string
}

// install follows the page up to the packages: those below dist/, or those of other directories there.
func install(t *testing.T, suite string, from ...string) *appliance {
	t.Helper()
	a := &appliance{machine: newMachine(t, suite), world: newWorld(t), page: openPage(t, "install.md", debian)}
	a.install(from...)
	return a
}

// install follows the page up to the packages.
func (a *appliance) install(from ...string) {
	t := a.t
	t.Helper()
	if from == nil {
		from = []string{"."}
	}
	if err := publish(from...); err != nil {
		t.Fatal(err)
	}
	a.boot()
	a.trust()
	if commands := a.page.block("packages"); strings.Contains(commands, "dnf install") {
		ok := answer{`Is this ok \[y/N\]`, "y"}
		a.terminal(commands, ok, ok, ok).end() // dnf takes a key from nobody who is not at a terminal
		return
	}
	a.page.run(a.machine, "packages")
}

// setUp follows the page from there to the first exchange.
func (a *appliance) setUp() {
	a.t.Helper()
	a.page.run(a.machine, "softhsm")
	a.terminal(a.page.block("token"), answer{`enter SO PIN: `, officerPIN}, answer{`reenter SO PIN: `, officerPIN}, answer{`enter user PIN: `, userPIN}, answer{`reenter user PIN: `, userPIN}).end()

	a.world.gitHub.AddRepository("acme", ".github")
	setup := a.terminal(a.page.block("setup"), answer{`PIN of .*: `, userPIN})
	b := newBrowser(a.t, a.client())
	b.open(setup.wait(`http://127\.0\.0\.1:\d+/\w+/`))
	b.submit(map[string]string{"name": "Our STS", "owner": "acme"})
	b.submit(nil)
	said := setup.end()
	if a.verifierKey = regexp.MustCompile(`(?m)^sts\.example\.com/audit\+\S+$`).FindString(said); a.verifierKey == "" {
		a.t.Fatalf("setup gave no verifier key:\n%s", said)
	}
	a.page.run(a.machine, "start")

	gitHub := a.world.gitHub
	gitHub.AddRepository("acme", "widgets")
	gitHub.Install(gitHub.LastSecrets().AppID, "acme", ststest.InstallOptions{})
	gitHub.PutPolicy("acme", "widgets", "deploy", a.page.block("policy"))
	a.awaitReady()
}

// awaitReady waits until the daemon says that it serves, with its certificate.
func (a *appliance) awaitReady() {
	a.t.Helper()
	eventually(a.t, 2*time.Minute, "the appliance is ready", func() error {
		out, status := a.try("curl -sSf http://127.0.0.1:9464/readyz || curl -sS http://127.0.0.1:9464/readyz; curl -sSf -o /dev/null https://" + domain + "/ || test $? = 22")
		if status != 0 || strings.Contains(out, "degraded") || strings.Contains(out, "failing") {
			return fmt.Errorf("%s", out)
		}
		return nil
	})
}

// job is the environment of a job of acme/deployer, whose ID tokens the world's Actions give out.
func (a *appliance) job() []string {
	a.t.Helper()
	return []string{"ACTIONS_ID_TOKEN_REQUEST_URL=https://token.actions.githubusercontent.com/request?api-version=2.0", "ACTIONS_ID_TOKEN_REQUEST_TOKEN=a-job"}
}

// idToken is one of a job on the main branch of acme/deployer.
func (w *world) idToken() string {
	w.t.Helper()
	claims := ststest.GitHubActions{Owner: "acme", Repo: "deployer", RepoID: 5678}.Claims()
	claims["aud"] = domain
	idToken, err := w.issuer.Sign(claims)
	if err != nil {
		w.t.Fatal(err)
	}
	return idToken
}

// giveIDTokens is the service that gives jobs their ID tokens.
func (w *world) giveIDTokens(writer http.ResponseWriter, _ *http.Request) {
	_ = json.NewEncoder(writer).Encode(map[string]string{"value": w.idToken()})
}
