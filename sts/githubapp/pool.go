package githubapp

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
)

// ownerKey names an App on an owner, in lower case.
type ownerKey struct {
	app   int64
	owner string
}

// Installation finds the installation that one repository of owner's is part
// of, in one call an App of the owner's pool that is asked. Names are taken in
// any case. What is found is kept for that one repository and for PolicyMaxAge:
// another repository of the owner's may not be part of the installation and still
// be public, and tomorrow its name may be another owner's. That there is none is
// kept for 25 s.
//
// The Apps that name the owner are its pool; those with AnyOrganization serve
// owners that nobody names. An owner without a pool is ErrNotInstalled without
// any call. Of several Apps it is the one of whose hourly quota for this owner
// most is left, in tenths, and among equals the first one of the configuration.
// An App that is not installed there, or that GitHub limits at the moment, is
// passed over; where GitHub limits all that are installed, the error is the
// limit that ends first. So whoever gets a *RateLimitError from File or Mint may
// call Installation again, as often as the pool has Apps: by then that App is known
// to be limited, and another one's installation is returned, or such an error
// where there is none. (Files are kept for each App's installation: read the
// policy again with the one that is returned.)
//
// Where GitHub limits how often an App may ask for installations, one that it
// confirmed less than 10 minutes ago is returned; File believes nothing that it
// reads with one like that.
//
// Errors: ErrNotInstalled, ErrRefused, ErrRateLimited, ErrUnavailable,
// ErrNoAppJWT.
func (c *Client) Installation(ctx context.Context, owner, repo string) (Installation, error) {
	pool, err := c.checkedPool(owner, repo)
	if err != nil {
		return Installation{}, err
	}
	return c.choose(ctx, pool, owner, repo)
}

// Serves tells whether an App is in owner's pool.
func (c *Client) Serves(appID int64, owner string) bool {
	return slices.ContainsFunc(c.poolOf(owner), func(a *app) bool { return a.id == appID })
}

// HasPool tells whether any App serves owner. Of an owner without a pool GitHub is
// asked nothing.
func (c *Client) HasPool(owner string) bool { return len(c.poolOf(owner)) > 0 }

// Known tells what Installation and File would ask GitHub for a file. known: they
// would ask about nothing that it was not asked about before. The repository's
// installation and the file were found before, however long ago, and are still
// kept; or that there is none is still believed. young: they would not ask at all,
// since what is kept is not old enough to be asked for again; then known holds,
// too.
//
// It is what holds at the moment. It asks nothing itself.
func (c *Client) Known(owner, repo, path string) (known, young bool) {
	current := true // what is kept of the installations that were looked at
	since := c.confirmedSince()
	for _, a := range c.ranked(c.poolOf(owner), owner) {
		k := c.lookups.recall(lookupKeyOf(a, owner, repo))
		current = current && c.isCurrent(k, since)
		switch {
		case k.found && c.limited(k.value) != nil, c.isAbsent(k):
			continue // passed over
		case !k.found:
			return false, false
		}
		inst := k.value
		file := c.files.recall(fileKey{inst.ID, strings.ToLower(inst.Owner), strings.ToLower(repo), path})
		known = file.found || c.isYoung(file)
		return known, current && c.isYoung(file)
	}
	return true, current
}

// KnownOwner tells whether an App names the owner, or some repository of owner's
// was found to be part of an installation since this process started. (Of more than
// some thousand owners, those that were found last.)
func (c *Client) KnownOwner(owner string) bool {
	owner = strings.ToLower(owner)
	return len(c.pool[owner]) > 0 || slices.ContainsFunc(c.poolOf(owner), func(a *app) bool { return c.owners.Contains(ownerKey{a.id, owner}) })
}

func (c *Client) poolOf(owner string) []*app {
	if pool := c.pool[strings.ToLower(owner)]; len(pool) > 0 {
		return pool
	}
	return c.pool[AnyOrganization]
}

// checkedPool returns the Apps that may serve owner/repo, of which there is one
// at least.
func (c *Client) checkedPool(owner, repo string) ([]*app, error) {
	if err := errors.Join(checkName(owner), checkName(repo)); err != nil {
		return nil, &apiError{kind: ErrRefused, doing: finding(owner, repo), cause: err}
	}
	pool := c.poolOf(owner)
	if len(pool) == 0 {
		return nil, &apiError{kind: ErrNotInstalled, doing: finding(owner, repo),
			detail: fmt.Sprintf("no configured App serves %s: add it to an App's organizations", owner)}
	}
	return pool, nil
}

// choose asks each App of the pool, the best one first, until one is installed
// and not limited. Any other failure ends the search: an App that cannot be asked
// might be the one to use.
func (c *Client) choose(ctx context.Context, pool []*app, owner, repo string) (Installation, error) {
	var absent []error
	var soonest *RateLimitError
	for _, a := range c.ranked(pool, owner) {
		inst, err := c.usable(ctx, a, owner, repo)
		limit := (*RateLimitError)(nil)
		switch {
		case errors.As(err, &limit):
			if soonest == nil || limit.RetryAfter < soonest.RetryAfter {
				soonest = limit
			}
		case errors.Is(err, ErrNotInstalled):
			absent = append(absent, err)
		default:
			return inst, err
		}
	}
	if soonest != nil {
		return Installation{}, soonest
	}
	return Installation{}, errors.Join(absent...)
}

// usable returns an App's installation where GitHub does not limit it.
func (c *Client) usable(ctx context.Context, a *app, owner, repo string) (Installation, error) {
	inst, err := c.locate(ctx, a, owner, repo, c.confirmedSince())
	if errors.Is(err, ErrRateLimited) {
		k := c.lookups.recall(lookupKeyOf(a, owner, repo))
		if !k.found || c.now().Sub(k.value.confirmed) >= stalePolicyMaxAge {
			return Installation{}, err
		}
		inst, err = k.value, nil
	}
	if err != nil {
		return Installation{}, err
	}
	if limit := c.limited(inst); limit != nil {
		limit.doing = finding(owner, repo)
		return Installation{}, limit
	}
	return inst, nil
}

// confirmedSince is since when GitHub must have named an installation for it to be
// used without asking again.
func (c *Client) confirmedSince() time.Time {
	return c.now().Add(-max(c.policyMaxAge, confirmationAge))
}

// limited returns the limit that an installation has met, or nil. What was being
// done, the caller must add.
func (c *Client) limited(inst Installation) *RateLimitError {
	kept, ok := c.installations.Get(inst.ID)
	if !ok {
		return nil
	}
	return kept.quota.limited()
}

// ranked returns the pool's Apps in the order in which they are asked.
func (c *Client) ranked(pool []*app, owner string) []*app {
	if len(pool) < 2 {
		return pool
	}
	owner = strings.ToLower(owner)
	left := make(map[*app]int, len(pool))
	for _, a := range pool {
		left[a] = fullTenths
		if id, ok := c.owners.Get(ownerKey{a.id, owner}); ok {
			if kept, ok := c.installations.Peek(id); ok {
				left[a] = kept.quota.tenthsLeft()
			}
		}
	}
	ranked := slices.Clone(pool)
	slices.SortStableFunc(ranked, func(a, b *app) int { return left[b] - left[a] })
	return ranked
}
