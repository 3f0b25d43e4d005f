package webhook

import (
	"net/netip"
	"sync"
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
)

// room is what bodies may take, for whoever asks first: nobody waits, so that
// those who send slowly cannot hold up those who do not. The zero value is empty.
type room struct {
	mu      sync.Mutex
	all     held            // guarded by mu
	clients map[string]held // guarded by mu: those that hold anything
}

// held is what somebody holds.
type held struct {
	reading int
	bytes   int64
}

// enter lets a client's body be read; where it says true, leave is to be called.
func (m *room) enter(client string) bool { return m.hold(client, held{reading: 1}) }

func (m *room) leave(client string) { m.release(client, held{reading: 1}) }

func (m *room) take(client string, n int) bool { return m.hold(client, held{bytes: int64(n)}) }

func (m *room) give(client string, n int) { m.release(client, held{bytes: int64(n)}) }

// hold adds to what the client holds, unless that were too much.
func (m *room) hold(client string, more held) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	all := m.all.plus(more)
	if all.reading > maxReading || all.bytes > maxBodies {
		return false
	}
	if client != "" {
		share := m.clients[client].plus(more)
		if share.reading > maxClientReading || share.bytes > maxClientBodies {
			return false
		}
		if m.clients == nil {
			m.clients = map[string]held{}
		}
		m.clients[client] = share
	}
	m.all = all
	return true
}

// release is the opposite of hold.
func (m *room) release(client string, less held) {
	less = held{-less.reading, -less.bytes}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.all = m.all.plus(less)
	if client == "" {
		return
	}
	if share := m.clients[client].plus(less); share == (held{}) {
		delete(m.clients, client)
	} else {
		m.clients[client] = share
	}
}

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
