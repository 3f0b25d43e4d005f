package signer

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os/user"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// peer is who is at the other end of a connection, in the kernel's word (SO_PEERCRED, unix(7)): the credentials that the
// peer had when it connected.
type peer struct {
	uid uint32
	pid int32
	err error // not nil: the kernel did not say, so the peer is refused
}

type peerKey struct{}

// withPeer is for http.Server.ConnContext.
func withPeer(ctx context.Context, conn net.Conn) context.Context {
	if admitted, ok := conn.(*gatedConn); ok {
		return context.WithValue(ctx, peerKey{}, admitted.peer)
	}
	return context.WithValue(ctx, peerKey{}, peerOf(conn))
}

func peerFrom(ctx context.Context) peer {
	p, ok := ctx.Value(peerKey{}).(peer)
	if !ok {
		return peer{err: errors.New("the connection was not looked at")}
	}
	return p
}

func peerOf(conn net.Conn) peer {
	socket, ok := conn.(*net.UnixConn)
	if !ok {
		return peer{err: fmt.Errorf("a %T has no peer credentials", conn)}
	}
	raw, err := socket.SyscallConn()
	if err != nil {
		return peer{err: err}
	}
	var credentials *unix.Ucred
	var failure error
	err = raw.Control(func(fd uintptr) {
		credentials, failure = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
	})
	if err := errors.Join(err, failure); err != nil {
		return peer{err: err}
	}
	return peer{uid: credentials.Uid, pid: credentials.Pid}
}

// ResolveUsers turns allow_users, names or numeric user IDs, into user IDs. It is done once, at start: a name that
// changes hands later must not change who may have App JWTs. The error names every user that does not exist.
func ResolveUsers(names []string) ([]uint32, error) {
	var uids []uint32
	var unknown []string
	for _, name := range names {
		uid, err := resolveUser(name)
		if err != nil {
			unknown = append(unknown, fmt.Sprintf("%q (%v)", name, err))
			continue
		}
		if !slices.Contains(uids, uid) {
			uids = append(uids, uid)
		}
	}
	if len(unknown) > 0 {
		return nil, fmt.Errorf("allow_users: cannot resolve %s", strings.Join(unknown, ", "))
	}
	return uids, nil
}

func resolveUser(name string) (uint32, error) {
	// A number is an ID and never looked up, so no account named "1000" can take the place of user 1000.
	if uid, err := strconv.ParseUint(name, 10, 32); err == nil {
		return uint32(uid), nil
	}
	found, err := user.Lookup(name)
	if err != nil {
		return 0, err
	}
	uid, err := strconv.ParseUint(found.Uid, 10, 32)
	return uint32(uid), err
}
