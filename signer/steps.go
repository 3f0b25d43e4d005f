package signer

import (
	"context"
	"encoding/json"
	"net/http"
	"sync"
	"time"

	"github.com/octo-sts/appliance/sts/span"
)

// Headers of a request, and of its answer: what the daemon calls the request, so that the signer's log lines can be found
// by it, which trace it is part of (W3C Trace Context), and how long each step took. The last is answered only to who
// traces. The signer has no network, and sends no trace itself.
const (
	headerRequestID   = "X-Request-Id"
	headerTraceparent = "Traceparent"
	headerSteps       = "Octo-Sts-Steps"
)

// maxSteps bounds how many steps are told of: the request itself, and the HSMs that were asked.
const maxSteps = 16

// Names of steps. The daemon takes no others.
const (
	stepRequest = "sign App JWT"
	stepHSM     = "HSM sign"
)

// timed is one step, as headerSteps has it.
type timed struct {
	Name   string `json:"name"`
	HSM    int    `json:"hsm"` // -1: none
	Began  int64  `json:"began"`
	Took   int64  `json:"took"` // both in microseconds
	Failed bool   `json:"failed,omitempty"`
}

// steps are those of one request, the request itself first.
type steps struct {
	mu  sync.Mutex
	all []timed // guarded by mu
}

type stepsKey struct{}

// withCaller gives a request's context its request ID and, where the daemon traces, a place for its steps.
func withCaller(r *http.Request) (context.Context, *steps) {
	ctx := r.Context()
	if id := r.Header.Get(headerRequestID); isRequestID(id) {
		ctx = span.WithRequestID(ctx, id)
	}
	if r.Header.Get(headerTraceparent) == "" || r.URL.Path != pathAppJWT {
		return ctx, nil
	}
	s := &steps{all: make([]timed, 1, 2)}
	return context.WithValue(ctx, stepsKey{}, s), s
}

// isRequestID tells whether an ID is one that can stand in a log.
func isRequestID(id string) bool {
	for _, r := range id {
		isPlain := r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || r == '-' || r == '_'
		if !isPlain {
			return false
		}
	}
	return id != "" && len(id) <= 64
}

// timeHSM has an HSM asked, and notes how long that took where somebody wants to know.
func timeHSM(ctx context.Context, hsm int, ask func() error) error {
	s, _ := ctx.Value(stepsKey{}).(*steps)
	if s == nil {
		return ask()
	}
	began := time.Now()
	err := ask()
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.all) < maxSteps {
		s.all = append(s.all, newTimed(stepHSM, hsm, began, err))
	}
	return err
}

func newTimed(name string, hsm int, began time.Time, err error) timed {
	return timed{Name: name, HSM: hsm, Began: began.UnixMicro(), Took: time.Since(began).Microseconds(), Failed: err != nil}
}

// header is the value of headerSteps for a request that began then and ended now.
func (s *steps) header(began time.Time, err error) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.all[0] = newTimed(stepRequest, -1, began, err)
	value, _ := json.Marshal(s.all) // numbers and constants always encode
	return string(value)
}

// noteSteps passes the signer's steps on to whoever traces. What is not as the signer writes it is left out.
func noteSteps(ctx context.Context, header string) {
	var all []timed
	if header == "" || json.Unmarshal([]byte(header), &all) != nil || len(all) > maxSteps {
		return
	}
	var past []span.Past
	for _, t := range all {
		if t.Name != stepRequest && t.Name != stepHSM {
			return
		}
		p := span.Past{Step: span.Step{Name: t.Name}, HSM: t.HSM, Began: time.UnixMicro(t.Began), Took: time.Duration(t.Took) * time.Microsecond}
		if t.Failed {
			p.Reason = "failed"
		}
		past = append(past, p)
	}
	span.Note(ctx, past)
}
