package appliance

import (
	"bytes"
	"crypto/rand"
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

// admission is the outermost middleware: it names each request and sheds what is
// too much, before anything that costs is parsed.
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
	caller := sts.Caller{RequestID: rand.Text(), Address: clientAddress(r), UserAgent: r.UserAgent()}
	r = r.WithContext(sts.WithCaller(r.Context(), caller))
	w.Header().Set(sts.RequestIDHeader, caller.RequestID)

	if r.ProtoMajor == 1 && mayHideAnother(r) {
		w.Header().Set("Connection", "close")
	}
	if len(r.TransferEncoding) > 0 {
		a.shed("transfer_encoding")
		sts.WriteError(w, r, &sts.Refusal{Kind: sts.ErrInvalidRequest, Reason: "transfer_encoding",
			Detail: errors.New("a body without a Content-Length is not accepted")})
		return
	}
	if !a.bucket(bucketOf(caller.Address)).Allow() {
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

// mayHideAnother tells whether a proxy in front of us may have seen this request
// end elsewhere than net/http does, so that what we would read as the next one
// is a stranger's (RFC 9112, section 11.2). Where Content-Length stands beside
// Transfer-Encoding, net/http drops it, and in HTTP/1.0 it drops the latter:
// nobody can tell any more. RFC 9112, sections 6.1 and 6.3, has the connection
// closed then. No client of ours needs a chunked body, so they are refused, too.
func mayHideAnother(r *http.Request) bool {
	return len(r.TransferEncoding) > 0 || !r.ProtoAtLeast(1, 1)
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
