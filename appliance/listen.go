package appliance

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io/fs"
	"log"
	"net"
	"net/http"
	"os"
	"strings"
	"time"

	"go.uber.org/zap"

	"github.com/octo-sts/appliance/sts"
)

// Bounds of one connection. A request is a header of at most a few tens of
// kilobytes (an ID token alone may be 16 KiB) and next to no body.
const (
	maxHeader         = 64 << 10 // bytes; net/http answers 431 over it
	readHeaderTimeout = 5 * time.Second
	readTimeout       = 10 * time.Second
	writeTimeout      = sts.MaxDuration + 5*time.Second
	idleTimeout       = 2 * time.Minute
)

// maxStreams is how many requests of one connection of HTTP/2 may be under way: the
// least that RFC 9113, section 6.5.2, recommends, and what clients take for granted
// until they have read how many there may be.
const maxStreams = 100

// boundHTTP2 is what one connection of HTTP/2 may take. net/http bounds the rest
// itself (Go 1.26): it closes a connection that takes back 4 times as many streams
// before they were begun as it may have open; at any CONTINUATION past a header's
// bound; and where 10,000 answers to PING, SETTINGS or RST_STREAM wait to be read.
// What is left, frames that cost little and ask nothing, idleBytes bounds.
func boundHTTP2() *http.HTTP2Config {
	return &http.HTTP2Config{
		MaxConcurrentStreams:          maxStreams,
		MaxReadFrameSize:              16 << 10,  // RFC 9113, section 4.2: the least there is
		MaxDecoderHeaderTableSize:     4 << 10,   // the protocol's default
		MaxEncoderHeaderTableSize:     4 << 10,   //
		MaxReceiveBufferPerConnection: 256 << 10, // enough for deliveries of 25 MiB at GitHub's distance
		MaxReceiveBufferPerStream:     256 << 10,
		WriteByteTimeout:              5 * time.Second, // a peer that reads nothing of what it asked for
	}
}

// listener is what is served under one name, at one address or several.
type listener struct {
	name      string // https, http or admin: as in the configuration
	nets      []net.Listener
	stoppable []*stoppable // beneath nets
	drainage  *drainage
	server    *http.Server
}

// newListener serves handler on each of nets, over TLS if a configuration for it is
// given. Without TLS it speaks HTTP/1.1 and h2c (RFC 9113, section 3.3: with prior
// knowledge, as gRPC clients do). What is beneath TLS belongs to nets: a limit of
// connections is a net.Listener around another one.
func newListener(name string, nets []net.Listener, handler http.Handler, tlsConfig *tls.Config, logger *zap.Logger) *listener {
	protocols := new(http.Protocols)
	protocols.SetHTTP1(true)
	if tlsConfig != nil {
		protocols.SetHTTP2(true)
	} else {
		protocols.SetUnencryptedHTTP2(true)
	}
	drainage := newDrainage()
	l := &listener{name: name, drainage: drainage, server: &http.Server{
		Handler:           drainage.announce(handler),
		ConnState:         drainage.note,
		TLSConfig:         tlsConfig,
		Protocols:         protocols,
		MaxHeaderBytes:    maxHeader,
		ReadHeaderTimeout: readHeaderTimeout,
		ReadTimeout:       readTimeout,
		WriteTimeout:      writeTimeout,
		IdleTimeout:       idleTimeout,
		HTTP2:             boundHTTP2(),
		ErrorLog:          log.New(panicsOnly{logger.Named(name)}, "", 0),
	}}
	for _, n := range nets {
		s := newStoppable(n)
		l.stoppable, l.nets = append(l.stoppable, s), append(l.nets, s)
	}
	return l
}

// openSocket opens an address of the configuration: host:port or unix:/path.
func openSocket(ctx context.Context, address string) (net.Listener, error) {
	network := "tcp"
	if path, isUnix := strings.CutPrefix(address, "unix:"); isUnix {
		network, address = "unix", path
		if err := removeStaleSocket(path); err != nil {
			return nil, err
		}
	}
	return (&net.ListenConfig{}).Listen(ctx, network, address)
}

// panicsOnly passes on that a handler panicked, with its stack. The rest of what
// net/http has to say is about connections, mostly strangers'.
type panicsOnly struct{ logger *zap.Logger }

func (p panicsOnly) Write(line []byte) (int, error) {
	if bytes.Contains(line, []byte("panic serving")) { // net/http's words, of either version of HTTP
		p.logger.Error("a request's handler panicked", zap.String("detail", string(line)))
	}
	return len(line), nil
}

// serve serves one of l.nets until the server is shut down.
func (l *listener) serve(on net.Listener) error {
	var err error
	if l.server.TLSConfig != nil {
		err = l.server.ServeTLS(on, "", "")
	} else {
		err = l.server.Serve(on)
	}
	if errors.Is(err, http.ErrServerClosed) {
		return nil
	}
	return fmt.Errorf("serving %s: %w", l.name, err)
}

// removeStaleSocket makes way for a new socket where a daemon that was killed
// left its own, and touches nothing that is not a socket.
func removeStaleSocket(path string) error {
	info, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if info.Mode()&fs.ModeSocket == 0 {
		return fmt.Errorf("%s exists and is no socket", path)
	}
	if c, err := net.DialTimeout("unix", path, time.Second); err == nil {
		_ = c.Close()
		return fmt.Errorf("another process is listening on %s", path)
	}
	return os.Remove(path)
}

// redirectToHTTPS answers the plain-text port. It drops the query: what came in
// the clear is not to be sent once more.
func redirectToHTTPS(domain string) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Connection", "close")
		http.Redirect(w, r, "https://"+domain+r.URL.EscapedPath(), http.StatusPermanentRedirect)
	})
}
