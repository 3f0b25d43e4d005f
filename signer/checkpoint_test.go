package signer

import (
	"bytes"
	"context"
	"crypto"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/zap"
	"golang.org/x/mod/sumdb/tlog"
	"golang.org/x/sys/unix"
	"golang.org/x/time/rate"

	"github.com/octo-sts/appliance/sts/audit/checkpoint"
)

// Each checkpoint extends the one before, and the state has it when the note leaves.
func TestCountersign(t *testing.T) {
	key, dir := newTestKey(t), t.TempDir()
	s, log := newCountersigner(t, dir, key), &testLog{}
	key.signatures = 0
	before := int64(0)
	for _, size := range []int64{1, 2, 3, 7, 8, 9, 100} {
		r := log.request(t, before, size)
		signed, err := s.Countersign(t.Context(), r)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := checkpoint.Open(signed, key.verifier(t)); err != nil || got != r.Checkpoint {
			t.Errorf("size %d: %+v, %v", size, got, err)
		}
		if onDisk, err := s.state.Load(); err != nil || !bytes.Equal(onDisk.Note, signed) {
			t.Errorf("size %d: the state has %s, %v", size, onDisk.Note, err)
		}
		again, err := s.Countersign(t.Context(), log.request(t, size, size))
		if err != nil || !bytes.Equal(again, signed) {
			t.Errorf("size %d asked for again: %s, %v", size, again, err)
		}
		if status := s.Status(); status.Size != uint64(size) || !status.Ready || status.Error != "" || status.Origin != testOrigin {
			t.Errorf("%+v", status)
		}
		before = size
	}
	if key.signatures != 7 {
		t.Errorf("%d signatures for 7 checkpoints", key.signatures)
	}
	if err := s.state.Close(); err != nil {
		t.Fatal(err)
	}
	// The next process goes on where this one stopped.
	s = openCountersigner(t, dir, key)
	var conflict *checkpoint.Conflict
	if _, err := s.Countersign(t.Context(), log.request(t, 9, 120)); !errors.As(err, &conflict) || conflict.Last != log.request(t, 0, 100).Checkpoint {
		t.Fatalf("after a restart, from an older size: %v", err)
	}
	if _, err := s.Countersign(t.Context(), log.request(t, int64(conflict.Last.Size), 120)); err != nil {
		t.Errorf("with a proof from what the conflict names: %v", err)
	}
}

func TestCountersignRefuses(t *testing.T) {
	key, log := newTestKey(t), &testLog{}
	other := &testLog{branch: " otherwise", fork: 5}
	s := newCountersigner(t, t.TempDir(), key)
	if _, err := s.Countersign(t.Context(), log.request(t, 0, 10)); err != nil {
		t.Fatal(err)
	}
	signatures := key.signatures
	with := func(change func(*checkpoint.Request)) checkpoint.Request {
		r := log.request(t, 10, 20)
		change(&r)
		return r
	}
	for name, r := range map[string]checkpoint.Request{
		"shrunk":                 log.request(t, 4, 6),
		"shrunk to nothing":      {Checkpoint: checkpoint.Empty(testOrigin)},
		"as if at the beginning": log.request(t, 0, 20),
		"forked":                 other.request(t, 10, 20),
		"forked, at that size":   other.request(t, 10, 10),
		"forked, from before":    other.request(t, 5, 20),
		"another tree's proof":   with(func(r *checkpoint.Request) { r.Proof = other.request(t, 10, 20).Proof }),
		"no proof":               with(func(r *checkpoint.Request) { r.Proof = nil }),
		"another root":           with(func(r *checkpoint.Request) { r.Root[0] ^= 1 }),
	} {
		var conflict *checkpoint.Conflict
		if _, err := s.Countersign(t.Context(), r); !errors.As(err, &conflict) || conflict.Last.Size != 10 {
			t.Errorf("%s: %v", name, err)
		}
	}
	for name, r := range map[string]checkpoint.Request{
		"another origin":            with(func(r *checkpoint.Request) { r.Origin = "elsewhere" }),
		"two origins":               with(func(r *checkpoint.Request) { r.Origin += "\nelsewhere" }),
		"no origin":                 with(func(r *checkpoint.Request) { r.Origin = "" }),
		"a size beyond int64":       with(func(r *checkpoint.Request) { r.Size = 1 << 63 }),
		"a proof of 65 hashes":      with(func(r *checkpoint.Request) { r.Proof = make([]tlog.Hash, 65) }),
		"a tree of nothing, rooted": with(func(r *checkpoint.Request) { r.Size = 0 }),
	} {
		if _, err := s.Countersign(t.Context(), r); !errors.Is(err, ErrCheckpointRefused) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if key.signatures != signatures {
		t.Errorf("%d signatures were made for what was refused", key.signatures-signatures)
	}
	if _, err := s.Countersign(t.Context(), log.request(t, 10, 20)); err != nil {
		t.Errorf("a good request afterwards: %v", err)
	}
}

// With two HSMs there are two keys and one state: whichever signs, the log goes on, also where the one that signed last is
// gone when the signer starts.
func TestCountersignWithTwoHSMs(t *testing.T) {
	first, second, log, dir := newTestKey(t), newTestKey(t), &testLog{}, t.TempDir()
	begin(t, dir, first)
	before := int64(0)
	for size := int64(1); size <= 8; size++ {
		keys := []*testKey{first, second}
		if first.err = nil; size%2 == 0 {
			first.err = errors.New("device removed")
		}
		s, err := NewCountersigner(CountersignerConfig{
			Origin: testOrigin, Directory: dir, Logger: zap.NewNop(),
			UseKey: func(_ context.Context, use func(crypto.Signer) error) error {
				var errs []error
				for _, key := range keys {
					err := use(key)
					if err == nil {
						return nil
					}
					errs = append(errs, err)
				}
				return errors.Join(errs...)
			},
		})
		if err != nil {
			t.Fatal(err)
		}
		signed, err := s.Countersign(t.Context(), log.request(t, before, size))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := checkpoint.Open(signed, keys[(size+1)%2].verifier(t)); err != nil {
			t.Errorf("size %d: %v", size, err)
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		before = size
	}
}

// What the HSM or the disk fails at does not leave, and does not count as signed.
func TestCountersignFailures(t *testing.T) {
	key, log, dir := newTestKey(t), &testLog{}, t.TempDir()
	s := newCountersigner(t, dir, key)
	refused := func(want string) {
		t.Helper()
		signed, err := s.Countersign(t.Context(), log.request(t, 0, 10))
		if !errors.Is(err, ErrCheckpointNotReady) || !strings.Contains(err.Error(), want) || signed != nil {
			t.Errorf("%s, %v; want %q", signed, err, want)
		}
		if s.Status().Error == "" || s.Status().Size != 0 {
			t.Errorf("%+v", s.Status())
		}
		if onDisk, err := s.state.Load(); err != nil || onDisk.Checkpoint.Size != 0 {
			t.Errorf("%+v, %v", onDisk, err)
		}
	}
	key.err = errors.New("device removed")
	refused("device removed")
	key.err, key.wrong = nil, true
	refused("does not verify")
	key.wrong = false
	obstacle := filepath.Join(dir, "checkpoint.tmp", "in the way")
	if err := os.MkdirAll(obstacle, 0o700); err != nil {
		t.Fatal(err)
	}
	refused("writing the checkpoint state")
	if err := os.RemoveAll(filepath.Dir(obstacle)); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Countersign(t.Context(), log.request(t, 0, 11)); err != nil {
		t.Errorf("afterwards: %v", err)
	}
}

func TestFullDisk(t *testing.T) {
	dir := t.TempDir()
	if err := unix.Mount("none", dir, "tmpfs", 0, "size=64k"); err != nil {
		t.Skipf("a small file system cannot be mounted here (%v): run as root to test a full disk", err)
	}
	t.Cleanup(func() { _ = unix.Unmount(dir, unix.MNT_DETACH) })
	key, log := newTestKey(t), &testLog{}
	s := newCountersigner(t, dir, key)
	ballast := filepath.Join(dir, "ballast")
	if err := os.WriteFile(ballast, make([]byte, 1<<20), 0o600); !errors.Is(err, unix.ENOSPC) {
		t.Fatal(err)
	}
	for range 3 {
		if signed, err := s.Countersign(t.Context(), log.request(t, 0, 5)); !errors.Is(err, unix.ENOSPC) || signed != nil {
			t.Errorf("%s, %v", signed, err)
		}
	}
	if err := os.Remove(ballast); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Countersign(t.Context(), log.request(t, 0, 5)); err != nil {
		t.Errorf("with space again: %v", err)
	}
}

// A hang in one signature keeps nobody waiting for longer than the client's patience.
func TestCountersignInTime(t *testing.T) {
	dir, log := t.TempDir(), &testLog{}
	begin(t, dir, newTestKey(t))
	s, err := NewCountersigner(CountersignerConfig{
		Origin: testOrigin, Directory: dir, Logger: zap.NewNop(),
		UseKey: func(ctx context.Context, _ func(crypto.Signer) error) error {
			<-ctx.Done()
			return ctx.Err()
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	var wg sync.WaitGroup
	for range 3 {
		wg.Go(func() {
			if _, err := s.Countersign(context.Background(), log.request(t, 0, 0)); err != nil && !errors.Is(err, ErrCheckpointNotReady) {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	r := log.request(t, 0, 5)
	started := time.Now()
	for range 3 {
		wg.Go(func() {
			if _, err := s.Countersign(context.Background(), r); !errors.Is(err, ErrCheckpointNotReady) || !errors.Is(err, context.DeadlineExceeded) {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if took := time.Since(started); took > 10*time.Second {
		t.Errorf("it took %v", took)
	}
}

// At most two a second, whatever a daemon asks for; what costs no signature is not counted.
func TestCheckpointRate(t *testing.T) {
	key, log := newTestKey(t), &testLog{}
	s := newCountersigner(t, t.TempDir(), key)
	now := time.Now()
	s.limiter = rate.NewLimiter(checkpointRate, checkpointRate)
	s.limiter.SetBurstAt(now.Add(-time.Hour), checkpointRate)
	signed, refused := int64(0), 0
	for size := int64(1); size <= 50; size++ {
		_, err := s.Countersign(t.Context(), log.request(t, signed, size))
		switch {
		case err == nil:
			signed = size
		case errors.Is(err, ErrCheckpointRate):
			refused++
		default:
			t.Fatal(err)
		}
		if _, err := s.Countersign(t.Context(), log.request(t, signed, signed)); err != nil {
			t.Errorf("what was signed already: %v", err)
		}
	}
	limit := 2 + int(checkpointRate*time.Since(now).Seconds()) + 1
	if made := 50 - refused; made < 2 || made > limit {
		t.Errorf("%d were signed, want 2 to %d", made, limit)
	}
}
