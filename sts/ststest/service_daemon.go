package ststest

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"time"
)

// daemon is one run of octo-stsd.
type daemon struct {
	cmd  *exec.Cmd
	done chan struct{} // closed when it has ended
	err  error         // how; read after done is closed
}

// readyWait is a safety limit for a start on a machine that is very busy.
const readyWait = 60 * time.Second

// startDaemon runs octo-stsd and waits until it listens, and serves.
func (s *Service) startDaemon(ctx context.Context) error {
	args := append(s.config.Wrap[:len(s.config.Wrap):len(s.config.Wrap)],
		filepath.Join(s.config.BinDir, "octo-stsd"), "serve", "--config", s.ConfigFile)
	cmd := exec.CommandContext(ctx, args[0], args[1:]...)
	cmd.Env = append(os.Environ(), s.config.Env...)
	if s.config.Webhook {
		cmd.Env = append(cmd.Env, "CREDENTIALS_DIRECTORY="+s.credentialsDir())
	}
	cmd.Stdout, cmd.Stderr = s.logs, s.logs
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = stopWait
	if s.config.Prepare != nil {
		s.config.Prepare(cmd)
	}
	s.logs.forget()
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("running %s: %w", args[0], err)
	}
	d := &daemon{cmd: cmd, done: make(chan struct{})}
	go func() {
		d.err = cmd.Wait()
		close(d.done)
	}()
	s.mu.Lock()
	s.daemon = d
	s.mu.Unlock()
	if err := s.await(ctx, d); err != nil {
		if killErr := s.Kill(); killErr != nil && !errors.Is(killErr, errNotRunning) {
			err = errors.Join(err, killErr)
		}
		return fmt.Errorf("starting octo-stsd: %w\n%s", err, s.logs.tail())
	}
	s.setWebhooks()
	return nil
}

func (s *Service) await(ctx context.Context, d *daemon) error {
	ctx, cancel := context.WithTimeout(ctx, readyWait)
	defer cancel()
	last := errors.New("it has not said where it listens")
	for {
		if s.address("https") != "" && s.address("admin") != "" {
			if s.config.Unready {
				return nil
			}
			if last = s.Ready(ctx); last == nil {
				return nil
			}
		}
		select {
		case <-d.done:
			if d.err == nil {
				return errors.New("it ended at once, with status 0")
			}
			return d.err
		case <-ctx.Done():
			return fmt.Errorf("%w: %w", ctx.Err(), last)
		case <-time.After(10 * time.Millisecond):
		}
	}
}

// Ready is nil where /readyz says that the daemon serves exchanges; otherwise
// the error holds what it says.
func (s *Service) Ready(ctx context.Context) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, s.AdminURL()+"/readyz", nil)
	if err != nil {
		return err
	}
	resp, err := s.client.Do(req)
	if err != nil {
		return fmt.Errorf("asking /readyz: %w", err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return fmt.Errorf("reading /readyz: %w", err)
	}
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("/readyz says %s: %s", resp.Status, body)
	}
	return nil
}

// logs collects the daemon's output, and takes the addresses out of it that
// the daemon says it listens at.
type logs struct {
	mu        sync.Mutex // guards the rest
	all       bytes.Buffer
	line      []byte // a line that is not complete yet
	addresses map[string]string
}

func newLogs() *logs { return &logs{addresses: map[string]string{}} }

// forget forgets addresses: another daemon starts.
func (l *logs) forget() {
	l.mu.Lock()
	defer l.mu.Unlock()
	clear(l.addresses)
	l.line = nil
}

func (l *logs) address(listener string) string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.addresses[listener]
}

func (l *logs) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.all.Write(p)
	l.line = append(l.line, p...)
	for {
		line, rest, complete := bytes.Cut(l.line, []byte("\n"))
		if !complete {
			return len(p), nil
		}
		var entry struct{ Msg, Listener, Address string }
		if json.Unmarshal(line, &entry) == nil && entry.Msg == "listening" {
			l.addresses[entry.Listener] = entry.Address
		}
		l.line = rest
	}
}

func (l *logs) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.all.String()
}

// tail is the end of what was logged, for an error.
func (l *logs) tail() string {
	const most = 4 << 10
	all := l.String()
	if len(all) > most {
		all = "…" + all[len(all)-most:]
	}
	return all
}
