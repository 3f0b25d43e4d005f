package signer

import (
	"errors"
	"io"
	"net"
	"os"
	"strings"
	"testing"
	"time"
)

// dial opens n connections that say nothing, and closes them at the end of the test.
func dial(t *testing.T, socket string, n int) []net.Conn {
	t.Helper()
	var conns []net.Conn
	for range n {
		conn, err := net.Dial("unix", socket)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = conn.Close() })
		conns = append(conns, conn)
	}
	return conns
}

// awaitClosed waits until the other side has closed conn. The deadline is for safety.
func awaitClosed(t *testing.T, conn net.Conn) {
	t.Helper()
	_ = conn.SetReadDeadline(time.Now().Add(20 * time.Second))
	if _, err := io.Copy(io.Discard, conn); errors.Is(err, os.ErrDeadlineExceeded) {
		t.Error("the connection is still open")
	}
}

// Members of the socket's group who are not listed can connect, hold nothing, and do not come between the daemon and the
// signer: here each connection is made before the daemon's user is allowed, and none of them counts when it is.
func TestStrangersHoldNoConnections(t *testing.T) {
	s := serveOn(t, []uint32{uint32(os.Getuid()) + 1})
	strangers := dial(t, s.socket, 2*maxConns)
	for _, conn := range strangers {
		awaitClosed(t, conn)
	}
	if n := s.logs.FilterMessage("peer refused").Len(); n == 0 || n > 15 {
		t.Errorf("%d lines in the log about %d strangers", n, len(strangers))
	}
	if err := s.server.SetAllowed(self()); err != nil {
		t.Fatal(err)
	}
	if _, err := NewClient(s.socket).AppJWT(t.Context(), 1); err != nil {
		t.Errorf("the daemon: %v", err)
	}
}

// answered sends a request on conn and says whether anything came back.
func answered(t *testing.T, conn net.Conn) bool {
	t.Helper()
	_ = conn.SetDeadline(time.Now().Add(20 * time.Second))
	if _, err := io.WriteString(conn, "GET /v1/status HTTP/1.1\r\nHost: x\r\n\r\n"); err != nil {
		return false
	}
	n, _ := conn.Read(make([]byte, 1<<16))
	return n > 0
}

// An allowed peer has so many connections and no more, and gets new ones when old ones end.
func TestConnectionsAreBounded(t *testing.T) {
	s := serveOn(t, self())
	held := dial(t, s.socket, maxConns)
	for i, conn := range held {
		if !answered(t, conn) {
			t.Fatalf("connection %d was not answered", i)
		}
	}
	if answered(t, dial(t, s.socket, 1)[0]) {
		t.Errorf("connection %d was answered", len(held))
	}
	_ = held[0].Close()
	client := NewClient(s.socket)
	deadline := time.Now().Add(20 * time.Second)
	for {
		_, err := client.AppJWT(t.Context(), 1)
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatal(err)
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// A daemon that was taken over can hold all the connections that its user may have, and not those of the operator.
func TestConnectionsAreBoundedForEachUser(t *testing.T) {
	const daemon, operator = 1000, 1001
	g := newGate(nil, nil)
	for i := range maxConns {
		if !g.enter(daemon) {
			t.Fatalf("connection %d of the daemon is refused", i)
		}
	}
	if g.enter(daemon) {
		t.Errorf("the daemon has more than %d connections", maxConns)
	}
	if !g.enter(operator) {
		t.Error("the operator is kept out by the daemon")
	}
	g.leave(daemon)
	g.leave(operator)
	if !g.enter(daemon) || g.enter(daemon) {
		t.Error("a connection that ended does not make room for one")
	}
	if n := len(g.conns); n != 1 {
		t.Errorf("%d users are remembered, and one is connected", n)
	}
}

// A connection that is open loses its right with its user's.
func TestAllowedUsersChange(t *testing.T) {
	s := serveOn(t, self())
	client := NewClient(s.socket)
	if _, err := client.AppJWT(t.Context(), 1); err != nil {
		t.Fatal(err)
	}
	if err := s.server.SetAllowed([]uint32{uint32(os.Getuid()) + 1}); err != nil {
		t.Fatal(err)
	}
	if _, err := client.AppJWT(t.Context(), 1); !errors.Is(err, ErrRefused) || !strings.Contains(err.Error(), "allow_users") {
		t.Errorf("on the open connection: %v", err)
	}
	if err := s.server.SetAllowed(nil); err == nil {
		t.Error("nobody may be allowed")
	}
}
