package githubapp

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/google/go-github/v60/github"
	"go.uber.org/zap"
	"golang.org/x/time/rate"
)

func TestNeedsLacking(t *testing.T) {
	for _, c := range []struct {
		name        string
		needs       Needs
		permissions map[string]string
		events      []string
		want        string // the names
	}{
		{name: "nothing"},
		{name: "as much", needs: Needs{Permissions: map[string]string{"contents": "read"}}, permissions: map[string]string{"contents": "read"}},
		{name: "more", needs: Needs{Permissions: map[string]string{"contents": "read"}}, permissions: map[string]string{"contents": "admin"}},
		{name: "less", needs: Needs{Permissions: map[string]string{"checks": "write"}}, permissions: map[string]string{"checks": "read"}, want: "permission checks: write"},
		{name: "none", needs: Needs{Permissions: map[string]string{"checks": "read"}}, want: "permission checks: read"},
		{name: "a level that is none", needs: Needs{Permissions: map[string]string{"checks": "read"}}, permissions: map[string]string{"checks": "none"}, want: "permission checks: read"},
		{name: "an event", needs: Needs{Events: []string{"push"}}, events: []string{"pull_request"}, want: "event push"},
	} {
		var names []string
		for _, one := range c.needs.lacking(c.permissions, c.events) {
			name, consequence, _ := strings.Cut(one, " (")
			if len(consequence) < 10 {
				t.Errorf("%s: %q does not say what will not work", c.name, one)
			}
			names = append(names, name)
		}
		if got := strings.Join(names, ", "); got != c.want {
			t.Errorf("%s: lacking %q, want %q", c.name, got, c.want)
		}
	}
}

// TestBackgroundLeavesHalf of the hour's calls to exchanges.
func TestBackgroundLeavesHalf(t *testing.T) {
	now := time.Now()
	for _, c := range []struct {
		name             string
		limit, remaining int
		later            time.Duration
		limited          bool
	}{
		{"nothing is known", 0, 0, 0, false},
		{"all are left", 5000, 5000, 0, false},
		{"half is left", 5000, 2500, 0, false},
		{"less is left", 5000, 2499, 0, true},
		{"less is left of an odd number", 5, 2, 0, true},
		{"none is left", 5000, 0, 29 * time.Minute, true},
		{"the hour is over", 5000, 0, 30 * time.Minute, false},
		{"nonsense", 5000, -1, 0, false},
		{"more nonsense", 5000, 5001, 0, false},
	} {
		clock := now
		q := &quota{now: func() time.Time { return clock }, log: zap.NewNop(), pace: newPace(), client: new(github.Client)}
		theirs := now.Add(-10 * time.Minute) // their clock, by which the reset is told
		q.observe(github.Rate{Limit: c.limit, Remaining: c.remaining, Reset: github.Timestamp{Time: theirs.Add(30 * time.Minute)}}, theirs)
		clock = now.Add(c.later)
		if _, err := q.admit(call{}); err != nil {
			t.Errorf("%s: what somebody waits for got %v", c.name, err)
		}
		_, err := q.admit(call{background: true})
		limit := (*RateLimitError)(nil)
		if errors.As(err, &limit) != c.limited || limit != nil && limit.RetryAfter != 30*time.Minute-c.later {
			t.Errorf("%s: what can wait got %v", c.name, err)
		}
		if q.limited() != nil {
			t.Errorf("%s: exchanges are limited, too", c.name)
		}
	}
}

// TestPaceFollowsTheLimit where that is beyond what GitHub.com gives.
func TestPaceFollowsTheLimit(t *testing.T) {
	q := &quota{now: time.Now, pace: newPace()}
	for _, c := range []struct {
		limit int
		want  rate.Limit
	}{{0, 8}, {60, 8}, {15_000, 8}, {720_000, 100}, {5000, 8}} {
		q.observe(github.Rate{Limit: c.limit, Reset: github.Timestamp{Time: time.Now().Add(time.Hour)}}, time.Now())
		if got := q.pace.Limit(); got != c.want {
			t.Errorf("%d calls an hour: %v points a second, want %v", c.limit, got, c.want)
		}
	}
}
