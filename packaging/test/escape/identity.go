//go:build packages && linux

package main

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// identity are ways to become somebody else.
func identity() []attempt {
	return []attempt{
		{"become root (setuid)", func() error { return errno(unix.SYS_SETUID, 0, 0, 0, 0, 0) }},
		{"join root's group (setgid)", func() error { return errno(unix.SYS_SETGID, 0, 0, 0, 0, 0) }},
		{"join groups (setgroups)", func() error {
			group := uint32(0)
			return errno(unix.SYS_SETGROUPS, 1, uintptr(unsafe.Pointer(&group)), 0, 0, 0)
		}},
		{"take a capability", func() error {
			header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
			var data [2]unix.CapUserData
			if err := unix.Capget(&header, &data[0]); err != nil {
				return err
			}
			data[0].Permitted |= 1 << unix.CAP_NET_RAW
			data[0].Effective |= 1 << unix.CAP_NET_RAW
			return unix.Capset(&header, &data[0])
		}},
		{"mark a file of its own setuid", func() error { return withOwnFile(func(path string) error { return unix.Chmod(path, 0o4700) }) }},
		{"mark a file of its own setgid", func() error { return withOwnFile(func(path string) error { return unix.Chmod(path, 0o2710) }) }},
		{"make a file that is setuid", func() error {
			path := filepath.Join(ownDirectory(), "escape-setuid")
			defer os.Remove(path)
			fd, err := unix.Open(path, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL, 0o4700)
			if err == nil {
				_ = unix.Close(fd)
			}
			return err
		}},
		{"give a file away (chown)", func() error { return withOwnFile(func(path string) error { return unix.Chown(path, 1, 1) }) }},
	}
}

// ownDirectory is one that the service may write to.
func ownDirectory() string {
	if own := filepath.SplitList(os.Getenv("ESCAPE_OWN_DIRECTORIES")); len(own) > 0 {
		return own[0]
	}
	return os.TempDir()
}

func withOwnFile(do func(path string) error) error {
	path := filepath.Join(ownDirectory(), "escape-own")
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		return fmt.Errorf("making a plain file: %w", err)
	}
	defer os.Remove(path)
	return do(path)
}

// sockets are ways into networks. What a unit may do of them is the test's to say.
func sockets() []attempt {
	var list []attempt
	for _, kind := range []struct {
		name                   string
		domain, kind, protocol int
	}{
		{"open a raw socket", unix.AF_INET, unix.SOCK_RAW, unix.IPPROTO_ICMP},
		{"open a raw socket of IPv6", unix.AF_INET6, unix.SOCK_RAW, unix.IPPROTO_ICMPV6},
		{"open a packet socket", unix.AF_PACKET, unix.SOCK_RAW, 0},
		{"open a netlink socket", unix.AF_NETLINK, unix.SOCK_RAW, unix.NETLINK_ROUTE},
		{"open a vsock socket", unix.AF_VSOCK, unix.SOCK_STREAM, 0},
		{"open a socket of the kernel's cryptography", unix.AF_ALG, unix.SOCK_SEQPACKET, 0},
		{"open a TCP socket", unix.AF_INET, unix.SOCK_STREAM, 0},
		{"open a UDP socket", unix.AF_INET, unix.SOCK_DGRAM, 0},
		{"open a TCP socket of IPv6", unix.AF_INET6, unix.SOCK_STREAM, 0},
	} {
		list = append(list, attempt{kind.name, func() error {
			fd, err := unix.Socket(kind.domain, kind.kind, kind.protocol)
			if err == nil {
				_ = unix.Close(fd)
			}
			return err
		}})
	}
	for _, port := range []int{443, 8443} {
		list = append(list, attempt{fmt.Sprintf("listen on port %d", port), func() error {
			l, err := net.Listen("tcp4", fmt.Sprintf("0.0.0.0:%d", port))
			if err == nil {
				_ = l.Close()
			}
			return err
		}})
	}
	return append(list,
		attempt{"connect to an address outside", func() error { return connectTCP(os.Getenv("ESCAPE_OUTSIDE")) }},
		attempt{"connect to this machine's loopback", func() error { return connectTCP("127.0.0.1:9464") }},
		attempt{"send to a multicast address", func() error {
			c, err := net.Dial("udp4", "224.0.0.251:5353")
			if err != nil {
				return err
			}
			defer c.Close()
			_, err = c.Write([]byte("escape"))
			return err
		}})
}

// connectTCP gets through where somebody answers, and be it with a refusal.
func connectTCP(address string) error {
	c, err := net.DialTimeout("tcp4", address, 5*time.Second)
	if err == nil {
		return c.Close()
	}
	return but(err, unix.ECONNREFUSED)
}
