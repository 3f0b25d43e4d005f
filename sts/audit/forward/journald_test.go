package forward

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/octo-sts/appliance/sts/journald"
)

// journaldConfig: volatile, with nothing from the kernel and without the rate limit, as docs/audit.md advises.
const journaldConfig = `[Journal]
Storage=volatile
RuntimeMaxUse=64M
RateLimitIntervalSec=0
Audit=no
ReadKMsg=no
ForwardToWall=no
ForwardToSyslog=no
`

// holdJournald is, in a mount namespace of its own with an empty /run, what systemd is to journald: it holds the socket,
// and starts journald with it. It obeys lines on standard input and answers each with a line.
func holdJournald() {
	err := unix.Mount("tmpfs", "/run", "tmpfs", 0, "mode=755")
	for file, content := range map[string]string{
		"/run/systemd/journald.conf.d/test.conf": journaldConfig,
		"/run/systemd/journal/keep":              "",
		"/run/log/journal/keep":                  "",
	} {
		if err == nil {
			err = os.MkdirAll(filepath.Dir(file), 0o755)
		}
		if err == nil {
			err = os.WriteFile(file, []byte(content), 0o644)
		}
	}
	answer := func(err error) {
		if err != nil {
			fmt.Println(err)
			return
		}
		fmt.Println("ok")
	}
	answer(err)
	var (
		socket  *os.File
		process *exec.Cmd
	)
	for lines := bufio.NewScanner(os.Stdin); lines.Scan(); {
		switch lines.Text() {
		case "listen":
			conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: journald.Socket, Net: "unixgram"})
			if err == nil {
				socket, err = conn.File()
			}
			answer(err)
		case "start": // systemd's own protocol, sd_listen_fds(3)
			process = exec.Command("/bin/sh", "-c", "LISTEN_PID=$$ exec /lib/systemd/systemd-journald")
			process.Env = append(os.Environ(), "LISTEN_FDS=1")
			process.ExtraFiles = []*os.File{socket}
			process.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
			answer(process.Start())
		case "kill":
			err := process.Process.Kill()
			_ = process.Wait() // "signal: killed" is what was wanted
			answer(err)
		case "hang":
			answer(process.Process.Signal(syscall.SIGSTOP))
		case "go on":
			answer(process.Process.Signal(syscall.SIGCONT))
		}
	}
	if process != nil {
		_ = process.Process.Kill() // it may be dead already
	}
}

// realJournald is a real one, with a journal of its own.
type realJournald struct {
	root   string // its / as seen from here
	stdin  io.Writer
	stdout *bufio.Scanner
}

// newJournald makes the place for one. After "listen" its socket is there, after "start" it runs.
func newJournald(t testing.TB) *realJournald {
	t.Helper()
	wrapper := []string{"unshare", "--mount", "--propagation", "private"}
	if os.Geteuid() != 0 {
		wrapper = append(wrapper, "--map-root-user")
	}
	cmd := childCommand(t, "journald", wrapper...)
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	j := &realJournald{fmt.Sprintf("/proc/%d/root", cmd.Process.Pid), stdin, bufio.NewScanner(stdout)}
	t.Cleanup(func() {
		stdin.Close()
		_ = cmd.Wait() // the end of the test's context has killed it, and with it journald
	})
	j.expectOK(t)
	return j
}

func (j *realJournald) tell(t testing.TB, what string) {
	t.Helper()
	if _, err := fmt.Fprintln(j.stdin, what); err != nil {
		t.Fatal(err)
	}
	j.expectOK(t)
}

func (j *realJournald) expectOK(t testing.TB) {
	t.Helper()
	if !j.stdout.Scan() || j.stdout.Text() != "ok" {
		t.Fatalf("journald's holder: %q", j.stdout.Text())
	}
}

// socket is a path that fits into an address, which has room for 107 bytes.
func (j *realJournald) socket() string { return j.root + journald.Socket }

// ctl runs journalctl on the journal.
func (j *realJournald) ctl(t testing.TB, args ...string) []byte {
	t.Helper()
	var stderr bytes.Buffer
	cmd := exec.CommandContext(t.Context(), "journalctl", append([]string{"--directory=" + j.root + "/run/log/journal", "--no-pager", "--quiet"}, args...)...)
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil && stderr.Len() > 0 { // where there is nothing yet, it says so with its status alone
		t.Fatalf("journalctl: %v: %s", err, stderr.String())
	}
	return out
}

// entries returns what octo-stsd wrote, in the journal's order.
func (j *realJournald) entries(t testing.TB) []map[string]string {
	t.Helper()
	var entries []map[string]string
	for line := range bytes.Lines(j.ctl(t, "--output=json", "--all", "--identifier=octo-stsd")) {
		var raw map[string]json.RawMessage
		if err := json.Unmarshal(line, &raw); err != nil {
			t.Fatalf("%s: %v", line, err)
		}
		entry := map[string]string{}
		for name, value := range raw {
			entry[name] = text(t, value)
		}
		entries = append(entries, entry)
	}
	return entries
}

// text reads a value of journalctl's JSON: a string, or numbers for the bytes of what is not printable.
func text(t testing.TB, value json.RawMessage) string {
	t.Helper()
	var s string
	if json.Unmarshal(value, &s) == nil {
		return s
	}
	var numbers []uint8
	var wide []int
	if err := json.Unmarshal(value, &wide); err != nil {
		t.Fatalf("%s: %v", value, err)
	}
	for _, n := range wide {
		numbers = append(numbers, uint8(n))
	}
	return string(numbers)
}

// awaitIndices waits until the journal has the entries from first up to end, and tells whether they came in order, without
// a gap, each once.
func (j *realJournald) awaitIndices(t testing.TB, first, end uint64) {
	t.Helper()
	var got []string
	for deadline := time.Now().Add(limit); uint64(len(got)) < end-first && time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		got = nil
		for _, e := range j.entries(t) {
			if e["OCTO_STS_INDEX"] != "" {
				got = append(got, e["OCTO_STS_INDEX"])
			}
		}
	}
	var want []string
	for i := first; i < end; i++ {
		want = append(want, fmt.Sprint(i))
	}
	if strings.Join(got, " ") != strings.Join(want, " ") {
		t.Fatalf("the journal has %v\nwant %v", got, want)
	}
}
