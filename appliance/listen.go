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

// listener is one address and what is served there.
type listener struct {
	name   string // https, http or admin: as in the configuration
	net    net.Listener
	server *http.Server
}

// listen opens an address of the configuration, for TLS if a configuration for
// it is given. Without TLS it speaks HTTP/1.1 and h2c (RFC 9113, section 3.3:
// with prior knowledge, as gRPC clients do).
func listen(ctx context.Context, name, address string, handler http.Handler, tlsConfig *tls.Config, logger *zap.Logger) (*listener, error) {
	network := "tcp"
	if path, isUnix := strings.CutPrefix(address, "unix:"); isUnix {
		network, address = "unix", path
		if err := removeStaleSocket(path); err != nil {
			return nil, fmt.Errorf("listening for %s: %w", name, err)
		}
	}
	l, err := (&net.ListenConfig{}).Listen(ctx, network, address)
	if err != nil {
		return nil, fmt.Errorf("listening for %s: %w", name, err)
	}
	protocols := new(http.Protocols)
	protocols.SetHTTP1(true)
	if tlsConfig != nil {
		protocols.SetHTTP2(true)
	} else {
		protocols.SetUnencryptedHTTP2(true)
	}
	return &listener{name: name, net: l, server: &http.Server{
		Handler:           handler,
		TLSConfig:         tlsConfig,
		Protocols:         protocols,
		MaxHeaderBytes:    maxHeader,
		ReadHeaderTimeout: readHeaderTimeout,
		ReadTimeout:       readTimeout,
		WriteTimeout:      writeTimeout,
		IdleTimeout:       idleTimeout,
		ErrorLog:          log.New(panicsOnly{logger.Named(name)}, "", 0),
	}}, nil
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

// serve runs until the server is shut down.
func (l *listener) serve() error {
	var err error
	if l.server.TLSConfig != nil {
		err = l.server.ServeTLS(l.net, "", "")
	} else {
		err = l.server.Serve(l.net)
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
