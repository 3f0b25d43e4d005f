package signertest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/octo-sts/appliance/signer"
)

// stopWait is a safety limit for a graceful stop; after it the process is killed.
const stopWait = 20 * time.Second

// process is one run of a program.
type process struct {
	cmd  *exec.Cmd
	done chan struct{} // closed when it has ended
	err  error         // how; read after done is closed
}

func startProcess(ctx context.Context, binary string, args, env []string, logs *logBuffer) (*process, error) {
	cmd := exec.CommandContext(ctx, binary, args...)
	cmd.Env = env
	cmd.Stdout, cmd.Stderr = logs, logs
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = stopWait
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("running %s: %w", binary, err)
	}
	p := &process{cmd: cmd, done: make(chan struct{})}
	go func() {
		p.err = cmd.Wait()
		close(p.done)
	}()
	return p, nil
}

func (p *process) stop() error {
	_ = p.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-p.done:
		return p.err
	case <-time.After(stopWait):
		p.kill()
		return errors.New("it did not stop within the time for it and was killed")
	}
}

func (p *process) kill() {
	_ = p.cmd.Process.Kill()
	<-p.done
}

var errNotRunning = errors.New("the signer is not running")

// Stop sends SIGTERM and waits. It is an error where the signer ends with another status than 0.
func (s *Signer) Stop() error {
	if s.process == nil {
		return errNotRunning
	}
	p := s.process
	s.process = nil
	if err := p.stop(); err != nil {
		return fmt.Errorf("stopping octo-sts-signer: %w\n%s", err, s.Logs())
	}
	return nil
}

// Kill sends SIGKILL and waits. The socket's file stays behind, as after a crash.
func (s *Signer) Kill() error {
	if s.process == nil {
		return errNotRunning
	}
	s.process.kill()
	s.process = nil
	return nil
}

// Restart stops the signer where it runs and starts it again on the same tokens, configuration and socket. It returns once
// every App is ready.
func (s *Signer) Restart(ctx context.Context) error {
	return s.restart(ctx, func(status signer.Status) bool { return status.Ready })
}

// RestartUnready is Restart that returns once the signer answers, ready or not.
func (s *Signer) RestartUnready(ctx context.Context) error {
	return s.restart(ctx, func(signer.Status) bool { return true })
}

func (s *Signer) restart(ctx context.Context, ready func(signer.Status) bool) error {
	if s.process != nil {
		if err := s.Stop(); err != nil {
			return err
		}
	}
	return s.serve(ctx, ready)
}

// PID is the signer's process ID, 0 while it does not run.
func (s *Signer) PID() int {
	if s.process == nil {
		return 0
	}
	return s.process.cmd.Process.Pid
}

// Signal sends a signal to the signer.
func (s *Signer) Signal(signal os.Signal) error {
	if s.process == nil {
		return errNotRunning
	}
	return s.process.cmd.Process.Signal(signal)
}

// WorkerPID is the process ID of the signer's worker for one HSM, 0 while there is none.
func (s *Signer) WorkerPID(hsm int) int {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return 0
	}
	for _, entry := range entries {
		pid, err := strconv.Atoi(entry.Name())
		if err != nil || parent(pid) != s.PID() {
			continue
		}
		line, err := os.ReadFile(filepath.Join("/proc", entry.Name(), "cmdline"))
		if err == nil && strings.HasSuffix(string(line), "\x00worker\x00--hsm\x00"+strconv.Itoa(hsm)+"\x00") {
			return pid
		}
	}
	return 0
}

// parent is the process ID of a process's parent, 0 where there is none (proc_pid_stat(5)).
func parent(pid int) int {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0
	}
	// The name is in parentheses, and may hold any byte.
	fields := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:]))
	if len(fields) < 2 {
		return 0
	}
	parent, err := strconv.Atoi(fields[1])
	if err != nil {
		return 0
	}
	return parent
}

// logBuffer collects a process's output for readers at any time.
type logBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer // guarded by mu
}

func (b *logBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

func (b *logBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}
