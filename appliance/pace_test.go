package appliance

import (
	"io"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// Strangers that vanish in the midst of a step, or while they wait for a place,
// take none with them.
func TestStepsAreGivenBack(t *testing.T) {
	all := newConnections(&atomic.Pointer[rules]{}, func(string) {})
	stranger := func() (*connection, net.Conn) {
		ours, theirs := net.Pipe()
		conn := &connection{Conn: ours, owner: all}
		conn.budget.Store(firstBytes)
		return conn, theirs
	}
	var conns []*connection
	var reading sync.WaitGroup
	for n := range cap(all.steps) * 3 {
		conn, peer := stranger()
		conns = append(conns, conn)
		go func() { _, _ = io.WriteString(peer, "x") }()
		read := make(chan struct{})
		reading.Go(func() {
			defer close(read)
			_, _ = conn.Read(make([]byte, 1)) // keeps its place, or waits for one
		})
		if n < cap(all.steps) {
			<-read
		}
	}
	if len(all.steps) != cap(all.steps) {
		t.Errorf("%d of %d places are taken", len(all.steps), cap(all.steps))
	}
	for _, conn := range conns {
		conn.closing()
	}
	reading.Wait()
	for end := time.Now().Add(5 * time.Second); len(all.steps) > 0 && time.Now().Before(end); {
		time.Sleep(time.Millisecond)
	}
	if len(all.steps) > 0 {
		t.Errorf("%d places were not given back", len(all.steps))
	}
}

// Whoever was granted something is read without pauses.
func TestAStrangerIsReadWithPauses(t *testing.T) {
	all := newConnections(&atomic.Pointer[rules]{}, func(string) {})
	ours, theirs := net.Pipe()
	go func() {
		for {
			if _, err := io.WriteString(theirs, "x"); err != nil {
				return
			}
		}
	}()
	defer theirs.Close()
	conn := &connection{Conn: ours, owner: all}
	conn.budget.Store(firstBytes)
	const pauses = 50
	read := func() time.Duration {
		began := time.Now()
		for range firstReads + pauses {
			if _, err := conn.Read(make([]byte, 1)); err != nil {
				t.Fatal(err)
			}
		}
		return time.Since(began)
	}
	if took := read(); took < pauses*strangerPause {
		t.Errorf("a stranger was read in %s, without pauses", took)
	}
	before := conn.reads.Load()
	conn.known.Store(true)
	read()
	if conn.reads.Load() != before {
		t.Error("one who is known is still counted as a stranger")
	}
}
