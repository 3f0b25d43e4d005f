package webhook

import (
	"cmp"
	"container/heap"
	"context"
	"errors"
	"slices"
	"sync"
	"time"
)

const (
	// maxQueued and maxQueuedBytes bound the queue. Beyond them GitHub is told to
	// come back.
	maxQueued      = 20_000
	maxQueuedBytes = 64 << 20
	// maxTaken bounds how many items of one lane are worked on together.
	maxTaken = 256
)

var errQueueFull = errors.New("the delivery queue is full: is GitHub out of reach, or the audit log not writable?")

// entry is one item of the queue as it is known in memory; the item itself stays
// on disk until it is worked on. An entry belongs to the schedule while it waits
// and to whoever took it while it is worked on.
type entry struct {
	seq      uint64
	key      deliveryKey
	lane     string
	received time.Time
	size     int // in bytes, on disk

	due      time.Time // not to be taken before
	attempts int       // how often it was tried in vain
	recorded int       // how many entries about its change the audit log has
	reported bool      // whether the audit log has the entry about its check
}

func newEntry(seq uint64, i item, size int) *entry {
	return &entry{seq: seq, key: i.key(), lane: i.lane(), received: i.Received, size: size, due: i.NotBefore}
}

// schedule says which items may be worked on: those of one lane together and in
// order, those of different lanes at once.
type schedule struct {
	wake chan struct{} // capacity 1: something may have become due

	mu    sync.Mutex
	all   map[uint64]*entry     // guarded by mu: what is not marked as ended on disk
	bytes int                   // guarded by mu: their size
	lanes map[string]*laneState // guarded by mu: those with anything in them
	ready laneHeap              // guarded by mu: those whose entries nobody works on
}

// laneState is a lane's state, guarded by the schedule's lock.
type laneState struct {
	name    string
	waiting []*entry  // by seq
	due     time.Time // the earliest of waiting's
	busy    bool      // somebody works on entries of it; then it is not in ready
	index   int       // in ready
}

func newSchedule() *schedule {
	return &schedule{wake: make(chan struct{}, 1), all: map[uint64]*entry{}, lanes: map[string]*laneState{}}
}

// hasRoom returns an error where the queue takes no more. Those who ask at once
// may all be told that it does: it may become that much longer.
func (s *schedule) hasRoom() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.all) >= maxQueued || s.bytes >= maxQueuedBytes {
		return errQueueFull
	}
	return nil
}

// add puts e, which is on disk, where it may be taken.
func (s *schedule) add(e *entry) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.all[e.seq] = e
	s.bytes += e.size
	s.wait(e)
	s.signal()
}

// wait puts e into its lane. The caller holds mu.
func (s *schedule) wait(e *entry) {
	l := s.lanes[e.lane]
	if l == nil {
		l = &laneState{name: e.lane, due: e.due}
		s.lanes[e.lane] = l
		heap.Push(&s.ready, l)
	}
	at, _ := slices.BinarySearchFunc(l.waiting, e.seq, func(w *entry, seq uint64) int {
		return cmp.Compare(w.seq, seq)
	})
	l.waiting = slices.Insert(l.waiting, at, e)
	if len(l.waiting) == 1 || e.due.Before(l.due) {
		l.due = e.due
	}
	if !l.busy {
		heap.Fix(&s.ready, l.index)
	}
}

// take returns the entries of a lane of which one is due, all that wait in it:
// what is worth doing for one does for the others. Whoever gets them calls done.
// Where nothing is due, next says when something is; zero: nothing waits.
func (s *schedule) take(now time.Time) (entries []*entry, next time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.ready) == 0 {
		return nil, time.Time{}
	}
	l := s.ready[0]
	if l.due.After(now) {
		return nil, l.due
	}
	heap.Pop(&s.ready)
	l.busy = true
	n := min(len(l.waiting), maxTaken)
	entries = slices.Clone(l.waiting[:n])
	l.waiting = slices.Delete(l.waiting, 0, n)
	return entries, time.Time{}
}

// next waits until take returns something; nil: ctx ended.
func (s *schedule) next(ctx context.Context) []*entry {
	for ctx.Err() == nil {
		entries, due := s.take(time.Now())
		if entries != nil {
			return entries
		}
		wait := time.Hour // woken before, if anything comes
		if !due.IsZero() {
			wait = time.Until(due)
		}
		timer := time.NewTimer(wait)
		select {
		case <-ctx.Done():
		case <-timer.C:
		case <-s.wake:
		}
		timer.Stop()
	}
	return nil
}

// done frees the lane of entries that were taken, and puts those of again back,
// to be taken at their new due time.
func (s *schedule) done(lane string, again []*entry) {
	s.mu.Lock()
	defer s.mu.Unlock()
	l := s.lanes[lane]
	for _, e := range again {
		s.wait(e)
	}
	l.busy = false
	if len(l.waiting) == 0 {
		delete(s.lanes, lane)
	} else {
		l.due = slices.MinFunc(l.waiting, func(a, b *entry) int { return a.due.Compare(b.due) }).due
		heap.Push(&s.ready, l)
	}
	s.signal()
}

// remove forgets entries that are marked as ended on disk.
func (s *schedule) remove(all []settlement) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, one := range all {
		delete(s.all, one.entry.seq)
		s.bytes -= one.entry.size
	}
}

// deliveries returns whose items there are.
func (s *schedule) deliveries() map[deliveryKey]bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	ids := make(map[deliveryKey]bool, len(s.all))
	for _, e := range s.all {
		ids[e.key] = true
	}
	return ids
}

// update calls f for all entries, before any is taken.
func (s *schedule) update(f func(*entry)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, e := range s.all {
		f(e)
	}
}

// status returns how many items there are and when the oldest arrived.
func (s *schedule) status() (queued int, oldest time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, e := range s.all {
		if oldest.IsZero() || e.received.Before(oldest) {
			oldest = e.received
		}
	}
	return len(s.all), oldest
}

func (s *schedule) signal() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// laneHeap has the lane that is due first in front.
type laneHeap []*laneState

func (h laneHeap) Len() int           { return len(h) }
func (h laneHeap) Less(i, j int) bool { return h[i].due.Before(h[j].due) }
func (h laneHeap) Swap(i, j int) {
	h[i], h[j] = h[j], h[i]
	h[i].index, h[j].index = i, j
}

func (h *laneHeap) Push(x any) {
	l := x.(*laneState)
	l.index = len(*h)
	*h = append(*h, l)
}

func (h *laneHeap) Pop() any {
	last := (*h)[len(*h)-1]
	*h = (*h)[:len(*h)-1]
	return last
}
