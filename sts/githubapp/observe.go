package githubapp

import (
	"cmp"
	"errors"
	"net/http"
	"slices"
	"time"

	"github.com/google/go-github/v60/github"
)

// Outcomes of a call, as Observation and metrics have them.
const (
	OutcomeOK           = "ok"
	OutcomeNotModified  = "not_modified" // 304: what is at hand is still so
	OutcomeNotFound     = "not_found"    // 404
	OutcomeUnauthorized = "unauthorized" // 401: GitHub does not take the JWT or the token
	OutcomeRefused      = "refused"      // any other no
	OutcomeRateLimited  = "rate_limited"
	OutcomeUnavailable  = "unavailable" // no usable answer: network, time-out, 5xx, garbage
	OutcomeHeldBack     = "held_back"   // nothing was sent: a limit of GitHub's holds, GitHub does not answer, or there is no App JWT
)

// Observation is what metrics are made of: each field but Duration has a small,
// fixed set of values.
type Observation struct {
	Operation string        // which call: "mint", "read_file", …
	Outcome   string        // one of the Outcome constants
	Duration  time.Duration // from sending to the last byte; 0 where nothing was sent
}

// Operations are all that Observation.Operation may be.
func Operations() []string {
	return []string{"compare_commits", "create_check_run", "find_installation", "get_app", "list_check_runs", "list_deliveries", "mint",
		"prove_token", "read_file", "read_file_at", "read_tree", "redeliver", "revoke", "update_check_run"}
}

// Outcomes are all that Observation.Outcome may be.
func Outcomes() []string {
	return []string{OutcomeOK, OutcomeNotModified, OutcomeNotFound, OutcomeUnauthorized, OutcomeRefused, OutcomeRateLimited, OutcomeUnavailable, OutcomeHeldBack}
}

// notSent counts a call that did not leave, and returns why.
func (c *Client) notSent(request call, why error) error {
	c.observe(Observation{Operation: request.operation, Outcome: OutcomeHeldBack})
	return why
}

// labelOf tells what came of a call that was sent; err is go-github's and failure
// what it was taken for.
func labelOf(err, failure error, notModified bool) string {
	switch {
	case notModified:
		return OutcomeNotModified
	case failure == nil, errors.As(err, new(*github.AcceptedError)):
		return OutcomeOK
	case errors.Is(failure, ErrRateLimited):
		return OutcomeRateLimited
	case statusOf(failure) == http.StatusNotFound:
		return OutcomeNotFound
	case statusOf(failure) == http.StatusUnauthorized:
		return OutcomeUnauthorized
	case errors.Is(failure, ErrUnavailable):
		return OutcomeUnavailable
	}
	return OutcomeRefused
}

// QuotaStatus is what GitHub said last of its primary limit.
type QuotaStatus struct {
	AppID int64

	// Limit is how many calls an hour there are, Remaining how many are left of
	// them until Reset: of the App's installation that has the smallest part left.
	Limit, Remaining int
	Reset            time.Time
}

// Quotas tells, for each App of which GitHub has said something, in ascending
// order of ID.
func (c *Client) Quotas() []QuotaStatus {
	least := map[int64]QuotaStatus{}
	for _, kept := range c.installations.Values() {
		now, served := kept.quota.status(), c.apps[kept.appID] != nil
		now.AppID = kept.appID
		before, known := least[kept.appID]
		if served && now.Limit > 0 && (!known || now.Remaining*before.Limit < before.Remaining*now.Limit) {
			least[kept.appID] = now
		}
	}
	all := make([]QuotaStatus, 0, len(least))
	for _, q := range least {
		all = append(all, q)
	}
	slices.SortFunc(all, func(a, b QuotaStatus) int { return cmp.Compare(a.AppID, b.AppID) })
	return all
}

func (q *quota) status() QuotaStatus {
	q.mu.Lock()
	defer q.mu.Unlock()
	s := QuotaStatus{Limit: q.limit, Remaining: q.remaining, Reset: q.reset}
	if !q.isKnown(q.now()) {
		s.Remaining = s.Limit // the hour is over, and another one begins with the next call
	}
	return s
}

// CacheStatus is how one of the memories does, since the start.
type CacheStatus struct {
	Name         string // "policies" (and lists of issuers) or "installations"
	Hits, Misses uint64
	Entries      int // what is there, not what is known to be absent
}

// Caches tells how often GitHub did not have to be asked.
func (c *Client) Caches() []CacheStatus {
	return []CacheStatus{
		{"policies", c.files.hits.Load(), c.files.misses.Load(), c.files.entries()},
		{"installations", c.lookups.hits.Load(), c.lookups.misses.Load(), c.lookups.entries()},
	}
}

func (m *memory[K, V]) entries() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.present.Len()
}
