package idtoken

import (
	"net/netip"
	"strings"
	"testing"
)

func TestCheckIssuerURL(t *testing.T) {
	private := []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}
	for _, c := range []struct {
		url      string
		networks []netip.Prefix
		want     string // part of the error; "": accepted
	}{
		{"https://token.actions.githubusercontent.com", nil, ""},
		{"https://token.actions.githubusercontent.com/my-enterprise", nil, ""},
		{"https://gitlab.example:8443", nil, ""},
		{"https://issuer.example/", nil, ""},
		{"https://issuer.example/my%20org/", nil, ""},
		{"https://issuer.example/a%2Fb", nil, ""},
		{"https://xn--bcher-kva.example", nil, ""},
		{"https://10.1.2.3", private, ""},
		{"https://[fd00::1]:8443/x", nil, ""},
		{"https://oidc_provider.corp", nil, ""},
		{"http://127.0.0.1:8080", loopback, ""},
		{"http://localhost:8080", loopback, ""},
		{"http://[::1]:8080", loopback, ""},
		{"http://127.0.0.1:8080", nil, "is http"},
		{"http://localhost:8080", private, "is http"},
		{"http://[::1]:8080", loopback[:1], "is http"},
		{"http://10.1.2.3", private, "is http"},
		{"http://issuer.example", loopback, "is http"},
		{"http://localhost.evil.example", loopback, "is http"},
		{"http://127.0.0.1.evil.example", loopback, "is http"},
		{"", nil, "https://"},
		{"issuer.example", nil, "https://"},
		{"//issuer.example", nil, "https://"},
		{"https:issuer.example", nil, "https://"},
		{"https:///path", nil, "no host"},
		{"https://:443", nil, "no host"},
		{"file:///etc/passwd", nil, "https://"},
		{"gopher://issuer.example", nil, "https://"},
		{"ftp://issuer.example", nil, "https://"},
		{"HTTPS://issuer.example", nil, "https://"},
		{"https://Issuer.example", nil, "capitals"},
		{"https://user@issuer.example", nil, "user information"},
		{"https://user:password@issuer.example", nil, "user information"},
		{"https://@issuer.example", nil, "user information"},
		{"https://issuer.example?x=1", nil, "query"},
		{"https://issuer.example?", nil, "query"},
		{"https://issuer.example#x", nil, "fragment"},
		{"https://issuer.example#", nil, "fragment"},
		{"https://issuer.example/a/../b", nil, "dot segment"},
		{"https://issuer.example/./a", nil, "dot segment"},
		{"https://issuer.example/%2e%2E/b", nil, "dot segment"},
		{"https://issuer.example/..", nil, "dot segment"},
		{"https://issuer.example/a b", nil, "space"},
		{"https://issuer.example/\n", nil, "control character"},
		{" https://issuer.example", nil, "space"},
		{`https://issuer.example\@evil.example`, nil, "backslash"},
		{"https://bücher.example", nil, "ASCII"},
		{"https://issuer.example/%zz", nil, "not a URL"},
		{"https://issuer.example:", nil, "port"},
		{"https://issuer.example:0", nil, "port"},
		{"https://issuer.example:0443", nil, "port"},
		{"https://issuer.example:65536", nil, "port"},
		{"https://issuer..example", nil, "bad host name"},
		{"https://issuer.example.", nil, "bad host name"},
		{"https://[fe80::1%25eth0]", nil, "IPv6"},
		{"https://[::1", nil, "not a URL"},
		{"https://issuer.example/" + strings.Repeat("a", 2048), nil, "longer"},
	} {
		err := CheckIssuerURL(c.url, c.networks)
		switch {
		case c.want == "" && err != nil:
			t.Errorf("%q with %v: %v, want no error", c.url, c.networks, err)
		case c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)):
			t.Errorf("%q with %v: %v, want an error with %q", c.url, c.networks, err, c.want)
		}
	}
}

func TestMayDial(t *testing.T) {
	for _, c := range []struct {
		address, networks string
		want              bool
	}{
		{"140.82.112.3", "", true},
		{"2606:50c0:8000::153", "", true},
		{"::ffff:140.82.112.3", "", true},
		{"64:ff9b::8c52:7003", "", true}, // 140.82.112.3 through NAT64
		{"0.0.0.0", "", false},
		{"0.1.2.3", "", false},
		{"10.1.2.3", "", false},
		{"100.64.0.1", "", false},
		{"100.127.255.255", "", false},
		{"100.128.0.1", "", true},
		{"127.0.0.1", "", false},
		{"127.255.255.254", "", false},
		{"169.254.1.1", "", false},
		{"169.254.169.254", "", false}, // AWS, Azure, Google Cloud metadata
		{"100.100.100.200", "", false}, // Alibaba Cloud metadata
		{"192.0.0.192", "", false},     // Oracle Cloud metadata
		{"168.63.129.16", "", false},   // Azure's machine agent
		{"fd00:ec2::254", "", false},   // AWS metadata
		{"172.16.0.1", "", false},
		{"172.31.255.255", "", false},
		{"172.32.0.1", "", true},
		{"192.168.1.1", "", false},
		{"198.18.0.1", "", false},
		{"224.0.0.1", "", false},
		{"239.255.255.255", "", false},
		{"240.0.0.1", "", false},
		{"255.255.255.255", "", false},
		{"::", "", false},
		{"::1", "", false},
		{"::7f00:1", "", false}, // IPv4-compatible 127.0.0.1
		{"::ffff:127.0.0.1", "", false},
		{"::ffff:169.254.169.254", "", false},
		{"::ffff:0:7f00:1", "", false}, // translated, RFC 2765
		{"64:ff9b::7f00:1", "", false},
		{"64:ff9b::a9fe:a9fe", "", false},
		{"64:ff9b:1::a9fe:a9fe", "", false},
		{"2002:7f00:1::", "", false}, // 6to4
		{"2001::1", "", false},       // Teredo
		{"2001:db8::1", "", false},
		{"fc00::1", "", false},
		{"fd12::1", "", false},
		{"fe80::1", "", false},
		{"fe80::1%eth0", "", false},
		{"fec0::1", "", false},
		{"ff02::1", "", false},
		// The operator's networks.
		{"10.1.2.3", "10.0.0.0/8", true},
		{"::ffff:10.1.2.3", "10.0.0.0/8", true},
		{"64:ff9b::a01:203", "10.0.0.0/8", true},
		{"10.1.2.3", "10.2.0.0/16", false},
		{"127.0.0.1", "10.0.0.0/8", false},
		{"169.254.169.254", "10.0.0.0/8", false},
		{"fd12::1", "fd12::/16", true},
		{"fe80::1%eth0", "fe80::/10", true},
		{"140.82.112.3", "10.0.0.0/8", true},
	} {
		var networks []netip.Prefix
		if c.networks != "" {
			networks = prefixes(c.networks)
		}
		if got := mayDial(netip.MustParseAddr(c.address), networks); got != c.want {
			t.Errorf("%s with networks [%s]: %v, want %v", c.address, c.networks, got, c.want)
		}
	}
	if mayDial(netip.Addr{}, nil) {
		t.Error("no address at all may be dialled")
	}
}
