// Package sts is the exchange itself: an OIDC ID token in, a GitHub installation
// token out, under a trust policy that the scope's owner keeps in a repository.
//
// Service.Exchange is the core and knows neither HTTP nor gRPC; NewHandler puts
// thin adapters for both over it. What verifies ID tokens (idtoken), what speaks
// to GitHub (githubapp), what matches policies (trustpolicy) and what records
// (audit) are packages below it. Listeners, TLS, load limits and configuration
// are not its business: they are the daemon's, in package appliance.
package sts

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"reflect"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"golang.org/x/time/rate"

	"github.com/octo-sts/appliance/sts/audit"
	"github.com/octo-sts/appliance/sts/githubapp"
	"github.com/octo-sts/appliance/sts/idtoken"
	"github.com/octo-sts/appliance/sts/trustpolicy"
)

const (
	// exchangeTimeout bounds an exchange up to the token's arrival, waiting
	// included. GitHub answers a mint in well under a second; a CI job that waits
	// longer than this retries.
	exchangeTimeout = 10 * time.Second

	// revokeTimeout bounds taking back a token that must not leave.
	revokeTimeout = 10 * time.Second

	// MaxDuration is the longest that Exchange takes: what leads to a token, then
	// a disk that does not answer (package audit gives up on it after 10 s), then
	// the token's revocation.
	MaxDuration = exchangeTimeout + 10*time.Second + revokeTimeout

	// compiledPolicies bounds the cache of compiled policies, which is keyed by
	// content: an entry is never stale, only unused.
	compiledPolicies = 1024
)

// errExchangeTimeout is why an exchange that took too long was given up.
var errExchangeTimeout = fmt.Errorf("the exchange took longer than %s", exchangeTimeout)

// Config is what an exchange needs. Every field is required unless it says
// otherwise.
type Config struct {
	// Domain is the appliance's public name, and the audience that a trust
	// policy without one expects.
	Domain string

	// PolicyRepository is the name of the repository that holds an
	// organization's own policies and its list of trusted issuers.
	PolicyRepository string

	Verifier *idtoken.Verifier
	GitHub   *githubapp.Client
	Audit    *audit.Log

	// Permissions are the permission names and levels that a policy may ask for.
	Permissions trustpolicy.Catalog

	// Ceiling is the operator's last word over every policy.
	Ceiling trustpolicy.Ceiling

	// PerIssuer is how many ID tokens of one issuer are exchanged a second, and
	// BurstPerIssuer how many at once. Above 0.
	PerIssuer      float64
	BurstPerIssuer int

	// DeniedPerSubject is how many refusals an hour one issuer's subject has, and
	// DeniedPerOwner how many all subjects together have with one owner who never
	// granted them anything. Over that, no call to GitHub and no line in the audit
	// log is spent on them. Above 0.
	DeniedPerSubject, DeniedPerOwner int

	Logger *zap.Logger

	// Observe is called once at the end of each exchange, ObserveRevocation at that of
	// each revocation that somebody asked for. Optional.
	Observe           func(Observation)
	ObserveRevocation func(RevocationOutcome)
}

// Observation is what metrics are made of: Decision and Reason have a small,
// bounded set of values.
type Observation struct {
	Decision string // audit.DecisionGranted, DecisionDenied or DecisionFailed
	Reason   string // why not; empty for a grant
	Duration time.Duration

	// PolicyAge is for how long GitHub had not been asked about the trust policy;
	// below 0 where the exchange did not come to one.
	PolicyAge time.Duration
}

// Service performs exchanges. It is safe for concurrent use.
type Service struct {
	Config

	// Compiled policies and lists of issuers, by content. The caches lock themselves.
	policies       *lru.Cache[policyKey, compiled[*trustpolicy.TrustPolicy]]
	trustedIssuers *lru.Cache[[sha256.Size]byte, compiled[*trustpolicy.TrustedIssuers]]
	compiling      sync.Mutex // held by whoever compiles

	issuerRates *issuerRates // locks itself
	budget      *budget      // locks itself
	handedOut   *handedOut   // locks itself
	askingTook  atomic.Int64 // time.Duration: the last look-up at GitHub

	// unverified logs, at a bounded rate, exchanges whose caller never became
	// known. All of them are counted.
	unverified *zap.Logger
}

// Request is one caller's wish, as an adapter read it from the wire.
type Request struct {
	Caller
	Scope    string // `owner/repository` or `owner`
	Identity string // the policy's name
	IDToken  string // compact JWS
}

// Caller is who asks, as far as the network tells.
type Caller struct {
	RequestID string // names the exchange in every answer, log line and audit entry
	Address   string // IP address, without the port
	UserAgent string
	Granted   func() // called once something is granted to it; nil: nobody asks
}

// Grant is what a successful exchange hands out.
type Grant struct {
	InstallationToken string // for GitHub
	Expiry            time.Time
}

// New makes a Service from its parts.
func New(_ context.Context, c Config) (*Service, error) {
	if c.Domain == "" || c.PolicyRepository == "" || c.Verifier == nil || c.GitHub == nil || c.Audit == nil || c.Logger == nil ||
		c.PerIssuer <= 0 || c.BurstPerIssuer <= 0 || c.DeniedPerSubject <= 0 || c.DeniedPerOwner <= 0 {
		return nil, errors.New("making the exchange: a part is missing")
	}
	policies, err := lru.New[policyKey, compiled[*trustpolicy.TrustPolicy]](compiledPolicies)
	if err != nil {
		return nil, fmt.Errorf("making the policy cache: %w", err)
	}
	trustedIssuers, err := lru.New[[sha256.Size]byte, compiled[*trustpolicy.TrustedIssuers]](compiledPolicies)
	if err != nil {
		return nil, fmt.Errorf("making the policy cache: %w", err)
	}
	budget, err := newBudget(c.DeniedPerSubject, c.DeniedPerOwner)
	if err != nil {
		return nil, fmt.Errorf("making the budget: %w", err)
	}
	return &Service{
		Config: c, policies: policies, trustedIssuers: trustedIssuers, budget: budget, handedOut: newHandedOut(), unverified: sampled(c.Logger),
		issuerRates: &issuerRates{perSecond: rate.Limit(c.PerIssuer), burst: c.BurstPerIssuer},
	}, nil
}

// Successor returns a Service with another configuration that knows what s knows:
// who was refused how often, who was granted something, which tokens, which policies
// there are.
// It changes nothing for s, which goes on as it is, until Begin is called.
func (s *Service) Successor(ctx context.Context, c Config) (*Service, error) {
	next, err := New(ctx, c)
	if err != nil {
		return nil, err
	}
	next.budget, next.handedOut = s.budget, s.handedOut
	next.askingTook.Store(s.askingTook.Load())
	if reflect.DeepEqual(c.Permissions, s.Permissions) {
		next.policies = s.policies
	}
	next.trustedIssuers = s.trustedIssuers
	if c.PerIssuer == s.PerIssuer && c.BurstPerIssuer == s.BurstPerIssuer {
		next.issuerRates = s.issuerRates
	}
	return next, nil
}

// Begin has the limits of refusals be a Successor's from now on, for the Service
// before it, too.
func (s *Service) Begin() { s.budget.allow(s.DeniedPerSubject, s.DeniedPerOwner) }

// Recall tells s what the audit log says of the time before the start: a caller who
// was granted something is no stranger to the owner of that scope, the policy is
// there, and a token that lives can be revoked. The entries have to come in their order.
func (s *Service) Recall(e audit.Entry) {
	hash, err := hex.DecodeString(e.TokenSHA256)
	known := err == nil && len(hash) == sha256.Size
	switch {
	case e.Kind == audit.Revocation && known:
		s.handedOut.revoked([sha256.Size]byte(hash))
		return
	case e.Kind != audit.Outcome || e.Decision != audit.DecisionGranted:
		return
	case known:
		s.handedOut.recall([sha256.Size]byte(hash), e.TokenExpiry)
	}
	parsed, err := ParseScope(e.Scope)
	if err != nil {
		return
	}
	owner, repository := strings.ToLower(parsed.Owner), cmp.Or(parsed.Repository, s.PolicyRepository)
	s.budget.remember(grantKey{subjectKey{e.Issuer, e.Subject}, owner})
	s.budget.found(lookupKey{owner, strings.ToLower(repository), e.Identity})
}

// Recalled says that the audit log has nothing more to tell.
func (s *Service) Recalled() { s.handedOut.recalled() }

// sampled lets through the first 20 lines of each second: enough for an operator
// to see what is refused, too few for a stranger to fill the journal.
func sampled(l *zap.Logger) *zap.Logger {
	return l.WithOptions(zap.WrapCore(func(core zapcore.Core) zapcore.Core {
		return zapcore.NewSamplerWithOptions(core, time.Second, 20, 0)
	}))
}
