package main

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"sigs.k8s.io/yaml"

	"github.com/octo-sts/appliance/sts/ststest"
)

// recipeRun is one job of a recipe, run as it stands.
type recipeRun struct {
	page, identity string
	file           string
	part           []string // keys that lead to the job in the file; none: all of it
	shell          []string // what the CI system runs a script with
	env            []string // what it sets
	idTokenIn      string   // variable that it puts the ID token into, if it does
	minted         int      // tokens that the job gets
	kept           int      // and of these, how many live on
	secret         string   // of the cluster, where the token is to be
}

var recipeRuns = []recipeRun{
	{page: "github-actions", identity: "deploy", file: ".github/workflows/deploy.yml", env: gitHubActions, minted: 2},
	{page: "gitlab", identity: "gitlab-deploy", file: ".gitlab-ci.yml", shell: []string{"sh", "-ec"}, env: []string{"GITLAB_CI=true"}, idTokenIn: "OCTO_STS_ID_TOKEN", minted: 1},
	{page: "buildkite", identity: "buildkite-deploy", file: ".buildkite/pipeline.yml", env: []string{"BUILDKITE=true"}, minted: 1},
	{page: "jenkins", identity: "jenkins-deploy", file: "Jenkinsfile", shell: []string{"sh", "-xec"}, env: []string{"JENKINS_URL=https://jenkins.corp.example/"}, idTokenIn: "OCTO_STS_ID_TOKEN", minted: 1},
	{page: "circleci", identity: "circleci-deploy", file: ".circleci/config.yml", part: []string{"jobs"}, env: []string{"CIRCLECI=true"}, minted: 1, kept: 1},
	{page: "argo-cd", identity: "argo-cd", file: "kubernetes/argo-cd-github-token.yaml", shell: []string{"sh", "-euc"}, minted: 1, kept: 1, secret: "argocd/github-my-org"},
	{page: "flux", identity: "flux", file: "kubernetes/flux-github-token.yaml", shell: []string{"sh", "-euc"}, minted: 1, kept: 1, secret: "flux-system/my-repo-github"},
	{page: "renovate", identity: "renovate", file: ".github/workflows/renovate.yml", env: gitHubActions, minted: 2},
	{page: "terraform", identity: "terraform-plan", file: ".github/workflows/terraform.yml", part: []string{"jobs", "plan"}, env: gitHubActions, minted: 2},
	{page: "terraform", identity: "terraform-apply", file: ".github/workflows/terraform.yml", part: []string{"jobs", "apply"}, env: gitHubActions, minted: 2},
}

var gitHubActions = []string{
	"GITHUB_ACTIONS=true", "GITHUB_TOKEN=the-jobs-own", "GITHUB_SHA=9f3182061f1e2cca4702c368cbc039b7dc9d4485",
	"ACTIONS_ID_TOKEN_REQUEST_URL=https://actions.example.com/idtoken?api-version=2.0", "ACTIONS_ID_TOKEN_REQUEST_TOKEN=" + runnerSecret,
}

// programsOfOthers stand in for what a job runs and this machine has not, or not
// for this job. Each does with its token what the real one would.
var programsOfOthers = map[string]string{
	"buildkite-agent": `test "$*" = "oidc request-token --audience sts.example.com"
test "$BUILDKITE_OIDC_TOKEN_CLAIMS" = organization_id,pipeline_id
printf %s "$ID_TOKEN_OF_THE_JOB"`,
	"circleci": `test "$*" = 'run oidc get --claims {"aud":"sts.example.com"}'
printf %s "$ID_TOKEN_OF_THE_JOB"`,
	"gh": `test "$1 $2 $3 $4" = "issue create --repo my-org/my-repo"
printf 'Authorization: Bearer %s' "$GH_TOKEN" | curl -fsS --header @- --data '{"title": "Deployed"}' "https://api.github.com/repos/$4/issues"`,
	"docker": `case " $* " in *ghs_*) exit 1 ;; *" --env RENOVATE_TOKEN "*) ;; *) exit 1 ;; esac
for repository; do :; done
printf 'Authorization: Bearer %s' "$RENOVATE_TOKEN" | curl -fsS --header @- "https://api.github.com/repos/$repository"`,
	"terraform": `case $1 in
init) git clone -q https://github.com/my-org/terraform-modules.git modules ;;
plan | apply) printf 'Authorization: Bearer %s' "$GITHUB_TOKEN" | curl -fsS --header @- https://api.github.com/repos/my-org/my-repo ;;
*) exit 2 ;;
esac`,
}

// The shell parts of every recipe work, run by a stand-in for its CI system
// against the whole appliance, with the recipe's own policy and claims; and with
// the claims of a job next to it they are refused, in words that help.
func TestRecipesRun(t *testing.T) {
	recipes := map[string]*recipe{}
	issuers := map[string]bool{}
	for _, r := range readRecipes(t) {
		recipes[r.name] = r
		for _, p := range r.policies {
			issuers[p.granted(t)["iss"].(string)] = true
		}
	}
	var listed []string
	for issuer := range issuers {
		listed = append(listed, issuer)
	}
	w := newRecipesWorld(t, listed)
	for _, repository := range []string{"my-repo", "my-app", "charts", "terraform-modules", ".github"} {
		w.addRepository(t, repository)
	}
	w.GitHub.Install(ststest.DefaultApp, "my-org", ststest.InstallOptions{})
	for _, r := range recipes {
		for _, p := range r.policies {
			owner, name, _ := strings.Cut(p.repository, "/")
			w.GitHub.PutPolicy(owner, name, p.identity, p.text)
		}
	}
	for _, run := range recipeRuns {
		t.Run(run.page+"/"+run.identity, func(t *testing.T) {
			r := recipes[run.page]
			for _, p := range r.policies {
				if p.identity == run.identity {
					run.granted(t, w, r, p)
					run.refused(t, w, r, p, recipes["README"].printed)
					return
				}
			}
			t.Fatalf("the page has no policy %s", run.identity)
		})
	}
}

func (run recipeRun) granted(t *testing.T, w *recipesWorld, r *recipe, p *recipePolicy) {
	minted, revoked := jobTokens(t, w, p), w.GitHub.Calls()[ststest.RevokeRoute]
	out, err := run.do(t, w, r, p.granted(t))
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	if n := jobTokens(t, w, p) - minted; n != run.minted {
		t.Errorf("%d tokens, want %d\n%s", n, run.minted, out)
	}
	if n := w.GitHub.Calls()[ststest.RevokeRoute] - revoked; n != run.minted-run.kept {
		t.Errorf("%d tokens were revoked, want %d\n%s", n, run.minted-run.kept, out)
	}
	if run.secret == "" {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if data := w.secrets[run.secret]; data["username"] != "x-access-token" || !w.GitHub.IsLive(data["password"]) {
		t.Errorf("the Secret %s has no token that is alive", run.secret)
	}
	if out != "" {
		t.Errorf("the job's log is not empty: %s", out)
	}
}

var (
	notAllowed = regexp.MustCompile(`the exchange is not allowed \(request ([A-Z2-7]{26})\)`)
	requestID  = regexp.MustCompile(`[A-Z2-7]{26}`)
)

func (run recipeRun) refused(t *testing.T, w *recipesWorld, r *recipe, p *recipePolicy, refusal []string) {
	minted, claims := jobTokens(t, w, p), p.near(t)[0]
	out, err := run.do(t, w, r, claims)
	said := notAllowed.FindStringSubmatch(out)
	if err == nil || said == nil || !strings.Contains(out, fmt.Sprint("subject  ", claims["sub"])) || jobTokens(t, w, p) != minted {
		t.Fatalf("with the claims of another job: %v\n%s", err, out)
	}
	if r.name == "github-actions" { // what the page for all shows
		for _, said := range refusal {
			if !strings.Contains(requestID.ReplaceAllString(out, "ID"), requestID.ReplaceAllString(said, "ID")) {
				t.Errorf("the job says\n%s\nthe page says\n%s", out, said)
			}
		}
	}
	shown, err := runCommand(t, "audit", "show", "--request-id", said[1], w.AuditDir)
	if err != nil || !strings.Contains(shown, "mismatch") {
		t.Errorf("octo-sts audit show --request-id %s: %v\n%s", said[1], err, shown)
	}
}

// jobTokens is how many tokens were granted under a policy.
func jobTokens(t *testing.T, w *recipesWorld, p *recipePolicy) int {
	t.Helper()
	shown, err := runCommand(t, "audit", "show", "--scope", p.scope(), "--identity", p.identity, "--kind", "outcome", "--decision", "granted", "--output", "json", w.AuditDir)
	if err != nil && !errors.Is(err, errNo) { // there is none yet
		t.Fatal(err)
	}
	return strings.Count(shown, "\n")
}

// do runs the scripts of the job one after the other, as steps on one machine.
func (run recipeRun) do(t *testing.T, w *recipesWorld, r *recipe, claims map[string]any) (output string, err error) {
	t.Helper()
	home := t.TempDir()
	maps.DeleteFunc(claims, func(name string, _ any) bool { return name == "iat" || name == "exp" || name == "nbf" || name == "jti" })
	idToken, err := w.signs.Sign(claims)
	if err != nil {
		t.Fatal(err)
	}
	var file recipeFile
	for _, f := range r.files {
		if f.path == run.file {
			file = f
		}
	}
	set, steps := run.job(t, file, w.digest)
	installs := strings.Contains(strings.Join(steps, "\n"), "mirror.example.com")
	w.mu.Lock()
	w.idToken = idToken
	w.rights = role(t, file)
	w.mu.Unlock()
	env := append(run.environment(t, w, home, idToken, installs), set...)
	shell := run.shell
	if shell == nil {
		shell = []string{"bash", "-eo", "pipefail", "-c"}
	}
	for _, step := range steps {
		step = strings.ReplaceAll(step, "/var/run/secrets/", home+"/secrets/")
		added, _ := os.ReadFile(filepath.Join(home, "github-path"))
		cmd := exec.CommandContext(t.Context(), shell[0], append(shell[1:len(shell):len(shell)], step)...)
		cmd.Dir = home
		cmd.Env = append(env, "PATH="+strings.ReplaceAll(string(added), "\n", ":")+filepath.Join(home, "bin")+":"+os.Getenv("PATH"))
		cmd.WaitDelay = 10 * time.Second
		out, err := cmd.CombinedOutput()
		output += string(out)
		if err != nil {
			return output, err
		}
	}
	return output, nil
}

// environment is what the machine and the CI system give the job.
func (run recipeRun) environment(t *testing.T, w *recipesWorld, home, idToken string, installs bool) []string {
	t.Helper()
	for _, dir := range []string{"bin", "tmp", "secrets/tokens", "secrets/kubernetes.io/serviceaccount"} {
		if err := os.MkdirAll(filepath.Join(home, dir), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	roots, err := os.ReadFile(w.roots)
	if err != nil {
		t.Fatal(err)
	}
	files := map[string]string{
		"secrets/tokens/octo-sts":                    idToken,
		"secrets/kubernetes.io/serviceaccount/token": podSecret, "secrets/kubernetes.io/serviceaccount/ca.crt": string(roots),
	}
	for name, script := range programsOfOthers {
		files["bin/"+name] = "#!/bin/sh -eu\n" + script + "\n"
	}
	for name, content := range files {
		if err := os.WriteFile(filepath.Join(home, name), []byte(content), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	if !installs {
		if err := os.Symlink(w.program, filepath.Join(home, "bin", "octo-sts")); err != nil {
			t.Fatal(err)
		}
	}
	env := append([]string{
		"HOME=" + home, "TMPDIR=" + filepath.Join(home, "tmp"), "HTTPS_PROXY=" + w.proxy, "https_proxy=" + w.proxy, "NO_PROXY=", "no_proxy=",
		"SSL_CERT_FILE=" + w.roots, "CURL_CA_BUNDLE=" + w.roots, "GIT_SSL_CAINFO=" + w.roots, "GIT_TERMINAL_PROMPT=0", "GIT_CONFIG_NOSYSTEM=1",
		"GORACE=atexit_sleep_ms=0", "GITHUB_PATH=" + filepath.Join(home, "github-path"), "BASH_ENV=" + filepath.Join(home, "bash-env"),
	}, run.env...)
	if run.idTokenIn != "" {
		env = append(env, run.idTokenIn+"="+idToken)
	}
	return append(env, "ID_TOKEN_OF_THE_JOB="+idToken)
}

var groovyVariable = regexp.MustCompile(`(?m)^\s*([A-Z_]+) = '([^']*)'$`)

// job is what the file sets in the job's environment, and its steps; with the
// client's digest where the user is to write it.
func (run recipeRun) job(t *testing.T, f recipeFile, digest string) (env, steps []string) {
	t.Helper()
	if f.language == "groovy" {
		for _, m := range groovyVariable.FindAllStringSubmatch(f.text, -1) {
			env = append(env, m[1]+"="+m[2])
		}
		return env, scripts(t, f)
	}
	f.text = strings.ReplaceAll(f.text, strings.Repeat("0", 64), digest)
	for _, document := range documents(t, f) {
		env = append(env, variablesIn("", document)...)
		part := any(document)
		for _, key := range run.part {
			part = part.(map[string]any)[key]
		}
		steps = append(steps, shellIn("", part)...)
	}
	return env, steps
}

// variablesIn finds what a CI system's YAML sets, by the names of its keys.
func variablesIn(key string, value any) (all []string) {
	isEnv := slices.Contains([]string{"env", "variables", "environment"}, key)
	switch value := value.(type) {
	case []any:
		for _, element := range value {
			variable, _ := element.(map[string]any) // {name: NAME, value: VALUE}
			if isEnv && variable["value"] != nil {
				all = append(all, fmt.Sprintf("%s=%s", variable["name"], variable["value"]))
			}
			all = append(all, variablesIn("", element)...)
		}
	case map[string]any:
		for name, content := range value {
			if isEnv { // a digest of digits alone is a number, unless it is quoted
				all = append(all, fmt.Sprintf("%s=%v", name, content))
			}
			all = append(all, variablesIn(name, content)...)
		}
	}
	return all
}

func role(t *testing.T, f recipeFile) (role kubernetesRole) {
	t.Helper()
	if !strings.HasPrefix(f.path, "kubernetes/") {
		return role
	}
	for _, text := range strings.Split(f.text, "\n---\n") {
		var kind struct{ Kind string }
		if err := yaml.Unmarshal([]byte(text), &kind); err != nil {
			t.Fatal(err)
		}
		if kind.Kind == "Role" {
			if err := yaml.Unmarshal([]byte(text), &role); err != nil {
				t.Fatal(err)
			}
		}
	}
	return role
}
