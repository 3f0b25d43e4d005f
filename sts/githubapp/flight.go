package githubapp

import (
	"context"

	"golang.org/x/sync/singleflight"
)

// share lets all callers who come with the same key while work runs wait for
// its one result. The work outlives a caller who leaves, since the others still
// want it, and has callTimeout for everything; the caller's own context ends
// only that caller's wait.
func share[T any](ctx context.Context, group *singleflight.Group, key string, work func(context.Context) (T, error)) (T, error) {
	done := group.DoChan(key, func() (any, error) {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), callTimeout)
		defer cancel()
		return work(ctx)
	})
	var none T
	select {
	case <-ctx.Done():
		return none, &apiError{kind: ErrUnavailable, doing: "waiting for GitHub", cause: ctx.Err()}
	case result := <-done:
		if result.Err != nil {
			return none, result.Err
		}
		return result.Val.(T), nil
	}
}
