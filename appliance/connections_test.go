package appliance

import (
	"bytes"
	"crypto/rand"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/zap"
	"golang.org/x/sync/errgroup"
)

// public is the public listener at a loopback address, without TLS, with the limits
// of a configuration that says nothing of them.
func public(t *testing.T, exchange, webhook http.Handler) (address string) {
	t.Helper()
	_, address = publicEdge(t, Limits{}, exchange, webhook)
	return address
}

// publicEdge is one with these limits, and its outermost handler.
func publicEdge(t *testing.T, limits Limits, exchange, webhook http.Handler) (e *edge, address string) {
	t.Helper()
	c := &Config{Limits: limits}
	c.complete()
	e, err := newEdge(c, newMetrics(), exchange, webhook)
	if err != nil {
		t.Fatal(err)
	}
	on, err := openSocket(t.Context(), "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l := newListener("https", []net.Listener{on}, e, nil, zap.NewNop())
	e.guard(l)
	ended := make(chan error, 1)
	go func() { ended <- l.serve(l.nets[0]) }()
	t.Cleanup(func() {
		if err := l.server.Close(); err != nil {
			t.Error(err)
		}
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	return e, on.Addr().String()
}

// client speaks HTTP/2 if it is told to, over one connection.
func client(t *testing.T, isHTTP2 bool) *http.Client {
	protocols := new(http.Protocols)
	protocols.SetHTTP1(!isHTTP2)
	protocols.SetUnencryptedHTTP2(isHTTP2)
	transport := &http.Transport{Protocols: protocols}
	t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport}
}

// A caller who asks much at once, and waits for the answers, is no flood.
func TestManyRequestsOnAFreshConnection(t *testing.T) {
	const streams = 90 // of 100 that there may be
	var begun atomic.Int64
	all := make(chan struct{})
	address := public(t, http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		if begun.Add(1) == streams {
			close(all)
		}
		select { // nobody is answered before everybody has asked
		case <-all:
		case <-r.Context().Done():
		}
	}), nil)
	caller := client(t, true)
	asking, ctx := errgroup.WithContext(t.Context())
	for range streams {
		asking.Go(func() error {
			request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+address, nil)
			if err != nil {
				return err
			}
			request.Header.Set("Authorization", "Bearer "+strings.Repeat(rand.Text(), 3<<10/26))
			return ask(caller, request)
		})
	}
	if err := asking.Wait(); err != nil {
		t.Error(err)
	}
}

func ask(c *http.Client, r *http.Request) error {
	response, err := c.Do(r)
	if err != nil {
		return err
	}
	return response.Body.Close()
}

// Whose body is refused unread floods nothing: the answer arrives, and whoever comes
// next from that address is let in.
func TestBodiesThatAreRefusedUnread(t *testing.T) {
	refuses := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusServiceUnavailable) })
	for _, isHTTP2 := range []bool{false, true} {
		address := public(t, http.NotFoundHandler(), refuses)
		for range 20 {
			caller := client(t, isHTTP2) // with a connection of its own
			request, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://"+address+"/webhook", bytes.NewReader(make([]byte, 250<<10)))
			if err != nil {
				t.Fatal(err)
			}
			if err := ask(caller, request); err != nil {
				t.Errorf("HTTP/2 %t: %v", isHTTP2, err)
			}
		}
	}
}

// Where a reload lowers a limit of connections, those that are open give way, too.
func TestLoweredLimitsOfConnections(t *testing.T) {
	for name, lowered := range map[string]Limits{
		"all":           {Connections: 4, ConnectionsPerAddress: 1000},
		"of an address": {Connections: 1000, ConnectionsPerAddress: 4},
	} {
		e, address := publicEdge(t, Limits{}, http.NotFoundHandler(), nil)
		connect := func() {
			c, err := (&net.Dialer{}).DialContext(t.Context(), "tcp", address)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { c.Close() })
		}
		openAre := func(want int) {
			t.Helper()
			for deadline := time.Now().Add(30 * time.Second); e.connections.count() != want; time.Sleep(time.Millisecond) {
				if time.Now().After(deadline) {
					t.Fatalf("%s: %d connections are open, want %d", name, e.connections.count(), want)
				}
			}
		}
		for range 50 {
			connect()
		}
		openAre(50)
		c := &Config{Limits: lowered}
		c.complete()
		rules, err := newRules(c)
		if err != nil {
			t.Fatal(err)
		}
		e.rules.Store(rules)
		connect()
		openAre(4)
	}
}
