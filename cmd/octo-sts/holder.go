package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"time"

	"golang.org/x/oauth2"

	"github.com/octo-sts/appliance/sts/stsclient"
)

// socketVariable tells what runs under octo-sts exec where to ask for its token.
const socketVariable = "OCTO_STS_SOCKET"

// holder has the installation tokens of one octo-sts exec, in memory alone: the one
// that is current, which it renews when somebody asks for it and it is about to
// expire, and those before it, which are alive for some minutes more.
type holder struct {
	client *stsclient.Client
	ctx    context.Context    // of exchanges
	stop   context.CancelFunc // ends them

	mu     sync.Mutex // guards what follows
	source oauth2.TokenSource
	minted []granted // every one, in order
	closed bool      // nothing is given out any more
}

func newHolder(ctx context.Context, client *stsclient.Client) *holder {
	ctx, stop := context.WithCancel(ctx)
	return &holder{client: client, ctx: ctx, stop: stop, source: client.TokenSource(ctx)}
}

var errHolderClosed = errors.New("octo-sts exec has revoked its token")

// token is the current token.
func (h *holder) token() (granted, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.closed {
		return granted{}, errHolderClosed
	}
	t, err := h.source.Token()
	if err != nil {
		return granted{}, err
	}
	now := granted{t.AccessToken, t.Expiry}
	if n := len(h.minted); n == 0 || h.minted[n-1] != now {
		h.minted = append(h.minted, now)
	}
	return now, nil
}

// forget has the next token be a new one, where the current one is the one that
// GitHub refused.
func (h *holder) forget(refused string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if n := len(h.minted); n > 0 && h.minted[n-1].Token == refused {
		h.source = h.client.TokenSource(h.ctx)
	}
}

// revokeAll ends every token that may be alive, and gives out none from then on. A
// second call tries those again whose end the first could not bring about.
func (h *holder) revokeAll(ctx context.Context) error {
	h.stop() // whoever renews has h.mu
	h.mu.Lock()
	defer h.mu.Unlock()
	h.closed = true
	var alive []granted
	var failed []error
	for _, t := range h.minted {
		if time.Now().Before(t.Expiry) {
			if err := h.client.Revoke(ctx, t.Token); err != nil {
				alive = append(alive, t)
				failed = append(failed, fmt.Errorf("%w\n  The token lives until %s.", err, t.Expiry.UTC().Format(time.RFC3339)))
			}
		}
	}
	h.minted = alive
	return errors.Join(failed...)
}

// holderRequest is a line of JSON that asks for the current token; holderAnswer is
// the line that comes back.
type holderRequest struct {
	// Refused is a token that GitHub did not take: it is forgotten, and none is
	// given.
	Refused string `json:"refused,omitempty"`
}

type holderAnswer struct {
	granted
	Error string `json:"error,omitempty"`
}

// serve answers on a unix socket, in a directory that only this user can enter, until
// stop is called. A socket's path has at most 103 bytes on some systems.
func (h *holder) serve() (socket string, stop func(), err error) {
	dir, err := os.MkdirTemp("", "octo-sts-")
	if err == nil && len(dir) > 90 && runtime.GOOS != "windows" {
		os.Remove(dir)
		dir, err = os.MkdirTemp("/tmp", "octo-sts-")
	}
	if err != nil {
		return "", nil, fmt.Errorf("making a directory for the socket: %w", err)
	}
	socket = filepath.Join(dir, "exec")
	listener, err := net.Listen("unix", socket)
	if err != nil {
		os.Remove(dir)
		return "", nil, fmt.Errorf("listening for the command: %w", err)
	}
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return // it was closed
			}
			go h.answer(conn)
		}
	}()
	return socket, func() {
		listener.Close()
		os.RemoveAll(dir)
	}, nil
}

func (h *holder) answer(conn net.Conn) {
	defer conn.Close()
	_ = conn.SetReadDeadline(time.Now().Add(10 * time.Second))
	var request holderRequest
	if json.NewDecoder(io.LimitReader(conn, maxInstallationToken+100)).Decode(&request) != nil {
		return
	}
	var answer holderAnswer
	if request.Refused != "" {
		h.forget(request.Refused)
	} else {
		var err error
		if answer.granted, err = h.token(); err != nil {
			answer.Error = err.Error()
		}
	}
	_ = json.NewEncoder(conn).Encode(answer) // whoever asked may be gone
}

// askHolder asks the octo-sts exec that this program runs under.
func askHolder(ctx context.Context, socket string, request holderRequest) (granted, error) {
	ctx, cancel := context.WithTimeout(ctx, 3*time.Minute) // a renewal may try several times
	defer cancel()
	conn, err := new(net.Dialer).DialContext(ctx, "unix", socket)
	if err != nil {
		return granted{}, &failedError{fmt.Errorf("asking the surrounding octo-sts exec, which %s names, for its token: %w", socketVariable, err)}
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	var answer holderAnswer
	if err = json.NewEncoder(conn).Encode(request); err == nil {
		err = json.NewDecoder(io.LimitReader(conn, 64<<10)).Decode(&answer)
	}
	if err != nil {
		return granted{}, &failedError{fmt.Errorf("asking the surrounding octo-sts exec for its token: %w", err)}
	}
	if answer.Error != "" {
		return granted{}, &failedError{fmt.Errorf("the surrounding octo-sts exec has no token: %s", answer.Error)}
	}
	return answer.granted, nil
}
