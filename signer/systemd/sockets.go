// Package systemd is what both daemons have to do with their service manager:
// the sockets that it passes (sd_listen_fds(3)), and what it is told
// (sd_notify(3)). Where there is no service manager, all of it does nothing.
package systemd

import (
	"errors"
	"fmt"
	"net"
	"os"

	"github.com/coreos/go-systemd/v22/activation"
	"golang.org/x/sys/unix"
)

// Sockets takes over the listening sockets that the service manager passed, by
// their names (FileDescriptorName= of the socket unit; one unit may have several
// addresses). Empty: there are none. It works once: the environment variables that
// say so are gone afterwards, so that no child mistakes them for its own.
//
// What is passed and is no listening stream socket, and one that was passed twice,
// are errors, and all of them are reported together. Closing a listener leaves the
// service manager's socket, and its file, as they are.
func Sockets() (map[string][]net.Listener, error) {
	sockets := map[string][]net.Listener{}
	var problems []error
	seen := map[string]string{}
	for _, file := range activation.Files(true) {
		name := file.Name()
		listener, err := takeOver(file)
		if err != nil {
			problems = append(problems, fmt.Errorf("the service manager passed %q, %w", name, err))
			continue
		}
		address := listener.Addr().Network() + " " + listener.Addr().String()
		if other, twice := seen[address]; twice {
			problems = append(problems, fmt.Errorf("the service manager passed %s twice, as %q and as %q: name it in one socket unit alone", listener.Addr(), other, name))
		}
		seen[address] = name
		sockets[name] = append(sockets[name], listener)
	}
	if err := errors.Join(problems...); err != nil {
		CloseAll(sockets)
		return nil, err
	}
	return sockets, nil
}

// takeOver makes a listener of a file, which it closes.
func takeOver(file *os.File) (net.Listener, error) {
	defer file.Close() // net.FileListener has a descriptor of its own
	fd := int(file.Fd())
	if kind, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_TYPE); err != nil {
		return nil, fmt.Errorf("which is not a socket (%w)", err)
	} else if kind != unix.SOCK_STREAM {
		return nil, errors.New("which is not a stream socket: a socket unit for it has ListenStream=")
	}
	if listens, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_ACCEPTCONN); err != nil || listens == 0 {
		return nil, errors.New("which does not listen: a socket unit for it has Accept=no")
	}
	listener, err := net.FileListener(file)
	if err != nil {
		return nil, fmt.Errorf("which cannot be used: %w", err)
	}
	return listener, nil
}

// CloseAll closes sockets that are not going to be used.
func CloseAll(sockets map[string][]net.Listener) {
	for _, listeners := range sockets {
		for _, l := range listeners {
			_ = l.Close() // the service manager's own descriptor stays open
		}
	}
}
