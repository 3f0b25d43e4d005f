package journald

import (
	"errors"
	"net"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// now sends to journald what it takes at once.
type now struct {
	path string

	mu   sync.Mutex
	conn *net.UnixConn // nil: the next send connects; guarded by mu
}

func (n *now) send(datagram []byte) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	err := n.try(datagram)
	if err == nil || errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.EMSGSIZE) {
		return err
	}
	return n.try(datagram) // a journald that was started anew may have another socket
}

// try needs n.mu. After an error, other than that there was no room, the next one connects anew.
func (n *now) try(datagram []byte) error {
	if n.conn == nil {
		conn, err := net.DialUnix("unixgram", nil, &net.UnixAddr{Name: n.path, Net: "unixgram"})
		if err != nil {
			return err
		}
		n.conn = conn
	}
	raw, err := n.conn.SyscallConn()
	if err != nil {
		return err
	}
	var sendErr error
	err = raw.Write(func(fd uintptr) bool {
		_, sendErr = unix.SendmsgN(int(fd), datagram, nil, nil, unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL)
		return true // whatever came of it: net would wait for room
	})
	if err = errors.Join(err, sendErr); err != nil && !errors.Is(err, unix.EAGAIN) && !errors.Is(err, unix.EMSGSIZE) {
		_ = n.conn.Close() // nothing is buffered that could be lost
		n.conn = nil
	}
	return err
}

// stderrNow writes lines to a socket, as standard error is one under systemd, as long
// as there is room in it.
type stderrNow struct {
	fd   int
	lost *atomic.Uint64

	part bool // the last line was cut off; Lock guards it
}

func (w *stderrNow) Write(line []byte) (int, error) {
	out := line
	if w.part {
		out = append([]byte{'\n'}, line...)
	}
	n, _ := unix.SendmsgN(w.fd, out, nil, nil, unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL)
	if n < len(out) {
		w.part = w.part || n > 0
		w.lost.Add(1)
		return len(line), nil // it is told of later; zap would write an error to standard error, and wait
	}
	w.part = false
	return len(line), nil
}

// Sync implements zapcore.WriteSyncer: nothing is buffered.
func (w *stderrNow) Sync() error { return nil }
