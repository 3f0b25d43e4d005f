package githubapp

import (
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"sync"
	"time"

	"github.com/google/go-github/v60/github"
	"go.uber.org/zap"
	"golang.org/x/time/rate"
)

// Bounds on what an answer can make us wait. GitHub's primary limit starts anew
// each hour, so nothing honest is longer; without an upper bound one odd header
// would shut an installation out for good.
const (
	minWait       = time.Second
	unstatedWait  = time.Minute // where GitHub does not say, doubled each time
	maxWait       = 65 * time.Minute
	maxFaultWait  = 30 * time.Second // retry-after of a 5xx
	maxDoublings  = 5
	rateResetSlop = time.Second // x-ratelimit-reset has whole seconds
)

// quota holds back the calls that GitHub counts together: those of one App as
// itself, or those of one installation, so that one's limit is never another's.
//
// go-github keeps the rate limits that it has seen in its client, and then
// refuses calls by itself. So each quota has a client of its own; and since what
// the client remembers cannot be bounded from outside, a client that has met a
// limit is replaced, and only the time here counts.
type quota struct {
	name   string
	now    func() time.Time
	log    *zap.Logger
	github func() *github.Client
	pace   *rate.Limiter // of the calls for checks

	mu         sync.Mutex // guards what follows
	client     *github.Client
	everything hold
	background hold // as well, of background calls

	// What GitHub said last of its primary limit: so many calls an hour, so many
	// left of them, until reset by our clock. limit is 0 where it said nothing.
	limit, remaining int
	reset            time.Time
}

// hold keeps calls from leaving for a while.
type hold struct {
	until   time.Time // none leaves before
	kind    error     // what a call before that time gets
	strikes int       // limits met without a stated wait since the last success
}

// fullTenths is what a quota has left that nothing is known of.
const fullTenths = 10

func (c *Client) newQuota(name string) *quota {
	return &quota{name: name, now: c.now, log: c.log, github: c.newGitHub, pace: newPace(), client: c.newGitHub()}
}

// admit returns the client to call with, or the error that a call gets which
// must not leave yet. Where less than half of the hour's calls is left, that is
// for what somebody waits for: a background call must wait for the next hour.
func (q *quota) admit(request call) (*github.Client, error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	now := q.now()
	held := q.everything
	if request.background && q.background.until.After(held.until) {
		held = q.background
	}
	wait := held.until.Sub(now)
	switch {
	case wait > 0 && held.kind == ErrRateLimited:
		return nil, q.limitError(wait, request.doing)
	case wait > 0:
		return nil, &apiError{kind: held.kind, doing: request.doing, detail: fmt.Sprintf("%s, for another %s", q.heldBack(), wait.Round(time.Second))}
	case request.background && q.isKnown(now) && 2*q.remaining < q.limit:
		return nil, &RateLimitError{RetryAfter: q.reset.Sub(now), doing: request.doing,
			detail: fmt.Sprintf("%s has %d of %d calls left, which are for exchanges", q.name, q.remaining, q.limit)}
	}
	return q.client, nil
}

func (q *quota) heldBack() string { return q.name + " is held back since an earlier answer" }

func (q *quota) limitError(wait time.Duration, doing string) *RateLimitError {
	return &RateLimitError{RetryAfter: wait, doing: doing, detail: q.heldBack()}
}

// limited returns the rate limit that holds now, for whatever is done, or nil.
func (q *quota) limited() *RateLimitError {
	q.mu.Lock()
	defer q.mu.Unlock()
	wait := q.everything.until.Sub(q.now())
	if wait <= 0 || q.everything.kind != ErrRateLimited {
		return nil
	}
	return q.limitError(wait, "")
}

// isKnown needs q.mu.
func (q *quota) isKnown(now time.Time) bool { return q.limit > 0 && now.Before(q.reset) }

// tenthsLeft tells how much is left of the hour's calls, rounded up to tenths: so
// coarse that two Apps that are used alike do not take turns with each call.
func (q *quota) tenthsLeft() int {
	q.mu.Lock()
	defer q.mu.Unlock()
	if !q.isKnown(q.now()) {
		return fullTenths
	}
	return (q.remaining*fullTenths + q.limit - 1) / q.limit
}

// observe reads what an answer says of the primary limit. Theirs is GitHub's
// clock: ours may be off.
func (q *quota) observe(told github.Rate, theirs time.Time) {
	if told.Limit <= 0 || told.Remaining < 0 || told.Remaining > told.Limit {
		return
	}
	wait := min(told.Reset.Sub(theirs), maxWait)
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.limit != told.Limit {
		q.pace.SetLimit(paceFor(told.Limit))
	}
	q.limit, q.remaining, q.reset = told.Limit, told.Remaining, q.now().Add(wait)
}

func (q *quota) succeeded(request call) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.everything.strikes = 0
	if request.background {
		q.background.strikes = 0
	}
}

// retryAfter reads how long GitHub wants us to wait, as its documentation on
// rate limits orders it: retry-after, else, where nothing remains,
// x-ratelimit-reset. It reports whether either was said.
func (q *quota) retryAfter(header http.Header, err error) (wait time.Duration, told bool) {
	theirs, dateErr := http.ParseTime(header.Get("Date"))
	if dateErr != nil {
		theirs = q.now()
	}
	if v := header.Get("Retry-After"); v != "" {
		if seconds, err := strconv.ParseInt(v, 10, 32); err == nil {
			return time.Duration(seconds) * time.Second, true
		}
		if at, err := http.ParseTime(v); err == nil {
			return at.Sub(theirs), true
		}
		return maxWait, true // said, and not understood
	}
	if header.Get("X-Ratelimit-Remaining") == "0" {
		// Against GitHub's clock, not ours: ours may be off.
		if seconds, err := strconv.ParseInt(header.Get("X-Ratelimit-Reset"), 10, 64); err == nil {
			return time.Unix(seconds, 0).Sub(theirs) + rateResetSlop, true
		}
	}
	// go-github refused by itself: the answer is its own, without headers.
	if e := (*github.RateLimitError)(nil); errors.As(err, &e) && !e.Rate.Reset.IsZero() {
		return e.Rate.Reset.Sub(q.now()) + rateResetSlop, true
	}
	return 0, false
}

// isSecondary tells whether a rate limit is certainly not the primary one: the
// answer says that some calls are left of that. GitHub's documentation tells the
// two apart in no other way, and not every answer has the header.
func isSecondary(header http.Header) bool {
	remaining, err := strconv.Atoi(header.Get("X-Ratelimit-Remaining"))
	return err == nil && remaining > 0
}

// holdBack lets no call leave for a while, or no background call, and returns for
// how long.
func (q *quota) holdBack(wait time.Duration, told bool, kind error, background bool, from zap.Field) time.Duration {
	q.mu.Lock()
	defer q.mu.Unlock()
	h, account := &q.everything, q.name
	if background {
		h, account = &q.background, q.name+", in the background"
	}
	longest := maxWait
	if kind == ErrUnavailable {
		longest = maxFaultWait
	}
	// Calls that were under way together meet one limit, not several.
	first := !q.now().Before(h.until)
	if !told {
		wait = unstatedWait << min(h.strikes, maxDoublings)
		if first {
			h.strikes++
		}
	}
	wait = min(max(wait, minWait), longest)
	if until := q.now().Add(wait); until.After(h.until) {
		h.until, h.kind = until, kind
	}
	if first {
		q.log.Warn("GitHub says to wait", zap.String("account", account), zap.Duration("wait", wait), zap.NamedError("kind", kind), from)
	}
	q.client = q.github()
	return h.until.Sub(q.now())
}
