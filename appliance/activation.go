package appliance

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"slices"

	"go.uber.org/zap"

	"github.com/octo-sts/appliance/signer/systemd"
)

// sockets are what the daemon listens on, by the listener's name in the
// configuration. Several addresses may have one name.
type sockets struct {
	byName map[string][]net.Listener

	// passed: https and http are the service manager's, which keeps them open, and
	// what waits in their queues, while one daemon makes way for the next.
	passed bool
}

// openSockets takes over the sockets that the service manager passed by the names
// `https` and `http`, or opens listen.https and listen.http. It is one or the
// other: where sockets were passed, exactly those are served, so that what is open
// stands in one place. listen.admin is always opened here.
func openSockets(ctx context.Context, c *Config, logger *zap.Logger) (_ *sockets, err error) {
	passed, err := systemd.Sockets()
	if err != nil {
		return nil, fmt.Errorf("taking over sockets: %w", err)
	}
	s := &sockets{byName: map[string][]net.Listener{}, passed: len(passed) > 0}
	maps.Copy(s.byName, passed)
	defer func() {
		if err != nil {
			systemd.CloseAll(s.byName)
		}
	}()
	opened := map[string]string{"admin": c.Listen.Admin}
	if !s.passed {
		opened["https"] = c.Listen.HTTPS
		if c.Listen.HTTP != "" {
			opened["http"] = c.Listen.HTTP
		}
	} else if err := checkPassed(passed, c.TLS.Mode); err != nil {
		return nil, fmt.Errorf("taking over sockets: %w", err)
	} else if c.Listen.HTTP != "" && passed["http"] == nil {
		logger.Warn("listen.http is not opened: the service manager passed sockets, and none of them is named http", zap.String("listen_http", c.Listen.HTTP))
	}
	for _, name := range slices.Sorted(maps.Keys(opened)) {
		l, err := openSocket(ctx, opened[name])
		if err != nil {
			return nil, fmt.Errorf("listening for %s: %w", name, err)
		}
		s.byName[name] = append(s.byName[name], l)
	}
	return s, nil
}

// checkPassed reports everything at once that is wrong with what was passed.
func checkPassed(passed map[string][]net.Listener, tlsMode string) error {
	var problems []error
	for _, name := range slices.Sorted(maps.Keys(passed)) {
		if name != "https" && name != "http" {
			problems = append(problems, fmt.Errorf("the service manager passed %s as %q: FileDescriptorName= of a socket unit is https or http", passed[name][0].Addr(), name))
		}
	}
	if passed["https"] == nil {
		problems = append(problems, errors.New("the service manager passed no socket named https: a socket unit for the exchange has FileDescriptorName=https"))
	}
	for _, l := range passed["https"] {
		if tlsMode == "off" && !isLocalSocket(l.Addr()) {
			problems = append(problems, fmt.Errorf("tls.mode is off, and the socket https that the service manager passed listens on %s: it has to be a loopback address or a unix socket", l.Addr()))
		}
	}
	return errors.Join(problems...)
}

// isLocalSocket tells whether nobody off this machine can reach a socket.
func isLocalSocket(address net.Addr) bool {
	if address.Network() == "unix" {
		return true
	}
	parsed, err := netip.ParseAddrPort(address.String())
	return err == nil && parsed.Addr().Unmap().IsLoopback()
}
