package forward

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/cloudevents/sdk-go/v2/event"
	"go.uber.org/zap"

	"github.com/octo-sts/appliance/sts/audit"
)

func newTestEvents(t testing.TB, m *machine, c EventsConfig) *Events {
	t.Helper()
	c.Log, c.Cursors, c.Origin = m.log, m.cursors, "sts.example.com/audit"
	e, err := newEvents(context.Background(), c, quick)
	if err != nil {
		t.Fatal(err)
	}
	return e
}

// Entries that come together share a request, up to a hundred of them, or 512 KiB.
func TestBatches(t *testing.T) {
	m, c := newMachine(t), newCollector(t)
	m.fill(t, 250)
	for range 40 {
		m.append(t, audit.Entry{Kind: audit.Intent, Repositories: names(10_000), Claims: map[string]any{"a": strings.Repeat("x", 2000), "b": strings.Repeat("x", 2000)}})
	}
	running(t, newTestEvents(t, m, EventsConfig{URL: c.URL}).Run)
	c.await(m, 0)
	c.mu.Lock()
	defer c.mu.Unlock()
	if fmt.Sprint(c.sizes[:2]) != "[100 100]" {
		t.Errorf("batches of %d", c.sizes)
	}
	small, large := encoded(make([]byte, 1000)), encoded(make([]byte, 600))
	for _, tc := range []struct {
		events []encoded
		limit  int
		n      int
	}{
		{[]encoded{small}, 10, 1}, {[]encoded{small, large}, 1000, 1}, {[]encoded{large, large}, 1203, 2}, {[]encoded{large, large}, 1201, 1},
	} {
		if body, n := batch(tc.events, tc.limit); n != tc.n || n > 1 && len(body) > tc.limit {
			t.Errorf("%d of %d in %d bytes, limit %d", n, len(tc.events), len(body), tc.limit)
		}
	}
}

// Entries wait for others, for as long as there is room beside them.
func TestGather(t *testing.T) {
	m, c := newMachine(t), newCollector(t)
	e := newTestEvents(t, m, EventsConfig{URL: c.URL})
	e.pace.gather = time.Hour
	stop := running(t, e.Run)
	for range 10 {
		m.fill(t, 10)
	}
	c.await(m, 0)
	stop()
	if fmt.Sprint(c.sizes) != "[100]" {
		t.Errorf("batches of %d", c.sizes)
	}
}

func names(bytes int) []string {
	var names []string
	for i := 0; bytes > 0; i++ {
		names = append(names, fmt.Sprintf("repository-%d", i))
		bytes -= len(names[i])
	}
	return names
}

// Whatever a sink does, the batch is sent again until it is taken, and nothing before it.
func TestSinkFails(t *testing.T) {
	for name, f := range map[string]func(c *collector) fault{
		"500":                       func(*collector) fault { return status(500) },
		"404":                       func(*collector) fault { return status(404) },
		"401":                       func(*collector) fault { return status(401) },
		"429, and when":             func(*collector) fault { return status(429, "Retry-After", "0") },
		"a redirect":                func(*collector) fault { return status(307, "Location", "/elsewhere") },
		"a redirect to a GET":       func(*collector) fault { return status(303, "Location", "/elsewhere") },
		"1xx and nothing":           func(*collector) fault { return reset("HTTP/1.1 103 Early Hints\r\n\r\n") },
		"a hang":                    func(*collector) fault { return hang },
		"a reset":                   func(*collector) fault { return reset("") },
		"a reset within the head":   func(*collector) fault { return reset("HTTP/1.1 200 OK\r\nContent-") },
		"nonsense":                  func(*collector) fault { return reset("SSH-2.0-OpenSSH_9.2\r\n") },
		"taken, and nobody says so": func(c *collector) fault { return c.takenAndReset },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m, c := newMachine(t), newCollector(t)
			c.setFaults(func(request int, _ []event.Event) fault {
				if request < 3 {
					return f(c)
				}
				return nil
			})
			m.fill(t, 120)
			e := newTestEvents(t, m, EventsConfig{URL: c.URL})
			e.pace.attempt = 300 * time.Millisecond
			running(t, e.Run)
			c.await(m, 0)
			eventually(t, "a status without an error", func() bool { s := e.Status(); return s.Err == nil && s.Next == 120 && s.Behind == 0 })
			if requests, _, _ := c.state(); requests < 4 {
				t.Errorf("%d requests: there was no fault", requests)
			}
		})
	}
}

// A sink that does not come to the end of its answers is not waited for.
func TestAnswerWithoutEnd(t *testing.T) {
	m, c := newMachine(t), newCollector(t)
	c.setFaults(func(int, []event.Event) fault {
		return func(w http.ResponseWriter, r *http.Request, events []event.Event) {
			c.take(events)
			w.WriteHeader(200)
			_ = http.NewResponseController(w).Flush()
			<-r.Context().Done()
		}
	})
	m.fill(t, 250) // three batches
	e := newTestEvents(t, m, EventsConfig{URL: c.URL})
	e.pace.attempt = time.Hour
	running(t, e.Run)
	c.await(m, 0)
}

// A 2xx counts, whatever comes after it; a body without end is not read to its end.
func TestAnswerIsNotTrusted(t *testing.T) {
	m, c := newMachine(t), newCollector(t)
	c.setFaults(func(request int, _ []event.Event) fault {
		return func(w http.ResponseWriter, r *http.Request, events []event.Event) {
			c.take(events)
			w.WriteHeader(200)
			for range 10_000 {
				if _, err := w.Write(make([]byte, 64<<10)); err != nil {
					return
				}
			}
			t.Error("the sender read 640 MB")
		}
	})
	m.fill(t, 10)
	running(t, newTestEvents(t, m, EventsConfig{URL: c.URL}).Run)
	c.await(m, 0)
	m.fill(t, 10)
	c.await(m, 0)
	if _, _, repeated := c.state(); repeated != 0 {
		t.Errorf("%d entries were sent again", repeated)
	}
}

// What is refused for its size goes in smaller parts; one event that is refused is held, and all after it, until it is
// taken, or left out by configuration.
func TestRefused(t *testing.T) {
	for _, code := range []int{400, 413, 422} {
		t.Run(fmt.Sprint(code), func(t *testing.T) {
			t.Parallel()
			m, c := newMachine(t), newCollector(t)
			c.setFaults(func(_ int, events []event.Event) fault {
				for _, e := range events {
					if len(events) > 30 || e.ID() == "77" {
						return status(code)
					}
				}
				return nil
			})
			m.fill(t, 150)
			logger, logs := recorder()
			e := newTestEvents(t, m, EventsConfig{URL: c.URL, Logger: logger})
			stop := running(t, e.Run)
			eventually(t, "that the one event is held", func() bool { return e.Status().Err != nil })
			time.Sleep(10 * quick.longest) // nothing after it goes
			s, want := e.Status(), fmt.Sprintf("entry 77 is held, and all after it: the sink answered %d", code)
			if _, taken, _ := c.state(); taken != 77 || s.Next != 77 || s.Behind != 73 || !strings.HasPrefix(s.Err.Error(), want) {
				t.Errorf("%d taken, %+v", taken, s)
			}
			if logs.FilterLevelExact(zap.ErrorLevel).Len() == 0 {
				t.Error("nobody was told")
			}
			stop()

			c.passOver(78)
			running(t, newTestEvents(t, m, EventsConfig{URL: c.URL, From: 78}).Run)
			c.await(m, 78)
		})
	}
}

func TestFromBeyondTheEnd(t *testing.T) {
	m := newMachine(t)
	m.fill(t, 5)
	_, err := NewEvents(context.Background(), EventsConfig{Log: m.log, Cursors: m.cursors, Origin: "o", URL: "https://collector.example.com/", From: 6})
	if err == nil || !strings.Contains(err.Error(), "the log has 5 entries") {
		t.Error(err)
	}
}

// Retry-After is waited for, where it is longer than the pause there would be.
func TestRetryAfter(t *testing.T) {
	m, c := newMachine(t), newCollector(t)
	c.setFaults(func(int, []event.Event) fault { return status(503, "Retry-After", "3600") })
	m.fill(t, 300)
	e := newTestEvents(t, m, EventsConfig{URL: c.URL})
	stop := running(t, e.Run)
	eventually(t, "the refusal", func() bool { return e.Status().Err != nil })
	time.Sleep(10 * quick.longest)
	if requests, _, _ := c.state(); requests != 1 {
		t.Errorf("%d requests in what was to be an hour's pause", requests)
	}
	stop() // at once
	if len(e.pending) != maxEvents {
		t.Errorf("%d entries are in memory", len(e.pending))
	}
	now := time.Date(2026, 11, 23, 7, 30, 0, 0, time.UTC)
	for value, want := range map[string]time.Duration{
		"": 0, "0": 0, "120": 2 * time.Minute, "-1": 0, "1.5": 0, "soon": 0, "99999999999": 0,
		"Mon, 23 Nov 2026 07:31:00 GMT": time.Minute, "Mon, 23 Nov 2026 07:29:00 GMT": 0,
	} {
		if got := retryAfter(http.Header{"Retry-After": {value}}, now); got != want {
			t.Errorf("%q: %s, want %s", value, got, want)
		}
	}
}

func TestBackoff(t *testing.T) {
	e := &Events{pace: eventsPace}
	var got []string
	for range 8 {
		got = append(got, e.backoff().String())
	}
	e.failures = 1 << 40
	if s := strings.Join(got, " ") + " " + e.backoff().String(); s != "1s 2s 4s 8s 16s 32s 1m0s 1m0s 1m0s" {
		t.Error(s)
	}
}

// A dead sink costs an exchange nothing: appends return while a request hangs.
func TestAppendWhileTheSinkHangs(t *testing.T) {
	m, c := newMachine(t), newCollector(t)
	hung := make(chan struct{}, 1)
	c.setFaults(func(int, []event.Event) fault {
		return func(w http.ResponseWriter, r *http.Request, events []event.Event) {
			hung <- struct{}{}
			hang(w, r, events)
		}
	})
	e := newTestEvents(t, m, EventsConfig{URL: c.URL})
	e.pace.attempt = time.Hour
	stop := running(t, e.Run)
	m.fill(t, 1)
	<-hung
	m.fill(t, 500)
	if requests, taken, _ := c.state(); requests != 1 || taken != 0 {
		t.Errorf("%d requests, %d taken: the sink did not hang all the time", requests, taken)
	}
	stop()
}

// A restart sends what was not taken, and nothing again that was; another sink gets all there is.
func TestRestartAndAnotherSink(t *testing.T) {
	m, c := newMachine(t), newCollector(t)
	stop := running(t, newTestEvents(t, m, EventsConfig{URL: c.URL}).Run)
	m.fill(t, 150)
	c.await(m, 0)
	stop()
	m.shutdown(t)
	m.boot(t)
	m.fill(t, 20)
	stop = running(t, newTestEvents(t, m, EventsConfig{URL: c.URL}).Run)
	c.await(m, 0)
	if _, _, repeated := c.state(); repeated != 0 {
		t.Errorf("%d entries were sent again", repeated)
	}
	stop()
	other := newCollector(t)
	running(t, newTestEvents(t, m, EventsConfig{URL: other.URL + "/?tenant=2"}).Run)
	other.await(m, 0)
}

// Segments that were moved away before they were sent are waited for by name.
func TestMissingSegments(t *testing.T) {
	m, c := newMachine(t), newCollector(t)
	m.fill(t, 10)
	newTestEvents(t, m, EventsConfig{URL: c.URL}) // from 0 on
	m.shutdown(t)
	m.boot(t)
	m.fill(t, 10)
	segment, moved := filepath.Join(m.logDirectory(), "00000000000000000000.jsonl"), filepath.Join(m.dir, "moved")
	if err := os.Rename(segment, moved); err != nil {
		t.Fatal(err)
	}
	e := newTestEvents(t, m, EventsConfig{URL: c.URL})
	running(t, e.Run)
	eventually(t, "the error", func() bool { return e.Status().Err != nil })
	var missing *audit.MissingError
	if err := e.Status().Err; !errors.As(err, &missing) || missing.From != 0 || missing.To != 10 {
		t.Errorf("%v", err)
	}
	if requests, _, _ := c.state(); requests != 0 {
		t.Error("later entries were sent before earlier ones")
	}
	if err := os.Rename(moved, segment); err != nil {
		t.Fatal(err)
	}
	c.await(m, 0)
}

// A log that is shorter than what was sent of it is not the same any more: that is said, and what it has is sent.
func TestRolledBackLog(t *testing.T) {
	m, c := newMachine(t), newCollector(t)
	stop := running(t, newTestEvents(t, m, EventsConfig{URL: c.URL}).Run)
	m.fill(t, 20)
	c.await(m, 0)
	stop()
	m.shutdown(t)
	if err := os.Rename(m.logDirectory(), filepath.Join(m.dir, "gone")); err != nil {
		t.Fatal(err)
	}
	m.boot(t)
	m.fill(t, 5)
	logger, logs := recorder()
	running(t, newTestEvents(t, m, EventsConfig{URL: c.URL, Logger: logger}).Run)
	eventually(t, "the entries of the new log", func() bool { _, _, repeated := c.state(); return repeated == 5 })
	if logs.FilterMessageSnippet("rolled back or replaced").Len() != 1 {
		t.Errorf("logged: %v", logs.All())
	}
}
