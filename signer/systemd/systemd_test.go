package systemd

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"go.uber.org/zap/zaptest"
)

// What was said about sockets is gone once it was heard.
func TestSocketsLeaveNothingInTheEnvironment(t *testing.T) {
	t.Setenv("LISTEN_PID", fmt.Sprint(os.Getpid()))
	t.Setenv("LISTEN_FDS", "0")
	t.Setenv("LISTEN_FDNAMES", "https")
	if sockets, err := Sockets(); err != nil || len(sockets) != 0 {
		t.Errorf("%v, %v", sockets, err)
	}
	for _, name := range []string{"LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"} {
		if value, set := os.LookupEnv(name); set {
			t.Errorf("%s is still %q", name, value)
		}
	}
}

// Sockets that are another process's are none of ours.
func TestSocketsOfAnotherProcess(t *testing.T) {
	t.Setenv("LISTEN_PID", fmt.Sprint(os.Getppid()))
	t.Setenv("LISTEN_FDS", "1")
	if sockets, err := Sockets(); err != nil || len(sockets) != 0 {
		t.Errorf("%v, %v", sockets, err)
	}
}

// A status is one line, and told where it is another one.
func TestStatusIsToldWhereItChanged(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	socket, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer socket.Close()
	t.Setenv("NOTIFY_SOCKET", path)
	n := NewNotifier(zaptest.NewLogger(t))
	n.Status("one\nline")
	n.Status("one\nline")
	n.Status("another")
	n.Ready()
	_ = socket.SetReadDeadline(time.Now().Add(30 * time.Second))
	for _, want := range []string{"STATUS=one, line", "STATUS=another", "READY=1"} {
		buffer := make([]byte, 256)
		length, err := socket.Read(buffer)
		if got := string(buffer[:length]); err != nil || got != want {
			t.Errorf("told %q, %v, want %q", got, err, want)
		}
	}
}
