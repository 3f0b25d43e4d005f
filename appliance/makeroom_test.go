package appliance

import (
	"fmt"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
)

// Strangers who have an address for each of their connections do not have those closed first that good callers behind
// one address have just opened.
func TestCallersBehindOneAddress(t *testing.T) {
	c := &Config{}
	c.complete()
	c.Limits.Connections = 1024
	const callers, more = 8, 64
	callersRules, err := newRules(c)
	if err != nil {
		t.Fatal(err)
	}
	var current atomic.Pointer[rules]
	current.Store(callersRules)
	all := newConnections(&current, func(string) {})
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	connect := func(from string) *connection {
		t.Helper()
		dialer := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(from)}}
		peer, err := dialer.Dial("tcp", l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = peer.Close() })
		raw, err := l.Accept()
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = raw.Close() })
		conn := all.admit(raw)
		if conn == nil {
			t.Fatalf("a connection from %s was not let in", from)
		}
		return conn
	}
	stranger := func(n int) { connect(fmt.Sprintf("127.30.%d.%d", n/200, 1+n%200)) }

	for n := range c.Limits.Connections - callers {
		stranger(n)
	}
	var good []*connection
	for range callers {
		good = append(good, connect("127.31.0.1"))
	}
	for n := range more {
		stranger(c.Limits.Connections + n)
	}
	if n := all.count(); n != c.Limits.Connections {
		t.Errorf("%d connections are open", n)
	}
	for i, conn := range good {
		all.mu.Lock()
		if conn.closed {
			t.Errorf("good caller %d gave way, and not a stranger who was there for longer", i)
		}
		all.mu.Unlock()
	}
}

// A delivery under way keeps its connection, as an exchange does.
func TestDeliveryKeepsItsConnection(t *testing.T) {
	var serving atomic.Int32
	deliveries := http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { serving.Store(callerOf(r).connection.serving.Load()) })
	address := public(t, http.NotFoundHandler(), deliveries)
	response, err := client(t, false).Post("http://"+address+"/webhook", "application/json", strings.NewReader("{}"))
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	if serving.Load() != 1 {
		t.Errorf("the connection serves %d requests", serving.Load())
	}
}
