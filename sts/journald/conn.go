// Package journald speaks to systemd's journal in its native protocol
// (https://systemd.io/JOURNAL_NATIVE_PROTOCOL/): the audit log's copies go there, and so
// do the programs' own logs.
package journald

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Socket is where journald takes entries.
const Socket = "/run/systemd/journal/socket"

// Field is one field of a journal entry. A name is upper-case letters, digits and underscores, and begins with a letter.
type Field struct{ Name, Value string }

// Fields are what one journal entry holds, in order.
type Fields []Field

// Datagram writes the fields as journald reads them: NAME=value, or where the value has newlines, NAME, its length
// (64 bits, little-endian) and the value (https://systemd.io/JOURNAL_NATIVE_PROTOCOL/, "Data Format").
func (f Fields) Datagram() []byte {
	var b bytes.Buffer
	for _, field := range f {
		b.WriteString(field.Name)
		if strings.Contains(field.Value, "\n") {
			b.WriteByte('\n')
			b.Write(binary.LittleEndian.AppendUint64(nil, uint64(len(field.Value))))
		} else {
			b.WriteByte('=')
		}
		b.WriteString(field.Value)
		b.WriteByte('\n')
	}
	return b.Bytes()
}

// Conn sends to journald, waiting for it within limits. One goroutine uses it.
//
// It is not journal.Send of go-systemd, which sends from a socket that is not connected: while journald's is full, the
// kernel then reports ours as writable all the time, and Send tries again without a pause, on a whole processor, for as
// long as journald hangs, and without a way to stop it. A connected socket waits until there is room.
type Conn struct {
	Path  string
	Limit time.Duration // for one attempt: for so long journald may leave its socket full
	conn  *net.UnixConn // nil: the next send connects
}

// Send returns nil once the datagram is in journald's socket, whose queue outlasts a restart of journald under systemd.
// After an error the next send connects anew.
func (c *Conn) Send(ctx context.Context, datagram []byte) (err error) {
	if c.conn == nil {
		if c.conn, err = net.DialUnix("unixgram", nil, &net.UnixAddr{Name: c.Path, Net: "unixgram"}); err != nil {
			c.conn = nil
			return err
		}
	}
	defer func() {
		if err != nil {
			c.Close()
		}
	}()
	if err := c.conn.SetWriteDeadline(time.Now().Add(c.Limit)); err != nil {
		return err
	}
	conn := c.conn
	defer context.AfterFunc(ctx, func() { _ = conn.SetWriteDeadline(time.Unix(1, 0)) })() // cannot fail but where conn is closed
	_, err = c.conn.Write(datagram)
	if errors.Is(err, unix.EMSGSIZE) || errors.Is(err, unix.ENOBUFS) {
		return c.sendFile(datagram)
	}
	return err
}

// sendFile sends what is too large for a datagram as a sealed file in memory (the same page, "Protocol").
func (c *Conn) sendFile(content []byte) error {
	fd, err := unix.MemfdCreate("octo-sts-journal", unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
	if err != nil {
		return fmt.Errorf("making a file for journald: %w", err)
	}
	file := os.NewFile(uintptr(fd), "memfd")
	defer file.Close()
	if _, err := file.Write(content); err != nil {
		return fmt.Errorf("writing a file for journald: %w", err)
	}
	const seals = unix.F_SEAL_SHRINK | unix.F_SEAL_GROW | unix.F_SEAL_WRITE | unix.F_SEAL_SEAL
	if _, err := unix.FcntlInt(uintptr(fd), unix.F_ADD_SEALS, seals); err != nil {
		return fmt.Errorf("sealing a file for journald: %w", err)
	}
	raw, err := c.conn.SyscallConn() // net's own WriteMsgUnix refuses a datagram socket that is connected
	if err != nil {
		return err
	}
	var sendErr error
	err = raw.Write(func(socket uintptr) bool {
		sendErr = unix.Sendmsg(int(socket), nil, unix.UnixRights(fd), nil, 0)
		return !errors.Is(sendErr, unix.EAGAIN)
	})
	return errors.Join(err, sendErr)
}

// Close can be called more than once.
func (c *Conn) Close() {
	if c.conn != nil {
		_ = c.conn.Close() // nothing is buffered that could be lost
		c.conn = nil
	}
}
