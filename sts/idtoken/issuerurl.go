package idtoken

import (
	"errors"
	"fmt"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"
)

const maxURLSize = 512 // bytes; what the audit log keeps of an issuer whole

// CheckIssuerURL says whether an issuer can be listed under this URL (OpenID Connect Discovery 1.0 section 3, OpenID
// Connect Core 1.0 section 2), and what to change where it cannot.
//
// It must be https; http only where its host is localhost or a loopback address that networks cover. User information,
// query, fragment and dot segments are refused, and so is everything that two programs might spell differently (capitals
// in scheme or host, characters that are not ASCII), because the URL is compared byte for byte. A path may have percent
// escapes and may end in a slash.
func CheckIssuerURL(issuer string, networks []netip.Prefix) error {
	if strings.Contains(issuer, "?") {
		return fmt.Errorf("issuer URL %q: has a query; an issuer's URL has none", shorten(issuer))
	}
	if _, err := checkURL(issuer, networks); err != nil {
		return fmt.Errorf("issuer URL %q: %w", shorten(issuer), err)
	}
	return nil
}

// checkURL checks a URL that is to be fetched from. A query is allowed.
func checkURL(raw string, networks []netip.Prefix) (*url.URL, error) {
	if len(raw) > maxURLSize {
		return nil, fmt.Errorf("longer than %d bytes", maxURLSize)
	}
	for _, c := range []byte(raw) {
		if c <= ' ' || c >= 0x7f || c == '\\' {
			return nil, errors.New("has a space, a control character, a backslash or a character that is not ASCII: write it percent-encoded")
		}
	}
	if strings.Contains(raw, "#") {
		return nil, errors.New("has a fragment")
	}
	u, err := url.Parse(raw)
	if err != nil {
		return nil, errors.New("is not a URL")
	}
	switch {
	case !strings.HasPrefix(raw, "https://") && !strings.HasPrefix(raw, "http://"):
		return nil, errors.New("does not begin with https:// in lower case")
	case u.User != nil:
		return nil, errors.New("has user information")
	}
	if err := checkHost(u); err != nil {
		return nil, err
	}
	for segment := range strings.SplitSeq(u.Path, "/") {
		if segment == "." || segment == ".." {
			return nil, errors.New("has a dot segment in its path")
		}
	}
	if u.Scheme == "http" && !loopbackAllowed(u.Hostname(), networks) {
		return nil, errors.New("is http: use https (http is for a loopback address that networks lists, and for nothing else)")
	}
	return u, nil
}

// checkHost checks host and port: a name in lower case (internationalized ones in their xn-- form) or an IP address.
func checkHost(u *url.URL) error {
	host := u.Hostname()
	if host == "" {
		return errors.New("has no host")
	}
	if host != strings.ToLower(host) {
		return errors.New("has capitals in its host: write it in lower case")
	}
	if port := u.Port(); port != "" || strings.HasSuffix(u.Host, ":") {
		if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 || port[0] == '0' {
			return errors.New("has a bad port")
		}
	}
	if strings.Contains(host, ":") {
		if address, err := netip.ParseAddr(host); err != nil || address.Zone() != "" {
			return errors.New("has a bad IPv6 address as its host")
		}
		return nil
	}
	for label := range strings.SplitSeq(host, ".") {
		if label == "" || strings.Trim(label, "abcdefghijklmnopqrstuvwxyz0123456789-_") != "" {
			return errors.New("has a bad host name")
		}
	}
	return nil
}

// loopbackAllowed says whether the host is on this machine and networks cover it.
func loopbackAllowed(host string, networks []netip.Prefix) bool {
	addresses := []netip.Addr{netip.AddrFrom4([4]byte{127, 0, 0, 1}), netip.IPv6Loopback()}
	if host != "localhost" {
		address, err := netip.ParseAddr(host)
		if err != nil || !address.Unmap().IsLoopback() {
			return false
		}
		addresses = []netip.Addr{address.Unmap()}
	}
	return slices.ContainsFunc(addresses, func(a netip.Addr) bool { return listed(a, networks) })
}

// sameOrigin compares scheme, host and port.
func sameOrigin(a, b *url.URL) bool {
	return a.Scheme == b.Scheme && strings.EqualFold(a.Hostname(), b.Hostname()) && port(a) == port(b)
}

func port(u *url.URL) string {
	switch {
	case u.Port() != "":
		return u.Port()
	case u.Scheme == "http":
		return "80"
	}
	return "443"
}
