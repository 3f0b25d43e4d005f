package webhook

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/http/httptest"
	"sync"
	"testing"
)

const (
	stranger = "192.0.2.1:4711"
	somebody = "198.51.100.7:443"
)

// hanging is a request that sends the begin of a body, and no more until close is
// called.
func (r *rig) hanging(from string, begin []byte) (closed func()) {
	reader, writer := io.Pipe()
	req := r.request("ping", 1, []byte("{}"))
	req.Body, req.ContentLength, req.RemoteAddr = reader, -1, from
	ended := make(chan struct{})
	go func() {
		r.receiver.ServeHTTP(httptest.NewRecorder(), req)
		reader.Close() // it may be refused
		close(ended)
	}()
	_, _ = writer.Write(begin)
	return func() {
		writer.Close()
		<-ended
	}
}

// from is the status of a good delivery that comes from the address.
func (r *rig) from(address string, payload any) int {
	r.Helper()
	answer := httptest.NewRecorder()
	req := r.request("ping", 2, payload)
	req.RemoteAddr = address
	r.receiver.ServeHTTP(answer, req)
	if answer.Code == 503 && answer.Header().Get("Retry-After") == "" {
		r.Error("no Retry-After")
	}
	return answer.Code
}

func (r *rig) held() held {
	r.receiver.room.mu.Lock()
	defer r.receiver.room.mu.Unlock()
	return r.receiver.room.all
}

// holding is how many clients hold anything.
func (r *rig) holding() int {
	r.receiver.room.mu.Lock()
	defer r.receiver.room.mu.Unlock()
	return len(r.receiver.room.clients)
}

// No address keeps the others out, however many connections it has.
func TestStrangersDoNotKeepDeliveriesOut(t *testing.T) {
	r := newRig(t)
	var closing []func()
	for n := range maxReading + 8 {
		closing = append(closing, r.hanging(fmt.Sprintf("192.0.2.1:%d", 1000+n), nil))
	}
	eventually(t, "the stranger has its share", func() bool { return r.held().reading == maxClientReading })
	if status := r.from(stranger, object{}); status != 503 {
		t.Errorf("the stranger once more: %d", status)
	}
	if status := r.from(somebody, object{}); status != 200 {
		t.Errorf("somebody else: %d", status)
	}
	for _, closed := range closing {
		closed()
	}
	if r.held() != (held{}) || r.holding() != 0 {
		t.Errorf("still counted: %+v of %d clients", r.held(), r.holding())
	}
	if status := r.from(stranger, object{}); status != 200 {
		t.Errorf("the stranger afterwards: %d", status)
	}
}

// Behind a proxy on this machine everybody has one address: all of it is theirs.
// Nobody who sends nothing keeps it for long, from however many addresses.
func TestWhoSendsNothingKeepsNobodyOut(t *testing.T) {
	for name, address := range map[string]func(n int) string{
		"a proxy":           func(int) string { return "127.0.0.1:9" },
		"a unix socket":     func(int) string { return "@" },
		"sixteen addresses": func(n int) string { return fmt.Sprintf("192.0.2.%d:9", n%16) },
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t)
			var closing []func()
			for n := range maxReading {
				closing = append(closing, r.hanging(address(n), []byte("{")))
			}
			eventually(t, "all of it is taken", func() bool { return r.held().reading == maxReading })
			eventually(t, "others come in", func() bool { return r.from(somebody, object{}) == 200 })
			for range 100 {
				if status := r.from(somebody, object{}); status != 200 {
					t.Fatalf("somebody else: %d", status)
				}
			}
			if n := r.held().reading; n != maxReading-1 {
				t.Errorf("%d are still read: one gave way for those who came one after the other", n)
			}
			for _, closed := range closing {
				closed()
			}
			if r.held() != (held{}) || r.holding() != 0 {
				t.Errorf("still counted: %+v of %d clients", r.held(), r.holding())
			}
		})
	}
}

// The bytes of one address are bounded, and the largest body fits in.
func TestRoomForBytes(t *testing.T) {
	var m room
	open := func(address string) *reading {
		g, ok := m.open(clientOf(address), func() {})
		if !ok {
			t.Fatal("no room")
		}
		return g
	}
	largest := open(stranger)
	must(largest.read(io.LimitReader(&endless{}, maxBody)))(t)
	for largest.take(1 << 20) {
	}
	if share := m.clients[clientOf(stranger)].bytes; share > maxClientBodies || share < maxClientBodies-2<<20 {
		t.Errorf("it has %d bytes", share)
	}
	more := open(stranger)
	if _, err := more.read(io.LimitReader(&endless{}, 4<<20)); !errors.Is(err, errNoRoom) {
		t.Errorf("one body more: %v", err)
	}
	other := open(somebody)
	must(other.read(io.LimitReader(&endless{}, 1<<20)))(t)
	local := open("@")
	for range 100 {
		if !local.take(1 << 20) {
			break
		}
	}
	if local.take(1<<20) || m.all.bytes > maxBodies {
		t.Errorf("%d bytes are held", m.all.bytes)
	}
	for _, g := range []*reading{largest, more, other, local} {
		g.close()
	}
	if m.all != (held{}) || len(m.clients) != 0 || len(m.readings) != 0 {
		t.Errorf("still counted: %+v %v", m.all, m.clients)
	}
}

// Bytes that nobody goes on with make way for those that come.
func TestSlowBytesGiveWay(t *testing.T) {
	var m room
	stopped := 0
	slow, _ := m.open("", func() { stopped++ })
	slow.began = slow.began.Add(-2 * patience)
	if !slow.take(maxBodies) {
		t.Fatal("no room")
	}
	fast, _ := m.open("", func() { t.Error("the wrong one was stopped") })
	must(fast.read(io.LimitReader(&endless{}, maxBody)))(t)
	if slow.take(1) || stopped != 1 || !slow.gaveWay() {
		t.Errorf("stopped %d times", stopped)
	}
	slow.close()
	fast.close()
	if m.all != (held{}) || len(m.readings) != 0 {
		t.Errorf("still counted: %+v", m.all)
	}
}

func TestRoomIsSharedByManyAtOnce(t *testing.T) {
	var m room
	var all sync.WaitGroup
	for n := range 64 {
		all.Go(func() {
			client := clientOf(fmt.Sprintf("192.0.2.%d:1", n%4))
			for range 200 {
				g, ok := m.open(client, func() {})
				if !ok {
					continue
				}
				_, _ = g.read(bytes.NewReader(make([]byte, 40<<10)))
				g.close()
			}
		})
	}
	all.Wait()
	if m.all != (held{}) || len(m.clients) != 0 || len(m.readings) != 0 {
		t.Errorf("still counted: %+v %v", m.all, m.clients)
	}
}

func TestClientOf(t *testing.T) {
	for address, want := range map[string]string{
		"192.0.2.1:4711":              "192.0.2.1",
		"192.0.2.1:4712":              "192.0.2.1",
		"[::ffff:192.0.2.1]:4711":     "192.0.2.1",
		"[2001:db8:1:2:3:4:5:6]:4711": "2001:db8:1:2::/64",
		"[2001:db8:1:2:ffff::1]:4711": "2001:db8:1:2::/64",
		"[2001:db8:1:3::1]:4711":      "2001:db8:1:3::/64",
		"[fe80::1%eth0]:4711":         "fe80::/64",
		"127.0.0.1:4711":              "",
		"127.8.9.1:4711":              "",
		"[::1]:4711":                  "",
		"[::ffff:127.0.0.1]:4711":     "",
		"@":                           "",
		"":                            "",
	} {
		if got := clientOf(address); got != want {
			t.Errorf("%q: %q, want %q", address, got, want)
		}
	}
}
