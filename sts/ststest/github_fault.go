package ststest

import (
	"crypto/tls"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"
)

// Fault is something that goes wrong with requests: which ones, and how. What
// is left zero does not apply; several ways combine where that makes sense (a
// delay, then a status).
type Fault struct {
	// Route as Calls names it, as MintRoute. "": every route.
	Route string
	// Match narrows it further. Nil: every request of the route.
	Match func(*http.Request) bool
	// Skip lets so many matching requests through first.
	Skip int
	// Count of requests that are hit after that. 0: until Clear.
	Count int

	// Delay before whatever follows; alone, the true answer comes late. A
	// caller that gives up ends it.
	Delay time.Duration
	// Reset cuts the connection with a TCP RST, before anything was done. All
	// requests on the same HTTP/2 connection die with it.
	Reset bool
	// Lost does what was asked, and then cuts the connection: a minted token
	// whose answer nobody got.
	Lost bool
	// Status to answer with, instead of doing what was asked.
	Status int
	// Header to send with Status. Location makes a redirect.
	Header map[string]string
	// Body to send with Status. "": GitHub's usual error JSON.
	Body string
	// Garbage answers 200 (or Status) with bytes that are no JSON.
	Garbage bool
	// Truncate sends the true answer, cut in half, and ends it properly.
	Truncate bool
	// ClockOffset shifts the Date header of the answer. See also
	// GitHub.SetClockOffset, which shifts all that the fake knows of time.
	ClockOffset time.Duration
}

// PrimaryRateLimit is a Fault that answers as GitHub does where the primary
// limit is used up: status 403 or 429, nothing remaining, until reset.
func PrimaryRateLimit(status int, reset time.Time) Fault {
	return Fault{
		Status: status,
		Body:   string(mustMarshal(primaryLimit(status, "installation ID 1").body)),
		Header: map[string]string{
			"X-RateLimit-Limit": "5000", "X-RateLimit-Remaining": "0", "X-RateLimit-Used": "5000",
			"X-RateLimit-Reset": strconv.FormatInt(reset.Unix(), 10), "X-RateLimit-Resource": "core",
		},
	}
}

// SecondaryRateLimit is a Fault that answers as GitHub does where too much is
// asked at once: status 403 or 429, and retry-after unless that is zero.
func SecondaryRateLimit(status int, retryAfter time.Duration) Fault {
	f := Fault{Status: status, Body: string(mustMarshal(refusal(status,
		"You have exceeded a secondary rate limit. Please wait a few minutes before you try again.",
		"/overview/rate-limits-for-the-rest-api#about-secondary-rate-limits").body))}
	if retryAfter > 0 {
		f.Header = map[string]string{"Retry-After": strconv.Itoa(int(retryAfter / time.Second))}
	}
	return f
}

// ActiveFault is a Fault that was armed.
type ActiveFault struct {
	Fault
	owner *faults
	seen  atomic.Int64 // matching requests
	hits  atomic.Int64
}

// Hits is how many requests it hit.
func (f *ActiveFault) Hits() int { return int(f.hits.Load()) }

// Clear ends it.
func (f *ActiveFault) Clear() { f.owner.remove(f) }

// faults are those that are armed, in the order of arming.
type faults struct {
	mu    sync.Mutex // serializes changes; readers load armed without it
	armed atomic.Pointer[[]*ActiveFault]
}

// Fail arms a fault. A request is hit by the first armed fault that matches
// and still counts.
func (g *GitHub) Fail(f Fault) *ActiveFault {
	a := &ActiveFault{Fault: f, owner: &g.faults}
	g.faults.mu.Lock()
	defer g.faults.mu.Unlock()
	all := append(g.faults.list(), a)
	g.faults.armed.Store(&all)
	return a
}

// ClearFaults ends every fault.
func (g *GitHub) ClearFaults() {
	g.faults.mu.Lock()
	defer g.faults.mu.Unlock()
	g.faults.armed.Store(nil)
}

// list is a copy of what is armed.
func (f *faults) list() []*ActiveFault {
	if p := f.armed.Load(); p != nil {
		return slices.Clone(*p)
	}
	return nil
}

func (f *faults) remove(a *ActiveFault) {
	f.mu.Lock()
	defer f.mu.Unlock()
	rest := slices.DeleteFunc(f.list(), func(o *ActiveFault) bool { return o == a })
	f.armed.Store(&rest)
}

// take is the fault that hits this request, or nil.
func (f *faults) take(route string, r *http.Request) *Fault {
	p := f.armed.Load()
	if p == nil {
		return nil
	}
	for _, a := range *p {
		if a.Route != "" && a.Route != route || a.Match != nil && !a.Match(r) {
			continue
		}
		n := int(a.seen.Add(1))
		if n <= a.Skip || a.Count > 0 && n > a.Skip+a.Count {
			continue
		}
		a.hits.Add(1)
		return &a.Fault
	}
	return nil
}

// inflict does what f says; false where the true answer is still to come.
func (g *GitHub) inflict(f *Fault, rt *route, w http.ResponseWriter, r *http.Request) (done bool) {
	if !sleep(r.Context(), f.Delay) {
		return true
	}
	if f.Reset {
		g.reset(r)
	}
	if f.Status == 0 && !f.Garbage {
		return false
	}
	status := f.Status
	if status == 0 {
		status = http.StatusOK
		if rt.name == MintRoute {
			status = http.StatusCreated
		}
	}
	g.usualHeaders(w.Header(), f)
	w.Header().Set("Content-Type", "application/json; charset=utf-8")
	for k, v := range f.Header {
		w.Header().Set(k, v)
	}
	body := f.Body
	switch {
	case f.Garbage:
		body = "<html>\x00\xff\xfe Whoa there! {\"token\":"
	case body == "":
		body = string(mustMarshal(refusal(status, http.StatusText(status), "").body))
	}
	w.WriteHeader(status)
	w.Write([]byte(body))
	return true
}

// reset cuts the request's connection with an RST and ends the handler.
func (g *GitHub) reset(r *http.Request) {
	if c, ok := r.Context().Value(connKey{}).(*tls.Conn); ok {
		if t, ok := c.NetConn().(*net.TCPConn); ok {
			t.SetLinger(0)
			t.Close()
		}
	}
	panic(http.ErrAbortHandler)
}

func mustMarshal(v any) []byte {
	b, err := json.Marshal(v)
	if err != nil {
		panic(fmt.Sprintf("fake GitHub: marshalling: %v", err))
	}
	return b
}
