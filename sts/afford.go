package sts

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"
)

// openPurse says on whose budget a refusal from here on is.
func (s *Service) openPurse(x *exchange) {
	if x.purse != nil {
		return
	}
	x.purse = &purse{caller: x.caller()}
	switch owner := x.purse.caller.owner; {
	case s.GitHub.KnownOwner(owner) || s.budget.grantedBy(owner):
		x.purse.account = owner
	case s.GitHub.HasPool(owner):
		x.purse.account = unknownOwners
	default:
		x.purse.account = unservedOwners
	}
}

// caller is who asks whom, once the ID token was verified.
func (x *exchange) caller() grantKey {
	return grantKey{subjectKey{x.idToken.Issuer, x.idToken.Subject}, strings.ToLower(x.scope.Owner)}
}

// afford makes sure that the caller may have GitHub asked about a policy that it
// was not asked about before, or that was not there. The look-up lasts until done
// is called.
func (s *Service) afford(ctx context.Context, x *exchange) (done func(), err error) {
	known, young := s.GitHub.Known(x.scope.Owner, x.policyRepository, x.policyPath())
	if young {
		return func() {}, nil
	}
	finish := func() {}
	if !known && !s.budget.wasFound(x.lookupKey()) {
		enough := false
		if finish, enough = s.budget.lookUp(x.purse, x.lookupKey()); !enough {
			// A known policy would be asked for again now, which the answer's time is
			// not to tell.
			s.waitAsIfAsking(ctx)
			return nil, s.tooManyRefusals(errors.New("nobody asked for this policy lately"))
		}
	}
	began := time.Now()
	return func() {
		finish()
		s.askingTook.Store(int64(time.Since(began)))
	}, nil
}

// maxAsking bounds how long an exchange waits that asks nothing.
const maxAsking = time.Second

// waitAsIfAsking waits for as long as GitHub took to answer the last time.
func (s *Service) waitAsIfAsking(ctx context.Context) {
	timer := time.NewTimer(min(time.Duration(s.askingTook.Load()), maxAsking))
	defer timer.Stop()
	select {
	case <-ctx.Done():
	case <-timer.C:
	}
}

// overBudget is the reason of a refusal that is not worth a call to GitHub or a
// line in the audit log.
const overBudget = "over_budget"

// tooManyRefusals is the answer to a caller, or to strangers together, who were
// refused too often. It is the same whether the policy exists or not.
func (s *Service) tooManyRefusals(detail error) *Refusal {
	return &Refusal{Kind: ErrOverloaded, Reason: overBudget, RetryAfter: time.Hour / time.Duration(s.DeniedPerSubject),
		Detail: fmt.Errorf("this subject, or all together whom the owner never granted anything, had too many refusals within the hour: %v", detail)}
}
