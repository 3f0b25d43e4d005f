package signer

import (
	"errors"
	"fmt"
	"maps"
	"net"
	"os"
	"slices"
	"syscall"
	"time"

	"github.com/octo-sts/appliance/signer/systemd"
)

// socketMode lets the socket's owner and group connect. It is a convenience that keeps strangers' connections away; the
// peer's user ID is what decides.
const socketMode = 0o660

// Listen opens the signer's socket: the one that systemd passed (sd_listen_fds(3)) where it passed one, else a new one
// at path. A socket file that nobody listens on any more, as a killed process leaves it, is replaced; one that answers
// is an error, and so is a file of another kind. The directory must exist.
func Listen(path string) (net.Listener, error) {
	passed, err := systemd.Sockets()
	if err != nil {
		return nil, fmt.Errorf("taking over the socket: %w", err)
	}
	all := slices.Concat(slices.Collect(maps.Values(passed))...)
	switch len(all) {
	case 0:
		return listenAt(path)
	case 1:
		unixListener, ok := all[0].(*net.UnixListener)
		if !ok {
			systemd.CloseAll(passed)
			return nil, fmt.Errorf("the service manager passed %s, which is not a unix socket; check ListenStream= of the socket unit", all[0].Addr())
		}
		return unixListener, nil // closing it leaves the file, which is the service manager's
	}
	systemd.CloseAll(passed)
	return nil, fmt.Errorf("the service manager passed %d sockets, expected one", len(all))
}

func listenAt(path string) (net.Listener, error) {
	if err := removeStale(path); err != nil {
		return nil, err
	}
	listener, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		return nil, fmt.Errorf("listening on %s: %w", path, err)
	}
	if err := os.Chmod(path, socketMode); err != nil {
		return nil, errors.Join(fmt.Errorf("setting the mode of %s: %w", path, err), listener.Close())
	}
	return listener, nil
}

func removeStale(path string) error {
	info, err := os.Lstat(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("looking for an old socket: %w", err)
	}
	if info.Mode().Type() != os.ModeSocket {
		return fmt.Errorf("listening on %s: there is a file that is not a socket; remove it or change socket: in the configuration", path)
	}
	conn, err := net.DialTimeout("unix", path, time.Second)
	if err == nil {
		_ = conn.Close()
		return fmt.Errorf("listening on %s: another process is listening there already", path)
	}
	if !errors.Is(err, syscall.ECONNREFUSED) {
		return fmt.Errorf("looking whether anyone listens on %s: %w", path, err)
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("removing the socket of a process that is gone: %w", err)
	}
	return nil
}
