package sts

import (
	"strings"
	"time"

	"go.uber.org/zap"

	"github.com/octo-sts/appliance/sts/audit"
	"github.com/octo-sts/appliance/sts/githubapp"
	"github.com/octo-sts/appliance/sts/idtoken"
	"github.com/octo-sts/appliance/sts/trustpolicy"
)

// exchange is one exchange under way: what is known of it so far. It belongs to
// the goroutine that runs Exchange.
type exchange struct {
	request  Request
	began    time.Time
	deadline time.Time // of everything up to the token's arrival

	scope            Scope
	idToken          *idtoken.IDToken // nil until the ID token's signature was verified
	purse            *purse           // nil until the ID token was verified
	installation     githubapp.Installation
	policyRepository string
	file             *githubapp.File
	policy           *trustpolicy.TrustPolicy
	notice           string // what an intent should say although it goes ahead

	token    githubapp.InstallationToken // once it is minted
	intended bool                        // the intent is in the log, so an outcome must follow
	entry    audit.Entry

	decision, reason string // once it has ended
}

func (s *Service) begin(r Request) *exchange {
	now := time.Now()
	return &exchange{request: r, began: now, deadline: now.Add(exchangeTimeout)}
}

// policyKind follows from the scope's form alone: an owner's own policy is read
// for `owner`, a repository's for `owner/repository`, whichever repository it is.
func (x *exchange) policyKind() trustpolicy.Kind {
	if x.scope.Repository == "" {
		return trustpolicy.Organization
	}
	return trustpolicy.Repository
}

// lookupKey names the policy for the budget.
func (x *exchange) lookupKey() lookupKey {
	return lookupKey{strings.ToLower(x.scope.Owner), strings.ToLower(x.policyRepository), x.request.Identity}
}

func (x *exchange) policyPath() string {
	return trustpolicy.Directory + x.request.Identity + trustpolicy.Suffix
}

// mintRequest is what the policy grants, no more.
func (x *exchange) mintRequest() githubapp.MintRequest {
	r := githubapp.MintRequest{Permissions: x.policy.Permissions()}
	if x.policyKind() == trustpolicy.Repository {
		r.Repositories = []string{x.scope.Repository}
	} else {
		r.Repositories, r.AllRepositories = x.policy.Repositories()
	}
	return r
}

// intent is the entry that says what is about to be minted.
func (x *exchange) intent() audit.Entry {
	x.describe()
	asked := x.mintRequest()
	x.entry.Permissions, x.entry.Repositories, x.entry.AllRepositories = asked.Permissions, asked.Repositories, asked.AllRepositories
	return x.finish(audit.Intent, "", x.notice) // the outcome will say the decision
}

// denied is the entry for a refusal before any intent.
func (x *exchange) denied(decision, reason string) audit.Entry {
	x.describe()
	return x.finish(audit.Denied, decision, reason)
}

// outcome is the entry that says what became of an intent.
func (x *exchange) outcome(decision, reason string) audit.Entry {
	return x.finish(audit.Outcome, decision, reason)
}

func (x *exchange) finish(kind audit.Kind, decision, reason string) audit.Entry {
	e := x.entry
	e.Time, e.Kind, e.Decision, e.Reason = time.Now(), kind, decision, reason
	e.DurationMS = time.Since(x.began).Milliseconds()
	return e
}

// describe fills in who asked, for what, and by which policy, as far as the
// exchange came.
func (x *exchange) describe() {
	x.entry = audit.Entry{
		RequestID:     x.request.RequestID,
		ClientAddress: x.request.Address,
		UserAgent:     x.request.UserAgent,
		Scope:         x.scope.String(),
		Identity:      x.request.Identity,
	}
	e := &x.entry
	if t := x.idToken; t != nil {
		e.Issuer, e.Subject, e.JTI, e.IDTokenExpiry = t.Issuer, t.Subject, t.JTI, t.Expiry
	}
	e.AppID, e.InstallationID = x.installation.AppID, x.installation.ID
	if f := x.file; f != nil {
		e.PolicyRepository, e.PolicyPath, e.PolicySHA = f.Repository, f.Path, f.SHA
		e.PolicyAge = int64(time.Since(f.FetchedAt).Seconds())
	}
	if x.policy != nil {
		e.Claims = namedClaims(x.policy.ClaimNames(), x.idToken.Claims)
	}
}

// minted adds what GitHub handed out: never the token, only its hashes.
func (x *exchange) minted(t githubapp.InstallationToken) {
	x.token = t
	e := &x.entry
	e.TokenSHA256, e.TokenSHA256Base64 = tokenHashes(t.Token)
	e.TokenExpiry = t.Expiry
	e.Permissions = t.Permissions
}

func (x *exchange) logFields() []zap.Field {
	fields := []zap.Field{
		zap.String("request_id", x.request.RequestID),
		zap.String("client_address", x.request.Address),
		zap.String("scope", clip(x.request.Scope)),
		zap.String("identity", clip(x.request.Identity)),
	}
	if x.idToken != nil {
		fields = append(fields, zap.String("issuer", x.idToken.Issuer), zap.String("subject", x.idToken.Subject))
	}
	return fields
}

func namedClaims(names []string, claims map[string]any) map[string]any {
	if len(names) == 0 {
		return nil
	}
	named := make(map[string]any, len(names))
	for _, name := range names {
		if value, ok := claims[name]; ok {
			named[name] = value
		}
	}
	return named
}

func actor(t *idtoken.IDToken) trustpolicy.Actor {
	return trustpolicy.Actor{Issuer: t.Issuer, Subject: t.Subject, Audience: t.Audience, Claims: t.Claims}
}
