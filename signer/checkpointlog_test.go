package signer

import (
	"context"
	"crypto"
	"crypto/ed25519"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"testing"

	"go.uber.org/zap"
	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"
	"golang.org/x/time/rate"

	"github.com/octo-sts/appliance/sts/audit/checkpoint"
)

const testOrigin = "sts.example.com/audit"

// testLog is a log in memory. Logs of one name and different branch agree up to entry fork, and not after.
type testLog struct {
	branch string
	fork   int64
	hashes []tlog.Hash
	size   int64
}

func (l *testLog) ReadHashes(indexes []int64) ([]tlog.Hash, error) {
	hashes := make([]tlog.Hash, len(indexes))
	for i, index := range indexes {
		hashes[i] = l.hashes[index]
	}
	return hashes, nil
}

// request asks for size entries with a proof from before.
func (l *testLog) request(t testing.TB, before, size int64) checkpoint.Request {
	t.Helper()
	for ; l.size < size; l.size++ {
		entry := fmt.Sprint("entry ", l.size)
		if l.size >= l.fork {
			entry += l.branch
		}
		hashes, err := tlog.StoredHashes(l.size, []byte(entry), l)
		if err != nil {
			t.Fatal(err)
		}
		l.hashes = append(l.hashes, hashes...)
	}
	root, err := tlog.TreeHash(size, l)
	if err != nil {
		t.Fatal(err)
	}
	r := checkpoint.Request{Checkpoint: checkpoint.Checkpoint{Origin: testOrigin, Size: uint64(size), Root: root}, OldSize: uint64(before)}
	if before > 0 && before < size {
		if r.Proof, err = tlog.ProveTree(size, before, l); err != nil {
			t.Fatal(err)
		}
	}
	return r
}

// begin makes the state of a new log in dir.
func begin(t testing.TB, dir string, key crypto.Signer) {
	t.Helper()
	first, err := SignCheckpoint(checkpoint.Empty(testOrigin), key)
	if err != nil {
		t.Fatal(err)
	}
	state, err := OpenCheckpointState(dir)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(state.Save(first), state.Close()); err != nil {
		t.Fatal(err)
	}
}

// newCountersigner countersigns a new log as fast as requests come.
func newCountersigner(t testing.TB, dir string, key crypto.Signer) *Countersigner {
	t.Helper()
	begin(t, dir, key)
	return openCountersigner(t, dir, key)
}

func openCountersigner(t testing.TB, dir string, key crypto.Signer) *Countersigner {
	t.Helper()
	s, err := NewCountersigner(CountersignerConfig{
		Origin:    testOrigin,
		Directory: dir,
		UseKey:    func(_ context.Context, use func(crypto.Signer) error) error { return use(key) },
		Logger:    zap.NewNop(),
	})
	if err != nil {
		t.Fatal(err)
	}
	s.limiter = rate.NewLimiter(rate.Inf, 0)
	t.Cleanup(func() { _ = s.state.Close() })
	return s
}

// testKey counts its signatures, and fails where err is set.
type testKey struct {
	ed25519.PrivateKey
	signatures int
	err        error
	wrong      bool
}

func (k *testKey) Sign(random io.Reader, text []byte, options crypto.SignerOpts) ([]byte, error) {
	k.signatures++
	if k.err != nil {
		return nil, k.err
	}
	signature, err := k.PrivateKey.Sign(random, text, options)
	if k.wrong {
		signature[0] ^= 1
	}
	return signature, err
}

func newTestKey(t testing.TB) *testKey {
	t.Helper()
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return &testKey{PrivateKey: key}
}

func (k *testKey) verifier(t testing.TB) note.Verifier {
	t.Helper()
	vkey, err := checkpoint.EncodeKey(testOrigin, k.Public())
	if err != nil {
		t.Fatal(err)
	}
	v, err := checkpoint.ParseKey(vkey)
	if err != nil {
		t.Fatal(err)
	}
	return v
}
