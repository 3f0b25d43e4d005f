package appliance

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"os"
	"sync"
	"sync/atomic"
	"time"
)

// selfDialTimeout bounds a connection of the daemon's to itself, which the kernel
// answers.
const selfDialTimeout = 200 * time.Millisecond

// stoppable is a listening socket that can stop to accept without losing a
// connection: whatever was accepted has been handed on when stop returns, and what
// is still in the kernel's queue stays there, for whoever has the socket next.
type stoppable struct {
	net.Listener

	serving  chan struct{} // closed at the first Accept
	stopping atomic.Bool
	stopped  chan struct{} // closed when no connection will be accepted any more
	closed   chan struct{}
	once     struct{ serving, stopped, closed sync.Once }

	accepted atomic.Uint64 // connections, the daemon's own included

	mu  sync.Mutex // guards what follows, and is held while the daemon dials itself
	own string     // the local address of the daemon's own connection, while it is open
}

func newStoppable(l net.Listener) *stoppable {
	return &stoppable{Listener: l, serving: make(chan struct{}), stopped: make(chan struct{}), closed: make(chan struct{})}
}

func (s *stoppable) Accept() (net.Conn, error) {
	s.once.serving.Do(func() { close(s.serving) })
	for {
		conn, err := s.Listener.Accept()
		switch {
		case err == nil:
			s.accepted.Add(1)
			if s.isOwn(conn) {
				_ = conn.Close() // it has shown what it was to show
				continue
			}
			return conn, nil
		case s.stopping.Load() && errors.Is(err, os.ErrDeadlineExceeded):
			// Whoever accepts comes back when it has handed the last connection on.
			s.once.stopped.Do(func() { close(s.stopped) })
			<-s.closed
			return nil, net.ErrClosed
		default:
			return nil, err
		}
	}
}

// stop returns when no connection is accepted any more, or ctx is done.
func (s *stoppable) stop(ctx context.Context) error {
	s.stopping.Store(true)
	deadline, ok := s.Listener.(interface{ SetDeadline(time.Time) error })
	if !ok {
		return errors.New("the listener has no deadline")
	}
	if err := deadline.SetDeadline(time.Unix(1, 0)); err != nil {
		return err
	}
	select {
	case <-s.stopped:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (s *stoppable) Close() error {
	s.once.closed.Do(func() { close(s.closed) })
	return s.Listener.Close()
}

// accepts tells whether connections are accepted: the daemon's own, or another
// meanwhile. That it cannot connect to itself says nothing: its firewall may be
// so, or the queue full of others.
func (s *stoppable) accepts(ctx context.Context) bool {
	before := s.accepted.Load()
	conn, err := s.dialSelf(ctx)
	if err != nil {
		return true
	}
	defer func() {
		s.mu.Lock()
		s.own = ""
		s.mu.Unlock()
		_ = conn.Close()
	}()
	for s.accepted.Load() == before {
		select {
		case <-ctx.Done():
			return false
		case <-time.After(5 * time.Millisecond):
		}
	}
	return true
}

func (s *stoppable) dialSelf(ctx context.Context) (net.Conn, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	conn, err := (&net.Dialer{Timeout: selfDialTimeout}).DialContext(ctx, s.Addr().Network(), selfAddress(s.Addr()))
	if err == nil {
		s.own = conn.LocalAddr().String()
	}
	return conn, err
}

// isOwn tells whether the daemon has dialled conn. That is looked at only where both
// ends have one address. On a unix socket nobody has one: there, the connection is
// one more that says nothing.
func (s *stoppable) isOwn(conn net.Conn) bool {
	local, err := netip.ParseAddrPort(conn.LocalAddr().String())
	remote, remoteErr := netip.ParseAddrPort(conn.RemoteAddr().String())
	if err != nil || remoteErr != nil || local.Addr() != remote.Addr() {
		return false
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.own != "" && s.own == remote.String()
}

// selfAddress is where this process reaches what listens at a.
func selfAddress(a net.Addr) string {
	parsed, err := netip.ParseAddrPort(a.String())
	if err != nil || !parsed.Addr().IsUnspecified() {
		return a.String()
	}
	// A socket for all addresses of IPv6 takes those of IPv4, too, unless it was told
	// not to; and where there is no IPv6, this fails, which says nothing.
	loopback := netip.IPv6Loopback()
	if parsed.Addr().Is4() {
		loopback = netip.AddrFrom4([4]byte{127, 0, 0, 1})
	}
	return netip.AddrPortFrom(loopback, parsed.Port()).String()
}
