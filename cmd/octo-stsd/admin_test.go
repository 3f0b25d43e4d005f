package main

import (
	"bufio"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/octo-sts/appliance/sts/ststest"
)

// Any user of the machine may connect to listen.admin. Who holds as many connections as there may be gets no more of
// the daemon's file descriptors, and keeps nobody else from asking.
func TestManyConnectionsToAdmin(t *testing.T) {
	const most, more = 256, 44
	r := newRig(t, ststest.ServiceConfig{})
	var held []net.Conn
	for range most + more {
		conn, err := net.Dial("tcp", strings.TrimPrefix(r.AdminURL(), "http://"))
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		if _, err := io.WriteString(conn, "GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"); err != nil {
			t.Fatal(err)
		}
		answer, err := http.ReadResponse(bufio.NewReader(conn), nil)
		if err != nil || answer.StatusCode != http.StatusOK {
			t.Fatalf("connection %d: %v, %v", len(held), answer, err)
		}
		if _, err := io.Copy(io.Discard, answer.Body); err != nil {
			t.Fatal(err)
		}
		held = append(held, conn)
	}
	for i, conn := range held {
		gaveWay := i < more
		limit := 100 * time.Millisecond
		if gaveWay {
			limit = 10 * time.Second
		} else if i < len(held)-1 {
			continue // of those that are still open the last one stands for all
		}
		_ = conn.SetReadDeadline(time.Now().Add(limit))
		_, err := conn.Read(make([]byte, 1))
		if timeout, ok := err.(net.Error); gaveWay && ok && timeout.Timeout() {
			t.Fatalf("connection %d of %d is still open", i, len(held))
		} else if !gaveWay && (!ok || !timeout.Timeout()) {
			t.Fatalf("the newest connection gave way: %v", err)
		}
	}
	response, err := r.Client().Get(r.AdminURL() + "/readyz")
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		t.Errorf("/readyz answers %s", response.Status)
	}
}
