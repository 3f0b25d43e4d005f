package githubapp

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"time"
)

// revokeDelays are the pauses between the attempts to revoke.
var revokeDelays = [...]time.Duration{500 * time.Millisecond, 1500 * time.Millisecond}

// Revoke ends an installation token's life: DELETE /installation/token. It
// returns nil once GitHub says that the token is gone, or that it knows no such
// token. Since GitHub may say the latter of a token that it minted a moment ago,
// that is believed only of the third attempt, some two seconds after the first.
//
// Where GitHub does not answer, the first attempt is made nevertheless, since a
// token that was withheld should die; but for eight at once at most, and the
// attempts that follow only as other calls may.
//
// Errors: ErrRefused (this cannot be a token), ErrRateLimited, ErrUnavailable;
// after each of them the token may still live.
func (c *Client) Revoke(ctx context.Context, token string) error {
	const doing = "revoking a token"
	if token == "" || strings.ContainsFunc(token, func(r rune) bool { return r <= ' ' || r > '~' }) {
		return &apiError{kind: ErrRefused, doing: doing, detail: "it is not of a token's form"}
	}
	// The token says nothing of the installation that it belongs to, so what
	// GitHub allows each of them is not known here; and one token's limit must
	// not keep another one alive.
	q := c.newQuota("revocation")
	for attempt := 0; ; attempt++ {
		_, err := c.do(ctx, q, token, call{
			operation: "revoke", doing: doing, method: http.MethodDelete, path: "installation/token", missing: ErrNotFound, urgent: attempt == 0,
		}, nil)
		status := statusOf(err)
		unknown := status == http.StatusUnauthorized || status == http.StatusNotFound
		switch {
		case err == nil:
			return nil
		case !unknown && !errors.Is(err, ErrUnavailable):
			return err
		case attempt == len(revokeDelays) && unknown:
			return nil
		case attempt == len(revokeDelays):
			return err
		}
		if sleep(ctx, revokeDelays[attempt]) != nil {
			return &apiError{kind: ErrUnavailable, doing: doing, detail: "there was no time to make sure: " + err.Error()}
		}
	}
}
