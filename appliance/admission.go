package appliance

import (
	"errors"
	"net/http"
	"sync/atomic"
	"time"

	"github.com/octo-sts/appliance/sts"
)

// admission sheds what is too much of everything but deliveries, before anything
// that costs is parsed.
type admission struct {
	next     http.Handler
	rules    *atomic.Pointer[rules]
	bodies   bodies
	underWay atomic.Int64 // requests in next
	shed     func(limit string)
}

func (a *admission) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	rules, caller := a.rules.Load(), callerOf(r)
	if !rules.requests.allow(caller.address) {
		if r.ProtoMajor > 1 && !caller.byProxy {
			waitAMoment(r.Context())
		}
		a.refuse(w, r, overAddressRate)
		return
	}
	if a.underWay.Load() >= int64(rules.limits.Concurrent) {
		a.refuse(w, r, overConcurrency)
		return
	}
	switch err := a.bodies.read(w, r); {
	case errors.Is(err, errBodyGaveWay):
		a.refuse(w, r, overBodies)
		return
	case err != nil:
		a.refuse(w, r, withoutBody)
		return
	}
	defer a.underWay.Add(-1)
	if a.underWay.Add(1) > int64(rules.limits.Concurrent) {
		a.refuse(w, r, overConcurrency)
		return
	}
	defer caller.connection.serve()()
	a.next.ServeHTTP(w, r)
}

// The refusals of requests whose content nobody looked at.
var (
	overAddressRate = &sts.Refusal{Kind: sts.ErrOverloaded, Reason: "address_rate", RetryAfter: time.Second,
		Detail: errors.New("too many requests from one address")}
	overConcurrency = &sts.Refusal{Kind: sts.ErrUnavailable, Reason: "concurrency", RetryAfter: time.Second,
		Detail: errors.New("too many requests under way")}
	overBodies  = &sts.Refusal{Kind: sts.ErrUnavailable, Reason: "bodies", RetryAfter: time.Second, Detail: errBodyGaveWay}
	withoutBody = &sts.Refusal{Kind: sts.ErrInvalidRequest, Reason: "body",
		Detail: errors.New("the body did not arrive")}
)

func (a *admission) refuse(w http.ResponseWriter, r *http.Request, why *sts.Refusal) {
	a.shed(why.Reason)
	sts.WriteError(w, r, why)
}
