package appliance

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"errors"
	"net"
	"net/http"
	"net/netip"
	"sync/atomic"
	"time"

	"github.com/octo-sts/appliance/sts"
)

// strictTransport tells browsers that this name is never to be asked in the
// clear, for a year (RFC 6797). Names below it are other people's, and not meant.
// Machines do not look at it, and a certificate that fails is no reason to go
// back to http.
const strictTransport = "max-age=31536000"

// notMeant is how soon a caller takes a request back who never wanted an answer.
// Another one may just have waited long enough.
const notMeant = 250 * time.Millisecond

// edge is the outermost handler of the public listener. It finds out who asks,
// names each request, refuses what a proxy may have understood otherwise, and
// tells deliveries of GitHub's from the rest. Each of the two has limits of its own.
type edge struct {
	rules       atomic.Pointer[rules] // a reload replaces them, for whatever begins from then on
	connections *connections
	webhook     http.Handler // nil: there is none
	exchange    *admission
	shed        func(limit string)
}

// newEdge makes the edge; webhook is nil where there is none.
func newEdge(c *Config, counts *metrics, exchange, webhook http.Handler) (*edge, error) {
	e := &edge{webhook: webhook, shed: counts.shedBy}
	e.exchange = &admission{next: exchange, rules: &e.rules, shed: counts.shedBy}
	e.connections = newConnections(&e.rules, counts.shedConnection)
	counts.measureConnections(e.connections.count)
	callers, err := newRules(c)
	if err != nil {
		return nil, err
	}
	e.rules.Store(callers)
	return e, nil
}

// guard puts a public listener's connections under the limits.
func (e *edge) guard(l *listener) {
	limited := make([]net.Listener, len(l.nets))
	for i, n := range l.nets {
		limited[i] = e.connections.limit(n)
	}
	l.nets = limited
	l.server.ConnContext = connContext
}

// caller is who asks, as far as it concerns the edge. It is in the context of each
// request, by its connection.
type caller struct {
	connection *connection
	address    netip.Addr // invalid: on a unix socket, and no proxy said for whom
	byProxy    bool       // its connection is not its own
}

type (
	connectionKey struct{}
	callerKey     struct{}
)

// connContext is for http.Server.ConnContext.
func connContext(ctx context.Context, c net.Conn) context.Context {
	if secure, ok := c.(*tls.Conn); ok {
		c = secure.NetConn()
	}
	return context.WithValue(ctx, connectionKey{}, c)
}

// callerOf finds what ServeHTTP has put there.
func callerOf(r *http.Request) *caller {
	c, _ := r.Context().Value(callerKey{}).(*caller)
	return c
}

// findCaller goes by the connection and, where a proxy speaks, by X-Forwarded-For.
func (e *edge) findCaller(r *http.Request) *caller {
	conn, _ := r.Context().Value(connectionKey{}).(*connection)
	if conn == nil {
		return &caller{}
	}
	if conn.unnamed {
		return &caller{connection: conn, address: conn.address}
	}
	proxies := e.rules.Load().proxies
	return &caller{connection: conn, address: proxies.forwardedFor(conn.address, r.Header), byProxy: proxies.include(conn.address)}
}

func (e *edge) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	from := e.findCaller(r)
	id := sts.Caller{RequestID: rand.Text(), Address: "local", UserAgent: r.UserAgent()}
	if from.address.IsValid() {
		id.Address = from.address.String()
	}
	if from.connection != nil {
		id.Granted = from.connection.granted
	}
	r = r.WithContext(context.WithValue(sts.WithCaller(r.Context(), id), callerKey{}, from))
	if from.connection != nil && from.address != from.connection.address {
		r.RemoteAddr = netip.AddrPortFrom(from.address, 0).String()
	}
	w.Header().Set(sts.RequestIDHeader, id.RequestID)
	if r.TLS != nil {
		w.Header().Set("Strict-Transport-Security", strictTransport)
	}

	if conn := from.connection; conn != nil {
		end, ok := e.begin(conn, r)
		if !ok {
			return
		}
		defer end()
	}
	if r.ProtoMajor == 1 && mayHideAnother(r) {
		w.Header().Set("Connection", "close")
	}
	switch {
	case len(r.TransferEncoding) > 0:
		e.shed("transfer_encoding")
		sts.WriteError(w, r, &sts.Refusal{Kind: sts.ErrInvalidRequest, Reason: "transfer_encoding",
			Detail: errors.New("a body without a Content-Length is not accepted")})
	case e.webhook != nil && r.URL.Path == "/webhook":
		defer from.connection.serve()() // also while its body comes: of those there are few at once, and slow ones give way
		e.webhook.ServeHTTP(welcoming{w, from.connection}, r)
	default:
		e.exchange.ServeHTTP(w, r)
	}
}

// begin counts a request as its connection's until end is called. It reports false
// where nobody waits for an answer any more.
func (e *edge) begin(conn *connection, r *http.Request) (end func(), ok bool) {
	if r.Body != nil && r.Body != http.NoBody {
		r.Body = body{r.Body, conn}
	}
	began, given := time.Now(), conn.asked(r.ContentLength)
	counted := func() {
		if r.Context().Err() != nil && time.Since(began) <= notMeant {
			conn.budget.Add(-given)
			conn.tookBack()
		} else {
			conn.answered()
		}
	}
	if r.ProtoMajor < 2 {
		conn.asks.Store(true)
		conn.endStep()
	}
	if r.ProtoMajor < 2 || callerOf(r).byProxy {
		return counted, true // one at a time, or many callers'
	}
	done, ok := conn.turn(r.Context())
	if !ok {
		counted()
		return nil, false
	}
	return func() {
		done()
		counted()
	}, true
}

// welcoming makes a guest of GitHub: no delivery but its own is answered below 400.
type welcoming struct {
	http.ResponseWriter
	sender *connection // nil: a listener of a test's
}

// Unwrap is for http.ResponseController.
func (w welcoming) Unwrap() http.ResponseWriter { return w.ResponseWriter }

func (w welcoming) WriteHeader(status int) {
	if status < http.StatusBadRequest && w.sender != nil {
		w.sender.granted()
	}
	w.ResponseWriter.WriteHeader(status)
}

// mayHideAnother tells whether a proxy in front of us may have seen this request
// end elsewhere than net/http does, so that what we would read as the next one
// is a stranger's (RFC 9112, section 11.2). Where Content-Length stands beside
// Transfer-Encoding, net/http drops it, and in HTTP/1.0 it drops the latter:
// nobody can tell any more. RFC 9112, sections 6.1 and 6.3, has the connection
// closed then. No client of ours needs a chunked body, so they are refused, too.
func mayHideAnother(r *http.Request) bool {
	return len(r.TransferEncoding) > 0 || !r.ProtoAtLeast(1, 1)
}
