package githubapp

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/golang-lru/v2/simplelru"
)

// group names what is forgotten together: all of an owner's (repository is
// empty), all of a repository's, or all of an installation's. Names are in lower
// case.
type group struct {
	owner, repository string
	installation      int64
}

// knownFailure is a negative answer, used until it has aged.
type knownFailure struct {
	err   error
	asked time.Time // when
}

// memory keeps what GitHub said, and knows what GitHub is being asked, so that
// both can be forgotten at once: what is forgotten while it is being asked is
// told to those who wait for it, and to nobody who comes later. To forget costs
// as much as is forgotten, not as much as is kept.
//
// What is there and what is not have bounds of their own, so that questions about
// what is not there never push out what is.
type memory[K comparable, V any] struct {
	groups  func(K, V) []group // V is the zero value where nothing is known to be there
	size    func(V) int        // in bytes
	maxSize int

	hits, misses atomic.Uint64 // of questions that were, or were not, answered from memory

	mu      sync.Mutex // guards what follows
	present *simplelru.LRU[K, V]
	absent  *simplelru.LRU[K, knownFailure]
	flights map[K]*flight[V]
	index   map[group]map[K]struct{} // of the keys of all three
	total   int                      // the size of all that is present
}

// known is what a memory has for a key: found, or an absence whose err is not
// nil, or neither.
type known[V any] struct {
	value  V
	found  bool
	absent knownFailure
}

func (k known[V]) answer() (V, error) {
	if k.found {
		return k.value, nil
	}
	return k.value, k.absent.err
}

// flight is one question that is under way.
type flight[V any] struct {
	done      chan struct{} // closed when value and err are set for good
	value     V
	err       error
	forgotten bool // guarded by the memory's mu: nothing of it is to be kept
}

// newMemory needs all bounds above 0.
func newMemory[K comparable, V any](maxPresent, maxAbsent, maxSize int, size func(V) int, groups func(K, V) []group) *memory[K, V] {
	m := &memory[K, V]{
		groups: groups, size: size, maxSize: maxSize,
		flights: map[K]*flight[V]{}, index: map[group]map[K]struct{}{},
	}
	// The only error is a size that is not above 0. The callbacks run under mu.
	m.present, _ = simplelru.NewLRU(maxPresent, func(key K, gone V) {
		m.total -= m.size(gone)
		m.unlist(key, gone)
	})
	m.absent, _ = simplelru.NewLRU(maxAbsent, func(key K, _ knownFailure) {
		var none V
		m.unlist(key, none)
	})
	return m
}

// recall returns what is known of key.
func (m *memory[K, V]) recall(key K) known[V] {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.look(key)
}

// look needs m.mu.
func (m *memory[K, V]) look(key K) (k known[V]) {
	if k.value, k.found = m.present.Get(key); !k.found {
		k.absent, _ = m.absent.Get(key)
	}
	return k
}

// ask returns what is known of key where that is usable; else it joins whoever is
// asking, or asks: work then runs once for all who come while it does. It
// outlives a caller who leaves, since the others still want it, and has
// callTimeout for everything; the caller's own context ends only that caller's
// wait. What is to be kept, work must keep, with the flight that it is given.
func (m *memory[K, V]) ask(ctx context.Context, key K, usable func(known[V]) bool, work func(context.Context, *flight[V]) (V, error)) (V, error) {
	m.mu.Lock()
	if k := m.look(key); usable(k) {
		m.mu.Unlock()
		return k.answer()
	}
	f := m.flights[key]
	if f == nil {
		var none V
		f = &flight[V]{done: make(chan struct{})}
		m.flights[key] = f
		m.list(key, none)
		go m.fly(context.WithoutCancel(ctx), key, f, work)
	}
	m.mu.Unlock()
	select {
	case <-ctx.Done():
		var none V
		return none, &apiError{kind: ErrUnavailable, doing: "waiting for GitHub", cause: ctx.Err()}
	case <-f.done:
		return f.value, f.err
	}
}

func (m *memory[K, V]) fly(ctx context.Context, key K, f *flight[V], work func(context.Context, *flight[V]) (V, error)) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	f.value, f.err = work(ctx, f)
	m.mu.Lock()
	if m.flights[key] == f {
		var none V
		delete(m.flights, key)
		m.unlist(key, none)
	}
	m.mu.Unlock()
	close(f.done)
}

// keep remembers what f brought, unless it was forgotten meanwhile.
func (m *memory[K, V]) keep(key K, f *flight[V], value V) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if f.forgotten {
		return
	}
	m.absent.Remove(key)
	m.present.Remove(key) // Add would replace it without the callback
	m.present.Add(key, value)
	m.list(key, value)
	for m.total += m.size(value); m.total > m.maxSize; {
		m.present.RemoveOldest()
	}
}

// keepAbsent remembers that f brought nothing, unless it was forgotten meanwhile.
func (m *memory[K, V]) keepAbsent(key K, f *flight[V], failure knownFailure) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if f.forgotten {
		return
	}
	var none V
	m.present.Remove(key)
	m.absent.Add(key, failure)
	m.list(key, none)
}

// isForgotten tells whether what f asks about was forgotten since it left.
func (m *memory[K, V]) isForgotten(f *flight[V]) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return f.forgotten
}

// remove drops what is known of key to be there, if which says so.
func (m *memory[K, V]) remove(key K, which func(V) bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if value, ok := m.present.Peek(key); ok && which(value) {
		m.present.Remove(key)
	}
}

// forget drops what is known of the keys of a group that which says, and what is
// being asked about them. Nil: all of them.
func (m *memory[K, V]) forget(g group, which func(K) bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for key := range m.index[g] { // removing what the loop is at is allowed
		if which != nil && !which(key) {
			continue
		}
		if f := m.flights[key]; f != nil {
			var none V
			f.forgotten = true
			delete(m.flights, key)
			m.unlist(key, none)
		}
		m.present.Remove(key)
		m.absent.Remove(key)
	}
}

// list needs m.mu.
func (m *memory[K, V]) list(key K, value V) {
	for _, g := range m.groups(key, value) {
		keys := m.index[g]
		if keys == nil {
			keys = map[K]struct{}{}
			m.index[g] = keys
		}
		keys[key] = struct{}{}
	}
}

// unlist takes a key out of the index that is not value any more, as far as it is
// nothing else either. It needs m.mu.
func (m *memory[K, V]) unlist(key K, value V) {
	for _, g := range m.groups(key, value) {
		delete(m.index[g], key)
		if len(m.index[g]) == 0 {
			delete(m.index, g)
		}
	}
	if still, ok := m.present.Peek(key); ok {
		m.list(key, still)
	} else if _, asked := m.flights[key]; asked || m.absent.Contains(key) {
		var none V
		m.list(key, none)
	}
}
