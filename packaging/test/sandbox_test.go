//go:build packages

package packaging_test

import (
	"bufio"
	"encoding/json"
	"fmt"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"
)

// What a service may do of all that the program escape tries; everything else has to fail.
var (
	daemonMay = []string{
		"open a TCP socket", "open a UDP socket", "open a TCP socket of IPv6", "connect to an address outside", "connect to this machine's loopback",
	}
	signerMay = []string{"load an HSM's module"}
)

// What the signer sees of the machine, beside libraries and what the kernel shows of itself; it has SoftHSM for its HSM.
var (
	signerReads = []string{
		"/etc/group", "/etc/ld.so.cache", "/etc/localtime", "/etc/nsswitch.conf", "/etc/octo-sts/signer.yaml", "/etc/passwd", "/etc/ssl/openssl.cnf",
		"/etc/softhsm/softhsm2.conf", "/usr/bin/octo-sts-signer", "/usr/bin/kill", "/run/systemd/journal/socket", "/run/systemd/journal/stdout", "/run/systemd/notify",
	}
	signerReadsIn  = []string{"/run/credentials/octo-sts-signer.service/", "/var/lib/octo-sts-signer/", "/var/lib/softhsm/"}
	signerWrites   = []string{"/dev/mqueue", "/dev/shm", "/tmp", "/var/tmp", "/run/systemd/journal/socket", "/run/systemd/journal/stdout", "/run/systemd/notify"}
	signerWritesIn = []string{"/var/lib/octo-sts-signer", "/var/lib/softhsm"}
)

// A program that has taken over octo-stsd, or octo-sts-signer, is still in the unit's sandbox.
func TestSandboxes(t *testing.T) {
	m := bootSandboxes(t)
	controls := map[string]map[string]string{
		"root":       m.attempts("systemd-run --quiet --pipe --wait --collect"),
		"plain user": m.attempts("systemd-run --quiet --pipe --wait --collect --property=User=nobody"),
	}
	m.run("systemctl start octo-sts-signer.service")
	t.Run("octo-stsd", func(t *testing.T) {
		m.escapeAs("octo-stsd", "attempts", "octo-sts-signer.service")
		may := daemonMay
		if strings.Contains(m.run("systemctl --version"), "-BPF_FRAMEWORK") {
			t.Log("this systemd was built without what SocketBindDeny= needs")
			may = append(slices.Clone(may), "listen on port 8443")
		}
		judge(t, m.result("octo-stsd"), controls, may)
	})
	t.Run("outbound-allow-list", func(t *testing.T) {
		m.dropIn("octo-stsd", "outbound-allow-list")
		defer m.run("rm /etc/systemd/system/octo-stsd.service.d/outbound-allow-list.conf")
		m.escapeAs("octo-stsd", "attempts", "octo-sts-signer.service")
		got := m.result("octo-stsd")
		if got["connect to an address outside"] == "" || got["connect to this machine's loopback"] != "" {
			t.Errorf("an address that is not listed: %q; one that is: %q", got["connect to an address outside"], got["connect to this machine's loopback"])
		}
		t.Logf("an address that is not listed: %s", got["connect to an address outside"])
	})
	t.Run("audit", func(t *testing.T) { spoilAudit(t, m) })
	t.Run("octo-sts-signer", func(t *testing.T) {
		m.escapeAs("octo-sts-signer", "attempts", "stand-in.service")
		judge(t, m.result("octo-sts-signer"), controls, signerMay)
	})
	t.Run("what the signer sees", func(t *testing.T) {
		m.escapeAs("octo-sts-signer", "view", "stand-in.service")
		var seen struct{ Readable, Writable []string }
		if err := json.Unmarshal([]byte(m.output("octo-sts-signer")), &seen); err != nil {
			t.Fatal(err)
		}
		for _, c := range []struct {
			verb          string
			paths, within []string
			seen          []string
		}{{"read", signerReads, signerReadsIn, seen.Readable}, {"write to", signerWrites, signerWritesIn, seen.Writable}} {
			t.Logf("it can %s %q", c.verb, c.seen)
			for _, path := range c.seen {
				if !slices.Contains(c.paths, path) && !slices.ContainsFunc(c.within, func(dir string) bool { return strings.HasPrefix(path, dir) }) {
					t.Errorf("it can %s %s", c.verb, path)
				}
			}
		}
	})
}

// judge wants every attempt to have failed, but those that the service may make, and says what else shows that it is the
// unit that stops them: that a plain user outside gets through, or that root does. An attempt that root does not get
// through with either, in this container, is not shown here.
func judge(t *testing.T, got map[string]string, controls map[string]map[string]string, may []string) {
	if len(got) < 100 {
		t.Fatalf("only %d attempts were made", len(got))
	}
	for _, name := range may {
		if _, tried := got[name]; !tried {
			t.Errorf("%s: nobody tried", name)
		}
	}
	by := map[string][]string{}
	for name, denied := range got {
		if allowed := slices.Contains(may, name); denied == "" != allowed {
			t.Errorf("%s: allowed is %t, and it ended with %q", name, allowed, denied)
			continue
		} else if allowed {
			continue
		}
		switch {
		case controls["plain user"][name] == "":
			by["stopped by the sandbox: a plain user gets through outside"] = append(by["stopped by the sandbox: a plain user gets through outside"], name)
		case controls["root"][name] == "":
			by["stopped by the sandbox or by being another user: root gets through outside"] = append(by["stopped by the sandbox or by being another user: root gets through outside"], name)
		default:
			by["not shown here: root does not get through in this container either"] = append(by["not shown here: root does not get through in this container either"], name+" ("+denied+")")
		}
	}
	for how, names := range by {
		slices.Sort(names)
		t.Logf("%d %s:\n  %s", len(names), how, strings.Join(names, "\n  "))
	}
}

// What the daemon's user can do to the log, it can do; audit verify says so.
func spoilAudit(t *testing.T, m *sandboxes) {
	m.run("rm -rf /var/log/octo-sts/audit/*")
	m.escapeAs("octo-stsd", "audit append", "octo-sts-signer.service")
	m.run("cp -a /var/log/octo-sts/audit /root/audit && cp /root/audit/checkpoint /root/kept")
	const verify = "octo-sts audit verify --key /root/vkey --checkpoint /root/kept /var/log/octo-sts/audit"
	t.Log(m.run(verify))
	for _, how := range []string{"truncate", "empty", "rewrite", "rename", "swap", "delete", "everything"} {
		m.escapeAs("octo-stsd", "audit "+how, "octo-sts-signer.service")
		if out, status := m.try(verify); status != 1 {
			t.Errorf("%s: audit verify ends with %d:\n%s", how, status, out)
		} else {
			t.Logf("%s: %s", how, firstLine(out))
		}
		m.run("find /var/log/octo-sts/audit -mindepth 1 -delete && cp -a /root/audit/. /var/log/octo-sts/audit/ && " + verify)
	}
}

func firstLine(text string) string {
	line, _, _ := strings.Cut(strings.TrimSpace(text), "\n")
	return line
}

// sandboxes is a machine with the package, a SoftHSM token, and the program escape.
type sandboxes struct{ *machine }

func bootSandboxes(t *testing.T) *sandboxes {
	m := &sandboxes{newMachine(t, suites()[0])}
	// Without these, root in the container is denied much, and it would not show what denies it to a unit.
	m.options = []string{
		"--capability=CAP_BPF,CAP_PERFMON,CAP_SYS_MODULE,CAP_SYS_TIME,CAP_SYS_RAWIO,CAP_SYS_PACCT,CAP_SYSLOG",
		"--system-call-filter=bpf perf_event_open fanotify_init open_by_handle_at kexec_load @keyring @module @raw-io @swap",
	}
	program := filepath.Join(t.TempDir(), "escape")
	build := exec.Command("go", "build", "-tags", "packages", "-o", program, "./escape")
	build.Env = append(build.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("building escape: %v\n%s", err, out)
	}
	m.copyIn(program, "/usr/local/bin/escape")
	m.copyIn(debOf(t, runtime.GOARCH), "/root/octo-sts.deb")
	m.boot()
	m.run("dpkg --install /root/octo-sts.deb")
	m.run(`usermod --append --groups softhsm octo-sts-signer
		runuser -u octo-sts-signer -- softhsm2-util --init-token --free --label octo-sts --pin 1234 --so-pin 12345678
		printf 1234 | systemd-creds encrypt --name=hsm-pin - /etc/credstore.encrypted/hsm-pin
		printf secret | systemd-creds encrypt --name=webhook-secret - /etc/credstore.encrypted/webhook-secret
		mkdir -p /home/somebody`)
	m.write("/etc/octo-sts/signer.yaml", signerOfSandboxes, 0o640)
	m.run("chgrp octo-sts-signer /etc/octo-sts/signer.yaml")
	m.dropIn("octo-sts-signer", "softhsm")
	generated := m.run("systemd-run --quiet --pipe --wait --property=LoadCredentialEncrypted=hsm-pin octo-sts-signer key generate")
	for line := range strings.Lines(generated) {
		if strings.HasPrefix(line, "sts.example.com/audit+") {
			m.write("/root/vkey", line, 0o644)
		}
	}
	// It stands for the daemon where the signer's sandbox is tried: the same user, with a credential.
	m.run("systemd-run --quiet --unit=stand-in --property=User=octo-sts --property=LoadCredentialEncrypted=webhook-secret sleep infinity")
	return m
}

// dropIn puts one of ours in force, at the unit's next start.
func (m *sandboxes) dropIn(unit, name string) {
	m.t.Helper()
	path := unit + ".service.d/" + name + ".conf"
	m.run("mkdir -p /etc/systemd/system/" + filepath.Dir(path))
	m.copyIn("../../systemd/drop-ins/"+path, "/etc/systemd/system/"+path)
	m.run("systemctl daemon-reload")
}

const signerOfSandboxes = `socket: /run/octo-sts-signer/signer.sock
allow_users: [octo-sts]
hsms:
  - module: /usr/lib/softhsm/libsofthsm2.so
    token_label: octo-sts
    pin_credential: hsm-pin
apps:
  - id: 1234
    keys: [app-1234]
checkpoint:
  origin: sts.example.com/audit
  key: audit-checkpoint
`

// environment is what escape is told.
func (m *sandboxes) environment(task, own, other string) []string {
	pid := strings.TrimSpace(m.run("systemctl show --property=MainPID --value " + other))
	return []string{
		"ESCAPE=" + task, "ESCAPE_OTHER=" + other, "ESCAPE_OTHER_PID=" + pid, "ESCAPE_OWN_DIRECTORIES=" + own, "ESCAPE_OUTSIDE=" + worldAddress + ":443",
		"ESCAPE_SECRET_DIRECTORIES=/etc/credstore.encrypted:/var/lib/private:" + map[string]string{
			"octo-sts-signer.service": "/var/lib/octo-sts-signer:/var/lib/softhsm/tokens",
			"stand-in.service":        "/var/lib/octo-sts:/var/log/octo-sts/audit",
		}[other],
	}
}

// escapeAs runs escape as a unit's own program would run: all that differs is what is in the file, and that it ends.
func (m *sandboxes) escapeAs(unit, task, other string) {
	m.t.Helper()
	own := "/var/lib/octo-sts:/var/log/octo-sts/audit"
	if unit == "octo-sts-signer" {
		own = "/var/lib/octo-sts-signer:/var/lib/softhsm/tokens"
	}
	var dropIn strings.Builder
	dropIn.WriteString("[Service]\nType=oneshot\nRemainAfterExit=yes\nRestart=no\nWatchdogSec=0\n")
	for _, variable := range m.environment(task, own, other) {
		fmt.Fprintf(&dropIn, "Environment=%q\n", variable)
	}
	m.run("systemctl stop " + unit + ".service " + unit + ".socket 2>/dev/null; mkdir -p /run/systemd/system/" + unit + ".service.d")
	m.run("cmp -s /usr/local/bin/escape /usr/bin/" + unit + " || { cp /usr/local/bin/escape /usr/bin/.new && mv /usr/bin/.new /usr/bin/" + unit + "; }")
	if out, status := m.tryWith(dropIn.String(), "cat > /run/systemd/system/"+unit+".service.d/escape.conf && systemctl daemon-reload"); status != 0 {
		m.t.Fatal(out)
	}
	if out, status := m.try("systemctl start " + unit + ".service"); status != 0 {
		m.t.Fatalf("%s as %s: %s", task, unit, out)
	}
}

// output is what the last run of a unit printed, once all of it is in the journal.
func (m *sandboxes) output(unit string) string {
	m.t.Helper()
	var out string
	eventually(m.t, time.Minute, "what "+unit+" printed is in the journal", func() error {
		invocation := m.run("journalctl --sync; systemctl show --property=InvocationID --value " + unit + ".service")
		out = m.run("journalctl --no-pager --output=cat _SYSTEMD_UNIT=" + unit + ".service _TRANSPORT=stdout _SYSTEMD_INVOCATION_ID=" + invocation)
		if !strings.HasSuffix(out, "done\n") {
			return fmt.Errorf("it ends in %q", out[max(0, len(out)-200):])
		}
		return nil
	})
	return strings.TrimSuffix(out, "done\n")
}

func (m *sandboxes) result(unit string) map[string]string { return attemptsIn(m.t, m.output(unit)) }

// attempts runs escape under a command, outside of any sandbox but the container's.
func (m *sandboxes) attempts(command string) map[string]string {
	m.t.Helper()
	m.run("systemctl start octo-sts-signer.service")
	for _, variable := range m.environment("attempts", "/var/tmp/own", "octo-sts-signer.service") {
		command += fmt.Sprintf(" --setenv=%q", variable)
	}
	return attemptsIn(m.t, m.run("install -d -m 777 /var/tmp/own; "+command+" /usr/local/bin/escape"))
}

func attemptsIn(t *testing.T, output string) map[string]string {
	t.Helper()
	all := map[string]string{}
	lines := bufio.NewScanner(strings.NewReader(strings.TrimSuffix(output, "done\n")))
	for lines.Scan() {
		var r struct{ Attempt, Denied string }
		if err := json.Unmarshal(lines.Bytes(), &r); err != nil {
			t.Fatalf("%v in %q of:\n%s", err, lines.Text(), output)
		}
		all[r.Attempt] = r.Denied
	}
	return all
}

func debOf(t *testing.T, architecture string) string {
	t.Helper()
	found, err := filepath.Glob("../../dist/octo-sts_*_" + architecture + ".deb")
	if err != nil || len(found) != 1 {
		t.Fatalf("want one package of octo-sts for %s in dist, there are %q: run make packages", architecture, found)
	}
	return found[0]
}
