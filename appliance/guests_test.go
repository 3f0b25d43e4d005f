package appliance

import (
	"net"
	"net/http"
	"net/netip"
	"strings"
	"testing"
	"time"
)

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
	all.guests.welcome(netip.MustParseAddr("192.0.2.3"), time.Now().Add(-guestTime))
	isGuest("192.0.2.3:1000", false)
	all.flooded(first)
	if all.guests.include(first.address) {
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
		if e.connections.guests.include(netip.MustParseAddr("127.0.0.1")) != c.guest {
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
