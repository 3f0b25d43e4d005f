package appliance

import (
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// Strangers that vanish in the midst of a step, or while they wait for a place,
// take none with them.
func TestStepsAreGivenBack(t *testing.T) {
	all := newConnections(&atomic.Pointer[rules]{}, func(string) {})
	stranger := func() (*connection, net.Conn) {
		ours, theirs := net.Pipe()
		conn := &connection{Conn: ours, owner: all}
		conn.budget.Store(firstBytes)
		return conn, theirs
	}
	var conns []*connection
	var reading sync.WaitGroup
	for n := range cap(all.steps) * 3 {
		conn, peer := stranger()
		conns = append(conns, conn)
		go func() { _, _ = io.WriteString(peer, "x") }()
		read := make(chan struct{})
		reading.Go(func() {
			defer close(read)
			_, _ = conn.Read(make([]byte, 1)) // keeps its place, or waits for one
		})
		if n < cap(all.steps) {
			<-read
		}
	}
	if len(all.steps) != cap(all.steps) {
		t.Errorf("%d of %d places are taken", len(all.steps), cap(all.steps))
	}
	for _, conn := range conns {
		conn.closing()
	}
	reading.Wait()
	for end := time.Now().Add(5 * time.Second); len(all.steps) > 0 && time.Now().Before(end); {
		time.Sleep(time.Millisecond)
	}
	if len(all.steps) > 0 {
		t.Errorf("%d places were not given back", len(all.steps))
	}
}

// Whoever was granted something is read without pauses.
func TestAStrangerIsReadWithPauses(t *testing.T) {
	all := newConnections(&atomic.Pointer[rules]{}, func(string) {})
	ours, theirs := net.Pipe()
	go func() {
		for {
			if _, err := io.WriteString(theirs, "x"); err != nil {
				return
			}
		}
	}()
	defer theirs.Close()
	conn := &connection{Conn: ours, owner: all}
	conn.budget.Store(firstBytes)
	const pauses = 50
	read := func() time.Duration {
		began := time.Now()
		for range firstReads + pauses {
			if _, err := conn.Read(make([]byte, 1)); err != nil {
				t.Fatal(err)
			}
		}
		return time.Since(began)
	}
	if took := read(); took < pauses*strangerPause {
		t.Errorf("a stranger was read in %s, without pauses", took)
	}
	before := conn.reads.Load()
	conn.known.Store(true)
	read()
	if conn.reads.Load() != before {
		t.Error("one who is known is still counted as a stranger")
	}
}

// Whose network was granted something is a guest on every connection, for a time, and
// until it floods one.
func TestGuests(t *testing.T) {
	e, _ := publicEdge(t, Limits{}, nil, nil)
	all := e.connections
	from := func(address string) *connection {
		ours, theirs := net.Pipe()
		t.Cleanup(func() { ours.Close(); theirs.Close() })
		conn := all.admit(remoteConn{ours, net.TCPAddrFromAddrPort(netip.MustParseAddrPort(address))})
		if conn == nil {
			t.Fatalf("%s was not let in", address)
		}
		return conn
	}
	isGuest := func(address string, want bool) {
		t.Helper()
		if from(address).known.Load() != want {
			t.Errorf("%s is a guest: %t, want %t", address, !want, want)
		}
	}
	isGuest("192.0.2.1:1000", false)
	first := from("192.0.2.1:1001")
	first.granted()
	isGuest("192.0.2.1:1002", true)
	isGuest("192.0.2.2:1000", false)
	from("[2001:db8::1]:1000").granted()
	isGuest("[2001:db8::2]:1000", true)
	all.welcome(netip.MustParseAddr("192.0.2.3"), time.Now().Add(-guestTime))
	isGuest("192.0.2.3:1000", false)
	all.flooded(first)
	if all.isGuest(first.address) {
		t.Error("a guest that floods is still one")
	}
}

// Whose delivery was taken is a guest, and whose was not is none.
func TestGitHubIsAGuest(t *testing.T) {
	status := make(chan int, 2)
	e, address := publicEdge(t, Limits{}, nil, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(<-status) }))
	for _, c := range []struct {
		status int
		guest  bool
	}{{http.StatusUnauthorized, false}, {http.StatusAccepted, true}} {
		status <- c.status
		response, err := client(t, false).Post("http://"+address+"/webhook", "application/json", strings.NewReader("{}"))
		if err != nil {
			t.Fatal(err)
		}
		response.Body.Close()
		if e.connections.isGuest(netip.MustParseAddr("127.0.0.1")) != c.guest {
			t.Errorf("after %d its sender is a guest: %t, want %t", c.status, !c.guest, c.guest)
		}
	}
}

// remoteConn is a connection from elsewhere.
type remoteConn struct {
	net.Conn
	from net.Addr
}

func (c remoteConn) RemoteAddr() net.Addr { return c.from }
