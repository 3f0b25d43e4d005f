package sts

import (
	"errors"
	"sync"
	"time"

	"golang.org/x/time/rate"
)

// overIssuerRate is the reason of a refusal for which another ID token of the same
// issuer would do as well.
const overIssuerRate = "issuer_rate"

// isTooMuch tells whether an exchange was refused only because there were too many
// others. Such refusals are counted; a line in the audit log for each would be
// part of what is too much.
func isTooMuch(reason string) bool { return reason == overBudget || reason == overIssuerRate }

// issuerRates bounds what the callers of one issuer, all together, take from those
// of the others. Only an ID token that was verified counts: anybody can write an
// issuer's name into one that was not. But anybody can get one of a public issuer's,
// too: so strangers have a share of their own, and take nothing from those who were
// granted something before.
type issuerRates struct {
	perSecond rate.Limit
	burst     int
	limiters  sync.Map // issuerShare → *rate.Limiter; of listed issuers alone
}

type issuerShare struct {
	issuer string
	known  bool // of those who were granted something, or of strangers
}

// take returns an error where that share of the issuer's is used up.
func (i *issuerRates) take(issuer string, known bool) error {
	share := issuerShare{issuer, known}
	limiter, ok := i.limiters.Load(share)
	if !ok {
		limiter, _ = i.limiters.LoadOrStore(share, rate.NewLimiter(i.perSecond, i.burst))
	}
	if limiter.(*rate.Limiter).Allow() {
		return nil
	}
	return &Refusal{Kind: ErrOverloaded, Reason: overIssuerRate, RetryAfter: time.Second,
		Detail: errors.New("too many ID tokens of this issuer")}
}
