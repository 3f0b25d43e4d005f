package main

import (
	"bufio"
	"crypto/tls"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/octo-sts/appliance/sts/audit"
	"github.com/octo-sts/appliance/sts/ststest"
)

// askFrom asks for an exchange on a connection of its own from an address: first,
// beneath TLS, preamble, then lines in the request's header. It returns the client
// address that the audit log has, or how it failed.
func (r *rig) askFrom(from, preamble string, lines ...string) string {
	r.t.Helper()
	return r.askAt(r.daemonAt(), from, preamble, lines...)
}

// askAt is askFrom by way of something that stands before the daemon.
func (r *rig) askAt(d daemonAt, from, preamble string, lines ...string) string {
	r.t.Helper()
	c, err := d.dial(from)
	if err != nil {
		r.t.Fatal(err)
	}
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(patience)); err != nil {
		r.t.Fatal(err)
	}
	_, _ = io.WriteString(c, preamble)
	if d.roots != nil {
		secure := tls.Client(c, &tls.Config{RootCAs: d.roots, ServerName: "127.0.0.1"})
		if err := secure.Handshake(); err != nil {
			return "no TLS"
		}
		c = secure
	}
	header := strings.Join(append(lines, "Host: sts.example.com", "Connection: close", "Authorization: Bearer "+r.job(nil)), "\r\n")
	_, _ = io.WriteString(c, "GET /sts/exchange?scope=acme/app&identity=reader HTTP/1.1\r\n"+header+"\r\n\r\n")
	response, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err != nil {
		return "no answer"
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return response.Status
	}
	entries := r.audited(audit.Filter{RequestID: response.Header.Get("X-Request-Id")})
	if len(entries) != 2 || entries[0].ClientAddress != entries[1].ClientAddress {
		r.t.Fatalf("audit log: %+v", entries)
	}
	return entries[0].ClientAddress
}

// proxyV2 is a header of the PROXY protocol's version 2 for a caller of TCP over
// IPv4 or IPv6 (https://www.haproxy.org/download/3.0/doc/proxy-protocol.txt).
func proxyV2(caller string) string {
	ip, family := net.ParseIP(caller).To4(), byte(0x11)
	if ip == nil {
		ip, family = net.ParseIP(caller), 0x21
	}
	header := append([]byte("\r\n\r\n\x00\r\nQUIT\n"), 0x21, family)
	header = binary.BigEndian.AppendUint16(header, uint16(2*len(ip)+4))
	header = append(append(header, ip...), ip...)
	return string(append(header, 0x12, 0x34, 0x01, 0xbb))
}

// Where a caller is from, proxies that the configuration names tell, and nobody
// else does.
func TestForwardedAddresses(t *testing.T) {
	const proxy, second, stranger = "127.5.0.1", "127.5.0.2", "127.6.0.1"
	r := newRig(t, ststest.ServiceConfig{TLS: true, Edit: func(c map[string]any) {
		c["listen"].(map[string]any)["proxies"] = []string{"127.5.0.0/24"}
	}})
	for _, c := range []struct {
		name, from, want, preamble string
		lines                      []string
	}{
		{"nobody's word", proxy, proxy, "", nil},
		{"a proxy's word", proxy, "192.0.2.7", "", []string{"X-Forwarded-For: 192.0.2.7"}},
		{"what the caller wrote before it", proxy, "192.0.2.7", "", []string{"X-Forwarded-For: 198.51.100.1, 192.0.2.7"}},
		{"in a line of its own", proxy, "192.0.2.7", "", []string{"X-Forwarded-For: 198.51.100.1", "X-Forwarded-For: 192.0.2.7"}},
		{"a chain of proxies", proxy, "192.0.2.7", "", []string{"X-Forwarded-For: 198.51.100.1,192.0.2.7,\t" + second}},
		{"a proxy's own", proxy, second, "", []string{"X-Forwarded-For: " + second}},
		{"with a port", proxy, "192.0.2.7", "", []string{"X-Forwarded-For: 192.0.2.7:4711"}},
		{"IPv6", proxy, "2001:db8::7", "", []string{"X-Forwarded-For: 2001:DB8::7"}},
		{"IPv6 with a port", proxy, "2001:db8::7", "", []string{"X-Forwarded-For: [2001:db8::7]:4711"}},
		{"IPv4 in IPv6", proxy, "192.0.2.7", "", []string{"X-Forwarded-For: ::ffff:192.0.2.7"}},
		{"no address", proxy, proxy, "", []string{"X-Forwarded-For: 192.0.2.7, unknown"}},
		{"nothing", proxy, proxy, "", []string{"X-Forwarded-For: "}},
		{"another header", proxy, proxy, "", []string{"Forwarded: for=192.0.2.7", "X-Real-Ip: 192.0.2.7"}},
		{"a stranger's word", stranger, stranger, "", []string{"X-Forwarded-For: 192.0.2.7", "Forwarded: for=192.0.2.7"}},
		{"a stranger who names a proxy", stranger, stranger, "", []string{"X-Forwarded-For: 192.0.2.7, " + proxy}},
		{"the PROXY protocol, which is off", proxy, "no TLS", "PROXY TCP4 192.0.2.7 127.0.0.1 1 443\r\n", nil},
	} {
		if got := r.askFrom(c.from, c.preamble, c.lines...); got != c.want {
			t.Errorf("%s: %s, want %s", c.name, got, c.want)
		}
	}

	r.reconfigure(func(c map[string]any) { c["listen"].(map[string]any)["proxy_protocol"] = true })
	v1 := "PROXY TCP4 192.0.2.7 127.0.0.1 4711 443\r\n"
	for _, c := range []struct {
		name, from, want, preamble string
		lines                      []string
	}{
		{"version 1", proxy, "192.0.2.7", v1, nil},
		{"version 1 of IPv6", proxy, "2001:db8::7", "PROXY TCP6 2001:db8::7 2001:db8::1 4711 443\r\n", nil},
		{"version 2", proxy, "192.0.2.7", proxyV2("192.0.2.7"), nil},
		{"version 2 of IPv6", proxy, "2001:db8::7", proxyV2("2001:db8::7"), nil},
		{"no header", proxy, "no TLS", "", nil},
		{"half a header", proxy, "no TLS", "PROXY TCP4 192.0.2.7", nil},
		{"a header that is too long", proxy, "no TLS", "PROXY TCP4 " + strings.Repeat("1", 200) + "\r\n", nil},
		{"no address", proxy, "no TLS", "PROXY TCP4 300.0.2.7 127.0.0.1 1 443\r\n", nil},
		{"two headers", proxy, "no TLS", v1 + v1, nil},
		{"for nobody", proxy, proxy, "PROXY UNKNOWN\r\n", []string{"X-Forwarded-For: 192.0.2.9"}},
		{"what its caller wrote", proxy, "192.0.2.7", v1, []string{"X-Forwarded-For: 192.0.2.9"}},
		{"for another proxy", proxy, "192.0.2.9", "PROXY TCP4 " + second + " 127.0.0.1 1 443\r\n", []string{"X-Forwarded-For: 192.0.2.9"}},
		{"a stranger's", stranger, "no TLS", v1, nil},
		{"a stranger's version 2", stranger, "no TLS", proxyV2("192.0.2.7"), nil},
		{"a stranger without", stranger, stranger, "", nil},
	} {
		if got := r.askFrom(c.from, c.preamble, c.lines...); got != c.want {
			t.Errorf("the PROXY protocol, %s: %s, want %s", c.name, got, c.want)
		}
	}
	if n := r.gauges()[`octo_sts_connections_shed_total{limit="proxy_header"}`]; n != 4 {
		t.Errorf("%.0f connections without their header were counted", n)
	}
}

// Limits of an address are the caller's, whichever proxy it comes through.
func TestLimitsBehindAProxy(t *testing.T) {
	const proxy = "127.5.0.1"
	r := newRig(t, ststest.ServiceConfig{Edit: func(c map[string]any) {
		c["limits"] = map[string]any{"per_address": 0.000001, "burst": 1, "connections_per_address": 3}
		c["listen"].(map[string]any)["proxies"] = []string{proxy + "/32", "unix"}
	}})
	for n := range 20 {
		caller := fmt.Sprintf("192.0.2.%d", n)
		for _, want := range []string{caller, "429 Too Many Requests"} {
			if got := r.askFrom(proxy, "", "X-Forwarded-For: "+caller); got != want {
				t.Errorf("%s: %s, want %s", caller, got, want)
			}
		}
	}
	for n := range 2 { // of the same /64
		want := []string{"2001:db8::1", "429 Too Many Requests"}[n]
		if got := r.askFrom(proxy, "", fmt.Sprintf("X-Forwarded-For: 2001:db8::%d", n+1)); got != want {
			t.Errorf("IPv6: %s, want %s", got, want)
		}
	}
	held := r.gauges()["octo_sts_connections_open"]
	for range 10 {
		c, err := r.daemonAt().dial(proxy)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
	}
	r.eventually("a proxy's connections are not counted as one caller's", func() bool {
		return r.gauges()["octo_sts_connections_open"] >= held+10
	})
}

// TestLimitsOfIssuers holds that an issuer has its share, which only ID tokens that
// it signed draw from, and that strangers take nothing from those who were granted
// something.
func TestLimitsOfIssuers(t *testing.T) {
	r := newRig(t, ststest.ServiceConfig{Edit: func(c map[string]any) {
		c["limits"].(map[string]any)["per_issuer"] = 0.000001
		c["limits"].(map[string]any)["burst_per_issuer"] = 2
	}})
	forged := r.job(nil)
	forged = forged[:len(forged)-8] + "AAAAAAAA"
	for range 5 {
		if x := r.exchange("acme/app", "reader", forged); x.Status != http.StatusUnauthorized {
			t.Errorf("a forged ID token: %d %s", x.Status, x.Body)
		}
	}
	r.granted("acme/app", "reader") // as a stranger
	stranger := r.job(map[string]any{"sub": "repo:mallory/app:ref:refs/heads/main"})
	for i, want := range []int{http.StatusForbidden, http.StatusTooManyRequests, http.StatusTooManyRequests} {
		if x := r.exchange("acme/app", "reader", stranger); x.Status != want {
			t.Errorf("the stranger's exchange %d: %d %s, want %d", i, x.Status, x.Body, want)
		}
	}
	r.granted("acme/app", "reader")
	r.granted("acme/app", "reader")
	before := len(r.audited(audit.Filter{}))
	for _, w := range r.wires() {
		a := w.ask(t, "acme/app", "reader", r.job(nil))
		if a.RetryAfter == "" || a.Token != "" || !strings.Contains(a.Message, "too many requests") {
			t.Errorf("%s: %+v", w.name, a)
		}
	}
	if after := len(r.audited(audit.Filter{})); after != before {
		t.Errorf("%d entries about it", after-before)
	}
	if n := r.gauges()[`octo_sts_exchanges_total{decision="denied",reason="issuer_rate"}`]; int(n) != 2+len(r.wires()) {
		t.Errorf("%.0f were counted", n)
	}
}
