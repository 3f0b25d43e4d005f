package appliance

import (
	"fmt"
	"net/netip"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"
	"golang.org/x/time/rate"
)

// trackedAddresses bounds the memory of the per-address limits. An address that
// is forgotten begins again with a full bucket.
const trackedAddresses = 16384

// openingShare is how many times as many connections as requests an address may
// open: an answer is better than a closed connection, until it costs too much.
const openingShare = 2

// floodPause is for how long an address opens no connection, after one on which it
// said much and asked nothing: such a connection costs us more than its sender.
const floodPause = 10 * time.Second

// mayOpen counts one more connection of an address, and says why not.
func (r *rules) mayOpen(a netip.Addr) (limit string, ok bool) {
	if last, ok := r.floods.Peek(networkOf(a)); ok && time.Since(last) < floodPause {
		return "flood", false
	}
	return "connection_rate", r.opening.allow(a)
}

// rules are what the configuration says of callers. They are replaced as a whole.
type rules struct {
	limits        Limits
	proxies       proxies
	proxyProtocol bool
	requests      *buckets                          // by address
	opening       *buckets                          // connections, by address
	floods        *lru.Cache[netip.Addr, time.Time] // when an address flooded a connection last
}

func newRules(c *Config) (*rules, error) {
	p, err := parseProxies(c.Listen.Proxies)
	if err != nil {
		return nil, fmt.Errorf("listen.proxies: %w", err)
	}
	r := &rules{limits: c.Limits, proxies: p, proxyProtocol: c.Listen.ProxyProtocol}
	if r.requests, err = newBuckets(c.Limits); err != nil {
		return nil, err
	}
	opening := c.Limits
	opening.PerAddress *= openingShare
	opening.Burst *= openingShare
	if r.floods, err = lru.New[netip.Addr, time.Time](trackedAddresses); err != nil {
		return nil, err
	}
	r.opening, err = newBuckets(opening)
	return r, err
}

// buckets hold, for each address, what it may still have now.
type buckets struct {
	limits Limits
	byAddr *lru.Cache[netip.Addr, *rate.Limiter] // by networkOf; the cache locks itself
}

func newBuckets(limits Limits) (*buckets, error) {
	byAddr, err := lru.New[netip.Addr, *rate.Limiter](trackedAddresses)
	if err != nil {
		return nil, err
	}
	return &buckets{limits, byAddr}, nil
}

// allow takes one out of an address's bucket, and reports false where it is empty.
func (b *buckets) allow(a netip.Addr) bool {
	network := networkOf(a)
	if bucket, ok := b.byAddr.Get(network); ok {
		return bucket.AllowN(time.Now(), 1)
	}
	fresh := rate.NewLimiter(rate.Limit(b.limits.PerAddress), b.limits.Burst)
	if earlier, ok, _ := b.byAddr.PeekOrAdd(network, fresh); ok {
		return earlier.Allow() // another one of the same address came first
	}
	return fresh.Allow()
}
