package githubapp

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"sync"
	"time"

	"go.uber.org/zap"
)

// Pauses between attempts to ask GitHub about an App.
const (
	proveWait    = time.Second // doubled each time
	maxProveWait = time.Minute
)

// AppStatus tells whether an App can act at GitHub.
type AppStatus struct {
	AppID int64

	// CachedUntil is when the JWT at hand stops being used; in the past, or zero,
	// where there is none.
	CachedUntil time.Time

	// LastError is why the last attempt to get a JWT failed; nil where it did not.
	LastError error

	// Proven is when GitHub, asked with a JWT of the App's, named this App; zero
	// while it has not since the start. It is asked until it did, and once.
	Proven time.Time

	// Problem is why it is not proven; nil once it is, and before the first attempt.
	Problem error

	// Lacking are the permissions and events of Config.Needs that the App did not
	// have when it was proven, each with what does not work without it.
	Lacking []string
}

// Status tells, for each App in ascending order of ID, whether it can act.
func (c *Client) Status() []AppStatus {
	all := make([]AppStatus, 0, len(c.apps))
	for _, a := range c.apps {
		s := a.jwt.status()
		a.proof.status(&s)
		all = append(all, s)
	}
	slices.SortFunc(all, func(a, b AppStatus) int { return cmp.Compare(a.AppID, b.AppID) })
	return all
}

// proof is what GitHub said of an App when asked about it.
type proof struct {
	mu      sync.Mutex // guards what follows
	proven  time.Time
	problem error
	lacking []string
}

func (p *proof) set(proven time.Time, problem error, lacking []string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.proven, p.problem, p.lacking = proven, problem, lacking
}

func (p *proof) status(s *AppStatus) {
	p.mu.Lock()
	defer p.mu.Unlock()
	s.Proven, s.Problem, s.Lacking = p.proven, p.problem, slices.Clone(p.lacking)
}

// prove asks GitHub about the App until it answers, or ctx ends. What an exchange
// would find out one night, the operator then knows at the start: that the key is
// not the App's, or that the App was not given what the configuration needs.
func (c *Client) prove(ctx context.Context, a *app, needs Needs) {
	said := ""
	for wait := proveWait; ; {
		got, err := c.askApp(ctx, a)
		if err == nil {
			lacking := needs.lacking(got.Permissions, got.Events)
			a.proof.set(c.now(), nil, lacking)
			if len(lacking) > 0 {
				c.log.Warn("the App lacks what the configuration needs: grant it on the App's settings page, and have its owners accept it",
					zap.Int64("app_id", a.id), zap.Strings("lacking", lacking))
			}
			c.log.Info("GitHub knows the App and its key", zap.Int64("app_id", a.id))
			return
		}
		if ctx.Err() != nil {
			return
		}
		a.proof.set(time.Time{}, err, nil)
		pause := wait
		limit := (*RateLimitError)(nil)
		switch {
		case errors.Is(err, ErrNoAppJWT): // which was logged; and there may be one at any time
			pause = proveWait
		case errors.As(err, &limit):
			pause = limit.RetryAfter
		default:
			if kind := fmt.Sprint(statusOf(err)); kind != said { // once, not each time
				said = kind
				c.log.Error("GitHub did not say that the App and its key are good: asked again until it does", zap.Int64("app_id", a.id), zap.Error(err))
			}
			wait = min(2*wait, maxProveWait)
		}
		if sleep(ctx, pause) != nil {
			return
		}
	}
}

// appAnswer is the part of GitHub's App object that is used.
type appAnswer struct {
	ID          int64             `json:"id"`
	Permissions map[string]string `json:"permissions"`
	Events      []string          `json:"events"`
}

// askApp makes the call GET /app. An answer shows that GitHub took the JWT's
// signature for that of one of the App's keys.
func (c *Client) askApp(ctx context.Context, a *app) (got appAnswer, err error) {
	doing := fmt.Sprintf("asking GitHub about App %d", a.id)
	_, err = c.doAsApp(ctx, a, a.quota, call{operation: "get_app", doing: doing, method: http.MethodGet, path: "app", missing: ErrRefused}, &got)
	switch {
	case statusOf(err) == http.StatusNotFound:
		e := (*apiError)(nil)
		errors.As(err, &e)
		e.detail += ": this GitHub knows no such App: check the App's ID and the API's URL"
	case err == nil && got.ID != a.id:
		err = &apiError{kind: ErrUnavailable, doing: doing, status: http.StatusOK,
			detail: fmt.Sprintf("GitHub answered with App %d: the key that signs is that App's", got.ID)}
	}
	return got, err
}

// lacking lists what of n an App does not have, in the order of names.
func (n Needs) lacking(permissions map[string]string, events []string) (all []string) {
	for _, name := range slices.Sorted(maps.Keys(n.Permissions)) {
		if level := n.Permissions[name]; !covers(permissions[name], level) {
			all = append(all, fmt.Sprintf("permission %s: %s (%s)", name, level, withoutPermission(name)))
		}
	}
	for _, name := range slices.Sorted(slices.Values(n.Events)) {
		if !slices.Contains(events, name) {
			all = append(all, fmt.Sprintf("event %s (%s)", name, withoutEvent(name)))
		}
	}
	return all
}

func withoutPermission(name string) string {
	switch name {
	case "contents":
		return "no trust policy can be read"
	case "checks":
		return "no check of trust policies can be reported"
	}
	return "GitHub refuses what needs it"
}

func withoutEvent(name string) string {
	switch name {
	case "push":
		return "a changed trust policy counts only once the known one is old enough to be asked for again"
	case "pull_request":
		return "trust policies are not checked there"
	}
	return "what it would tell is noticed only when GitHub is asked again"
}
