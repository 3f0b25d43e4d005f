package githubapp

import (
	"context"
	"fmt"
	"net/http"

	"golang.org/x/time/rate"
)

// What the checks of one installation may spend, in points of GitHub's secondary
// limit (https://docs.github.com/en/rest/using-the-rest-api/rate-limits-for-the-rest-api):
// it allows 900 a minute, a GET costs one, and what writes costs five. In no minute
// these are more than checkPoints and 60 times checkPointsPerSecond: 540.
const (
	checkPointsPerSecond = 8
	checkPoints          = 60 // at once, after a rest
	pointsToRead         = 1
	pointsToWrite        = 5
)

// paceFor is how many points a second these are where the primary limit is so many
// calls an hour; 0: not known. GitHub.com gives nobody more than 15,000. The
// administrators of an Enterprise Server who allow far more than that are taken by
// their word: half of it then, evenly.
func paceFor(hourly int) rate.Limit {
	return max(checkPointsPerSecond, rate.Limit(hourly)/2/3600)
}

func newPace() *rate.Limiter { return rate.NewLimiter(paceFor(0), checkPoints) }

// awaitTurn waits until a background call may ask for a slot: in pace, where it is
// for a check, and with fewer than half of MaxConcurrent under way. That takes no
// part of the call's own time. Whoever waited without an error must free
// c.background.
func (c *Client) awaitTurn(ctx context.Context, q *quota, request call) error {
	if err := c.mayLeave(q, request); err != nil {
		return err
	}
	if request.isForCheck() {
		points := pointsToWrite
		if request.method == http.MethodGet {
			points = pointsToRead
		}
		if err := q.pace.WaitN(ctx, points); err != nil {
			return &apiError{kind: ErrUnavailable, doing: request.doing, cause: err,
				detail: fmt.Sprintf("nothing was sent: the checks of %s have spent what they may for now", q.name)}
		}
	}
	select {
	case c.background <- struct{}{}:
		return nil
	case <-ctx.Done():
		return &apiError{kind: ErrUnavailable, doing: request.doing, cause: ctx.Err(),
			detail: fmt.Sprintf("nothing was sent: all of the %d calls in the background are under way that may be at once", cap(c.background))}
	}
}
