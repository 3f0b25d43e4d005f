package checkpoint

import (
	"errors"
	"fmt"
	"slices"
	"testing"

	"golang.org/x/mod/sumdb/tlog"
)

// tree is a log in memory.
type tree []tlog.Hash

func newTree(t testing.TB, name string, size int64) tree {
	t.Helper()
	var stored tree
	for i := range size {
		hashes, err := tlog.StoredHashes(i, fmt.Append(nil, name, i), stored)
		if err != nil {
			t.Fatal(err)
		}
		stored = append(stored, hashes...)
	}
	return stored
}

func (s tree) ReadHashes(indexes []int64) ([]tlog.Hash, error) {
	hashes := make([]tlog.Hash, len(indexes))
	for i, index := range indexes {
		hashes[i] = s[index]
	}
	return hashes, nil
}

func (s tree) at(t testing.TB, size int64) Checkpoint {
	t.Helper()
	root, err := tlog.TreeHash(size, s)
	if err != nil {
		t.Fatal(err)
	}
	return Checkpoint{Origin: origin, Size: uint64(size), Root: root}
}

// request asks for size with a proof from before.
func (s tree) request(t testing.TB, before, size int64) Request {
	t.Helper()
	r := Request{Checkpoint: s.at(t, size), OldSize: uint64(before)}
	if before > 0 && before < size {
		var err error
		if r.Proof, err = tlog.ProveTree(size, before, s); err != nil {
			t.Fatal(err)
		}
	}
	return r
}

func TestEveryLaterStateExtends(t *testing.T) {
	const size = 40
	log := newTree(t, "entry", size)
	for before := range int64(size + 1) {
		for after := before; after <= size; after++ {
			r := log.request(t, before, after)
			if err := r.Extends(log.at(t, before)); err != nil {
				t.Errorf("%d to %d: %v", before, after, err)
			}
			for i := range r.Proof {
				wrong := r
				wrong.Proof = slices.Clone(r.Proof)
				wrong.Proof[i][0] ^= 1
				if err := wrong.Extends(log.at(t, before)); err == nil {
					t.Errorf("%d to %d with proof hash %d flipped extends", before, after, i)
				}
			}
		}
	}
}

func TestConflicts(t *testing.T) {
	log, other := newTree(t, "entry", 20), newTree(t, "other", 20)
	last := log.at(t, 11)
	with := func(change func(*Request)) Request {
		r := log.request(t, 11, 17)
		r.Proof = slices.Clone(r.Proof)
		change(&r)
		return r
	}
	for name, r := range map[string]Request{
		"an earlier state":          log.request(t, 3, 7),
		"a smaller size":            with(func(r *Request) { r.Checkpoint = log.at(t, 7) }),
		"size 0":                    {Checkpoint: Empty(origin), OldSize: 11},
		"a proof from further back": log.request(t, 9, 17),
		"a proof from later":        log.request(t, 12, 17),
		"another old size":          with(func(r *Request) { r.OldSize = 10 }),
		"as if nothing were signed": log.request(t, 0, 17),
		"another log":               other.request(t, 11, 17),
		"another log's root":        with(func(r *Request) { r.Checkpoint = other.at(t, 17) }),
		"another log's proof":       with(func(r *Request) { r.Proof = other.request(t, 11, 17).Proof }),
		"the same size, other root": other.request(t, 11, 11),
		"the same, with a proof":    with(func(r *Request) { r.Checkpoint = last }),
		"no proof":                  with(func(r *Request) { r.Proof = nil }),
		"a short proof":             with(func(r *Request) { r.Proof = r.Proof[1:] }),
		"a long proof":              with(func(r *Request) { r.Proof = append(r.Proof, tlog.Hash{}) }),
		"a larger size":             with(func(r *Request) { r.Size = 33 }),
		"a huge size":               with(func(r *Request) { r.Size = MaxSize }),
	} {
		var conflict *Conflict
		if err := r.Extends(last); !errors.As(err, &conflict) || conflict.Last != last {
			t.Errorf("%s: %v", name, err)
		}
	}
	for name, r := range map[string]Request{
		"another origin":          with(func(r *Request) { r.Origin = "other.example/audit" }),
		"a newline in the origin": with(func(r *Request) { r.Origin += "\n" }),
		"a size out of range":     with(func(r *Request) { r.Size = MaxSize + 1 }),
		"a size beyond int64":     with(func(r *Request) { r.Size = 1 << 63 }),
		"a proof out of range":    with(func(r *Request) { r.Proof = make(tlog.TreeProof, MaxProof+1) }),
		"a root of nothing":       with(func(r *Request) { r.Size = 0 }),
	} {
		var conflict *Conflict
		if err := r.Extends(last); err == nil || errors.As(err, &conflict) {
			t.Errorf("%s: %v", name, err)
		}
	}
	first := log.request(t, 0, 17)
	first.Proof = tlog.TreeProof{first.Root}
	if err := first.Extends(Empty(origin)); err == nil {
		t.Error("a proof from the empty log extends it")
	}
}
