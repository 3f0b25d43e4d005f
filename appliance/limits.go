package appliance

import (
	"bytes"
	"errors"
	"io"
	"net"
	"net/http"
	"net/netip"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"
	"golang.org/x/time/rate"

	"github.com/octo-sts/appliance/sts"
)

// trackedAddresses bounds the memory of the per-address limit. An address that
// is forgotten begins again with a full bucket.
const trackedAddresses = 16384

// admission sheds what is too much of everything but deliveries, before anything
// that costs is parsed.
type admission struct {
	next    http.Handler
	slots   chan struct{}                     // one for each request under way
	buckets *lru.Cache[string, *rate.Limiter] // by client address; the cache locks itself
	limits  Limits
	shed    func(reason string)
}

func newAdmission(limits Limits, shed func(reason string), next http.Handler) (*admission, error) {
	buckets, err := lru.New[string, *rate.Limiter](trackedAddresses)
	if err != nil {
		return nil, err
	}
	return &admission{next: next, slots: make(chan struct{}, limits.Concurrent), buckets: buckets, limits: limits, shed: shed}, nil
}

func (a *admission) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if !a.bucket(bucketOf(clientAddress(r))).Allow() {
		a.shed("address_rate")
		sts.WriteError(w, r, &sts.Refusal{Kind: sts.ErrOverloaded, Reason: "address_rate",
			Detail: errors.New("too many requests from one address"), RetryAfter: time.Second})
		return
	}
	if err := readBody(r); err != nil {
		a.shed("body")
		sts.WriteError(w, r, &sts.Refusal{Kind: sts.ErrInvalidRequest, Reason: "body", Detail: errors.New("the body did not arrive")})
		return
	}
	select {
	case a.slots <- struct{}{}:
		defer func() { <-a.slots }()
	default:
		a.shed("concurrency")
		sts.WriteError(w, r, &sts.Refusal{Kind: sts.ErrUnavailable, Reason: "concurrency",
			Detail: errors.New("too many requests under way"), RetryAfter: time.Second})
		return
	}
	a.next.ServeHTTP(w, r)
}

// readBody takes in the whole body, as far as anything will read of it, before
// the request gets a slot: whoever sends slowly keeps nobody else waiting.
func readBody(r *http.Request) error {
	if r.Body == nil || r.Body == http.NoBody {
		return nil
	}
	body, err := io.ReadAll(io.LimitReader(r.Body, sts.MaxBody+1))
	r.Body = io.NopCloser(bytes.NewReader(body))
	return err
}

// bucketOf names the bucket of an address: its own for IPv4, that of its /64 for
// IPv6, of which one machine has as many addresses as it likes.
func bucketOf(address string) string {
	ip, err := netip.ParseAddr(address)
	if err != nil || !ip.Is6() || ip.Is4In6() {
		return address
	}
	network, err := ip.WithZone("").Prefix(64)
	if err != nil {
		return address
	}
	return network.String()
}

func (a *admission) bucket(address string) *rate.Limiter {
	if b, ok := a.buckets.Get(address); ok {
		return b
	}
	fresh := rate.NewLimiter(rate.Limit(a.limits.PerAddress), a.limits.Burst)
	if earlier, ok, _ := a.buckets.PeekOrAdd(address, fresh); ok {
		return earlier // another request of the same address came first
	}
	return fresh
}

// clientAddress is the peer's IP address. X-Forwarded-For and its kin are
// anybody's to write and count for nothing. Peers on a unix socket have none.
func clientAddress(r *http.Request) string {
	host, _, err := net.SplitHostPort(r.RemoteAddr)
	if err != nil {
		return "local"
	}
	return host
}
