package forward

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"go.etcd.io/bbolt"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"github.com/octo-sts/appliance/sts/audit"
)

// The tests run this binary again: to hold journald's socket as systemd does, and as a daemon that can be killed.
func TestMain(m *testing.M) {
	switch os.Getenv("FORWARD_TEST_CHILD") {
	case "":
		os.Exit(m.Run())
	case "journald":
		holdJournald()
	case "daemon":
		appendAndForward()
	}
}

// limit is how long a test waits for something that must happen.
const limit = 30 * time.Second

func childCommand(t testing.TB, child string, wrapper ...string) *exec.Cmd {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	args := append(wrapper, self)
	cmd := exec.CommandContext(t.Context(), args[0], args[1:]...)
	cmd.Env = append(os.Environ(), "FORWARD_TEST_CHILD="+child)
	cmd.Stderr = os.Stderr
	return cmd
}

// machine is what outlives a daemon: the log's directory and the state.
type machine struct {
	log     *audit.Log
	db      *bbolt.DB
	cursors *Cursors
	dir     string
}

func newMachine(t testing.TB) *machine {
	t.Helper()
	m := &machine{dir: t.TempDir()}
	m.boot(t)
	t.Cleanup(func() { m.shutdown(t) })
	return m
}

func (m *machine) logDirectory() string { return filepath.Join(m.dir, "audit") }

func (m *machine) boot(t testing.TB) {
	t.Helper()
	var err error
	if m.log, err = audit.Open(context.Background(), audit.Config{Directory: m.logDirectory()}); err != nil {
		t.Fatal(err)
	}
	m.openState(t)
}

func (m *machine) openState(t testing.TB) {
	t.Helper()
	var err error
	if m.db, err = bbolt.Open(filepath.Join(m.dir, "state.db"), 0o600, &bbolt.Options{Timeout: limit}); err != nil {
		t.Fatal(err)
	}
	if m.cursors, err = NewCursors(m.db); err != nil {
		t.Fatal(err)
	}
}

func (m *machine) shutdown(t testing.TB) {
	t.Helper()
	if err := errors.Join(m.log.Close(), m.db.Close()); err != nil {
		t.Error(err)
	}
}

// fill appends n entries and returns the index of the first.
func (m *machine) fill(t testing.TB, n int) uint64 {
	t.Helper()
	first := m.log.Size()
	for range n {
		m.append(t, audit.Entry{Kind: audit.Denied, Scope: "my-org/my-repo", RequestID: fmt.Sprint(m.log.Size())})
	}
	return first
}

func (m *machine) append(t testing.TB, e audit.Entry) uint64 {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	index, err := m.log.Append(ctx, e)
	if err != nil {
		t.Fatal(err)
	}
	return index
}

// lines returns the log's lines by their index.
func (m *machine) lines(t testing.TB) []string {
	t.Helper()
	var lines []string
	for r, err := range audit.Read(m.logDirectory()) {
		if err != nil {
			t.Fatal(err)
		}
		lines = append(lines, string(r.Line))
	}
	return lines
}

// running runs a copy until the function that it returns is called, or the test ends.
func running(t testing.TB, run func(context.Context)) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		run(ctx)
	}()
	stopped := false
	stop = func() {
		if stopped {
			return
		}
		stopped = true
		cancel()
		select {
		case <-ended:
		case <-time.After(limit):
			t.Fatal("the copy does not end")
		}
	}
	t.Cleanup(stop)
	return stop
}

// eventually waits for a condition.
func eventually(t testing.TB, what string, condition func() bool) {
	t.Helper()
	for deadline := time.Now().Add(limit); !condition(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%s: not within %s", what, limit)
		}
	}
}

// recorder returns a logger and what it was told.
func recorder() (*zap.Logger, *observer.ObservedLogs) {
	core, logs := observer.New(zap.InfoLevel)
	return zap.New(core), logs
}
