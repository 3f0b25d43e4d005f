package sts

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"

	lru "github.com/hashicorp/golang-lru/v2"

	"github.com/octo-sts/appliance/sts/githubapp"
	"github.com/octo-sts/appliance/sts/trustpolicy"
)

// resolve finds the installation that serves the scope, holds the issuer
// against the organization's list, and reads and compiles the trust policy.
// Where GitHub limits one App's rate, another of the owner's pool takes its place.
func (s *Service) resolve(ctx context.Context, x *exchange) error {
	s.openPurse(x)
	if x.policyKind() == trustpolicy.Repository && s.Ceiling.OrganizationOnly {
		return denied("ceiling", errors.New("the configuration's ceiling.policies is \"organization\": a repository's own policies do not count"))
	}
	x.policyRepository = x.scope.Repository
	if x.policyRepository == "" {
		x.policyRepository = s.PolicyRepository
	}
	done, err := s.afford(ctx, x)
	if err != nil {
		return err
	}
	defer done()
	var limited error
	for tried := map[int64]bool{}; ; tried[x.installation.ID] = true {
		// Installation passes over an App that is limited, as long as it can.
		if x.installation, err = s.GitHub.Installation(ctx, x.scope.Owner, x.policyRepository); err != nil {
			if limited != nil { // what GitHub said is in the first error alone
				err = fmt.Errorf("%w, after %v", err, limited)
			}
			return githubRefusal(err)
		}
		limited = s.resolvePolicy(ctx, x)
		if !errors.Is(limited, githubapp.ErrRateLimited) || tried[x.installation.ID] {
			return limited
		}
	}
}

// resolvePolicy reads and compiles what decides, with x.installation.
func (s *Service) resolvePolicy(ctx context.Context, x *exchange) error {
	// The policy's file is fetched first and looked at last: it is there for
	// every exchange that can succeed, and a new read token that was served one
	// file is believed when it finds no list of trusted issuers.
	file, fetchErr := s.GitHub.File(ctx, x.installation, x.policyRepository, x.policyPath())
	absent := errors.Is(fetchErr, githubapp.ErrNotFound) || errors.Is(fetchErr, githubapp.ErrNotAFile)
	if fetchErr != nil && !absent {
		return githubRefusal(fetchErr) // what GitHub says next would only hide what it said first
	}
	if err := s.checkTrustedIssuers(ctx, x); err != nil {
		return err
	}
	if absent {
		s.budget.absent(x.lookupKey())
		return githubRefusal(fetchErr)
	}
	s.budget.found(x.lookupKey())
	x.file = file
	var err error
	if x.policy, err = s.compilePolicy(x.policyKind(), file); err != nil {
		return denied("policy_invalid", fmt.Errorf("%s: %s: %w", file.Repository, file.Path, err))
	}
	// Only the App that made a check run may change it, so an owner's checks
	// always come from one and the same App.
	if x.policy.Permissions()["checks"] == "write" {
		sticky, err := s.GitHub.StickyInstallation(ctx, x.scope.Owner, x.policyRepository)
		if err != nil {
			return githubRefusal(err)
		}
		x.installation = sticky
	}
	return nil
}

// checkTrustedIssuers holds the caller's issuer against the organization's own
// list, where it keeps one. A list that is there but cannot be understood lets
// nobody in.
func (s *Service) checkTrustedIssuers(ctx context.Context, x *exchange) error {
	file, err := s.GitHub.File(ctx, x.installation, s.PolicyRepository, trustpolicy.TrustedIssuersPath)
	if errors.Is(err, githubapp.ErrNotFound) {
		return nil
	}
	if err != nil {
		return githubRefusal(err)
	}
	issuers, err := s.compileTrustedIssuers(file)
	if err != nil {
		return denied("trusted_issuers_invalid", fmt.Errorf("%s: %s: %w", file.Repository, file.Path, err))
	}
	if issuers.Allows(x.idToken.Issuer) {
		return nil
	}
	untrusted := fmt.Errorf("%s: %s does not allow issuer %s", file.Repository, trustpolicy.TrustedIssuersPath, x.idToken.Issuer)
	if issuers.Enforced() {
		return denied("untrusted_issuer", untrusted)
	}
	x.notice = "untrusted_issuer (mode: audit): " + untrusted.Error()
	return nil
}

// compiled is what a policy's file came to, once: a policy, or the error that
// every reader of that version gets. Neither knows where the file was: the same
// one may be somebody else's, too.
type compiled[T any] struct {
	policy T
	err    error
}

// policyKey names one compiled file by what it says, not by where it is, so
// that nothing that is cached under it can be out of date. Git's own name for
// it would not do: it is a SHA-1, and all organizations share the cache.
type policyKey struct {
	kind    trustpolicy.Kind
	content [sha256.Size]byte
}

func (s *Service) compilePolicy(kind trustpolicy.Kind, file *githubapp.File) (*trustpolicy.TrustPolicy, error) {
	return once(s, s.policies, policyKey{kind, sha256.Sum256(file.Content)}, func() (*trustpolicy.TrustPolicy, error) {
		return trustpolicy.Parse(kind, "", file.Content, s.Permissions)
	})
}

func (s *Service) compileTrustedIssuers(file *githubapp.File) (*trustpolicy.TrustedIssuers, error) {
	return once(s, s.trustedIssuers, sha256.Sum256(file.Content), func() (*trustpolicy.TrustedIssuers, error) {
		return trustpolicy.ParseTrustedIssuers("", file.Content)
	})
}

// once returns what compile came to the first time, for as long as the cache
// has it. One file is compiled at a time, so that a thousand requests for one
// that is costly to compile cost no more than one.
func once[K comparable, T any](s *Service, cache *lru.Cache[K, compiled[T]], key K, compile func() (T, error)) (T, error) {
	if c, ok := cache.Get(key); ok {
		return c.policy, c.err
	}
	s.compiling.Lock()
	defer s.compiling.Unlock()
	c, ok := cache.Get(key)
	if !ok {
		c.policy, c.err = compile()
		cache.Add(key, c)
	}
	return c.policy, c.err
}
