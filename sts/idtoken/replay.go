package idtoken

import (
	"container/heap"
	"crypto/sha256"
	"errors"
	"fmt"
	"sync"
	"time"
)

const (
	// usesOfOneToken bounds what a stolen token is worth without getting in the way of honest use. One CI job uses one
	// ID token again and again while it lives (a git credential helper asks at each fetch, a matrix shares it), some dozens
	// of times. A thousand is far above that. It bounds one token only: whoever can have new ones is not held back by it.
	usesOfOneToken = 1000
	// maxRememberedTokens is for one issuer. An entry takes some 80 bytes, so this is about 10 MB at the very most; with
	// tokens that live for ten minutes it is reached at 200 new tokens a second.
	maxRememberedTokens = 1 << 17
)

// reportedReplays is how many refusals of one token name the token. Whoever holds a token that was used up can show it
// again until it expires, and must not be able to fill the log that way.
const reportedReplays = 10

var (
	errReplayed      = errors.New("used too often")
	errReplayedAgain = fmt.Errorf("%w, and refused for it %d times before", errReplayed, reportedReplays)
	errGuardFull     = fmt.Errorf("no room to remember another single-use token: %w", ErrUnavailable)
)

// replayGuard counts how often each unexpired token of one issuer was used. It is in memory only; Verifier.Seen fills it
// again after a restart. Each issuer has its own, so that one issuer's tokens cannot push out another's.
type replayGuard struct {
	capacity int // tokens remembered

	mu       sync.Mutex // guards everything below
	most     int        // uses of one token
	forget   bool       // when full: drop the token that expires first, instead of refusing the new one
	tokens   map[tokenHash]*usedToken
	byExpiry expiryHeap // the same tokens
}

// tokenHash names a token in little space, whatever its jti looks like. 128 bits: an accidental match would refuse a good
// token, and to make one on purpose one needs the issuer's key.
type tokenHash [16]byte

type usedToken struct {
	hash   tokenHash
	expiry int64 // seconds since 1970
	uses   int32
	index  int32 // in the heap
}

func newReplayGuard(singleUse bool) *replayGuard {
	g := &replayGuard{capacity: maxRememberedTokens, tokens: make(map[tokenHash]*usedToken)}
	g.allow(singleUse)
	return g
}

// allow says how often one token may be used from now on. What was counted counts.
func (g *replayGuard) allow(singleUse bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.most, g.forget = usesOfOneToken, !singleUse
	if singleUse {
		g.most = 1
	}
}

// jtiHash names a token by its jti.
func jtiHash(jti string) tokenHash { return hashOf("jti:", jti) }

// contentHash names a token without a jti by what was signed. The signature is left out because an ECDSA signature has a
// second valid form that anybody can compute.
func contentHash(signed string) tokenHash { return hashOf("jws:", signed) }

func hashOf(kind, text string) tokenHash {
	sum := sha256.Sum256([]byte(kind + text))
	return tokenHash(sum[:])
}

// use counts one use of a token that is remembered until its expiry. The error is errReplayed (errReplayedAgain from some
// number on) or errGuardFull.
func (g *replayGuard) use(hash tokenHash, expiry, now time.Time) error {
	// Rounded up, and kept a little longer than the token is accepted, so that a small step of the clock does no harm.
	forgetAt := expiry.Add(2*clockSkew).Unix() + 1
	g.mu.Lock()
	defer g.mu.Unlock()
	for len(g.byExpiry) > 0 && g.byExpiry[0].expiry <= now.Unix() {
		g.dropFirst()
	}
	if token, known := g.tokens[hash]; known {
		if int(token.uses) >= g.most+reportedReplays {
			return errReplayedAgain
		}
		token.uses++
		if int(token.uses) > g.most {
			return errReplayed
		}
		if forgetAt > token.expiry { // another token under the same jti
			token.expiry = forgetAt
			heap.Fix(&g.byExpiry, int(token.index))
		}
		return nil
	}
	if len(g.tokens) >= g.capacity {
		if !g.forget {
			return errGuardFull
		}
		g.dropFirst()
	}
	token := &usedToken{hash: hash, expiry: forgetAt, uses: 1}
	g.tokens[hash] = token
	heap.Push(&g.byExpiry, token)
	return nil
}

// dropFirst forgets the token that expires first. mu is held, and there is one.
func (g *replayGuard) dropFirst() {
	token := heap.Pop(&g.byExpiry).(*usedToken)
	delete(g.tokens, token.hash)
}

// expiryHeap implements heap.Interface: the first to expire is at 0.
type expiryHeap []*usedToken

func (h expiryHeap) Len() int           { return len(h) }
func (h expiryHeap) Less(i, j int) bool { return h[i].expiry < h[j].expiry }
func (h expiryHeap) Swap(i, j int) {
	h[i], h[j] = h[j], h[i]
	h[i].index, h[j].index = int32(i), int32(j)
}

func (h *expiryHeap) Push(x any) {
	token := x.(*usedToken)
	token.index = int32(len(*h))
	*h = append(*h, token)
}

func (h *expiryHeap) Pop() any {
	last := len(*h) - 1
	token := (*h)[last]
	(*h)[last] = nil
	*h = (*h)[:last]
	return token
}
