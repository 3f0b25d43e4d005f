package appliance

import (
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/pires/go-proxyproto"
)

const (
	// proxyHeaderTimeout is how long a proxy may take for its PROXY header, which
	// it sends at once.
	proxyHeaderTimeout = 3 * time.Second

	// idleBytes is what may come on a connection, in bytes, beside bodies, for each
	// request that its caller wants answered: more than its header. What comes and asks
	// nothing is a flood, of PING, SETTINGS, CONTINUATION or of streams that are taken
	// back. maxIdleBytes bounds what is saved up.
	idleBytes    = 96 << 10
	maxIdleBytes = 8 * idleBytes

	// unreadBody is what of a body, in bytes, may come before anybody reads it, or
	// although nobody will: the window of a stream of HTTP/2, and what net/http throws
	// away of a body of HTTP/1.1.
	unreadBody = 256 << 10

	// firstBytes may come on a fresh connection, in bytes, before any request of it is
	// known: a stream's window full, or the headers of 100 streams with ID tokens of
	// 3 KiB, which are long ones.
	firstBytes = idleBytes + unreadBody

	// candidates is how many connections are looked at to find one that gives way.
	// Each is as likely to be drawn as any other, so that who has many is found.
	candidates = 8

	// fewShare is the share of ConnectionsPerAddress up to which connections are few:
	// networks that have few are all alike when one has to give way. Otherwise whoever
	// has an address for each connection would have those close first that many good
	// callers behind one address have.
	fewShare = 4
)

var (
	errNoProxyHeader = errors.New("a proxy's connection did not begin with a PROXY header")
	errIdleBytes     = errors.New("much was sent on a connection, and nothing asked")
)

// connections are those of all public listeners, beneath TLS. Where there are too
// many, one gives way that has no exchange under way: so connections that are
// only held open, in whichever state, keep nobody out.
type connections struct {
	rules  *atomic.Pointer[rules]
	shed   func(limit string)
	paced  atomic.Int32 // connections that are read slowly, at the moment
	steps  steps
	guests guests

	mu       sync.Mutex // guards the rest
	open     []*connection
	networks map[netip.Addr][]*connection // of proxies there are none here
}

func newConnections(rules *atomic.Pointer[rules], shed func(limit string)) *connections {
	return &connections{rules: rules, shed: shed, steps: newSteps(), guests: newGuests(), networks: map[netip.Addr][]*connection{}}
}

// count is how many are open.
func (c *connections) count() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.open)
}

// limit bounds what is accepted from l.
func (c *connections) limit(l net.Listener) net.Listener { return limited{l, c, &batch{}} }

type limited struct {
	net.Listener
	connections *connections
	recent      *batch
}

// Accept closes what is too much, and waits for a connection that is not.
func (l limited) Accept() (net.Conn, error) {
	for {
		l.recent.pace()
		raw, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		if conn := l.connections.admit(raw); conn != nil {
			return conn, nil
		}
		_ = raw.Close() // nothing was said on it
	}
}

// connection is one of a public listener's. Whoever uses it first waits for its
// PROXY header, where it has one.
type connection struct {
	net.Conn
	owner   *connections
	header  *proxyproto.Conn // nil: it has none
	once    sync.Once        // guards what identify sets
	failure error
	remote  net.Addr
	address netip.Addr // the caller's, or the proxy's
	unnamed bool       // a proxy does not say for whom the connection is

	serving atomic.Int32              // exchanges under way
	turns   chan struct{}             // a place for each request that begins
	reads   atomic.Int32              // while it is a stranger's
	bodies  atomic.Int32              // that somebody waits for
	known   atomic.Bool               // a guest's: no stranger's
	asks    atomic.Bool               // of HTTP/1.1, and past its handshake
	step    atomic.Pointer[time.Time] // since when it has a place in owner.steps
	gone    atomic.Bool               // was closed
	idle    atomic.Int64              // bytes that came since a request began or a body was read
	taken   atomic.Int32              // requests that were taken back
	budget  atomic.Int64              // bytes that may come before another request has to
	used    atomic.Int64              // Unix nanoseconds: when it was opened, or last served one

	at      int        // in owner.open; guarded by owner.mu
	network netip.Addr // as counted; guarded by owner.mu
	counted bool       // in owner.networks; guarded by owner.mu
	closed  bool       // guarded by owner.mu
}

// admit takes in a connection, or returns nil where its peer has too many.
func (c *connections) admit(raw net.Conn) *connection {
	rules := c.rules.Load()
	conn := &connection{Conn: raw, owner: c, remote: raw.RemoteAddr(), address: addressOf(raw.RemoteAddr()), turns: make(chan struct{}, turns)}
	conn.used.Store(time.Now().UnixNano())
	conn.budget.Store(firstBytes)
	isProxy := rules.proxies.include(conn.address)
	if isProxy && rules.proxyProtocol {
		conn.header = proxyproto.NewConn(raw, proxyproto.WithPolicy(proxyproto.REQUIRE), proxyproto.SetReadHeaderTimeout(proxyHeaderTimeout))
		conn.Conn = conn.header
	}
	// A proxy's connections are many callers', and those of a unix socket nobody's
	// whose address is known.
	exempt := isProxy || !conn.address.IsValid()
	conn.known.Store(c.guests.include(conn.address))
	if !exempt {
		if limit, ok := rules.mayOpen(conn.address); !ok {
			c.shed(limit)
			return nil
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for len(c.open) >= rules.limits.Connections { // more than one may be too many after a reload
		c.shed("connections")
		if !c.makeRoom() {
			return nil
		}
	}
	if !exempt && !c.countNetwork(conn) {
		return nil
	}
	conn.at = len(c.open)
	c.open = append(c.open, conn)
	return conn
}

// makeRoom needs c.mu. Of some connections taken at random the one gives way
// whose network has the most, if those are not few, and of these the one that did
// nothing for longest.
func (c *connections) makeRoom() bool {
	var worst *connection
	for range candidates {
		one := c.open[rand.IntN(len(c.open))]
		if one.serving.Load() > 0 {
			continue
		}
		if worst == nil || c.weight(one) > c.weight(worst) || c.weight(one) == c.weight(worst) && one.used.Load() < worst.used.Load() {
			worst = one
		}
	}
	if worst == nil {
		return false
	}
	c.evict(worst)
	return true
}

// weight needs c.mu.
func (c *connections) weight(conn *connection) int {
	return max(len(c.networks[conn.network]), c.rules.Load().limits.ConnectionsPerAddress/fewShare)
}

// countNetwork needs c.mu. It counts a connection as its network's, of which
// another gives way where there are too many, and reports false where none can.
func (c *connections) countNetwork(conn *connection) bool {
	conn.network = networkOf(conn.address)
	for len(c.networks[conn.network]) >= c.rules.Load().limits.ConnectionsPerAddress {
		c.shed("connections_per_address")
		var oldest *connection
		for _, one := range c.networks[conn.network] {
			if one.serving.Load() == 0 && (oldest == nil || one.used.Load() < oldest.used.Load()) {
				oldest = one
			}
		}
		if oldest == nil {
			return false
		}
		c.evict(oldest)
	}
	c.networks[conn.network] = append(c.networks[conn.network], conn)
	conn.counted = true
	return true
}

// evict needs c.mu. Whoever uses the connection finds it closed.
func (c *connections) evict(conn *connection) {
	c.remove(conn)
	_ = conn.Conn.Close() // its peer is told no more than that
}

// remove needs c.mu, and does nothing the second time.
func (c *connections) remove(conn *connection) {
	if conn.closed {
		return
	}
	conn.closed = true
	last := c.open[len(c.open)-1]
	c.open[conn.at], last.at = last, conn.at
	c.open[len(c.open)-1] = nil
	c.open = c.open[:len(c.open)-1]
	if !conn.counted {
		return
	}
	rest := slices.DeleteFunc(c.networks[conn.network], func(other *connection) bool { return other == conn })
	if len(rest) == 0 {
		delete(c.networks, conn.network)
	} else {
		c.networks[conn.network] = rest
	}
}

// identify reads the PROXY header, where there has to be one, and holds the limits
// of its caller against the connection.
func (conn *connection) identify() error {
	conn.once.Do(func() {
		if conn.header == nil {
			return
		}
		header := conn.header.ProxyHeader()
		if header == nil {
			conn.owner.shed("proxy_header")
			conn.failure = errNoProxyHeader
			return
		}
		source, ok := header.SourceAddr.(*net.TCPAddr)
		if conn.unnamed = !ok || header.Command.IsLocal(); conn.unnamed {
			return // the proxy's own: it looks whether we are well
		}
		conn.remote, conn.address = source, addressOf(source)
		conn.known.Store(conn.owner.guests.include(conn.address))
		conn.failure = conn.owner.identified(conn)
	})
	return conn.failure
}

// identified is admit's part for a connection whose caller a proxy named.
func (c *connections) identified(conn *connection) error {
	rules := c.rules.Load()
	if rules.proxies.include(conn.address) {
		return nil
	}
	if limit, ok := rules.mayOpen(conn.address); !ok {
		c.shed(limit)
		return net.ErrClosed
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if conn.closed || !c.countNetwork(conn) {
		return net.ErrClosed
	}
	return nil
}

// flooded remembers whose connection had to be closed. A proxy's are many
// callers', and a unix socket's nobody's.
func (c *connections) flooded(conn *connection) {
	c.shed("idle_bytes")
	if rules := c.rules.Load(); conn.address.IsValid() && !rules.proxies.include(conn.address) {
		rules.floods.Add(networkOf(conn.address), time.Now())
		c.guests.forget(conn.address)
	}
}

// RemoteAddr is the caller's, as far as a PROXY header told.
func (conn *connection) RemoteAddr() net.Addr {
	_ = conn.identify() // Read says what is wrong
	return conn.remote
}

// Read refuses a connection whose PROXY header is missing or wrong, and one that
// says much and asks nothing.
func (conn *connection) Read(b []byte) (int, error) {
	if err := conn.identify(); err != nil {
		return 0, err
	}
	conn.endStep()
	n, err := conn.readAtPace(b)
	conn.beginStep()
	conn.idle.Add(int64(n))
	if conn.budget.Add(int64(-n)) < 0 {
		conn.owner.flooded(conn)
		return 0, errIdleBytes
	}
	return n, err
}

// tookBack counts a request that was not meant, and answered makes good for one. What
// comes next is read slowly. More than can be lost with a connection at once are a
// flood.
func (conn *connection) tookBack() {
	conn.idle.Store(unpaced + 1)
	if conn.taken.Add(1) == 2*maxStreams {
		conn.owner.flooded(conn)
		_ = conn.Conn.Close()
	}
}

func (conn *connection) answered() {
	if conn.taken.Load() > 0 {
		conn.taken.Add(-1)
	}
}

// asked makes good for a request that begins, with a body of so many bytes, or of
// none that it announced (-1). It returns what there is to be given back where the
// caller takes the request back.
func (conn *connection) asked(contentLength int64) (given int64) {
	if contentLength < 0 || contentLength > unreadBody {
		contentLength = unreadBody
	}
	conn.idle.Store(-contentLength)
	more := idleBytes + contentLength + contentLength/8 // and for what is around it
	for {
		has := conn.budget.Load()
		given = min(more, maxIdleBytes-has)
		if conn.budget.CompareAndSwap(has, has+given) {
			return given
		}
	}
}

// body makes good for what is read of a body, after which its stream's window may be full again.
type body struct {
	io.ReadCloser
	of *connection
}

func (b body) Read(p []byte) (int, error) {
	b.of.bodies.Add(1)
	n, err := b.ReadCloser.Read(p)
	b.of.bodies.Add(-1)
	b.of.idle.Store(-unreadBody)
	b.of.budget.Add(int64(n + n/8)) // and for what is around it
	return n, err
}

// Write ends a step, since a peer may take its time to read.
func (conn *connection) Write(b []byte) (int, error) {
	conn.endStep()
	return conn.Conn.Write(b)
}

// Close also makes room for another one.
func (conn *connection) Close() error {
	conn.closing()
	conn.owner.mu.Lock()
	conn.owner.remove(conn)
	conn.owner.mu.Unlock()
	return conn.Conn.Close()
}

// serve keeps the connection open until done is called.
func (conn *connection) serve() (done func()) {
	if conn == nil {
		return func() {} // a listener of a test's
	}
	conn.serving.Add(1)
	return func() {
		conn.used.Store(time.Now().UnixNano())
		conn.serving.Add(-1)
	}
}
