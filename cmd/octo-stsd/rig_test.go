package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"sigs.k8s.io/yaml"

	"github.com/octo-sts/appliance/sts/audit"
	"github.com/octo-sts/appliance/sts/ststest"
)

// patience is a safety limit for what should happen at once, on a machine that
// is very busy.
const patience = 60 * time.Second

// rigPrograms is where the real programs are: $OCTO_STS_BIN as the Makefile sets
// it, or they are built, into the directory of the test program, which go test
// removes.
var rigPrograms = sync.OnceValues(func() (string, error) {
	if dir := os.Getenv("OCTO_STS_BIN"); dir != "" {
		return dir, nil
	}
	self, err := os.Executable()
	if err != nil {
		return "", err
	}
	dir := filepath.Join(filepath.Dir(self), "programs")
	for _, program := range []struct{ name, cgo string }{{"octo-stsd", "0"}, {"octo-sts", "0"}, {"octo-sts-signer", "1"}} {
		build := exec.Command("go", "build", "-o", filepath.Join(dir, program.name), "github.com/octo-sts/appliance/cmd/"+program.name)
		build.Env = append(os.Environ(), "CGO_ENABLED="+program.cgo)
		if out, err := build.CombinedOutput(); err != nil {
			return "", fmt.Errorf("building %s: %w\n%s", program.name, err, out)
		}
	}
	return dir, nil
})

// rig is a whole appliance for one test: the real octo-stsd and octo-sts-signer
// with SoftHSM, against a fake GitHub and an issuer.
type rig struct {
	*ststest.Service
	t *testing.T
}

// newRig starts one. Its GitHub has the organization acme with the repositories
// app, lib and .github, and policies as rigPolicies has them.
func newRig(t *testing.T, c ststest.ServiceConfig) *rig {
	t.Helper()
	var err error
	if c.BinDir, err = rigPrograms(); err != nil {
		t.Fatal(err)
	}
	s, err := ststest.Start(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			logs := s.Logs()
			t.Logf("the end of the daemon's log:\n%s", logs[max(0, len(logs)-16<<10):])
		}
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	r := &rig{s, t}
	for _, repository := range []string{"app", "lib", ".github"} {
		r.GitHub.AddRepository("acme", repository)
		r.GitHub.PutFile("acme", repository, "README.md", "# "+repository+"\n")
	}
	r.GitHub.Install(ststest.DefaultApp, "acme", ststest.InstallOptions{})
	for file, rest := range rigPolicies {
		repository, identity, _ := strings.Cut(file, "/")
		r.GitHub.PutPolicy("acme", repository, identity, "issuer: "+r.Issuer.URL()+"\n"+rest)
	}
	return r
}

// rigPolicies are the policies of acme, by repository and identity, without
// their issuer.
var rigPolicies = map[string]string{
	"app/reader":        "subject: repo:acme/app:ref:refs/heads/main\nclaim_pattern: {repository: acme/.*}\npermissions: {contents: read}\n",
	"app/issues":        "subject: repo:acme/app:ref:refs/heads/main\npermissions: {issues: write}\n",
	"app/writer":        "subject: repo:acme/app:ref:refs/heads/main\npermissions: {contents: write, checks: write}\n",
	"app/admin":         "subject: repo:acme/app:ref:refs/heads/main\npermissions: {administration: write}\n",
	"app/broken":        "subject: repo:acme/app:ref:refs/heads/main\npermissions: {}\n",
	"app/elsewhere":     "subject: repo:acme/app:ref:refs/heads/main\naudience: other.example.com\npermissions: {contents: read}\n",
	".github/two":       "subject_pattern: repo:acme/app:.*\nrepositories: [app, lib]\npermissions: {contents: read}\n",
	".github/all":       "subject_pattern: repo:acme/app:.*\npermissions: {contents: read}\n",
	".github/all-write": "subject_pattern: repo:acme/app:.*\npermissions: {contents: write}\n",
}

// job is the ID token of a job of acme/app on the branch main, with changes to
// its claims.
func (r *rig) job(changes map[string]any) string {
	r.t.Helper()
	token, err := r.signJob(changes)
	if err != nil {
		r.t.Fatal(err)
	}
	return token
}

// signJob is job for any goroutine.
func (r *rig) signJob(changes map[string]any) (string, error) {
	claims := ststest.GitHubActions{Owner: "acme", Repo: "app"}.Claims()
	claims["aud"] = "sts.example.com"
	maps.Copy(claims, changes)
	return r.Issuer.Sign(claims)
}

// exchange must be answered, with whatever.
func (r *rig) exchange(scope, identity, idToken string) ststest.Exchanged {
	r.t.Helper()
	x, err := r.Exchange(r.t.Context(), scope, identity, idToken)
	if err != nil {
		r.t.Fatal(err)
	}
	return x
}

// granted is an exchange that must be granted.
func (r *rig) granted(scope, identity string) ststest.Exchanged {
	r.t.Helper()
	x := r.exchange(scope, identity, r.job(nil))
	if x.Status != http.StatusOK || !r.GitHub.IsLive(x.Token) {
		r.t.Fatalf("%s as %s: %d %s, want a token", scope, identity, x.Status, x.Body)
	}
	return x
}

// reconfigure changes octo-stsd.yaml and restarts the daemon.
func (r *rig) reconfigure(change func(config map[string]any)) {
	r.t.Helper()
	r.rewriteConfig(change)
	if err := r.Restart(r.t.Context()); err != nil {
		r.t.Fatal(err)
	}
}

// rewriteConfig changes octo-stsd.yaml, for the next start.
func (r *rig) rewriteConfig(change func(config map[string]any)) {
	r.t.Helper()
	data, err := os.ReadFile(r.ConfigFile)
	if err != nil {
		r.t.Fatal(err)
	}
	config := map[string]any{}
	if err := yaml.Unmarshal(data, &config); err != nil {
		r.t.Fatal(err)
	}
	change(config)
	if data, err = yaml.Marshal(config); err != nil {
		r.t.Fatal(err)
	}
	if err := os.WriteFile(r.ConfigFile, data, 0o600); err != nil {
		r.t.Fatal(err)
	}
}

// audited is every entry of the audit log that the filter picks.
func (r *rig) audited(f audit.Filter) []audit.Entry {
	r.t.Helper()
	var entries []audit.Entry
	for record, err := range audit.Read(r.AuditDir) {
		if err != nil {
			r.t.Fatal(err)
		}
		if f.Match(record.Entry) {
			entries = append(entries, record.Entry)
		}
	}
	return entries
}

// readiness is what /readyz says: HTTP's status, the whole's state, and each
// check as "state: detail".
func (r *rig) readiness() (status int, state string, checks map[string]string) {
	r.t.Helper()
	resp, err := r.Client().Get(r.AdminURL() + "/readyz")
	if err != nil {
		r.t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		r.t.Fatal(err)
	}
	var report struct {
		State  string
		Checks []struct{ Name, State, Detail string }
	}
	if err := json.Unmarshal(body, &report); err != nil {
		r.t.Fatalf("/readyz: %v: %s", err, body)
	}
	checks = map[string]string{}
	for _, c := range report.Checks {
		checks[c.Name] = c.State + ": " + c.Detail
	}
	return resp.StatusCode, report.State, checks
}

// eventually waits until done says so, or fails after the safety limit.
func (r *rig) eventually(what string, done func() bool) {
	r.t.Helper()
	r.within(patience, what, done)
}

func (r *rig) within(limit time.Duration, what string, done func() bool) {
	r.t.Helper()
	ctx, cancel := context.WithTimeout(r.t.Context(), limit)
	defer cancel()
	for !done() {
		select {
		case <-ctx.Done():
			r.t.Fatalf("%s: not within %s", what, limit)
		case <-time.After(10 * time.Millisecond):
		}
	}
}

// ask calls the fake GitHub with an installation token, as a job would.
func (r *rig) ask(token, method, path, body string) int {
	r.t.Helper()
	req, err := http.NewRequestWithContext(r.t.Context(), method, r.GitHub.URL()+path, strings.NewReader(body))
	if err != nil {
		r.t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+token)
	resp, err := r.GitHub.Client().Do(req)
	if err != nil {
		r.t.Fatal(err)
	}
	defer resp.Body.Close()
	return resp.StatusCode
}

func tokenSHA256(token string) string {
	sum := sha256.Sum256([]byte(token))
	return hex.EncodeToString(sum[:])
}

// exitStatus is the exit status in err, or -1.
func exitStatus(err error) int {
	if e := (*exec.ExitError)(nil); errors.As(err, &e) {
		return e.ExitCode()
	}
	return -1
}

// written is all that a daemon has written: its log, and every file of its own.
func written(t *testing.T, s *ststest.Service) map[string]string {
	t.Helper()
	written := map[string]string{"the log": s.Logs()}
	for _, dir := range []string{s.AuditDir, filepath.Join(s.Dir, "state")} {
		err := filepath.WalkDir(dir, func(path string, f fs.DirEntry, err error) error {
			if err != nil || f.IsDir() {
				return err
			}
			text, err := os.ReadFile(path)
			if errors.Is(err, fs.ErrNotExist) {
				return nil // the daemon has replaced it meanwhile
			}
			written[path] = string(text)
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	return written
}
