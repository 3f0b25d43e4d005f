package webhook

import (
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func seqs(entries []*entry) (all []uint64) {
	for _, e := range entries {
		all = append(all, e.seq)
	}
	return all
}

func TestSchedule(t *testing.T) {
	s := newSchedule()
	now := time.Now()
	add := func(seq uint64, lane string, in time.Duration) *entry {
		e := &entry{seq: seq, lane: lane, received: now, due: now.Add(in), size: 10}
		s.add(e)
		return e
	}
	takes := func(at time.Duration, want ...uint64) []*entry {
		t.Helper()
		entries, _ := s.take(now.Add(at))
		if diff := cmp.Diff(want, seqs(entries)); diff != "" {
			t.Errorf("at %s: %s", at, diff)
		}
		return entries
	}
	takes(0)
	add(2, "a", 0)
	first := add(1, "a", 0) // committed together, handed over in another order
	add(3, "b", time.Second)
	takes(0, 1, 2)
	add(4, "a", 0)
	takes(0) // a is being worked on, b is not due
	if _, next := s.take(now); !next.Equal(now.Add(time.Second)) {
		t.Errorf("next is due %s", next.Sub(now))
	}
	first.due = now.Add(time.Minute)
	s.done("a", []*entry{first})
	got := takes(0, 1, 4) // what is due takes what is delayed along
	s.done("a", []*entry{got[0]})
	takes(0)
	takes(time.Second, 3)
	s.done("b", nil)
	takes(time.Minute - 1)
	takes(time.Minute, 1)
	s.done("a", nil)
	if len(s.lanes) != 0 || len(s.ready) != 0 {
		t.Errorf("%d lanes and %d ready are left", len(s.lanes), len(s.ready))
	}
	if queued, oldest := s.status(); queued != 4 || !oldest.Equal(now) {
		t.Errorf("%d of 4, oldest %s", queued, oldest)
	}
	s.remove([]settlement{{entry: first}})
	if queued, _ := s.status(); queued != 3 || s.bytes != 30 {
		t.Errorf("%d of 3 in %d bytes", queued, s.bytes)
	}
}

// Whatever comes when, no lane is worked on twice at once, each entry is taken,
// and those of one lane in order.
func TestScheduleUnderLoad(t *testing.T) {
	const entries, lanes = 5000, 7
	s := newSchedule()
	var busy [lanes]atomic.Int32
	var last [lanes]uint64 // of each lane; belongs to who has it
	var left atomic.Int32
	left.Store(entries)
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			for left.Load() > 0 {
				taken, _ := s.take(time.Now())
				if taken == nil {
					time.Sleep(100 * time.Microsecond)
					continue
				}
				var lane int
				fmt.Sscan(taken[0].lane, &lane)
				if busy[lane].Add(1) != 1 {
					t.Error("two work on one lane")
				}
				for _, e := range taken {
					if e.seq <= last[lane] {
						t.Errorf("%d after %d", e.seq, last[lane])
					}
					last[lane] = e.seq
				}
				busy[lane].Add(-1)
				left.Add(-int32(len(taken)))
				s.done(taken[0].lane, nil)
			}
		})
	}
	for seq := range uint64(entries) {
		s.add(&entry{seq: seq + 1, lane: fmt.Sprint(rand.IntN(lanes))})
	}
	all.Wait()
}
