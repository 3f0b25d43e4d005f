package sts

import (
	"crypto/sha256"
	"sync"
	"time"

	"golang.org/x/sync/singleflight"
)

const (
	// handedOutMost is how many tokens each of two generations remembers: at some 50
	// bytes each, 7 MB at most. GitHub lets one installation have some ten thousand
	// an hour.
	handedOutMost = 1 << 16

	// handedOutFor is for how long a generation takes in tokens: longer than GitHub has
	// them live, so that none is forgotten before its end for its age alone.
	handedOutFor = 70 * time.Minute
)

// handedOut knows the installation tokens that left within the hour, by their
// hashes, since only those can be revoked here. Without that anybody could have
// this machine try tokens at GitHub, which locks out an address that shows too
// many wrong ones.
type handedOut struct {
	now func() time.Time

	mu     sync.Mutex // guards what follows
	young  map[handedOutKey]int64
	old    map[handedOutKey]int64
	turned time.Time // when young was begun
	whole  bool      // the audit log has told of the time before the start

	// flights are the revocations under way, each once however many ask.
	flights singleflight.Group
}

// handedOutKey is half of a token's SHA-256, which nobody finds a second token
// for either. The value to it is the token's expiry in Unix seconds, 0 once it was
// revoked.
type handedOutKey [sha256.Size / 2]byte

func newHandedOut() *handedOut {
	return &handedOut{now: time.Now, young: map[handedOutKey]int64{}, turned: time.Now()}
}

func keyOf(hash [sha256.Size]byte) handedOutKey { return handedOutKey(hash[:sha256.Size/2]) }

// add remembers a token. Where there are too many, it forgets the older half.
func (h *handedOut) add(hash [sha256.Size]byte, expiry time.Time) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.put(keyOf(hash), expiry.Unix())
}

// put needs h.mu.
func (h *handedOut) put(key handedOutKey, expiry int64) {
	if now := h.now(); len(h.young) >= handedOutMost || now.Sub(h.turned) > handedOutFor {
		h.young, h.old, h.turned = map[handedOutKey]int64{}, h.young, now
	}
	h.young[key] = expiry
}

// recall remembers a token from before the start, unless it is known already.
func (h *handedOut) recall(hash [sha256.Size]byte, expiry time.Time) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if _, known := h.get(keyOf(hash)); !known && h.now().Before(expiry) {
		h.put(keyOf(hash), expiry.Unix())
	}
}

// recalled says that all was recalled.
func (h *handedOut) recalled() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.whole = true
}

// revoked notes that a token is no more, if it was known.
func (h *handedOut) revoked(hash [sha256.Size]byte) {
	h.mu.Lock()
	defer h.mu.Unlock()
	key := keyOf(hash)
	for _, generation := range []map[handedOutKey]int64{h.young, h.old} {
		if _, ok := generation[key]; ok {
			generation[key] = 0
		}
	}
}

// fate is what is known of a token.
type fate int

const (
	fateUnknown   fate = iota // it did not leave here, or its hour is over
	fateUncertain             // the audit log may yet tell of it
	fateAlive
	fateRevoked
)

// ask tells what is known of a token.
func (h *handedOut) ask(hash [sha256.Size]byte) (f fate, expiry time.Time) {
	h.mu.Lock()
	defer h.mu.Unlock()
	at, known := h.get(keyOf(hash))
	expiry = time.Unix(at, 0)
	switch {
	case known && at == 0:
		return fateRevoked, expiry
	case known && h.now().Before(expiry):
		return fateAlive, expiry
	case known || h.whole:
		return fateUnknown, expiry
	default:
		return fateUncertain, expiry
	}
}

// get needs h.mu.
func (h *handedOut) get(key handedOutKey) (int64, bool) {
	if at, ok := h.young[key]; ok {
		return at, true
	}
	at, ok := h.old[key]
	return at, ok
}
