package sts

import (
	"crypto/sha256"
	"strconv"
	"testing"
	"time"
)

func hashOf(n int) [sha256.Size]byte { return sha256.Sum256([]byte(strconv.Itoa(n))) }

func TestHandedOut(t *testing.T) {
	now := time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)
	h := newHandedOut()
	h.now = func() time.Time { return now }
	h.turned = now
	hour := now.Add(time.Hour)
	want := func(what string, n int, want fate) {
		t.Helper()
		if got, _ := h.ask(hashOf(n)); got != want {
			t.Errorf("%s: %d, want %d", what, got, want)
		}
	}
	want("before the log is read", 1, fateUncertain)
	h.add(hashOf(1), hour)
	want("handed out", 1, fateAlive)
	h.revoked(hashOf(1))
	want("revoked", 1, fateRevoked)
	h.recall(hashOf(1), hour) // the log tells of it later
	want("revoked, and recalled", 1, fateRevoked)
	h.recall(hashOf(2), hour)
	h.recall(hashOf(3), now.Add(-time.Second))
	h.revoked(hashOf(4)) // not known: nothing to note
	want("recalled", 2, fateAlive)
	want("dead before the start", 3, fateUncertain)
	h.recalled()
	want("dead before the start, when the log was read", 3, fateUnknown)
	want("revoked long ago", 4, fateUnknown)

	now = now.Add(59 * time.Minute)
	want("its last minute", 2, fateAlive)
	now = now.Add(time.Minute)
	want("its hour is over", 2, fateUnknown)
	want("its hour is over, and it was revoked", 1, fateRevoked)
}

// Nothing is forgotten within its hour for its age, and no more than two generations
// are kept.
func TestHandedOutForgets(t *testing.T) {
	now := time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)
	h := newHandedOut()
	h.now = func() time.Time { return now }
	h.turned = now
	for n := range 600 { // one a minute
		h.add(hashOf(n), now.Add(time.Hour))
		now = now.Add(time.Minute)
		for _, young := range []int{n, n - 30, n - 58} {
			if f, _ := h.ask(hashOf(young)); young >= 0 && f != fateAlive {
				t.Fatalf("token %d at minute %d: %d", young, n, f)
			}
		}
	}
	if kept := len(h.young) + len(h.old); kept > 150 {
		t.Errorf("%d are kept", kept)
	}
	for n := range 3 * handedOutMost {
		h.add(hashOf(1000+n), now.Add(time.Hour))
	}
	if kept := len(h.young) + len(h.old); kept > 2*handedOutMost || kept < handedOutMost {
		t.Errorf("%d are kept, want %d to %d", kept, handedOutMost, 2*handedOutMost)
	}
	if f, _ := h.ask(hashOf(1000 + 2*handedOutMost)); f != fateAlive {
		t.Error("one of the newest is forgotten")
	}
}

func BenchmarkHandedOut(b *testing.B) {
	h := newHandedOut()
	expiry := time.Now().Add(time.Hour)
	b.ReportAllocs()
	for n := 0; b.Loop(); n++ {
		h.add(hashOf(n), expiry)
	}
}
