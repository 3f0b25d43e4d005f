package main

import (
	"bytes"
	"context"
	"crypto/rsa"
	"encoding/pem"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/octo-sts/appliance/signer/signertest"
	"github.com/octo-sts/appliance/sts/ststest"
)

// daemonBinary is octo-stsd, for its check-config.
var daemonBinary = sync.OnceValues(func() (string, error) {
	path := filepath.Join(filepath.Dir(binary), "octo-stsd")
	build := exec.Command("go", "build", "-buildvcs=false", "-o", path, "../octo-stsd")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	out, err := build.CombinedOutput()
	if err != nil {
		err = fmt.Errorf("building octo-stsd: %w\n%s", err, out)
	}
	return path, err
})

const setupPIN = "4711-0815"

// setupRig is a machine to be set up: a SoftHSM with tokens, directories, and a GitHub.
type setupRig struct {
	t      *testing.T
	dir    string
	gitHub *ststest.GitHub
	soft   *signertest.SoftHSM
	env    []string
	// flags are those of a good run, with one HSM.
	flags []string
}

func newSetupRig(t *testing.T, c ststest.GitHubConfig) *setupRig {
	t.Helper()
	r := &setupRig{t: t, dir: t.TempDir()}
	var err error
	if r.soft, err = signertest.InitSoftHSM(t.Context(), r.dir, "first", setupPIN); err != nil {
		t.Fatal(err)
	}
	if r.gitHub, err = ststest.NewGitHub(t.Context(), c); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(r.gitHub.Close)
	r.gitHub.AddRepository("acme", ".github")
	if err := os.WriteFile(r.path("ca.pem"), r.gitHub.CAPEM(), 0o600); err != nil {
		t.Fatal(err)
	}
	// A host key of its own, so that the machine's is not touched and no privilege is needed.
	r.env = []string{r.soft.Env(), "SYSTEMD_CREDENTIAL_SECRET=" + r.path("host-key")}
	uid := strconv.Itoa(os.Getuid())
	r.flags = []string{
		"--domain", "sts.example.com", "--hsm", r.soft.Module + ":first", "--ca-file", r.path("ca.pem"),
		"--github-url", strings.TrimSuffix(r.gitHub.URL(), c.BasePath), "--daemon-user", uid, "--signer-user", uid,
		"--config-dir", r.path("etc"), "--credentials-dir", r.path("credstore"), "--state-dir", r.path("state"),
	}
	if c.BasePath == "" {
		r.flags = append(r.flags, "--api-url", r.gitHub.URL())
	}
	return r
}

func (r *setupRig) path(name string) string { return filepath.Join(r.dir, name) }

func (r *setupRig) read(name string) string {
	r.t.Helper()
	data, err := os.ReadFile(r.path(name))
	if err != nil {
		r.t.Fatal(err)
	}
	return string(data)
}

// running is a setup under way.
type running struct {
	*setupRig
	cmd    *exec.Cmd
	output *syncBuffer
	shown  chan struct{} // on a terminal: closed when output has all of it
}

// syncBuffer is a buffer that is read while a process writes it.
type syncBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer // guarded by mu
}

func (b *syncBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

func (b *syncBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}

// start runs setup, under wrap, with pins as the lines of its standard input.
func (r *setupRig) start(wrap []string, pins string, more ...string) *running {
	r.t.Helper()
	args := slices.Concat(wrap, []string{binary, "setup"}, r.flags, more)
	ctx, cancel := context.WithTimeout(r.t.Context(), time.Minute) // for safety
	r.t.Cleanup(cancel)
	x := &running{setupRig: r, cmd: exec.CommandContext(ctx, args[0], args[1:]...), output: &syncBuffer{}}
	x.cmd.Env = append(os.Environ(), r.env...)
	if pins != "" {
		x.cmd.Args = append(x.cmd.Args, "--pin-stdin")
		x.cmd.Stdin = strings.NewReader(pins)
	}
	x.cmd.Stdout, x.cmd.Stderr = x.output, x.output
	if err := x.cmd.Start(); err != nil {
		r.t.Fatal(err)
	}
	return x
}

var pageAddress = regexp.MustCompile(`http://127\.0\.0\.1:\d+/\w+/`)

// page waits for the address of the page.
func (x *running) page() string {
	x.t.Helper()
	for deadline := time.Now().Add(30 * time.Second); time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
		if address := pageAddress.FindString(x.output.String()); address != "" {
			return address
		}
	}
	_ = x.cmd.Process.Kill()
	_ = x.cmd.Wait()
	x.t.Fatalf("there is no page:\n%s", x.output)
	return ""
}

// agree is the person at the browser: the form with changes, the manifest, the button at GitHub.
func (x *running) agree(changes map[string]string) {
	x.t.Helper()
	b := newBrowser(x.t, x.gitHub.Client())
	b.open(x.page())
	f := b.form()
	f.fields.Set("name", "Our STS")
	for name, value := range changes {
		f.fields.Del(name)
		if value != "" {
			f.fields.Set(name, value)
		}
	}
	b.submit(f)
	if b.status != http.StatusOK {
		x.t.Fatalf("the form: %d\n%s", b.status, b.text)
	}
	f = b.form()
	if shown := b.text; !strings.Contains(shown, "&#34;default_permissions&#34;") {
		x.t.Errorf("the manifest is not shown:\n%s", shown)
	}
	b.submit(f)
	if b.status != http.StatusOK || !strings.Contains(b.text, "GitHub has made the App") {
		x.t.Fatalf("back from GitHub at %s: %d\n%s", b.at, b.status, b.text)
	}
}

// end waits for setup to end, and is its exit status and what it said.
func (x *running) end() (status int, said string) {
	x.t.Helper()
	_ = x.cmd.Wait()
	if x.shown != nil {
		<-x.shown
	}
	return x.cmd.ProcessState.ExitCode(), x.output.String()
}

// run runs a program in the rig's environment.
func (r *setupRig) run(env []string, program string, args ...string) (string, int) {
	r.t.Helper()
	cmd := exec.CommandContext(r.t.Context(), program, args...)
	cmd.Env = slices.Concat(os.Environ(), r.env, env)
	out, _ := cmd.CombinedOutput()
	return string(out), cmd.ProcessState.ExitCode()
}

// decrypt is what a credential holds.
func (r *setupRig) decrypt(name string) string {
	r.t.Helper()
	out, status := r.run(nil, "sh", "-c", `systemd-creds decrypt --newline=no --name="$1" "$2" - 2>/dev/null`, "sh", name, r.path("credstore/"+name))
	if status != 0 {
		r.t.Fatalf("decrypting %s: %s", name, out)
	}
	return out
}

// pins writes the PINs as the unit's credentials would be, and is the environment that names them.
func (r *setupRig) pins(names ...string) []string {
	r.t.Helper()
	if err := os.MkdirAll(r.path("credentials"), 0o700); err != nil {
		r.t.Fatal(err)
	}
	for _, name := range names {
		if err := os.WriteFile(r.path("credentials/"+name), []byte(setupPIN), 0o600); err != nil {
			r.t.Fatal(err)
		}
	}
	return []string{"CREDENTIALS_DIRECTORY=" + r.path("credentials")}
}

// app is the one that GitHub made, and the key that it knows it by.
func (r *setupRig) app() (made ststest.AppSecrets, key *rsa.PublicKey) {
	r.t.Helper()
	made = r.gitHub.LastSecrets()
	if made.AppID == 0 {
		r.t.Fatal("GitHub has made no App")
	}
	keys := r.gitHub.AppKeys(made.AppID)
	if len(keys) != 1 {
		r.t.Fatalf("the App has %d keys, want one", len(keys))
	}
	return made, keys[0]
}

// checkConfigs has both programs read what was written.
func (r *setupRig) checkConfigs() {
	r.t.Helper()
	daemon, err := daemonBinary()
	if err != nil {
		r.t.Fatal(err)
	}
	for _, c := range []struct{ program, file string }{{daemon, "etc/octo-stsd.yaml"}, {binary, "etc/signer.yaml"}} {
		if out, status := r.run(nil, c.program, "check-config", "--config", r.path(c.file)); status != 0 {
			r.t.Errorf("check-config: %s\n%s", out, r.read(c.file))
		}
		if info, err := os.Stat(r.path(c.file)); err != nil || info.Mode() != 0o640 {
			r.t.Errorf("%s: %v %v, want mode 0640", c.file, info.Mode(), err)
		}
	}
}

// noneLeaks searches everything that a setup wrote and said for secrets, and what the kernel was asked to do.
func (r *setupRig) noneLeaks(secrets map[string]string, said, traceFile string) {
	r.t.Helper()
	// What is in a private key's PEM and in nothing else: its first line, and one from its middle.
	given := r.gitHub.LastSecrets().PEM
	lines := strings.Split(strings.TrimSpace(given), "\n")
	block, _ := pem.Decode([]byte(given))
	if block == nil || len(lines) < 10 {
		r.t.Fatal("GitHub gave no PEM")
	}
	secrets["first line of the private key"], secrets["line of the private key"] = lines[1], lines[len(lines)/2]
	secrets["PEM header"] = "PRIVATE KEY-----"
	secrets["private key, as DER"] = string(block.Bytes[300:332])
	secrets["client secret"] = r.gitHub.LastSecrets().ClientSecret
	for name, secret := range secrets {
		if strings.Contains(said, secret) {
			r.t.Errorf("the %s is on the terminal", name)
		}
	}
	files := 0
	err := filepath.WalkDir(r.dir, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || !entry.Type().IsRegular() || path == traceFile {
			return err
		}
		files++
		data, err := os.ReadFile(path)
		for name, secret := range secrets {
			if bytes.Contains(data, []byte(secret)) {
				r.t.Errorf("the %s is in %s", name, path)
			}
		}
		return err
	})
	if err != nil || files < 6 {
		r.t.Errorf("searched %d files: %v", files, err)
	}
	r.searchTrace(secrets, traceFile)
}

// searchTrace looks through strace's record: a secret may be written to a pipe, which is how systemd-creds gets it, and
// nowhere else.
func (r *setupRig) searchTrace(secrets map[string]string, traceFile string) {
	r.t.Helper()
	data, err := os.ReadFile(traceFile)
	if os.IsNotExist(err) {
		return // this one was not traced
	}
	if err != nil {
		r.t.Fatal(err)
	}
	toPipe := regexp.MustCompile(`write\(\d+<pipe:`)
	piped := 0
	for line := range strings.SplitSeq(string(data), "\n") {
		for name, secret := range secrets {
			switch {
			case !strings.Contains(line, secret):
			case toPipe.MatchString(line) && (name == "PIN" || name == "webhook secret"):
				piped++
			default:
				r.t.Errorf("the %s is in a system call: %.200s", name, line)
			}
		}
	}
	if piped < 2 || !strings.Contains(string(data), "systemd-creds") {
		r.t.Errorf("the trace shows %d secrets going to systemd-creds, want the PIN's and the webhook's", piped)
	}
}
