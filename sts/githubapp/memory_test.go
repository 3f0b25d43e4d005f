package githubapp

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"testing"
)

func newTestMemory(maxPresent, maxAbsent, maxSize int) *memory[fileKey, *File] {
	return newMemory(maxPresent, maxAbsent, maxSize, func(f *File) int { return len(f.Content) }, fileKey.groups)
}

// TestMemoryBounds keeps what was used last, within all bounds, and lets what is
// absent push out nothing that is present.
func TestMemoryBounds(t *testing.T) {
	key := func(n int) fileKey { return fileKey{1, "acme", "app", fmt.Sprint(n)} }
	of := func(size int) *File { return &File{Content: make([]byte, size)} }
	asked := new(flight[*File])
	m := newTestMemory(3, 2, 100)
	check := func(last int, want ...int) {
		t.Helper()
		var got []int
		size := 0
		for n := range last + 1 {
			if file, ok := m.present.Peek(key(n)); ok {
				got = append(got, n)
				size += len(file.Content)
			}
		}
		if fmt.Sprint(got) != fmt.Sprint(want) || m.total != size {
			t.Errorf("kept %v with %d bytes, want %v with %d", got, m.total, want, size)
		}
	}
	for n := range 3 {
		m.keep(key(n), asked, of(30))
	}
	check(3, 0, 1, 2)
	m.recall(key(0)) // so 1 is the oldest
	m.keep(key(3), asked, of(1))
	check(3, 0, 2, 3)
	m.keep(key(2), asked, of(80)) // replaces 30 bytes; 0 and 3 are older
	check(3, 2, 3)
	m.keep(key(2), asked, of(10))
	check(3, 2, 3)
	for n := range 100 {
		m.keepAbsent(key(100+n), asked, knownFailure{err: ErrNotFound})
	}
	check(3, 2, 3)
	if m.absent.Len() != 2 {
		t.Errorf("%d absences are kept, want 2", m.absent.Len())
	}
	m.keepAbsent(key(2), asked, knownFailure{err: ErrNotFound})
	check(3, 3)
	m.keep(key(1), asked, of(101)) // more than all: not kept, and nothing breaks
	check(3)
}

// TestMemoryIndex does everything at random, and holds the index against what it
// stands for: with a key missing something would outlive its being forgotten, with
// one too many it would grow for ever.
func TestMemoryIndex(t *testing.T) {
	m := newTestMemory(5, 4, 60)
	flights := map[fileKey]*flight[*File]{}
	pick := func() fileKey {
		return fileKey{rand.Int64N(2), fmt.Sprint("o", rand.IntN(2)), fmt.Sprint("r", rand.IntN(2)), fmt.Sprint("p", rand.IntN(3))}
	}
	for range 20_000 {
		key := pick()
		f := flights[key]
		switch rand.IntN(6) {
		case 0: // asked for
			if m.flights[key] == nil {
				flights[key] = &flight[*File]{}
				m.flights[key] = flights[key]
				m.list(key, nil)
			}
		case 1: // answered
			if f != nil {
				m.keep(key, f, &File{Content: make([]byte, rand.IntN(30))})
			}
		case 2:
			if f != nil {
				m.keepAbsent(key, f, knownFailure{err: ErrNotFound})
			}
		case 3: // done
			if f != nil && m.flights[key] == f {
				delete(m.flights, key)
				m.unlist(key, nil)
			}
			delete(flights, key)
		case 4:
			m.remove(key, func(*File) bool { return true })
		case 5:
			var which func(fileKey) bool
			if rand.IntN(2) == 0 {
				which = func(k fileKey) bool { return k.path == key.path }
			}
			g := key.groups(nil)[rand.IntN(3)]
			m.forget(g, which)
			for k := range m.index[g] {
				if which == nil || which(k) {
					t.Fatalf("%v was forgotten with %v and is listed", k, g)
				}
			}
		}
		checkIndex(t, m)
	}
}

func checkIndex(t *testing.T, m *memory[fileKey, *File]) {
	t.Helper()
	want := map[group]map[fileKey]bool{}
	note := func(key fileKey) {
		for _, g := range key.groups(nil) {
			if want[g] == nil {
				want[g] = map[fileKey]bool{}
			}
			want[g][key] = true
		}
	}
	for _, key := range m.present.Keys() {
		note(key)
	}
	for _, key := range m.absent.Keys() {
		note(key)
	}
	for key := range m.flights {
		note(key)
	}
	if len(m.index) != len(want) {
		t.Fatalf("the index has %d groups, want %d", len(m.index), len(want))
	}
	for g, keys := range want {
		if len(m.index[g]) != len(keys) {
			t.Fatalf("the index has %d keys of %v, want %d", len(m.index[g]), g, len(keys))
		}
		for key := range keys {
			if _, ok := m.index[g][key]; !ok {
				t.Fatalf("%v is not listed in %v", key, g)
			}
		}
	}
}

// TestMemoryForgetsInstallation: a look-up is listed under the installation that
// it found, also after it found another one.
func TestMemoryForgetsInstallation(t *testing.T) {
	m := newMemory(10, 10, 1, func(Installation) int { return 0 }, lookupKey.groups)
	key, f := lookupKey{1, "acme", "app"}, new(flight[Installation])
	m.keep(key, f, Installation{ID: 5})
	m.keep(key, f, Installation{ID: 6})
	m.forget(group{installation: 5}, nil)
	if !m.recall(key).found {
		t.Error("it went with the installation that it is not part of any more")
	}
	m.forget(group{installation: 6}, nil)
	if m.recall(key).found || len(m.index) != 0 {
		t.Error("it outlived its installation")
	}
}

// TestMemoryAsksOnce for all who come while it asks, and again for those who come
// after it was forgotten; what is forgotten is told and not kept.
func TestMemoryAsksOnce(t *testing.T) {
	m := newTestMemory(10, 10, 1000)
	key := fileKey{1, "acme", "app", "p"}
	found := func(k known[*File]) bool { return k.found }
	type told struct {
		file *File
		err  error
	}
	ask := func(work func() *File) <-chan told {
		c := make(chan told, 1)
		go func() {
			file, err := m.ask(context.Background(), key, found, func(_ context.Context, f *flight[*File]) (*File, error) {
				file := work()
				m.keep(key, f, file)
				return file, nil
			})
			c <- told{file, err}
		}()
		return c
	}
	begun, release := make(chan struct{}), make(chan struct{})
	old, young := &File{Path: "old"}, &File{Path: "young"}
	first := ask(func() *File { close(begun); <-release; return old })
	<-begun
	leaving, leave := context.WithCancel(context.Background())
	leave()
	if _, err := m.ask(leaving, key, found, nil); !errors.Is(err, context.Canceled) {
		t.Errorf("who joins and leaves is told %v", err)
	}
	m.forget(group{installation: 1}, nil)
	if got := <-ask(func() *File { return young }); got.file != young {
		t.Errorf("who came after it was forgotten is told %v", got)
	}
	close(release)
	if got := <-first; got.file != old {
		t.Errorf("who came before it was forgotten is told %v", got)
	}
	if m.recall(key).value != young {
		t.Error("what was forgotten is kept")
	}
}
