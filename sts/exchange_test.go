package sts

import (
	"context"
	"errors"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"
)

// A thousand requests for one file that nobody has compiled yet compile it once.
func TestCompiledOnce(t *testing.T) {
	cache, err := lru.New[string, compiled[int]](10)
	if err != nil {
		t.Fatal(err)
	}
	s, compilations := &Service{}, atomic.Int64{}
	var group sync.WaitGroup
	for range 1000 {
		group.Go(func() {
			got, err := once(s, cache, "file", func() (int, error) {
				compilations.Add(1)
				return 7, errors.New("kept with it")
			})
			if got != 7 || err == nil {
				t.Errorf("%d, %v", got, err)
			}
		})
	}
	group.Wait()
	if n := compilations.Load(); n != 1 {
		t.Errorf("compiled %d times", n)
	}
}

// A caller who goes away is told from an exchange that took too long.
func TestEnded(t *testing.T) {
	timedOut, cancel := context.WithDeadlineCause(t.Context(), time.Now(), errExchangeTimeout)
	defer cancel()
	gone, hangUp := context.WithDeadlineCause(t.Context(), time.Now().Add(time.Hour), errExchangeTimeout)
	hangUp()
	for want, ctx := range map[string]context.Context{"exchange_timeout": timedOut, "caller_gone": gone} {
		<-ctx.Done()
		if r := ended(ctx); r.Reason != want || !errors.Is(r, ErrUnavailable) {
			t.Errorf("%v, want %s", r, want)
		}
	}
}

// A line of the log does not grow with what an error quotes.
func TestBrief(t *testing.T) {
	if got := brief(errors.New(strings.Repeat("x", 1<<20))); len(got) > 2100 {
		t.Errorf("%d bytes", len(got))
	}
	if got := brief(nil) + brief(errors.New("short")); got != "short" {
		t.Errorf("%q", got)
	}
}
