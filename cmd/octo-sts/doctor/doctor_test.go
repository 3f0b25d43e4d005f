package doctor

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// programs is where `make build` put the daemons, or a directory with fresh ones.
func programs(t *testing.T) string {
	t.Helper()
	if dir := os.Getenv("OCTO_STS_BIN"); dir != "" {
		return dir
	}
	dir := t.TempDir()
	build := exec.CommandContext(t.Context(), "go", "build", "-ldflags", "-X main.version=1.2.3", "-o", dir, "../../octo-stsd", "../../octo-sts-signer")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("building the daemons: %v\n%s", err, out)
	}
	return dir
}

// fakeRoot is the root directory of a machine on which nothing is wrong.
type fakeRoot struct {
	t      *testing.T
	config Config
}

const (
	goodDaemon = `domain: localhost
tls: {mode: acme}
github: {apps: [{id: 1234}]}
issuers: [{url: https://token.actions.githubusercontent.com}]
webhook: {secrets: [webhook-secret]}
audit: {directory: /var/log/octo-sts/audit}
`
	goodSigner = `socket: /run/octo-sts-signer/signer.sock
allow_users: [octo-sts]
hsms: [{module: /bin/true, token_label: octo-sts, pin_credential: hsm-pin}]
apps: [{id: 1234, keys: [app-1234]}]
checkpoint: {origin: localhost/audit, key: audit-checkpoint}
`
)

func newFakeRoot(t *testing.T, programs string) *fakeRoot {
	r := &fakeRoot{t, Config{Root: t.TempDir(), Programs: programs}}
	// Everything is the user's who runs the test, so every name of a user is his.
	account := fmt.Sprintf(":x:%d:%d:", os.Getuid(), os.Getgid())
	group := fmt.Sprintf(":x:%d:", os.Getgid())
	r.write("/etc/passwd", "root"+account+"\nocto-sts"+account+"\nocto-sts-signer"+account+"\n", 0o644)
	r.write("/etc/group", "root"+group+"\nocto-sts"+group+"\nocto-sts-signer"+group+"\n", 0o644)
	tmpfiles, err := os.ReadFile("../../../systemd/octo-sts.tmpfiles")
	if err != nil {
		t.Fatal(err)
	}
	r.write("/usr/lib/tmpfiles.d/octo-sts.conf", string(tmpfiles), 0o644)
	for _, p := range parseTmpfiles(string(tmpfiles)) {
		if p.isDirectory {
			r.directory(p.path, p.mode)
		}
	}
	r.write("/etc/octo-sts/octo-stsd.yaml", goodDaemon, 0o640)
	r.write("/etc/octo-sts/signer.yaml", strings.Replace(goodSigner, "[octo-sts]", fmt.Sprintf("[%q]", fmt.Sprint(os.Getuid())), 1), 0o640)
	r.directory("/etc/credstore", 0o700)
	r.write("/etc/credstore/hsm-pin", "1234\n", 0o600)
	r.write("/etc/credstore/webhook-secret", "secret\n", 0o600)
	return r
}

func (r *fakeRoot) directory(path string, mode os.FileMode) {
	r.t.Helper()
	full := filepath.Join(r.config.Root, path)
	if err := os.MkdirAll(full, 0o755); err != nil {
		r.t.Fatal(err)
	}
	r.chmod(path, mode)
}

func (r *fakeRoot) chmod(path string, mode os.FileMode) {
	r.t.Helper()
	if err := os.Chmod(filepath.Join(r.config.Root, path), mode); err != nil {
		r.t.Fatal(err)
	}
}

func (r *fakeRoot) write(path, text string, mode os.FileMode) {
	r.t.Helper()
	full := filepath.Join(r.config.Root, path)
	if err := os.MkdirAll(filepath.Dir(full), 0o755); err != nil {
		r.t.Fatal(err)
	}
	if err := os.WriteFile(full, []byte(text), mode); err != nil {
		r.t.Fatal(err)
	}
	r.chmod(path, mode)
}

func (r *fakeRoot) remove(path string) {
	r.t.Helper()
	if err := os.RemoveAll(filepath.Join(r.config.Root, path)); err != nil {
		r.t.Fatal(err)
	}
}

// findings are the problems and the warnings.
func (r *fakeRoot) findings() []Finding {
	r.t.Helper()
	var all []Finding
	for _, f := range Examine(r.t.Context(), r.config).Findings {
		if f.Severity != Unseen && f.Check != "disk" { // the disk is the test machine's own
			all = append(all, f)
		}
	}
	return all
}

// Each fault of a machine's files is named, once, by its check and with what to do; and without any nothing is wrong.
func TestFiles(t *testing.T) {
	bin := programs(t)
	version := versionOf(t, bin)
	const twoApps = "github: {apps: [{id: 1234}, {id: 5678}]}"
	for _, c := range []struct {
		fault       string
		make        func(*fakeRoot)
		check, what string
		mends       string // in the command, or in the advice
	}{
		{"nothing", func(*fakeRoot) {}, "", "", ""},
		{"fresh", func(r *fakeRoot) {
			r.write(daemonFile, "# domain: x\n", 0o640)
			r.write(signerFile, "---\n\n  # nothing\n", 0o640)
		}, "configuration", "not configured yet", "octo-sts-signer setup"},
		{"no file", func(r *fakeRoot) { r.remove(signerFile) }, "configuration", "signer.yaml is not there", "signer.yaml(5)"},
		{"one file of comments", func(r *fakeRoot) { r.write(daemonFile, "# x\n", 0o640) }, "configuration", "holds nothing but comments", "octo-stsd.yaml(5)"},
		{"a mistake", func(r *fakeRoot) { r.write(daemonFile, goodDaemon+"nonsense: 1\n", 0o640) }, "configuration", `octo-stsd.yaml:7: unknown key "nonsense"`, "octo-stsd check-config && systemctl reload-or-restart octo-stsd.service"},
		{"another origin", func(r *fakeRoot) {
			r.write(daemonFile, strings.Replace(goodDaemon, "/audit}", "/audit, origin: example.com/log}", 1), 0o640)
		}, "agreement", "audit.origin of octo-stsd.yaml is example.com/log", "systemctl restart"},
		{"another socket", func(r *fakeRoot) { r.write(daemonFile, goodDaemon+"signer: {socket: /run/other.sock}\n", 0o640) }, "agreement", "/run/other.sock", "ListenStream="},
		{"an App too many", func(r *fakeRoot) {
			r.write(daemonFile, strings.Replace(goodDaemon, "github: {apps: [{id: 1234}]}", strings.Replace(twoApps, "{id: 5678}", "{id: 5678, organizations: [b]}", 1), 1), 0o640)
		}, "agreement", "App 5678 of octo-stsd.yaml is not among", "systemctl reload octo-sts-signer.service"},
		{"nobody is let in", func(r *fakeRoot) { r.write(signerFile, strings.Replace(goodSigner, "octo-sts]", `"65534"]`, 1), 0o640) }, "agreement", "allow_users", "allow_users: [octo-sts]"},
		{"no user", func(r *fakeRoot) {
			r.write("/etc/passwd", strings.ReplaceAll(string(r.read("/etc/passwd")), "octo-sts-signer:", "x:"), 0o644)
		}, "users", "no user octo-sts-signer", "systemd-sysusers octo-sts.conf"},
		{"a directory is missing", func(r *fakeRoot) { r.remove("/var/lib/octo-sts") }, "directories", "/var/lib/octo-sts is not there", "systemd-tmpfiles --create octo-sts.conf"},
		{"a directory for everybody", func(r *fakeRoot) { r.chmod("/var/lib/octo-sts-signer", 0o777) }, "directories", "/var/lib/octo-sts-signer has the mode 0777, and not 0700", "chmod 0700 /var/lib/octo-sts-signer"},
		{"a configuration for everybody to write", func(r *fakeRoot) { r.chmod(daemonFile, 0o666) }, "directories", "octo-stsd.yaml has the mode 0666", "chmod 0640 " + daemonFile},
		{"no PIN", func(r *fakeRoot) { r.remove("/etc/credstore/hsm-pin") }, "credentials", "the credential hsm-pin is nowhere", "systemd-creds encrypt --name=hsm-pin - /etc/credstore.encrypted/hsm-pin && systemctl restart octo-sts-signer.service"},
		{"no secret for traces", func(r *fakeRoot) {
			r.write(daemonFile, goodDaemon+"tracing: {otlp_endpoint: 'https://otel.example:4318', otlp_credential: otel}\n", 0o640)
		}, "credentials", "the credential otel is nowhere", "systemctl restart octo-stsd.service"},
		{"a secret for everybody", func(r *fakeRoot) { r.chmod("/etc/credstore/webhook-secret", 0o644) }, "credentials", "has the mode 0644", "chmod 0600 /etc/credstore/webhook-secret"},
		{"a secret of another machine", func(r *fakeRoot) {
			r.remove("/etc/credstore/hsm-pin")
			r.write("/etc/credstore.encrypted/hsm-pin", "bm9uc2Vuc2U=\n", 0o600)
		}, "credentials", "cannot be decrypted on this machine", "systemd-creds encrypt"},
		{"a refused PIN", func(r *fakeRoot) {
			r.write("/var/lib/octo-sts-signer/"+latchName(r), `{"state":"refused","salt":"AAAAAAAAAAAAAAAAAAAAAA==","pbkdf2_sha256_600000":"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=","time":"2026-11-23T12:00:00Z"}`, 0o600)
		}, "pin", "refused the PIN of the credential hsm-pin at 2026-11-23T12:00:00Z", "rm /var/lib/octo-sts-signer/pin-"},
		{"a drop-in that opens the sandbox", func(r *fakeRoot) {
			r.write("/etc/systemd/system/octo-stsd.service.d/debug.conf", "[Service]\nUser=root\n", 0o644)
		}, "drop-ins", "debug.conf has User=root", "mv /etc/systemd/system/octo-stsd.service.d/debug.conf /etc/systemd/system/octo-stsd.service.d/debug.conf.off && systemctl daemon-reload && systemctl restart octo-stsd.service"},
		{"a unit of the administrator's", func(r *fakeRoot) { r.write("/etc/systemd/system/octo-stsd.service", "[Service]\n", 0o644) }, "drop-ins", "stands in the place of", "systemctl edit octo-stsd.service"},
	} {
		t.Run(c.fault, func(t *testing.T) {
			t.Parallel()
			r := newFakeRoot(t, bin)
			r.config.Version = version
			c.make(r)
			found := r.findings()
			if c.check == "" {
				if len(found) > 0 {
					t.Errorf("%+v", found)
				}
				return
			}
			if len(found) != 1 || found[0].Check != c.check || !strings.Contains(found[0].What, c.what) || !strings.Contains(found[0].Command+found[0].Advice, c.mends) || found[0].Why == "" {
				t.Errorf("want %s: %s, and %s; it says %+v", c.check, c.what, c.mends, found)
			}
		})
	}
}

func (r *fakeRoot) read(path string) []byte {
	r.t.Helper()
	text, err := os.ReadFile(filepath.Join(r.config.Root, path))
	if err != nil {
		r.t.Fatal(err)
	}
	return text
}

// latchName is the file of the token of goodSigner.
func latchName(r *fakeRoot) string {
	m := newMachine(r.t.Context(), r.config)
	return m.signer.HSMs[0].LatchName()
}

func versionOf(t *testing.T, bin string) string {
	t.Helper()
	out, err := exec.Command(filepath.Join(bin, "octo-stsd"), "version").Output()
	if err != nil {
		t.Fatal(err)
	}
	return strings.Fields(string(out))[1]
}

// The daemons are of one version with the program that asks, or it says which is not.
func TestVersions(t *testing.T) {
	r := newFakeRoot(t, programs(t))
	r.config.Version = "0.0.1"
	found := r.findings()
	if len(found) != 2 || found[0].Check != "programs" || !strings.Contains(found[0].What, "octo-sts is of version 0.0.1") || !strings.Contains(found[0].Command, "--reinstall octo-sts") {
		t.Errorf("%+v", found)
	}
	r.config.Programs = t.TempDir()
	if found = r.findings(); !strings.Contains(found[0].What, "cannot be run") {
		t.Errorf("without programs: %+v", found)
	}
	r.config.Root = t.TempDir()
	if found = r.findings(); len(found) != 1 || !strings.Contains(found[0].What, "there is no appliance on this machine") {
		t.Errorf("where none was ever installed: %+v", found)
	}
}
