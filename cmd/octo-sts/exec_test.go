//go:build unix

package main

import (
	"bufio"
	"context"
	"errors"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/octo-sts/appliance/sts/ststest"
)

// job is an octo-sts exec under way, whose command prints lines.
type job struct {
	t       *testing.T
	service *ststest.Service
	cmd     *exec.Cmd
	out     *bufio.Reader
}

// startJob runs a shell script under octo-sts exec, in a process group of its own as
// a shell with job control does, and returns when it has said "ready".
func startJob(t *testing.T, script string) *job {
	t.Helper()
	t.Parallel()
	bin := programs(t)
	service := startService(t, bin)
	service.GitHub.PutPolicy("acme", "app", "reader", "issuer: "+service.Issuer.URL()+"\n"+clientPolicies[[2]string{"app", "reader"}])
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	t.Cleanup(cancel)
	cmd := exec.CommandContext(ctx, filepath.Join(bin, "octo-sts"), "exec", "--url", service.URL(),
		"--scope", "acme/app", "--identity", "reader", "--token-file", "-", "--", "sh", "-c", script)
	cmd.Stdin = strings.NewReader(idToken(t, service, ststest.GitHubActions{Owner: "acme", Repo: "app"}))
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.WaitDelay = 10 * time.Second // where what it ran is still there
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	var said strings.Builder
	cmd.Stderr = &said
	// Where whoever runs this test ignores SIGHUP (nohup), exec and its command would, too.
	caught := make(chan os.Signal, 1)
	signal.Notify(caught, syscall.SIGHUP)
	t.Cleanup(func() { signal.Stop(caught) })
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	j := &job{t, service, cmd, bufio.NewReader(stdout)}
	t.Cleanup(func() {
		_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) // what is left of it
		if t.Failed() {
			t.Logf("octo-sts exec said: %s", &said)
		}
	})
	if line := j.line(); line != "ready" {
		t.Fatalf("the command said %q; octo-sts exec: %s", line, &said)
	}
	if n := len(alive(service)); n != 1 {
		t.Fatalf("%d tokens are alive while the command runs", n)
	}
	return j
}

func (j *job) line() string {
	line, _ := j.out.ReadString('\n')
	return strings.TrimSpace(line)
}

func (j *job) signal(pid int, s syscall.Signal) {
	j.t.Helper()
	if err := syscall.Kill(pid, s); err != nil {
		j.t.Fatal(err)
	}
}

// ends waits for octo-sts exec and wants that status, and no token alive.
func (j *job) ends(status int) {
	j.t.Helper()
	err := j.cmd.Wait()
	var exit *exec.ExitError
	if status == 0 && err != nil || status != 0 && (!errors.As(err, &exit) || exit.ExitCode() != status) {
		j.t.Errorf("octo-sts exec ended with %v, want %d", err, status)
	}
	if live := alive(j.service); len(live) > 0 {
		j.t.Errorf("%d tokens are alive after it", len(live))
	}
}

func TestExecPassesSIGTERMOnAndRevokes(t *testing.T) {
	j := startJob(t, `trap 'echo cleaned up; exit 7' TERM; echo ready; while :; do sleep 0.05; done`)
	j.signal(j.cmd.Process.Pid, syscall.SIGTERM)
	if line := j.line(); line != "cleaned up" {
		t.Errorf("the command said %q", line)
	}
	j.ends(7)
}

func TestExecOfACommandThatSIGTERMEnds(t *testing.T) {
	j := startJob(t, `echo ready; exec sleep 3600`)
	j.signal(j.cmd.Process.Pid, syscall.SIGTERM)
	j.ends(128 + 15)
}

func TestExecOfACommandThatSIGHUPEnds(t *testing.T) {
	j := startJob(t, `echo ready; exec sleep 3600`)
	j.signal(j.cmd.Process.Pid, syscall.SIGHUP)
	j.ends(128 + 1)
}

// Ctrl-C goes to every process of the group. The command must get it once: many take a second one
// for "at once, and never mind the state".
func TestExecLeavesCtrlCToTheCommand(t *testing.T) {
	j := startJob(t, `n=0; trap 'n=$((n+1)); echo interrupt $n' INT
echo ready; i=0; while [ $i -lt 20 ]; do sleep 0.05; i=$((i+1)); done; exit 5`)
	j.signal(-j.cmd.Process.Pid, syscall.SIGINT)
	if line := j.line(); line != "interrupt 1" {
		t.Errorf("the command said %q", line)
	}
	if line := j.line(); line != "" {
		t.Errorf("the command said %q too", line)
	}
	j.ends(5)
}

// Whoever sent SIGTERM sends SIGKILL next, so a command that does not end keeps its
// token for no longer than a few seconds.
func TestExecOfACommandThatIgnoresSIGTERM(t *testing.T) {
	j := startJob(t, `trap 'echo $$ goes on' TERM; echo ready; while :; do sleep 0.05; done`)
	j.signal(j.cmd.Process.Pid, syscall.SIGTERM)
	child, _, _ := strings.Cut(j.line(), " ")
	for deadline := time.Now().Add(time.Minute); len(alive(j.service)) > 0; time.Sleep(50 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("its token is alive a minute later")
		}
	}
	pid, err := strconv.Atoi(child)
	if err != nil {
		t.Fatalf("the command said %q", child)
	}
	j.signal(pid, syscall.SIGKILL) // so it was running still
	j.ends(128 + 9)
}

// What cannot be caught cannot be made good: the token has its hour.
func TestExecThatIsKilledRevokesNothing(t *testing.T) {
	j := startJob(t, `echo ready; exec sleep 3600`)
	j.signal(j.cmd.Process.Pid, syscall.SIGKILL)
	_, _ = j.cmd.Process.Wait()
	if live := alive(j.service); len(live) != 1 {
		t.Errorf("%d tokens are alive", len(live))
	}
}
