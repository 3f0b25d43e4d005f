package githubapp

import (
	"context"
	"errors"
	"fmt"
	"net/http"
)

// FileAt reads a file as it is at one commit, and keeps nothing. The commit may
// be anybody's, a fork's for instance: what FileAt returns must grant nothing.
// Like File it takes nothing but a plain file of at most 64 KiB, whole; unlike
// File it does not ask whether the repository is still part of inst.
//
// Errors: ErrNotFound (no such file, or no such commit), ErrNotAFile, ErrRefused,
// ErrRateLimited, ErrUnavailable.
func (c *Client) FileAt(ctx context.Context, inst Installation, repo, path, commit string) (*File, error) {
	doing := fmt.Sprintf("reading %s of %s/%s at %s", path, inst.Owner, repo, quote(commit))
	escaped, err := escapePath(path)
	if err := errors.Join(checkRepository(inst, repo), err, checkObjectID(commit)); err != nil {
		return nil, &apiError{kind: ErrRefused, doing: doing, cause: err}
	}
	asked := c.now()
	var got contentsAnswer
	_, err = c.read(ctx, inst, call{
		operation:  "read_file_at",
		doing:      doing,
		method:     http.MethodGet,
		path:       fmt.Sprintf("repos/%s/%s/contents/%s?ref=%s", inst.Owner, repo, escaped, commit),
		bodyLimit:  contentsBodyLimit,
		missing:    ErrNotFound,
		background: true,
	}, &got)
	if err != nil {
		return nil, largeFile(doing, err)
	}
	sha, content, failure := got.check(path)
	if failure != nil {
		failure.doing = doing
		return nil, failure
	}
	return &File{Repository: inst.Owner + "/" + repo, Path: path, SHA: sha, Content: content, FetchedAt: asked}, nil
}
