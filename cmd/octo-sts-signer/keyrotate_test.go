package main

import (
	"bytes"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/octo-sts/appliance/signer"
	"github.com/octo-sts/appliance/signer/signertest"
	"github.com/octo-sts/appliance/sts/ststest"
)

// rotateRig is a running signer with two Apps, and a GitHub that knows them.
type rotateRig struct {
	*signertest.Signer
	t      *testing.T
	gitHub *ststest.GitHub
	ca     string
}

func newRotateRig(t *testing.T, c signertest.Config) *rotateRig {
	t.Helper()
	c.AppIDs = []int64{12, 34}
	r := &rotateRig{Signer: start(t, c), t: t, ca: filepath.Join(t.TempDir(), "ca.pem")}
	var err error
	if r.gitHub, err = ststest.NewGitHub(t.Context(), ststest.GitHubConfig{BasePath: "/api/v3"}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(r.gitHub.Close)
	for _, id := range c.AppIDs {
		r.gitHub.AddApp(id, r.PublicKey(id), nil)
	}
	if err := os.WriteFile(r.ca, r.gitHub.CAPEM(), 0o600); err != nil {
		t.Fatal(err)
	}
	return r
}

// command runs a key command.
func (r *rotateRig) command(stdin string, args ...string) (string, int) {
	r.t.Helper()
	cmd := exec.CommandContext(r.t.Context(), binary, append([]string{"key"}, append(args, "--config", r.ConfigFile())...)...)
	cmd.Env = append(os.Environ(), r.Env()...)
	cmd.Stdin = strings.NewReader(stdin)
	out, _ := cmd.CombinedOutput()
	return string(out), cmd.ProcessState.ExitCode()
}

func (r *rotateRig) rotate(pem string, more ...string) (string, int) {
	r.t.Helper()
	return r.command(pem, append([]string{"rotate", "--app", "12", "--pem", "-", "--api-url", r.gitHub.URL(), "--ca-file", r.ca}, more...)...)
}

func (r *rotateRig) config() string {
	r.t.Helper()
	data, err := os.ReadFile(r.ConfigFile())
	if err != nil {
		r.t.Fatal(err)
	}
	return string(data)
}

// keys are those of App 12 in signer.yaml.
func (r *rotateRig) keys() []string {
	r.t.Helper()
	config, err := signer.LoadConfig(r.ConfigFile())
	if err != nil {
		r.t.Fatal(err)
	}
	app, _ := config.App(12)
	return app.Keys
}

// inToken says whether the token has a key under label.
func (r *rotateRig) inToken(label string) bool {
	r.t.Helper()
	out, status := r.command("", "list", "--output", "json")
	if status != 0 {
		r.t.Fatal(out)
	}
	return strings.Contains(out, strconv.Quote(label))
}

func newPEM(t *testing.T) (*rsa.PublicKey, string) {
	t.Helper()
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	return &key.PublicKey, string(pem.EncodeToMemory(&pem.Block{Type: "RSA PRIVATE KEY", Bytes: x509.MarshalPKCS1PrivateKey(key)}))
}

// signing is the label and the fingerprint that the running signer signs for App 12 with.
func (r *rotateRig) signing() (label, fingerprint string) {
	r.t.Helper()
	status, err := r.Status(r.t.Context())
	if err != nil {
		r.t.Fatal(err)
	}
	for _, app := range status.Apps {
		if app.AppID == 12 && app.Ready {
			return app.Key, app.Fingerprint
		}
	}
	return "", ""
}

// Two rotations on one day and a retirement: what the file says otherwise stays, and each step is confirmed.
func TestRotateAndRetire(t *testing.T) {
	r := newRotateRig(t, signertest.Config{})
	text := "# by hand\n" + r.config() + "# the end\n"
	if err := os.WriteFile(r.ConfigFile(), []byte(text), 0o640); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(r.ConfigFile(), 0o640); err != nil {
		t.Fatal(err)
	}
	dated := regexp.MustCompile(`^app-12-20\d{6}(-2)?$`)
	labels := []string{"app-12"}
	for range 2 {
		key, text := newPEM(t)
		r.gitHub.AddApp(12, key, nil)
		out, status := r.rotate(text)
		keys := r.keys()
		if status != 0 || !strings.Contains(out, "The running signer signs with it.") || !dated.MatchString(keys[0]) || !slices.Equal(keys[1:], labels) {
			t.Fatalf("exit status %d, keys %q:\n%s", status, keys, out)
		}
		labels = keys
		if label, fingerprint := r.signing(); label != keys[0] || fingerprint != signer.Fingerprint(key) {
			t.Errorf("it signs with %s, %s", label, fingerprint)
		}
		if out, status := r.rotate(text); status != 1 || !strings.Contains(out, "with which App 12 signs already") || !slices.Equal(r.keys(), labels) {
			t.Errorf("the same key again: exit status %d\n%s", status, out)
		}
	}
	for _, c := range []struct {
		stdin, label string
		more         []string
		status       int
		want         string
	}{
		{"yes\n", labels[0], nil, 2, "is the key that App 12 signs with"},
		{"yes\n", "absent", nil, 2, `App 12 has no key "absent"`},
		{"yes\n", "app-34", nil, 2, `label "app-34" belongs to App 34`},
		{"no\n", "app-12", nil, 1, "not confirmed: nothing was changed"},
		{"", "app-12", nil, 1, "not confirmed: nothing was changed"},
		{"yes\n", "app-12", nil, 0, `destroyed the key "app-12"`},
		{"", labels[1], []string{"--yes"}, 0, "Delete the key at GitHub too"},
	} {
		before := r.config()
		out, status := r.command(c.stdin, append([]string{"retire", "--app", "12", "--key", c.label}, c.more...)...)
		if status != c.status || !strings.Contains(out, c.want) {
			t.Errorf("retire %s: exit status %d, want %d and %q:\n%s", c.label, status, c.status, c.want, out)
		}
		if status != 0 && (r.config() != before || !r.inToken(labels[0])) {
			t.Errorf("retire %s changed something", c.label)
		}
		if status == 0 && (slices.Contains(r.keys(), c.label) || r.inToken(c.label)) {
			t.Errorf("%s is still there", c.label)
		}
	}
	if want := strings.Replace(text, "app-12", labels[0], 1); r.config() != want {
		t.Errorf("signer.yaml is\n%s\nwant\n%s", r.config(), want)
	}
	if info, err := os.Stat(r.ConfigFile()); err != nil || info.Mode() != 0o640 {
		t.Errorf("%v %v", info.Mode(), err)
	}
	if _, err := r.Client().AppJWT(t.Context(), 12); err != nil {
		t.Error(err)
	}
}

// Whatever fails, the key before goes on signing, and what was imported in vain is not left behind.
func TestRotateFails(t *testing.T) {
	r := newRotateRig(t, signertest.Config{})
	before := r.config()
	stranger, strangerPEM := newPEM(t)
	for _, c := range []struct {
		name    string
		prepare func()
		pem     string
		more    []string
		status  int
		want    string
	}{
		{"a key that GitHub does not know", func() {}, strangerPEM, nil, 1, "GitHub does not accept a JWT for App 12"},
		{"GitHub is away", func() {
			r.gitHub.AddApp(12, stranger, nil)
			r.gitHub.Fail(ststest.Fault{Route: ststest.AppRoute, Status: http.StatusBadGateway, Count: 1})
		}, strangerPEM, nil, 1, "HTTP 502"},
		{"another App's label", func() {}, strangerPEM, []string{"--label", "app-34"}, 2, `label "app-34" belongs to App 34`},
		{"the checkpoint key's label", func() {}, strangerPEM, []string{"--label", "audit-checkpoint"}, 2, "that of the checkpoint key"},
		{"a label with another key", func() {}, strangerPEM, []string{"--label", "app-12"}, 1, `label "app-12" is already in the token, with another key`},
		{"no key", func() {}, "-----BEGIN CERTIFICATE-----", nil, 2, "reading the private key from standard input"},
		{"no App", func() {}, strangerPEM, []string{"--app", "7"}, 2, "lists no App 7"},
		{"shredding standard input", func() {}, strangerPEM, []string{"--shred"}, 2, "--shred needs a file"},
		{"a file that cannot be edited", func() {
			unusual := regexp.MustCompile(`- app-12\n`).ReplaceAllString(before, "-\n      app-12\n")
			if err := os.WriteFile(r.ConfigFile(), []byte(unusual), 0o600); err != nil || unusual == before {
				t.Fatal(err)
			}
		}, strangerPEM, nil, 2, "not changed automatically"},
	} {
		t.Run(c.name, func(t *testing.T) {
			defer func() {
				if err := os.WriteFile(r.ConfigFile(), []byte(before), 0o600); err != nil {
					t.Fatal(err)
				}
			}()
			c.prepare()
			text := r.config()
			out, status := r.rotate(c.pem, c.more...)
			if status != c.status || !strings.Contains(out, c.want) {
				t.Errorf("exit status %d, want %d and %q:\n%s", status, c.status, c.want, out)
			}
			if r.config() != text {
				t.Error("signer.yaml was changed")
			}
		})
	}
	if out, _ := r.command("", "list"); strings.Contains(out, "app-12-") {
		t.Errorf("a key is left in the token:\n%s", out)
	}
	if label, fingerprint := r.signing(); label != "app-12" || fingerprint != signer.Fingerprint(r.PublicKey(12)) {
		t.Errorf("it signs with %s, %s", label, fingerprint)
	}
}

// Without a running signer, and with one that does not answer this user, the operator is told. Where nobody knows whether
// the running one still signs with a key, that is not destroyed unasked.
func TestRotateWithoutConfirmation(t *testing.T) {
	r := newRotateRig(t, signertest.Config{AllowUsers: []string{strconv.Itoa(os.Getuid() + 1)}})
	for _, c := range []struct {
		want string
		asks bool // key retire does, once more
		then func() error
	}{{"look for \"configuration taken up\" in its log", true, r.Stop}, {"no signer is running: the configuration counts from its next start", false, func() error { return nil }}} {
		key, text := newPEM(t)
		r.gitHub.AddApp(12, key, nil)
		if out, status := r.rotate(text); status != 0 || !strings.Contains(out, c.want) {
			t.Errorf("exit status %d, want %q:\n%s", status, c.want, out)
		}
		retire := []string{"retire", "--app", "12", "--key", r.keys()[1]}
		if out, status := r.command("yes\n", retire...); (status != 0) != c.asks || strings.Contains(out, "may still sign") != c.asks || r.inToken(retire[4]) != c.asks {
			t.Errorf("retired with one yes: exit status %d:\n%s", status, out)
		}
		if err := c.then(); err != nil {
			t.Error(err)
		}
	}
	if len(r.keys()) != 1 {
		t.Errorf("keys %q", r.keys())
	}
}

// A shredded file is gone, and so is what it held: whoever has it open still reads noise. One that fails stays.
func TestRotateShreds(t *testing.T) {
	r := newRotateRig(t, signertest.Config{})
	key, text := newPEM(t)
	path := filepath.Join(t.TempDir(), "app.pem")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	held, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer held.Close()
	args := func(path string) []string {
		return []string{"rotate", "--app", "12", "--pem", path, "--shred", "--api-url", r.gitHub.URL(), "--ca-file", r.ca}
	}
	if out, status := r.command("", args(path)...); status != 1 {
		t.Fatalf("a key that GitHub does not know: exit status %d\n%s", status, out)
	}
	if data, err := os.ReadFile(path); err != nil || string(data) != text {
		t.Fatalf("after a failure the PEM is not what it was: %v", err)
	}
	r.gitHub.AddApp(12, key, nil)
	link := path + ".link"
	if err := os.Symlink(path, link); err != nil {
		t.Fatal(err)
	}
	if out, status := r.command("", args(link)...); status != 2 || !strings.Contains(out, "opening the PEM file to read and later shred it") {
		t.Errorf("a symbolic link: exit status %d\n%s", status, out)
	}
	if err := os.Link(path, path+".other"); err != nil {
		t.Fatal(err)
	}
	if out, status := r.command("", args(path)...); status != 2 || !strings.Contains(out, "it has 2 names") {
		t.Errorf("a file of two names: exit status %d\n%s", status, out)
	}
	if err := os.Remove(path + ".other"); err != nil {
		t.Fatal(err)
	}
	if out, status := r.command("", args(path)...); status != 0 || !strings.Contains(out, "was overwritten and removed") {
		t.Errorf("exit status %d\n%s", status, out)
	}
	if _, err := os.Stat(path); !os.IsNotExist(err) {
		t.Errorf("the file: %v", err)
	}
	data, err := io.ReadAll(held)
	if err != nil || len(data) != len(text) || bytes.Contains(data, []byte("PRIVATE KEY")) || bytes.Contains(data, []byte(strings.Split(text, "\n")[1])) {
		t.Errorf("what the file held can still be read (%d bytes, %v)", len(data), err)
	}
}
