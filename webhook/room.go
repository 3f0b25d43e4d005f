package webhook

import (
	"net/netip"
	"sync"
	"time"
)

// What is held of bodies at once, before anything shows that they are GitHub's.
const (
	// maxReading bounds how many bodies are read at once, maxBodies in bytes what
	// is held of them.
	maxReading = 512
	maxBodies  = 64 << 20
	// maxClientReading and maxClientBodies are the share of one client, so that
	// nobody alone keeps GitHub out. The latter is what the largest body takes
	// while it grows.
	maxClientReading = 32
	maxClientBodies  = 42 << 20
	// patience is how long a body may take in any case: GitHub's take less.
	patience = 250 * time.Millisecond
)

// room is what bodies may take, for whoever asks first: nobody waits. Where it is
// used up, the body gives way that comes in the slowest, so that those who send
// nothing keep nobody out, from however many addresses they come. The zero value is
// empty.
type room struct {
	mu       sync.Mutex
	all      held                  // guarded by mu
	clients  map[string]held       // guarded by mu: those that hold anything
	readings map[*reading]struct{} // guarded by mu: whose body is being read
}

// held is what somebody holds.
type held struct {
	reading int
	bytes   int64
}

// reading is one body: while it is read, and then until it is closed.
type reading struct {
	room   *room
	client string
	began  time.Time
	stop   func() // has the body's next Read fail, at once

	held    held // guarded by room.mu
	dropped bool // guarded by room.mu: it gave way
}

// open begins to read a body of the client's, unless there are too many. Then
// read and close are to be called.
func (m *room) open(client string, stop func()) (*reading, bool) {
	g := &reading{room: m, client: client, began: time.Now(), stop: stop}
	m.mu.Lock()
	defer m.mu.Unlock()
	if !m.hold(g, held{reading: 1}) {
		return nil, false
	}
	if m.readings == nil {
		m.readings = map[*reading]struct{}{}
	}
	m.readings[g] = struct{}{}
	return g, true
}

// take adds n bytes to what the body takes, unless that were too much.
func (g *reading) take(n int) bool {
	g.room.mu.Lock()
	defer g.room.mu.Unlock()
	return !g.dropped && g.room.hold(g, held{bytes: int64(n)})
}

func (g *reading) give(n int) {
	g.room.mu.Lock()
	defer g.room.mu.Unlock()
	if !g.dropped { // otherwise it holds nothing any more
		g.room.release(g, held{bytes: int64(n)})
	}
}

func (g *reading) gaveWay() bool {
	g.room.mu.Lock()
	defer g.room.mu.Unlock()
	return g.dropped
}

// isRead says that the body has arrived, or will not: nobody waits for it.
func (g *reading) isRead() {
	g.room.mu.Lock()
	defer g.room.mu.Unlock()
	delete(g.room.readings, g)
	g.room.release(g, held{reading: g.held.reading})
}

// close gives back all that is held.
func (g *reading) close() {
	g.room.mu.Lock()
	defer g.room.mu.Unlock()
	delete(g.room.readings, g)
	g.room.release(g, g.held)
}

// hold needs m.mu. It adds to what a body holds, unless that were too much even
// after others gave way.
func (m *room) hold(g *reading, more held) bool {
	if g.client != "" && m.clients[g.client].plus(more).exceeds(held{maxClientReading, maxClientBodies}) {
		return false
	}
	for m.all.plus(more).exceeds(held{maxReading, maxBodies}) {
		if !m.dropSlowest(g) {
			return false
		}
	}
	m.all, g.held = m.all.plus(more), g.held.plus(more)
	if g.client != "" {
		if m.clients == nil {
			m.clients = map[string]held{}
		}
		m.clients[g.client] = m.clients[g.client].plus(more)
	}
	return true
}

// dropSlowest needs m.mu. What it finds counts no more, although its memory is
// only free when its reader has noticed.
func (m *room) dropSlowest(except *reading) bool {
	var slowest *reading
	least, now := 0.0, time.Now()
	for g := range m.readings {
		age := now.Sub(g.began)
		if speed := float64(g.held.bytes) / age.Seconds(); g != except && age > patience && (slowest == nil || speed < least) {
			slowest, least = g, speed
		}
	}
	if slowest == nil {
		return false
	}
	delete(m.readings, slowest)
	m.release(slowest, slowest.held)
	slowest.dropped = true
	slowest.stop()
	return true
}

// release needs m.mu. It is the opposite of hold.
func (m *room) release(g *reading, less held) {
	less = held{-less.reading, -less.bytes}
	m.all, g.held = m.all.plus(less), g.held.plus(less)
	if g.client == "" {
		return
	}
	if share := m.clients[g.client].plus(less); share == (held{}) {
		delete(m.clients, g.client)
	} else {
		m.clients[g.client] = share
	}
}

func (h held) exceeds(most held) bool { return h.reading > most.reading || h.bytes > most.bytes }

func (h held) plus(other held) held {
	return held{h.reading + other.reading, h.bytes + other.bytes}
}

// clientOf names the client whose address a request came from: the address, or
// for IPv6 its /64, of which one machine has as many addresses as it likes. It is
// "", who has no share, for this machine: there a proxy speaks for everybody.
func clientOf(remoteAddress string) string {
	peer, err := netip.ParseAddrPort(remoteAddress)
	if err != nil {
		return "" // a unix socket
	}
	address := peer.Addr().Unmap().WithZone("")
	if address.IsLoopback() {
		return ""
	}
	if address.Is6() {
		network, _ := address.Prefix(64) // every IPv6 address has one
		return network.String()
	}
	return address.String()
}
