//go:build packages

package packaging_test

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// Safety limits. A container is up within seconds, except where the machine has other things to do.
const (
	bootLimit    = 2 * time.Minute
	commandLimit = 5 * time.Minute
)

// machine is a system in a container: a root, and a systemd while it is up.
type machine struct {
	t    *testing.T
	root string // as the test sees it

	options []string // more of systemd-nspawn(1)

	nspawn  *exec.Cmd // nil while it is off
	done    chan struct{}
	init    int // process ID of its systemd, as the test sees it
	console *syncBuffer
}

// newMachine has a fresh root of the suite, is off, and knows the world's names.
func newMachine(t *testing.T, suite string) *machine {
	t.Helper()
	m := &machine{t: t, root: freshRoot(t, suite)}
	m.write("/etc/hostname", "sts\n", 0o644)
	m.write("/etc/hosts", hostsFile, 0o644)
	m.write("/etc/apt/sources.list", "", 0o644) // the distribution's own mirrors are out of reach
	// Whoever says much in the journal is cut short, unless its unit says otherwise.
	m.write("/etc/systemd/journald.conf.d/strict.conf", "[Journal]\nRateLimitIntervalSec=30s\nRateLimitBurst=500\n", 0o644)
	// journald keeps everything over a restart of the machine, so that tests can ask for it.
	m.write("/var/log/journal/.keep", "", 0o644)
	return m
}

// bootMachine is newMachine, up.
func bootMachine(t *testing.T, suite string) *machine {
	t.Helper()
	m := newMachine(t, suite)
	m.boot()
	return m
}

// boot starts the machine and waits until its systemd has started everything, well or not.
func (m *machine) boot() {
	m.t.Helper()
	if m.nspawn != nil {
		m.t.Fatal("the machine is up already")
	}
	group := "$d/" + os.Getenv(insideVariable) + "/machine"
	join := `for d in ` + strings.Join(cgroupHierarchies(), " ") + `; do mkdir -p ` + group + `; echo $$ > ` + group + `/cgroup.procs || exit 1; done; exec "$@"`
	m.console = &syncBuffer{}
	m.nspawn = exec.Command("/bin/sh", append([]string{"-c", join, "sh", "systemd-nspawn", "--quiet", "--directory=" + m.root, "--machine=sts",
		"--register=no", "--keep-unit", "--boot", "--console=pipe", "--network-veth", "--link-journal=no", "--resolv-conf=off", "--timezone=off"}, m.options...)...)
	// The container is like a machine of today, whatever version of cgroups the one around it has.
	m.nspawn.Env = append(os.Environ(), "SYSTEMD_NSPAWN_UNIFIED_HIERARCHY=1")
	m.nspawn.Stdout, m.nspawn.Stderr = m.console, m.console
	m.nspawn.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := m.nspawn.Start(); err != nil {
		m.t.Fatal(err)
	}
	m.done = make(chan struct{})
	go func(cmd *exec.Cmd, done chan struct{}) { _ = cmd.Wait(); close(done) }(m.nspawn, m.done)
	m.t.Cleanup(m.off)
	eventually(m.t, bootLimit, "the machine's systemd answers", func() error {
		select {
		case <-m.done:
			m.t.Fatalf("systemd-nspawn ended:\n%s", m.console)
		default:
		}
		if m.init = childOf(m.nspawn.Process.Pid); m.init == 0 {
			return fmt.Errorf("it has no process yet")
		}
		if err := connectMachine(m.init); err != nil {
			return err
		}
		out, err := m.command(bootLimit, "systemctl is-system-running --wait").Output()
		if state := strings.TrimSpace(string(out)); state != "running" && state != "degraded" {
			return fmt.Errorf("it is %q: %v", state, err)
		}
		return nil
	})
}

// off turns the machine off as its power button would, and waits.
func (m *machine) off() {
	if m.nspawn == nil {
		return
	}
	if m.t.Failed() {
		m.showJournal()
	}
	_ = m.command(time.Minute, "systemctl poweroff").Run()
	select {
	case <-m.done:
	case <-time.After(2 * time.Minute):
		m.t.Errorf("the machine does not go down:\n%s", m.console)
		_ = m.nspawn.Process.Kill()
		<-m.done
	}
	m.nspawn = nil
}

// reboot is off and boot: what is on its disk stays.
func (m *machine) reboot() {
	m.t.Helper()
	m.off()
	m.boot()
}

// showJournal logs what the machine has to say, for whoever finds a test failed.
func (m *machine) showJournal() {
	out, _ := m.command(time.Minute, "systemctl --failed --no-pager; journalctl --no-pager --lines=100 --output=short-precise --unit=octo-stsd --unit=octo-sts-signer --unit='octo-*'").CombinedOutput()
	m.t.Logf("the machine's journal ends in:\n%s", out)
}

// command is a shell command on the machine, as root would type it, to be run by the caller.
func (m *machine) command(limit time.Duration, line string) *exec.Cmd {
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	cmd := exec.CommandContext(ctx, "nsenter", "--target", fmt.Sprint(m.init), "--mount", "--uts", "--ipc", "--net", "--pid", "--cgroup", "--",
		"/usr/bin/env", "-i", "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root", "LANG=C.UTF-8", "TERM=dumb",
		"SYSTEMD_PAGER=", "DEBIAN_FRONTEND=noninteractive", "/bin/bash", "-o", "pipefail", "-c", "cd && "+line)
	cmd.WaitDelay = 10 * time.Second
	cmd.Cancel = func() error { cancel(); return cmd.Process.Kill() }
	return cmd
}

// try runs a shell command on the machine, and is what it printed and its exit status.
func (m *machine) try(line string) (output string, status int) {
	m.t.Helper()
	return m.tryWith("", line)
}

// tryWith is try, with something on the command's standard input.
func (m *machine) tryWith(stdin, line string) (output string, status int) {
	m.t.Helper()
	var out bytes.Buffer
	cmd := m.command(commandLimit, line)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(stdin), &out, &out
	if err := cmd.Run(); cmd.ProcessState == nil {
		m.t.Fatalf("running %q: %v", line, err)
	}
	return out.String(), cmd.ProcessState.ExitCode()
}

// run runs a shell command on the machine, which has to succeed, and is what it printed.
func (m *machine) run(line string) string {
	m.t.Helper()
	out, status := m.try(line)
	if status != 0 {
		m.t.Fatalf("exit status %d of: %s\n%s", status, line, out)
	}
	return out
}

// write makes a file on the machine, and its directory where that is missing.
func (m *machine) write(path, content string, mode os.FileMode) {
	m.t.Helper()
	file := filepath.Join(m.root, path)
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		m.t.Fatal(err)
	}
	if err := os.WriteFile(file, []byte(content), mode); err != nil {
		m.t.Fatal(err)
	}
}

// read is a file of the machine.
func (m *machine) read(path string) string {
	m.t.Helper()
	data, err := os.ReadFile(filepath.Join(m.root, path))
	if err != nil {
		m.t.Fatal(err)
	}
	return string(data)
}

// copyIn puts a file or directory of this machine onto it.
func (m *machine) copyIn(from, to string) {
	m.t.Helper()
	if out, err := exec.Command("cp", "-a", "--no-preserve=ownership", from, filepath.Join(m.root, to)).CombinedOutput(); err != nil {
		m.t.Fatalf("copying %s: %v\n%s", from, err, out)
	}
}

// eventually waits for what takes an unknown time, up to a safety limit.
func eventually(t *testing.T, limit time.Duration, what string, try func() error) {
	t.Helper()
	var err error
	for deadline := time.Now().Add(limit); time.Now().Before(deadline); time.Sleep(100 * time.Millisecond) {
		if err = try(); err == nil {
			return
		}
	}
	t.Fatalf("waiting for this: %s: %v", what, err)
}
