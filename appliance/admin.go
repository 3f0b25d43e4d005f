package appliance

import (
	"net"
	"net/http"
	"slices"
	"sync"
)

// adminConnections is how many may be open at listen.admin: a monitoring system or
// two, and people.
const adminConnections = 256

func adminHandler(h *health, m *metrics, p *probes) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", h.healthz)
	mux.HandleFunc("GET /readyz", h.readyz)
	mux.Handle("GET /metrics", m.handler())
	mux.Handle("GET /probe", p)
	return m.requests.counting(adminEndpoint, mux)
}

// newest keeps a listener's newest connections open, and closes the oldest for
// each one that is too many. Every user of the machine can open connections to
// listen.admin: all of the daemon's file descriptors would be theirs, and callers
// would find none left. What is asked there is answered at once, so that who asks
// does not become the oldest by then, however many others come.
type newest struct {
	net.Listener
	most int

	mu   sync.Mutex
	open []*newestConn // the oldest first
}

func (l *newest) Accept() (net.Conn, error) {
	raw, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	conn := &newestConn{raw, l}
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.open) >= l.most {
		_ = l.open[0].Conn.Close() // its peer is told no more than that
		l.open = slices.Delete(l.open, 0, 1)
	}
	l.open = append(l.open, conn)
	return conn, nil
}

type newestConn struct {
	net.Conn
	of *newest
}

// Close also makes room for another one.
func (c *newestConn) Close() error {
	c.of.mu.Lock()
	c.of.open = slices.DeleteFunc(c.of.open, func(other *newestConn) bool { return other == c })
	c.of.mu.Unlock()
	return c.Conn.Close()
}
