package appliance

import (
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"
)

// proxies are the peers whose word on where a request came from counts.
type proxies struct {
	networks []netip.Prefix
	unix     bool // whoever may open the unix socket
}

// parseProxies reads listen.proxies; its error names the entry.
func parseProxies(entries []string) (proxies, error) {
	var p proxies
	for _, entry := range entries {
		if entry == "unix" {
			p.unix = true
			continue
		}
		network, err := netip.ParsePrefix(entry)
		if err != nil {
			return proxies{}, fmt.Errorf("%q is not a network such as 10.20.0.0/16 or 192.0.2.7/32, nor unix", entry)
		}
		if network.Bits() == 0 {
			return proxies{}, fmt.Errorf("%q is everybody, so that anyone could name any address", entry)
		}
		p.networks = append(p.networks, network.Masked())
	}
	return p, nil
}

// include tells whether an address is a proxy's; the invalid address is that of
// a peer on a unix socket.
func (p proxies) include(a netip.Addr) bool {
	if !a.IsValid() {
		return p.unix
	}
	return slices.ContainsFunc(p.networks, func(n netip.Prefix) bool { return n.Contains(a) })
}

// addressOf is a peer's IP address, of IPv4 always in its short form; invalid for
// a unix socket's.
func addressOf(a net.Addr) netip.Addr {
	if tcp, ok := a.(*net.TCPAddr); ok {
		return tcp.AddrPort().Addr().Unmap().WithZone("")
	}
	return netip.Addr{}
}

// forwardedFor is the address that proxies say a request of such a peer came
// from: in X-Forwarded-For, to which each proxy adds the peer that it saw, the
// rightmost that is not a proxy's itself. What stands left of that was written by
// that caller, and counts for nothing. An entry that is no address ends the
// search at the proxy that reported it. Forwarded (RFC 7239) is not read: a proxy
// that sets one of the two headers passes the other on as the caller wrote it.
func (p proxies) forwardedFor(peer netip.Addr, header http.Header) netip.Addr {
	lines := header["X-Forwarded-For"]
	for i := len(lines) - 1; i >= 0 && p.include(peer); i-- {
		for rest, more := lines[i], true; more && p.include(peer); {
			entry := rest
			comma := strings.LastIndexByte(rest, ',')
			if more = comma >= 0; more {
				rest, entry = rest[:comma], rest[comma+1:]
			}
			reported, ok := parseForwarded(strings.Trim(entry, " \t"))
			if !ok {
				return peer
			}
			peer = reported
		}
	}
	return peer
}

// parseForwarded reads an entry of X-Forwarded-For: an address, to which some
// proxies add the port.
func parseForwarded(entry string) (netip.Addr, bool) {
	a, err := netip.ParseAddr(entry)
	if err != nil {
		withPort, err := netip.ParseAddrPort(entry)
		if err != nil {
			return netip.Addr{}, false
		}
		a = withPort.Addr()
	}
	return a.Unmap().WithZone(""), true
}

// networkOf names whose limits an address has: its own for IPv4, those of its
// /64 for IPv6, of which one machine has as many addresses as it likes. All
// peers on a unix socket are one.
func networkOf(a netip.Addr) netip.Addr {
	if !a.Is6() || a.Is4In6() {
		return a.Unmap()
	}
	network, err := a.WithZone("").Prefix(64)
	if err != nil {
		return a
	}
	return network.Addr()
}
