package appliance

import (
	"net/netip"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"
)

// guestTime is for how long a network is no stranger after something was granted to it.
const guestTime = recalledGrants

// guests are the networks to which something was granted lately, whose connections wait
// for no stranger's. They are safe for concurrent use.
type guests struct {
	last *lru.Cache[netip.Addr, time.Time] // by networkOf
}

func newGuests() guests {
	last, err := lru.New[netip.Addr, time.Time](trackedAddresses)
	if err != nil {
		panic(err) // the size is a constant
	}
	return guests{last}
}

// welcome makes a guest of an address's network, to which something was granted then.
func (g guests) welcome(a netip.Addr, then time.Time) {
	if !a.IsValid() {
		return // a unix socket's: its connections are guests one by one
	}
	if last, ok := g.last.Peek(networkOf(a)); !ok || last.Before(then) { // recallGrants comes late
		g.last.Add(networkOf(a), then)
	}
}

func (g guests) include(a netip.Addr) bool {
	last, ok := g.last.Peek(networkOf(a))
	return ok && time.Since(last) < guestTime
}

func (g guests) forget(a netip.Addr) { g.last.Remove(networkOf(a)) }

// granted makes a guest of whose connection it is, for an exchange or a delivery. A
// proxy's callers are all one.
func (conn *connection) granted() {
	conn.known.Store(true)
	conn.owner.guests.welcome(conn.address, time.Now())
}
