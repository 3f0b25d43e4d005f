package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/octo-sts/appliance/sts/ststest"
)

// The cast: an organization with a repository, the repository whose jobs deploy
// it, and a repository of somebody else's.
const (
	organization = "acme"
	repository   = "widgets"
	deployer     = "deployer"
	domain       = "sts.example.com"
	identity     = "deploy"
)

const policyTemplate = `# Jobs on the main branch of acme/deployer may read this repository and open issues.
issuer: %s
subject: repo:acme/deployer:ref:refs/heads/main
claim_pattern:
  repository_id: "%s"
permissions:
  contents: read
  issues: write
`

// tour is one demonstration under way.
type tour struct {
	service *ststest.Service
	bin     string
	dir     string // what a newcomer may want to look at
	policy  string // the text of identity's
}

// runTour shows one exchange and one refusal, and then stays up until ctx is
// done, unless once is set.
func runTour(ctx context.Context, bin string, once bool) error {
	step("Starting: a SoftHSM token with an App's key in it, the signer, the daemon, a stand-in for GitHub, an OIDC issuer")
	service, err := ststest.Start(ctx, ststest.ServiceConfig{BinDir: bin, Domain: domain, Webhook: true})
	if err != nil {
		return err
	}
	t := &tour{service: service, bin: bin, dir: service.Dir}
	defer func() { _ = service.Close() }() // it is all throw-away
	say("octo-stsd        %s   (configuration: %s)", service.URL(), service.ConfigFile)
	say("octo-sts-signer  %s", service.Signer.Socket())
	say("OIDC issuer      %s", service.Issuer.URL())
	say("GitHub stand-in  %s", service.GitHub.URL())

	for _, act := range []func(context.Context) error{
		t.setScene, t.grant, t.use, t.showGrant, t.refuse, t.reviewPolicy, t.deletePolicy, t.verifyLog, t.rewriteLog, t.proveEntry,
	} {
		if err := act(ctx); err != nil {
			return err
		}
	}
	if once {
		step("That was all. Without ONCE=1 this stays up for you to try things.")
		return nil
	}
	t.suggest()
	<-ctx.Done()
	fmt.Println("\nStopping.")
	return nil
}

// setScene makes the repository, its policy, and the ID tokens that two CI jobs
// would have.
func (t *tour) setScene(context.Context) error {
	github := t.service.GitHub
	github.AddRepository(organization, repository)
	github.AddRepository(organization, "secrets")
	github.Install(ststest.DefaultApp, organization, ststest.InstallOptions{})
	github.PutFile(organization, repository, "README.md", "# Widgets\n")

	job := ststest.GitHubActions{Owner: organization, Repo: deployer, RepoID: 5678, Ref: "refs/heads/main"}.Claims()
	stranger := ststest.GitHubActions{Owner: "somebody", OwnerID: 99, Repo: "else", RepoID: 666, Ref: "refs/heads/main"}.Claims()
	t.policy = fmt.Sprintf(policyTemplate, t.service.Issuer.URL(), job["repository_id"])
	github.PutPolicy(organization, repository, identity, t.policy)
	if err := os.WriteFile(filepath.Join(t.dir, identity+".sts.yaml"), []byte(t.policy), 0o600); err != nil {
		return err
	}
	for name, claims := range map[string]map[string]any{"job": job, "stranger": stranger} {
		claims["aud"] = domain
		claims["exp"] = time.Now().Add(12 * time.Hour).Unix() // longer than a CI system's, for you to try things
		token, err := t.service.Issuer.Sign(claims)
		if err != nil {
			return err
		}
		if err := os.WriteFile(t.idToken(name), []byte(token), 0o600); err != nil {
			return err
		}
	}
	step("acme/widgets has a trust policy, .github/chainguard/deploy.sts.yaml")
	indent(t.policy)
	return nil
}

func (t *tour) idToken(name string) string { return filepath.Join(t.dir, name+".idtoken") }

// grant performs an exchange as a CI job would.
func (t *tour) grant(ctx context.Context) error {
	step("A job on the main branch of acme/deployer exchanges its ID token")
	out, err := t.command(ctx, t.exchange("job")...)
	indent(out)
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(t.dir, "github-token"), []byte(strings.TrimSpace(out)), 0o600)
}

// use shows that the token works, for what the policy says and nothing else.
func (t *tour) use(ctx context.Context) error {
	step("The token works, for what the policy says and nothing else")
	token, err := os.ReadFile(filepath.Join(t.dir, "github-token"))
	if err != nil {
		return err
	}
	for _, c := range []struct {
		what, method, path, body string
		want                     int
	}{
		{"read README.md of acme/widgets", http.MethodGet, "/repos/acme/widgets/contents/README.md", "", http.StatusOK},
		{"open an issue there", http.MethodPost, "/repos/acme/widgets/issues", `{"title":"deployed"}`, http.StatusCreated},
		{"change a file there", http.MethodPut, "/repos/acme/widgets/contents/README.md", `{"message":"m","content":"aGk="}`, http.StatusForbidden},
		{"read another repository", http.MethodGet, "/repos/acme/secrets/contents/", "", http.StatusNotFound},
	} {
		status, err := t.github(ctx, c.method, c.path, c.body, string(token))
		if err != nil {
			return err
		}
		if status != c.want {
			return fmt.Errorf("to %s, GitHub's stand-in answered %d, not %d", c.what, status, c.want)
		}
		say("%-32s %d %s", c.what, status, http.StatusText(status))
	}
	return nil
}

func (t *tour) github(ctx context.Context, method, path, body, token string) (status int, err error) {
	r, err := http.NewRequestWithContext(ctx, method, t.service.GitHub.URL()+path, strings.NewReader(body))
	if err != nil {
		return 0, err
	}
	r.Header.Set("Authorization", "Bearer "+token)
	response, err := t.service.GitHub.Client().Do(r)
	if err != nil {
		return 0, err
	}
	defer response.Body.Close()
	_, err = io.Copy(io.Discard, response.Body)
	return response.StatusCode, err
}

// showGrant prints the two lines that were durable before the token left.
func (t *tour) showGrant(ctx context.Context) error {
	step("The audit log had it before the token left: what was about to be minted, and what was")
	out, err := t.command(ctx, "octo-sts", "audit", "show", t.service.AuditDir)
	indent(out)
	return err
}

// refuse shows a stranger what a stranger sees, and the operator the rest.
func (t *tour) refuse(ctx context.Context) error {
	step("A job of somebody/else asks for the same")
	out, err := t.command(ctx, t.exchange("stranger")...)
	if err == nil {
		return errors.New("the stranger was not refused")
	}
	indent(out)
	_, rest, _ := strings.Cut(out, "(request ")
	requestID, _, found := strings.Cut(rest, ")")
	if !found {
		return fmt.Errorf("the refusal names no request: %s", out)
	}
	step("That is all the stranger is told. The operator asks the audit log why")
	out, err = t.command(ctx, "octo-sts", "audit", "show", "--request-id", requestID, t.service.AuditDir)
	indent(out)
	if err != nil {
		return err
	}
	step("Whoever wrote the policy can ask, claim by claim")
	out, err = t.command(ctx, "octo-sts", "policy", "explain", "--policy", filepath.Join(t.dir, identity+".sts.yaml"),
		"--token", t.idToken("stranger"), "--domain", domain)
	indent(out)
	if exit := (*exec.ExitError)(nil); !errors.As(err, &exit) || exit.ExitCode() != 1 {
		return fmt.Errorf("policy explain should say no: %w", err)
	}
	return nil
}

func (t *tour) exchange(job string) []string {
	return []string{"octo-sts", "exchange", "--url", t.service.URL(), "--scope", organization + "/" + repository,
		"--identity", identity, "--token-file", t.idToken(job)}
}

// suggest prints commands for a newcomer to try.
func (t *tour) suggest() {
	step("Up until Ctrl-C. Things to try, from another terminal")
	for _, command := range [][]string{
		append(t.exchange("job"), "--output", "json"),
		append(slices.Replace(t.exchange("job"), 1, 2, "exec"), "--", "printenv", "GITHUB_TOKEN"),
		{"octo-sts", "policy", "lint", filepath.Join(t.dir, identity+".sts.yaml")},
		{"octo-sts", "audit", "show", "--decision", "denied", t.service.AuditDir},
		{"octo-sts", "audit", "verify", "--key", t.vkey(), t.service.AuditDir},
	} {
		fmt.Printf("    %s\n", strings.Join(append([]string{filepath.Join(t.bin, command[0])}, command[1:]...), " "))
	}
	fmt.Printf("    curl -s -H \"Authorization: Bearer $(cat %s)\" '%s/sts/exchange?scope=acme/widgets&identity=deploy'\n", t.idToken("job"), t.service.URL())
	fmt.Printf("    curl -s %s/readyz\n", t.service.AdminURL())
	fmt.Printf("    curl -s %s/metrics\n", t.service.AdminURL())
	fmt.Printf("    less %s\n", t.service.ConfigFile)
}

// command shows a command as a person would type it, runs it, and returns what
// it printed.
func (t *tour) command(ctx context.Context, args ...string) (string, error) {
	fmt.Printf("    $ %s\n", strings.Join(args, " "))
	out, err := exec.CommandContext(ctx, filepath.Join(t.bin, args[0]), args[1:]...).CombinedOutput()
	return string(out), err
}

func step(title string) { fmt.Printf("\n== %s\n", title) }

func say(format string, args ...any) { fmt.Printf("    "+format+"\n", args...) }

func indent(text string) {
	for line := range strings.Lines(text) {
		fmt.Print("    " + line)
	}
}
