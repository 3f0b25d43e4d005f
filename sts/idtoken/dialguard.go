package idtoken

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"syscall"
	"time"
)

// special are the networks where a public issuer cannot be: the IANA special-purpose registries of IPv4 and IPv6
// addresses, multicast, and the public address under which Azure serves its machines' metadata. (The other clouds'
// metadata addresses are link-local, unique local or shared addresses.) It is a constant; nothing writes to it.
var special = prefixes(
	"0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12", "192.0.0.0/24",
	"192.0.2.0/24", "192.88.99.0/24", "192.168.0.0/16", "198.18.0.0/15", "198.51.100.0/24", "203.0.113.0/24",
	"224.0.0.0/4", "240.0.0.0/4", "168.63.129.16/32",
	// All that is outside 2000::/3, where the public IPv6 addresses are.
	"::/3", "4000::/2", "8000::/1",
	"2001::/23", "2001:db8::/32", "3fff::/20",
	"2002::/16", // 6to4: an IPv4 address inside
)

// nat64 is where a NAT64 gateway makes the last four bytes into an IPv4 address (RFC 6052 section 2.1).
var nat64 = netip.MustParsePrefix("64:ff9b::/96")

func prefixes(texts ...string) []netip.Prefix {
	var list []netip.Prefix
	for _, text := range texts {
		list = append(list, netip.MustParsePrefix(text))
	}
	return list
}

// listed says whether one of the networks has the address.
func listed(address netip.Addr, networks []netip.Prefix) bool {
	return slices.ContainsFunc(networks, func(n netip.Prefix) bool { return n.Contains(address) })
}

// mayDial says whether an address may be connected to: every public one, and those that networks list. An IPv4 address
// inside an IPv6 one (mapped, or through NAT64) is judged as what it leads to.
func mayDial(address netip.Addr, networks []netip.Prefix) bool {
	address = address.WithZone("").Unmap()
	if listed(address, networks) {
		return true
	}
	if nat64.Contains(address) {
		bytes := address.As16()
		return mayDial(netip.AddrFrom4([4]byte(bytes[12:])), networks)
	}
	return address.IsValid() && !listed(address, special)
}

// guardedDialer connects only where mayDial allows. It looks at the address that is about to be connected to, after the
// name was resolved, so a name that resolves differently the second time gains nothing.
func guardedDialer(networks []netip.Prefix) *net.Dialer {
	return &net.Dialer{
		Timeout: 5 * time.Second,
		ControlContext: func(_ context.Context, _, address string, _ syscall.RawConn) error {
			endpoint, err := netip.ParseAddrPort(address)
			if err != nil {
				return fmt.Errorf("refusing to connect to %q: not an IP address", address)
			}
			if !mayDial(endpoint.Addr(), networks) {
				return fmt.Errorf("refusing to connect to %s: it is no public address; if the issuer is there, list it in the issuer's networks", endpoint.Addr())
			}
			return nil
		},
	}
}
