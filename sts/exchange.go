package sts

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"time"

	"go.uber.org/zap"

	"github.com/octo-sts/appliance/sts/audit"
	"github.com/octo-sts/appliance/sts/githubapp"
	"github.com/octo-sts/appliance/sts/idtoken"
	"github.com/octo-sts/appliance/sts/span"
)

// Exchange performs one exchange, or says why not: the error is always a
// *Refusal. (Before it runs, the listener has shed what it cannot carry.)
//
// No token leaves without two durable audit entries, the intent and the
// outcome. A caller who goes away after the intent does not stop what then
// follows from being recorded.
func (s *Service) Exchange(ctx context.Context, r Request) (*Grant, error) {
	x := s.begin(r)
	ctx, end := span.Begin(ctx, span.Step{Name: "exchange"})
	grant, err := s.perform(ctx, x)
	end(span.End{Decision: x.decision, Reason: x.reason})
	return grant, err
}

func (s *Service) perform(ctx context.Context, x *exchange) (*Grant, error) {
	ctx, cancel := context.WithDeadlineCause(ctx, x.deadline, errExchangeTimeout)
	defer cancel()

	// Nothing is decided that could not be recorded.
	if err := s.Audit.Err(); err != nil {
		return nil, s.refuse(ctx, x, unavailable("audit_unavailable", err))
	}
	if err := x.parse(); err != nil {
		return nil, s.refuse(ctx, x, err)
	}
	if err := step(ctx, x, "verify", s.verify); err != nil {
		return nil, s.refuse(ctx, x, err)
	}
	if err := s.issuerRates.take(x.idToken.Issuer, s.budget.isKnown(x.caller())); err != nil {
		return nil, s.refuse(ctx, x, err)
	}
	if err := step(ctx, x, "resolve", s.resolve); err != nil {
		return nil, s.refuse(ctx, x, err)
	}
	if err := step(ctx, x, "match", s.match); err != nil {
		return nil, s.refuse(ctx, x, err)
	}
	if err := step(ctx, x, "audit intent", s.recordIntent); err != nil {
		return nil, s.refuse(ctx, x, err)
	}
	err := step(ctx, x, "mint", s.mint)
	if errors.Is(err, githubapp.ErrRateLimited) {
		err = s.mintAsAnother(ctx, x, err)
	}
	if err != nil {
		return nil, s.refuse(ctx, x, err)
	}
	if err := step(ctx, x, "audit outcome", s.recordOutcome); err != nil {
		return nil, s.refuse(ctx, x, err)
	}
	return &Grant{InstallationToken: x.token.Token, Expiry: x.token.Expiry}, nil
}

// step does one step of an exchange, which is timed where somebody traces.
func step(ctx context.Context, x *exchange, name string, do func(context.Context, *exchange) error) error {
	ctx, end := span.Begin(ctx, span.Step{Name: name})
	err := do(ctx, x)
	var e span.End
	if err != nil {
		refusal := asRefusal(err)
		e = span.End{Decision: decisionOf(refusal), Reason: refusal.Reason}
	}
	end(e)
	return err
}

// parse reads what the request asks for, strictly.
func (x *exchange) parse() error {
	scope, err := ParseScope(x.request.Scope)
	if err != nil {
		return &Refusal{Kind: ErrInvalidScope, Reason: "invalid_scope", Detail: err}
	}
	if err := CheckIdentity(x.request.Identity); err != nil {
		return &Refusal{Kind: ErrInvalidTarget, Reason: "invalid_identity", Detail: err}
	}
	x.scope = scope
	return nil
}

// verify establishes who the caller is. The package idtoken decides whether the
// issuer is listed before any packet leaves.
func (s *Service) verify(ctx context.Context, x *exchange) error {
	idToken, err := s.Verifier.Verify(ctx, x.request.IDToken)
	x.idToken = idToken // set also where one that was seen too often is refused
	if err == nil {
		return nil
	}
	if hungUp(ctx) {
		return ended(ctx)
	}
	reason := "invalid_token"
	if e := (*idtoken.Error)(nil); errors.As(err, &e) {
		reason = e.Reason
	}
	if errors.Is(err, idtoken.ErrUnavailable) {
		return unavailable(reason, err)
	}
	return unauthenticated(reason, err)
}

// match holds the caller's claims against the policy, and the policy against
// the operator's ceiling.
func (s *Service) match(_ context.Context, x *exchange) error {
	if err := s.Ceiling.Check(x.policyKind(), x.policy); err != nil {
		return denied("ceiling", err)
	}
	if d := x.policy.Match(actor(x.idToken), s.Domain); !d.Granted {
		return denied("mismatch", errors.New(d.Reason()))
	}
	return nil
}

// recordIntent returns once the audit log durably says what is about to be
// minted and for whom.
func (s *Service) recordIntent(ctx context.Context, x *exchange) error {
	if ctx.Err() != nil {
		return ended(ctx)
	}
	if _, err := s.Audit.Append(ctx, x.intent()); err != nil {
		if ctx.Err() != nil {
			return ended(ctx)
		}
		return unavailable("audit_unavailable", err)
	}
	x.intended = true
	if ctx.Err() != nil {
		return ended(ctx)
	}
	return nil
}

// ended tells why an exchange cannot go on: its time is up, or nobody waits for
// it any more.
func ended(ctx context.Context) *Refusal {
	if hungUp(ctx) {
		return unavailable("caller_gone", errors.New("the caller went away"))
	}
	return unavailable("exchange_timeout", errExchangeTimeout)
}

// hungUp tells whether the caller of an exchange does not wait for it any more.
// What was done for it by then costs it as much as a refusal would: otherwise
// whoever never waits could have GitHub asked about anything.
func hungUp(ctx context.Context) bool {
	return ctx.Err() != nil && !errors.Is(context.Cause(ctx), errExchangeTimeout)
}

// mint asks GitHub for the token. From here on a token may exist, so a caller
// who hangs up no longer stops anything: the token is then revoked instead of
// being left alive for an hour in nobody's hands.
func (s *Service) mint(ctx context.Context, x *exchange) error {
	detached, cancel := context.WithDeadline(context.WithoutCancel(ctx), x.deadline)
	defer cancel()
	minted, err := s.GitHub.Mint(detached, x.installation, x.mintRequest())
	if err != nil {
		return githubRefusal(err)
	}
	x.minted(minted)
	if ctx.Err() != nil {
		r := ended(ctx)
		r.Detail = fmt.Errorf("%w before the token could be handed out; %s", r.Detail, s.revoke(ctx, x, minted))
		return r
	}
	return nil
}

// mintAsAnother begins anew with another App of the owner's pool, after GitHub
// limited the one that was to mint: which proves that there is no token. Where
// there is no other, the error is what it was.
func (s *Service) mintAsAnother(ctx context.Context, x *exchange, limited error) error {
	was := *x
	if err := step(ctx, x, "resolve", s.resolve); err != nil || x.installation.AppID == was.installation.AppID {
		*x = was
		return limited
	}
	entry := was.outcome(audit.DecisionFailed, asRefusal(limited).Error()+"; another App takes over")
	if _, err := s.Audit.Append(context.WithoutCancel(ctx), entry); err != nil {
		*x = was
		return unavailable("audit_unavailable", err)
	}
	x.intended = false
	if err := step(ctx, x, "match", s.match); err != nil {
		return err
	}
	if err := step(ctx, x, "audit intent", s.recordIntent); err != nil {
		return err
	}
	err := step(ctx, x, "mint", s.mint)
	if errors.Is(err, githubapp.ErrRateLimited) {
		return s.mintAsAnother(ctx, x, err) // until all of the pool are limited
	}
	return err
}

// recordOutcome returns once the audit log durably says that the token was
// minted. Where it cannot, the token must not leave, and is revoked.
func (s *Service) recordOutcome(ctx context.Context, x *exchange) error {
	entry := x.outcome(audit.DecisionGranted, "")
	if _, err := s.Audit.Append(context.WithoutCancel(ctx), entry); err != nil {
		return unavailable("audit_unavailable", fmt.Errorf("the token was minted but could not be recorded, so it was withheld; %s: %w", s.revoke(ctx, x, x.token), err))
	}
	s.budget.giveBack(x.purse)
	s.budget.remember(x.purse.caller)
	s.handedOut.add(sha256.Sum256([]byte(x.token.Token)), x.token.Expiry)
	s.observe(x, audit.DecisionGranted, "", nil)
	if x.request.Granted != nil {
		x.request.Granted()
	}
	return nil
}

// revoke takes back a token that must not leave, and says in words what came of
// it. Where GitHub cannot be told, the token dies within the hour, unknown to
// anyone but this process.
func (s *Service) revoke(ctx context.Context, x *exchange, minted githubapp.InstallationToken) string {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), revokeTimeout)
	defer cancel()
	if err := s.GitHub.Revoke(ctx, minted.Token); err != nil {
		s.Logger.Error("could not revoke a token that was withheld: it stays valid until it expires, in nobody's hands",
			zap.String("request_id", x.request.RequestID), zap.String("token_sha256", x.entry.TokenSHA256),
			zap.Time("token_expiry", minted.Expiry), zap.Error(err))
		return fmt.Sprintf("it could not be revoked (%v) and is valid until it expires, in nobody's hands", err)
	}
	return "it was revoked"
}

// refuse ends an exchange without a token: the operator is told everything, by
// request ID, and the caller what the table of answers says. A refusal of a
// caller whose ID token was good is an audit entry of its own, within the
// caller's budget; anything else is counted, and logged at a bounded rate, so that
// strangers cannot fill the disk.
func (s *Service) refuse(ctx context.Context, x *exchange, err error) error {
	refusal := asRefusal(err)
	decision := decisionOf(refusal)
	switch {
	case x.purse == nil:
	case x.intended: // the policy let the caller in
		s.budget.giveBack(x.purse)
	case !errors.Is(refusal, ErrDenied) && !hungUp(ctx) && s.budget.isKnown(x.purse.caller):
		s.budget.giveBack(x.purse) // it was not the caller's fault
	case !s.budget.refused(x.purse):
		refusal = s.tooManyRefusals(refusal)
	}
	if x.idToken != nil && refusal.Reason != "audit_unavailable" && !isTooMuch(refusal.Reason) {
		entry := x.outcome(decision, refusal.Error())
		if !x.intended {
			entry = x.denied(decision, refusal.Error())
		}
		if _, err := s.Audit.Append(context.WithoutCancel(ctx), entry); err != nil {
			refusal = unavailable("audit_unavailable", fmt.Errorf("recording %q: %w", refusal.Error(), err))
			decision = audit.DecisionFailed
		}
	}
	s.observe(x, decision, refusal.Reason, refusal.Detail)
	return refusal
}

// decisionOf tells a no from a failure. Many failures wake somebody, so what a caller does wrong is none.
func decisionOf(refusal *Refusal) string {
	for _, no := range []error{ErrDenied, ErrUnauthenticated, ErrInvalidRequest, ErrOverloaded, ErrUnimplemented, errNotPosted} {
		if errors.Is(refusal, no) {
			return audit.DecisionDenied
		}
	}
	return audit.DecisionFailed
}

// observe writes the one log line of an exchange and counts it.
func (s *Service) observe(x *exchange, decision, reason string, detail error) {
	x.decision, x.reason = decision, reason
	took := time.Since(x.began)
	if s.Observe != nil {
		o := Observation{Decision: decision, Reason: reason, Duration: took, PolicyAge: -1}
		if x.file != nil {
			o.PolicyAge = max(0, x.began.Sub(x.file.FetchedAt))
		}
		s.Observe(o)
	}
	logger, message := s.Logger, "exchange"
	switch {
	case isTooMuch(reason):
		logger, message = s.unverified, "exchange over a limit"
	case x.idToken == nil:
		// Another message, since a logger that drops repetitions counts by message:
		// many grants are not to hide the refusal that somebody asks about.
		logger, message = s.unverified, "exchange by an unknown caller"
	}
	logger.Info(message, append(x.logFields(),
		zap.String("decision", decision), zap.String("reason", reason), zap.String("detail", brief(detail)),
		zap.Duration("duration", took))...)
}

// brief is an error for the log. Some quote what others wrote, a policy of a
// megabyte for one, and a line is not to grow with it.
func brief(err error) string {
	const most = 2000
	if err == nil {
		return ""
	}
	if text := err.Error(); len(text) > most {
		return text[:most] + "…"
	}
	return err.Error()
}

// tokenHashes gives a token's SHA-256 as we print it, in hex, and as GitHub's
// own audit log has it (`hashed_token`), in base64.
func tokenHashes(token string) (hexadecimal, base64Standard string) {
	sum := sha256.Sum256([]byte(token))
	return hex.EncodeToString(sum[:]), base64.StdEncoding.EncodeToString(sum[:])
}
