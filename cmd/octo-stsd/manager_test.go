package main

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/octo-sts/appliance/sts/ststest"
)

// serviceManager does for one service what systemd does: it holds the listening
// sockets while processes come and go, passes them by name, and is told how the
// service is.
type serviceManager struct {
	t      *testing.T
	names  []string
	files  []*os.File
	notify *net.UnixConn

	mu   sync.Mutex // guards the rest
	told []string
}

// newServiceManager is told everything from now on, and passes nothing yet.
func newServiceManager(t *testing.T) *serviceManager {
	t.Helper()
	dir, err := os.MkdirTemp("", "octo-sts-") // a unix socket's path is short
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	m := &serviceManager{t: t}
	m.notify, err = net.ListenUnixgram("unixgram", &net.UnixAddr{Name: filepath.Join(dir, "notify"), Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = m.notify.Close() })
	go func() {
		for buffer := make([]byte, 1<<16); ; {
			n, err := m.notify.Read(buffer)
			if err != nil {
				return
			}
			m.mu.Lock()
			m.told = append(m.told, string(buffer[:n]))
			m.mu.Unlock()
		}
	}()
	return m
}

// listen opens a socket to be passed under that name, and returns its address.
func (m *serviceManager) listen(name, network, address string) string {
	m.t.Helper()
	var file *os.File
	var bound net.Addr
	var err error
	switch network {
	case "udp":
		var conn net.PacketConn
		if conn, err = net.ListenPacket(network, address); err == nil {
			bound = conn.LocalAddr()
			file, err = conn.(*net.UDPConn).File()
			_ = conn.Close() // file is the one that stays
		}
	default:
		var l net.Listener
		if l, err = net.Listen(network, address); err == nil {
			bound = l.Addr()
			if unixListener, ok := l.(*net.UnixListener); ok {
				unixListener.SetUnlinkOnClose(false)
			}
			file, err = l.(interface{ File() (*os.File, error) }).File()
			_ = l.Close() // file is the one that stays
		}
	}
	if err != nil {
		m.t.Fatal(err)
	}
	m.pass(name, file)
	return bound.String()
}

func (m *serviceManager) pass(name string, file *os.File) {
	m.t.Cleanup(func() { _ = file.Close() })
	m.names, m.files = append(m.names, name), append(m.files, file)
}

// start is how a service's process is run: $LISTEN_PID has to be its own.
var start = []string{"sh", "-c", `LISTEN_PID=$$ exec "$0" "$@"`}

// manages has the daemon of a rig run under m.
func (m *serviceManager) manages(c *ststest.ServiceConfig, env ...string) {
	c.Wrap = append(start[:len(start):len(start)], c.Wrap...)
	c.Prepare = func(cmd *exec.Cmd) { m.prepare(cmd, env...) }
}

func (m *serviceManager) prepare(cmd *exec.Cmd, env ...string) {
	if cmd.Env == nil {
		cmd.Env = os.Environ()
	}
	cmd.ExtraFiles = m.files
	cmd.Env = append(cmd.Env, "NOTIFY_SOCKET="+m.notify.LocalAddr().String())
	cmd.Env = append(cmd.Env, env...)
	if len(m.files) > 0 {
		cmd.Env = append(cmd.Env, fmt.Sprintf("LISTEN_FDS=%d", len(m.files)), "LISTEN_FDNAMES="+strings.Join(m.names, ":"))
	}
}

// all is everything that was told so far.
func (m *serviceManager) all() []string {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.told[:len(m.told):len(m.told)]
}

// await returns how many messages there were once one, from the given one on,
// contains all of want.
func (m *serviceManager) await(from int, want ...string) (next int) {
	m.t.Helper()
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); time.Sleep(5 * time.Millisecond) {
		for i, message := range m.all()[from:] {
			found := true
			for _, w := range want {
				found = found && strings.Contains(message, w)
			}
			if found {
				return from + i + 1
			}
		}
	}
	m.t.Fatalf("the service manager was not told %q: %q", want, m.all()[from:])
	return 0
}

// count is how many messages from the given one on are that.
func (m *serviceManager) count(from int, message string) (n int) {
	for _, told := range m.all()[from:] {
		if told == message {
			n++
		}
	}
	return n
}

// runDaemon runs octo-stsd with what m passes, and returns how it ended.
func (m *serviceManager) runDaemon(config string) (output string, status int) {
	m.t.Helper()
	programs, err := rigPrograms()
	if err != nil {
		m.t.Fatal(err)
	}
	args := append(start[1:len(start):len(start)], filepath.Join(programs, "octo-stsd"), "serve", "--config", config)
	cmd := exec.CommandContext(m.t.Context(), start[0], args...)
	m.prepare(cmd)
	out, err := cmd.CombinedOutput()
	if e := (*exec.ExitError)(nil); err != nil && !errors.As(err, &e) {
		m.t.Fatal(err)
	}
	return string(out), cmd.ProcessState.ExitCode()
}
