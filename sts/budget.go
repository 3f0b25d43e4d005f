package sts

import (
	"slices"
	"sync"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"
)

// Bounds on what the budget remembers. What falls out begins anew.
const (
	trackedSubjects = 16384
	trackedOwners   = 4096
	trackedGrants   = 16384
	trackedPolicies = 16384
)

// budget bounds what callers who are refused can cost: a call to GitHub for each
// identity that they make up, and a line in the audit log for each refusal.
// Anybody with an account at a public issuer can have as many verified ID tokens
// as they like, under as many subjects.
//
// So each refusal takes from what its subject has for an hour, and, where the
// owner never granted that subject anything, also from what all such strangers
// together have with that owner. A failure that is nobody's fault costs strangers
// as much: it has its line in the audit log, too. A look-up that GitHub was not
// asked for before is paid for in advance, and given back where it leads to a
// grant. Whoever was granted something depends on nobody's behaviour but its own.
type budget struct {
	now func() time.Time

	mu sync.Mutex // guards what follows

	perSubject, perOwner float64 // refusals an hour; also the most that can be saved up

	subjects *lru.Cache[subjectKey, *bucket]
	owners   *lru.Cache[string, *bucket]
	grants   *lru.Cache[grantKey, struct{}]
	granting *lru.Cache[string, struct{}]    // the owners of grants
	policies *lru.Cache[lookupKey, struct{}] // that were there when they were last looked up
	lookups  map[lookupKey]int               // exchanges under way that look up what was unknown
}

type subjectKey struct{ issuer, subject string }

// grantKey says that an owner (in lower case) granted a subject something.
type grantKey struct {
	subjectKey
	owner string
}

// lookupKey names a policy, in lower case but for the identity.
type lookupKey struct{ owner, repository, identity string }

// bucket is filled at perHour an hour, up to perHour.
type bucket struct {
	level  float64
	filled time.Time
}

func (b *bucket) fill(perHour float64, now time.Time) {
	b.level = min(perHour, b.level+perHour*max(0, now.Sub(b.filled).Hours()))
	b.filled = now
}

func newBudget(perSubject, perOwner int) (*budget, error) {
	b := &budget{perSubject: float64(perSubject), perOwner: float64(perOwner), now: time.Now, lookups: map[lookupKey]int{}}
	var err error
	if b.subjects, err = lru.New[subjectKey, *bucket](trackedSubjects); err != nil {
		return nil, err
	}
	if b.owners, err = lru.New[string, *bucket](trackedOwners); err != nil {
		return nil, err
	}
	if b.granting, err = lru.New[string, struct{}](trackedOwners); err != nil {
		return nil, err
	}
	if b.policies, err = lru.New[lookupKey, struct{}](trackedPolicies); err != nil {
		return nil, err
	}
	b.grants, err = lru.New[grantKey, struct{}](trackedGrants)
	return b, err
}

// allow sets how many refusals an hour there may be from now on.
func (b *budget) allow(perSubject, perOwner int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.perSubject, b.perOwner = float64(perSubject), float64(perOwner)
}

// The accounts of owners of whom nothing is known: neither is an App known to be
// installed, nor is it known that anybody was granted anything. Nobody is served
// of those that no App serves, so that these take nothing from the others.
const (
	unknownOwners  = "?"
	unservedOwners = "-"
)

// purse is one exchange's part in the budget. It belongs to the exchange.
type purse struct {
	caller grantKey
	// account is whose strangers' bucket is drawn on: the owner, or one of the two
	// below. Otherwise each name that somebody makes up would bring a bucket of its own.
	account string
	paid    []*bucket // those that were drawn on
}

// lookUp pays for asking GitHub about a policy that it was not asked about
// before, and reports whether there was enough. Exchanges that look up the same
// at once pay for it once. Where it reports true, done must be called when the
// answer is there.
func (b *budget) lookUp(p *purse, key lookupKey) (done func(), enough bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.lookups[key] == 0 && !b.take(p) {
		return nil, false
	}
	b.lookups[key]++
	return func() {
		b.mu.Lock()
		defer b.mu.Unlock()
		if b.lookups[key]--; b.lookups[key] == 0 {
			delete(b.lookups, key)
		}
	}, true
}

// refused pays for a refusal, unless its look-up did. It reports whether there
// was enough.
func (b *budget) refused(p *purse) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.take(p)
}

// giveBack returns what was paid in advance by an exchange that was not refused.
func (b *budget) giveBack(p *purse) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, bucket := range p.paid {
		bucket.level++
	}
	p.paid = nil
}

// remember notes that an owner granted a subject something: it is no stranger.
func (b *budget) remember(k grantKey) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.grants.Add(k, struct{}{})
	b.granting.Add(k.owner, struct{}{})
}

// found notes that a policy is there, so that looking it up again is no guess,
// also after a webhook emptied the caches; absent, that it is not.
func (b *budget) found(key lookupKey)  { b.policies.Add(key, struct{}{}) }
func (b *budget) absent(key lookupKey) { b.policies.Remove(key) }

// wasFound tells whether a policy was there when it was last looked up.
func (b *budget) wasFound(key lookupKey) bool { return b.policies.Contains(key) }

// isKnown tells whether the owner granted the caller something.
func (b *budget) isKnown(caller grantKey) bool { return b.grants.Contains(caller) }

// grantedBy tells whether an owner granted anybody something.
func (b *budget) grantedBy(owner string) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.granting.Contains(owner)
}

// take needs b.mu. It takes from every bucket that applies, or from none.
func (b *budget) take(p *purse) bool {
	if p.paid != nil {
		return true
	}
	draw := b.buckets(p)
	if !enough(draw) {
		return false
	}
	for _, bucket := range draw {
		bucket.level--
	}
	p.paid = draw
	return true
}

// buckets needs b.mu. It returns those that apply.
func (b *budget) buckets(p *purse) []*bucket {
	now := b.now()
	all := []*bucket{of(b.subjects, p.caller.subjectKey, b.perSubject, now)}
	if !b.grants.Contains(p.caller) {
		all = append(all, of(b.owners, p.account, b.perOwner, now))
	}
	return all
}

func enough(all []*bucket) bool {
	return !slices.ContainsFunc(all, func(b *bucket) bool { return b.level < 1 })
}

// of finds or makes a bucket, filled up to now.
func of[K comparable](buckets *lru.Cache[K, *bucket], key K, perHour float64, now time.Time) *bucket {
	b, ok := buckets.Get(key)
	if !ok {
		b = &bucket{level: perHour, filled: now}
		buckets.Add(key, b)
	}
	b.fill(perHour, now)
	return b
}
