package appliance

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/octo-sts/appliance/sts"
)

const (
	// shutdownGrace is how long exchanges under way get to finish.
	shutdownGrace = sts.MaxDuration + 5*time.Second

	// closingNotice is for how long clients are told that their connection is about to
	// be closed, before one is that nothing happens on. Whoever comes back sooner than
	// that loses nothing. Everybody is served meanwhile, new connections too.
	closingNotice = 3 * time.Second

	// firstRequest is how long a connection that was accepted at the very end may take
	// for its handshake and its request.
	firstRequest = 2 * time.Second

	// closingPoll is how often the connections are looked at.
	closingPoll = 10 * time.Millisecond
)

// drainage is what a listener's stop needs to know of its connections.
type drainage struct {
	closing atomic.Bool // every answer says that it is the connection's last

	mu     sync.Mutex             // guards what follows
	opened map[net.Conn]time.Time // of all that are open
	silent map[net.Conn]struct{}  // of those that no request came on yet
}

func newDrainage() *drainage {
	return &drainage{opened: map[net.Conn]time.Time{}, silent: map[net.Conn]struct{}{}}
}

// note is for http.Server.ConnState.
func (d *drainage) note(conn net.Conn, state http.ConnState) {
	d.mu.Lock()
	defer d.mu.Unlock()
	switch state {
	case http.StateNew:
		d.opened[conn], d.silent[conn] = time.Now(), struct{}{}
	case http.StateClosed, http.StateHijacked:
		delete(d.opened, conn)
		delete(d.silent, conn)
	default:
		delete(d.silent, conn)
	}
}

// olderThan is how many connections were open then and still are.
func (d *drainage) olderThan(then time.Time) (n int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, opened := range d.opened {
		if opened.Before(then) {
			n++
		}
	}
	return n
}

// awaitFirstRequests waits until a request came on each connection: net/http drops
// one that comes later than the call of Shutdown. Who is still silent after
// firstRequest has nothing to lose, and is closed.
func (d *drainage) awaitFirstRequests() {
	for deadline := time.Now().Add(firstRequest); time.Now().Before(deadline); time.Sleep(closingPoll) {
		d.mu.Lock()
		n := len(d.silent)
		d.mu.Unlock()
		if n == 0 {
			break
		}
	}
	d.mu.Lock()
	silent := slices.Collect(maps.Keys(d.silent))
	d.mu.Unlock()
	for _, conn := range silent {
		_ = conn.Close()
	}
	// A request is noted a moment before net/http looks for the last time whether it is
	// being shut down.
	time.Sleep(2 * closingPoll)
}

// announce has each answer of next say that it is its connection's last, once the
// stop has begun: HTTP/1.1 does so in so many words, and of HTTP/2 net/http makes
// GOAWAY of them (RFC 9113, section 6.8).
func (d *drainage) announce(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if d.closing.Load() {
			w.Header().Set("Connection", "close")
		}
		next.ServeHTTP(w, r)
	})
}

// handOver stops a listener whose sockets go on: it serves everybody until those who
// have a connection know that it ends, then leaves what comes to the next process,
// and finishes what it has.
func (l *listener) handOver(ctx context.Context) error {
	began := time.Now()
	l.drainage.closing.Store(true)
	for l.drainage.olderThan(began) > 0 && time.Since(began) < closingNotice {
		time.Sleep(closingPoll)
	}
	var errs []error
	for _, s := range l.stoppable {
		if err := s.stop(ctx); err != nil {
			errs = append(errs, fmt.Errorf("stopping to accept at %s: %w", s.Addr(), err))
		}
	}
	l.drainage.awaitFirstRequests()
	return errors.Join(append(errs, l.shutdown(ctx))...)
}

// shutdown closes what listens, waits for requests under way, and closes what is
// left when ctx is done.
func (l *listener) shutdown(ctx context.Context) error {
	if err := l.server.Shutdown(ctx); err != nil {
		return errors.Join(fmt.Errorf("stopping %s: %w", l.name, err), l.server.Close())
	}
	return nil
}

// shutdown stops all listeners. Sockets of the daemon's own refuse new connections at
// once; those that the service manager passed are handed over.
func (d *Daemon) shutdown() error {
	defer d.notify.Busy("stopping: finishing what is under way", stopLimit)()
	ctx, cancel := context.WithTimeout(context.Background(), shutdownGrace)
	defer cancel()
	var stopping errgroup.Group
	var admin *listener
	for _, l := range d.listeners {
		switch {
		case l.name == "admin":
			admin = l
		case d.sockets.passed:
			stopping.Go(func() error { return l.handOver(ctx) })
		default:
			stopping.Go(func() error { return l.shutdown(ctx) })
		}
	}
	err := stopping.Wait()
	if admin != nil {
		err = errors.Join(err, admin.shutdown(ctx))
	}
	return err
}
