package forward

import (
	"net"
	"net/http"
	"net/http/httptest"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/cloudevents/sdk-go/v2/event"
	cloudhttp "github.com/cloudevents/sdk-go/v2/protocol/http"
)

// quick has a test's faults over soon.
var quick = pace{gather: 10 * time.Millisecond, attempt: 2 * time.Second, first: 5 * time.Millisecond, longest: 50 * time.Millisecond, asked: time.Hour}

// fault is what a collector does instead of taking a batch, which holds the events.
type fault func(w http.ResponseWriter, r *http.Request, events []event.Event)

// collector is a real HTTP server that reads batches with the SDK's own receiver, and keeps the log that they make.
type collector struct {
	*httptest.Server
	t testing.TB

	mu       sync.Mutex
	faults   func(request int, events []event.Event) fault // guarded by mu; nil, or returns nil: the batch is taken
	requests int                                           // guarded by mu
	sizes    []int                                         // guarded by mu: of the batches that were taken
	events   []event.Event                                 // guarded by mu: first occurrences, by their index less first
	first    uint64                                        // guarded by mu: the index that is to come first
	repeated int                                           // guarded by mu
}

func newCollector(t testing.TB) *collector {
	c := unstarted(t)
	c.Start()
	return c
}

func unstarted(t testing.TB) *collector {
	t.Helper()
	c := &collector{t: t}
	c.Server = httptest.NewUnstartedServer(c)
	t.Cleanup(func() {
		c.CloseClientConnections()
		c.Close()
	})
	return c
}

// ServeHTTP says with t.Error what no collector should ever see.
func (c *collector) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodPost || !cloudhttp.IsHTTPBatch(r.Header) {
		c.t.Errorf("%s with %q", r.Method, r.Header.Get("Content-Type"))
	}
	events, err := cloudhttp.NewEventsFromHTTPRequest(r)
	if err != nil {
		return // the sender was killed in the middle
	}
	c.mu.Lock()
	n, faults := c.requests, c.faults
	c.requests++
	c.mu.Unlock()
	if faults != nil {
		if f := faults(n, events); f != nil {
			f(w, r, events)
			return
		}
	}
	c.take(events)
	w.WriteHeader(http.StatusAccepted)
}

func (c *collector) take(events []event.Event) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.sizes = append(c.sizes, len(events))
	for _, e := range events {
		if e.DataBase64 {
			c.t.Errorf("the data of %s came as base64", e.ID())
		}
		index, err := strconv.ParseUint(e.ID(), 10, 64)
		if err != nil {
			c.t.Errorf("ID: %v", err)
			continue
		}
		switch next := c.first + uint64(len(c.events)); {
		case index > next:
			c.t.Errorf("entry %d came before entry %d", index, next)
		case index < next:
			c.repeated++
		default:
			c.events = append(c.events, e)
		}
	}
}

func (c *collector) setFaults(faults func(request int, events []event.Event) fault) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.faults = faults
}

// passOver forgets what came, and expects entry first next.
func (c *collector) passOver(first uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.events, c.first = nil, first
}

func (c *collector) state() (requests, taken, repeated int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.requests, len(c.events), c.repeated
}

// await waits until the collector has every entry of the log from first on, and compares each with its line.
func (c *collector) await(m *machine, first uint64) {
	c.t.Helper()
	eventually(c.t, "every entry", func() bool {
		_, taken, _ := c.state()
		return first+uint64(taken) == m.log.Size()
	})
	c.compare(m.lines(c.t), first)
}

func (c *collector) compare(lines []string, first uint64) {
	c.t.Helper()
	c.mu.Lock()
	defer c.mu.Unlock()
	if first+uint64(len(c.events)) != uint64(len(lines)) || c.first != first {
		c.t.Fatalf("%d entries from %d on, but the log has %d", len(c.events), c.first, len(lines))
	}
	for i, e := range c.events {
		if string(e.Data()) != lines[first+uint64(i)] {
			c.t.Fatalf("entry %d arrived as\n%s\nand is\n%s", first+uint64(i), e.Data(), lines[first+uint64(i)])
		}
	}
}

func status(code int, header ...string) fault {
	return func(w http.ResponseWriter, _ *http.Request, _ []event.Event) {
		for i := 0; i < len(header); i += 2 {
			w.Header().Set(header[i], header[i+1])
		}
		w.WriteHeader(code)
	}
}

// hang leaves the request without an answer until the sender gives up.
func hang(_ http.ResponseWriter, r *http.Request, _ []event.Event) {
	<-r.Context().Done()
}

// reset ends the connection, in the middle of an answer that begins with text.
func reset(text string) fault {
	return func(w http.ResponseWriter, _ *http.Request, _ []event.Event) {
		conn, buffer, err := w.(http.Hijacker).Hijack()
		if err != nil {
			return
		}
		_, _ = buffer.WriteString(text)
		_ = buffer.Flush()
		_ = conn.(*net.TCPConn).SetLinger(0)
		_ = conn.Close()
	}
}

// takenAndReset has the batch and does not say so.
func (c *collector) takenAndReset(w http.ResponseWriter, r *http.Request, events []event.Event) {
	c.take(events)
	reset("")(w, r, events)
}
