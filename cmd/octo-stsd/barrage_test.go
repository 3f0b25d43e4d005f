package main

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/octo-sts/appliance/sts/ststest"
)

// daemonAt is where a daemon listens, and who vouches for it.
type daemonAt struct {
	address string
	roots   *x509.CertPool
}

func (r *rig) daemonAt() daemonAt { return daemonAt{r.Address(), r.Roots()} }

// dial opens a connection from an address of this machine's own, of which
// 127.0.0.0/8 has as many as anybody needs.
func (d daemonAt) dial(from string) (net.Conn, error) {
	dialer := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(from)}, Timeout: patience, Control: bindsNoPort}
	return dialer.DialContext(context.Background(), "tcp", d.address)
}

// bindsNoPort has the kernel look for a port only once it knows the peer. Otherwise
// it looks for one that nobody has, and those who open connections without end keep a
// processor busy with that (ip(7), IP_BIND_ADDRESS_NO_PORT).
func bindsNoPort(_, _ string, c syscall.RawConn) error {
	var failed error
	err := c.Control(func(fd uintptr) {
		failed = unix.SetsockoptInt(int(fd), unix.IPPROTO_IP, unix.IP_BIND_ADDRESS_NO_PORT, 1)
	})
	return errors.Join(err, failed)
}

// dialTLS is dial and a handshake, for one of the protocols.
func (d daemonAt) dialTLS(from, protocol string) (*tls.Conn, error) {
	c, err := d.dial(from)
	if err != nil {
		return nil, err
	}
	secure := tls.Client(c, &tls.Config{RootCAs: d.roots, ServerName: "127.0.0.1", NextProtos: []string{protocol}})
	_ = c.SetDeadline(time.Now().Add(patience))
	if err := secure.Handshake(); err != nil {
		c.Close()
		return nil, err
	}
	return secure, c.SetDeadline(time.Now().Add(time.Hour)) // which costs nothing for each request
}

// barrage asks for exchanges at a rate, whether or not they are answered: each
// latency counts from when the request was due, so that one that waits for its turn
// here is slow, too.
type barrage struct {
	rig         *rig
	requests    [][]byte // HTTP/1.1, used in turn
	from        func(int) string
	connections int // at most; each is kept for as long as the daemon keeps it

	mu      sync.Mutex // guards the rest
	granted []time.Duration
	shed    []time.Duration // 429 and 503 with Retry-After
	failed  map[string]int  // everything else
}

// exchangeRequests are requests for exchanges that are granted, with as many ID
// tokens, since one is good for 1,000.
func (r *rig) exchangeRequests(count int) [][]byte {
	r.t.Helper()
	var all [][]byte
	for range count {
		idToken := r.job(map[string]any{"exp": time.Now().Add(2 * time.Hour).Unix()})
		all = append(all, []byte("POST /sts/exchange?scope=acme/app&identity=reader HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer "+idToken+"\r\nContent-Length: 0\r\n\r\n"))
	}
	return all
}

// run asks rate times a second for a time, and waits for the last answers.
func (b *barrage) run(rate float64, span time.Duration) {
	b.mu.Lock()
	b.granted, b.shed, b.failed = nil, nil, map[string]int{}
	b.mu.Unlock()
	due := make(chan time.Time, int(rate*span.Seconds())+1) // never full: the load does not wait
	done := b.callers(due)
	start := time.Now()
	for sent := 0; ; {
		elapsed := time.Since(start)
		for ; float64(sent) < rate*min(elapsed, span).Seconds(); sent++ {
			due <- start.Add(time.Duration(float64(sent) / rate * float64(time.Second)))
		}
		if elapsed >= span {
			break
		}
		time.Sleep(time.Millisecond)
	}
	close(due)
	<-done
}

// callers make the requests that are due, until there will be no more. They begin
// when all of them have connected, or failed to.
func (b *barrage) callers(due <-chan time.Time) (done <-chan struct{}) {
	var connected, all sync.WaitGroup
	connected.Add(b.connections)
	for n := range b.connections {
		all.Go(func() {
			c, err := b.rig.daemonAt().dialTLS(b.from(n), "http/1.1")
			connected.Done()
			if err != nil {
				b.caller(n, nil, due)
			} else {
				b.caller(n, c, due)
			}
		})
	}
	connected.Wait()
	ended := make(chan struct{})
	go func() {
		all.Wait()
		close(ended)
	}()
	return ended
}

// caller makes one request at a time on one connection.
func (b *barrage) caller(n int, conn net.Conn, due <-chan time.Time) {
	reader := bufio.NewReaderSize(conn, 4<<10)
	defer func() {
		if conn != nil {
			conn.Close()
		}
	}()
	for i := n; ; i++ {
		at, more := <-due
		if !more {
			return
		}
		if conn == nil {
			c, err := b.rig.daemonAt().dialTLS(b.from(n), "http/1.1")
			if err != nil {
				b.note(0, nil, err, at)
				continue
			}
			conn = c
			reader.Reset(c)
		}
		status, body, err := roundTrip(conn, reader, b.requests[i%len(b.requests)])
		b.note(status, body, err, at)
		if err != nil {
			conn.Close()
			conn = nil
		}
	}
}

// roundTrip is all of HTTP/1.1 that the daemon's answers need.
func roundTrip(conn net.Conn, reader *bufio.Reader, request []byte) (status int, body []byte, err error) {
	if _, err := conn.Write(request); err != nil {
		return 0, nil, fmt.Errorf("sending: %w", err)
	}
	length, retryAfter, closes := 0, false, false
	for first := true; ; first = false {
		line, err := reader.ReadSlice('\n')
		if err != nil {
			return 0, nil, fmt.Errorf("reading the answer: %w", err)
		}
		line = bytes.TrimRight(line, "\r\n")
		switch name, value, _ := bytes.Cut(line, []byte(": ")); {
		case first:
			if len(line) < 12 {
				return 0, nil, fmt.Errorf("not HTTP: %q", line)
			}
			status, _ = strconv.Atoi(string(line[9:12]))
		case len(line) == 0:
			body = make([]byte, length)
			if _, err := io.ReadFull(reader, body); err != nil {
				return 0, nil, fmt.Errorf("reading the answer: %w", err)
			}
			if status >= 429 && !retryAfter {
				return 0, nil, fmt.Errorf("%d without Retry-After", status)
			}
			if closes {
				err = errClosing
			}
			return status, body, err
		case string(name) == "Content-Length":
			length, _ = strconv.Atoi(string(value))
		case string(name) == "Retry-After":
			retryAfter = true
		case string(name) == "Connection" && string(value) == "close":
			closes = true
		}
	}
}

// errClosing comes with an answer, the connection's last.
var errClosing = errors.New("the daemon closes the connection")

func (b *barrage) note(status int, body []byte, err error, at time.Time) {
	took := time.Since(at)
	b.mu.Lock()
	defer b.mu.Unlock()
	switch {
	case status == 200 && bytes.Contains(body, []byte(`"token"`)):
		b.granted = append(b.granted, took)
	case status == 429 || status == 503:
		b.shed = append(b.shed, took)
	case err != nil:
		what := err.Error()
		if e := (*net.OpError)(nil); errors.As(err, &e) {
			what = e.Op + ": " + e.Err.Error()
		}
		b.failed[what]++
	default:
		b.failed[strconv.Itoa(status)]++
	}
}

// percentile of latencies; 0 of none.
func percentile(latencies []time.Duration, q float64) time.Duration {
	if len(latencies) == 0 {
		return 0
	}
	sorted := slices.Sorted(slices.Values(latencies))
	return sorted[min(int(q*float64(len(sorted))), len(sorted)-1)]
}

// gauges are some of the daemon's metrics.
func (r *rig) gauges() map[string]float64 {
	r.t.Helper()
	response, err := r.Client().Get(r.AdminURL() + "/metrics")
	if err != nil {
		r.t.Fatal(err)
	}
	defer response.Body.Close()
	all := map[string]float64{}
	for lines := bufio.NewScanner(response.Body); lines.Scan(); {
		if name, value, ok := strings.Cut(lines.Text(), " "); ok && !strings.HasPrefix(name, "#") {
			if all[name], err = strconv.ParseFloat(value, 64); err != nil {
				r.t.Fatalf("%s: %v", lines.Text(), err)
			}
		}
	}
	return all
}

// leavesNothing takes note of what the daemon holds, and returns what checks that
// it holds no more once everybody is gone: within 5 minutes, since what floods leave in
// the kernel's buffers is read slowly.
func (r *rig) leavesNothing(t *testing.T) (check func()) {
	t.Helper()
	const fds, goroutines, open = "process_open_fds", "go_goroutines", "octo_sts_connections_open"
	before := r.gauges()
	return func() {
		t.Helper()
		var now map[string]float64
		// GitHub's connections and the runtime's own threads come and go.
		r.within(5*time.Minute, "the daemon let go of what it held", func() bool {
			now = r.gauges()
			return now[open] <= before[open] && now[fds] <= before[fds]+40 && now[goroutines] <= before[goroutines]+120
		})
		t.Logf("descriptors %.0f, before %.0f; goroutines %.0f, before %.0f; resident %.0f MiB",
			now[fds], before[fds], now[goroutines], before[goroutines], now["process_resident_memory_bytes"]/(1<<20))
	}
}

// tlsRig is an appliance under TLS with the limits that it has by default but for
// changes.
func tlsRig(t *testing.T, limits map[string]any, c ststest.ServiceConfig) *rig {
	t.Helper()
	c.TLS = true
	edit := c.Edit
	c.Edit = func(config map[string]any) {
		config["limits"] = limits
		if edit != nil {
			edit(config)
		}
	}
	return newRig(t, c)
}
