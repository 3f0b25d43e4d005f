package signer

import (
	"context"
	"errors"
	"net"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// Somebody else who may connect can keep the socket's queue full: a client waits for a place, as long as its call may last.
func TestClientWaitsForAPlaceInTheQueue(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "s")
	listener, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(listener)
	if err := errors.Join(unix.Bind(listener, &unix.SockaddrUnix{Name: socket}), unix.Listen(listener, 0)); err != nil {
		t.Fatal(err)
	}
	first, err := net.Dial("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	defer first.Close()

	short, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if _, err := dialSigner(short, socket); !errors.Is(err, unix.EAGAIN) {
		t.Fatalf("the queue is not full: %v", err)
	}
	done := make(chan error, 1)
	long, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	go func() {
		conn, err := dialSigner(long, socket)
		if err == nil {
			err = conn.Close()
		}
		done <- err
	}()
	time.Sleep(20 * time.Millisecond) // so that it most likely finds the queue full
	accepted, _, err := unix.Accept(listener)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(accepted)
	if err := <-done; err != nil {
		t.Errorf("after a place became free: %v", err)
	}
}
