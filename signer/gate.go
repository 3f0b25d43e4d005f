package signer

import (
	"encoding/json"
	"fmt"
	"net"
	"sync"
	"time"
)

const (
	// maxConns bounds the connections of each user that is allowed. The daemon keeps a handful; where it was taken over, it
	// must not keep the operator out.
	maxConns = 128
	// maxRefusals bounds the connections of others that are being told so, and refusalTime for how long each is.
	maxRefusals = 8
	refusalTime = time.Second
)

// gate is the socket's listener as the HTTP server sees it: it accepts peers that are allowed, and of each user no
// more than maxConns. Others can connect where the socket's mode lets them, and get nothing of what the daemon needs: each is told
// that it is refused, and closed.
type gate struct {
	net.Listener
	allowed  func(peer) bool
	refusals chan struct{} // holds one element for each connection that is being refused

	mu    sync.Mutex
	conns map[uint32]int // open connections by user ID, no zeros; guarded by mu
}

func newGate(listener net.Listener, allowed func(peer) bool) *gate {
	return &gate{Listener: listener, allowed: allowed, conns: map[uint32]int{}, refusals: make(chan struct{}, maxRefusals)}
}

// Accept returns the next connection of a peer that is allowed.
func (g *gate) Accept() (net.Conn, error) {
	for {
		conn, err := g.Listener.Accept()
		if err != nil {
			return nil, err
		}
		p := peerOf(conn)
		if !g.allowed(p) {
			g.refuse(conn, p)
			continue
		}
		if g.enter(p.uid) {
			return &gatedConn{Conn: conn, peer: p, leave: sync.OnceFunc(func() { g.leave(p.uid) })}, nil
		}
		_ = conn.Close() // who holds so many connections is no daemon of ours
	}
}

// enter counts one more connection of a user, where there may be one more.
func (g *gate) enter(uid uint32) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.conns[uid] >= maxConns {
		return false
	}
	g.conns[uid]++
	return true
}

func (g *gate) leave(uid uint32) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.conns[uid]--; g.conns[uid] == 0 {
		delete(g.conns, uid)
	}
}

// refuse says why, so that an operator who runs the daemon as another user can read it, but spends little on it.
func (g *gate) refuse(conn net.Conn, p peer) {
	select {
	case g.refusals <- struct{}{}:
	default:
		_ = conn.Close()
		return
	}
	go func() {
		defer func() { <-g.refusals }()
		defer conn.Close()
		_ = conn.SetDeadline(time.Now().Add(refusalTime))
		// An HTTP client takes an answer for one only after it has asked.
		if _, err := conn.Read(make([]byte, 2*maxRequest)); err != nil {
			return
		}
		body, err := json.Marshal(errorBody{Error: notAllowed(p)})
		if err != nil {
			return
		}
		_, _ = fmt.Fprintf(conn, "HTTP/1.1 403 Forbidden\r\nContent-Type: application/json\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%s", len(body), body)
	}()
}

// gatedConn is the connection of a peer that was allowed when it connected.
type gatedConn struct {
	net.Conn
	peer  peer
	leave func()
}

func (c *gatedConn) Close() error {
	defer c.leave()
	return c.Conn.Close()
}
