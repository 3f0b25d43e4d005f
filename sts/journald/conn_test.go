package journald

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

// readDatagram is the protocol's other side, written from its description.
func readDatagram(b []byte) (fields Fields, ok bool) {
	for len(b) > 0 {
		line, rest, ended := bytes.Cut(b, []byte{'\n'})
		if !ended {
			return nil, false
		}
		if name, value, isText := bytes.Cut(line, []byte{'='}); isText {
			fields, b = append(fields, Field{string(name), string(value)}), rest
			continue
		}
		if len(rest) < 8 {
			return nil, false
		}
		n := binary.LittleEndian.Uint64(rest)
		if rest = rest[8:]; n >= uint64(len(rest)) || rest[n] != '\n' {
			return nil, false
		}
		fields, b = append(fields, Field{string(line), string(rest[:n])}), rest[n+1:]
	}
	return fields, true
}

// hostile is text that commands a terminal, and looks like fields of the journal's.
const hostile = "a\x1b[2J\x1b]0;owned\x07\nPRIORITY=0\nMESSAGE_ID=00\r\u202egnp\u0085\x7f, for \"root\" \\ größe"

// No value can become another field.
func FuzzDatagram(f *testing.F) {
	f.Add("plain", "two\nlines")
	f.Add(hostile, "")
	f.Add("\n", "PRIORITY=0\n")
	f.Fuzz(func(t *testing.T, a, b string) {
		want := Fields{{"MESSAGE", a}, {"OCTO_STS_SUBJECT", b}, {"PRIORITY", "6"}}
		got, ok := readDatagram(want.Datagram())
		if diff := cmp.Diff(want, got); !ok || diff != "" {
			t.Error(diff)
		}
	})
}

func listenDatagrams(t testing.TB) (*net.UnixConn, string) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "socket")
	l, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l, path
}

// While the socket is full, sending waits: it goes on when there is room, it ends with ctx, and it costs no processor.
func TestSendWaits(t *testing.T) {
	l, path := listenDatagrams(t)
	c := &Conn{Path: path, Limit: time.Hour}
	defer c.Close()
	full := func() (n int) {
		ctx, cancel := context.WithCancel(context.Background())
		defer cancel()
		for {
			stop := time.AfterFunc(200*time.Millisecond, cancel)
			err := c.Send(ctx, []byte("noise"))
			stop.Stop()
			if errors.Is(err, os.ErrDeadlineExceeded) {
				return n
			} else if err != nil {
				t.Fatal(err)
			}
			n++
		}
	}
	n := full()
	before := processorTime(t)
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	if err := c.Send(ctx, []byte("waits")); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("a full socket took it: %v", err)
	}
	if used := processorTime(t) - before; used > time.Second {
		t.Errorf("waiting for 2 s took %s of a processor", used)
	}
	sent := make(chan error, 1)
	go func() { sent <- c.Send(context.Background(), []byte("goes on")) }()
	buffer := make([]byte, 100)
	for range n {
		if _, err := l.Read(buffer); err != nil {
			t.Fatal(err)
		}
	}
	if err := <-sent; err != nil {
		t.Fatal(err)
	}
	if n, err := l.Read(buffer); err != nil || string(buffer[:n]) != "goes on" {
		t.Errorf("%q, %v", buffer[:n], err)
	}
}

func processorTime(t testing.TB) time.Duration {
	t.Helper()
	var usage unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &usage); err != nil {
		t.Fatal(err)
	}
	return time.Duration(usage.Utime.Nano() + usage.Stime.Nano())
}

// A journald that was started again outside of systemd has another socket at the same path.
func TestSendConnectsAgain(t *testing.T) {
	l, path := listenDatagrams(t)
	c := &Conn{Path: path, Limit: time.Hour}
	defer c.Close()
	if err := c.Send(t.Context(), []byte("first")); err != nil {
		t.Fatal(err)
	}
	l.Close()
	if err := c.Send(t.Context(), []byte("nobody")); err == nil {
		t.Error("nobody took it")
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if err := c.Send(t.Context(), []byte("nobody")); !errors.Is(err, os.ErrNotExist) {
		t.Error(err)
	}
	l, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if err := c.Send(t.Context(), []byte("second")); err != nil {
		t.Fatal(err)
	}
	buffer := make([]byte, 100)
	if n, err := l.Read(buffer); err != nil || string(buffer[:n]) != "second" {
		t.Errorf("%q, %v", buffer[:n], err)
	}
}
