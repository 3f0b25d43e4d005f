package githubapp

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"time"
)

// File is one version of a file on a repository's default branch. It is shared
// and does not change: Content must not be written to.
type File struct {
	// Repository is OWNER/NAME: the owner as GitHub spells it, the name as asked.
	Repository string

	// Path is from the repository's root.
	Path string

	// SHA is the git blob ID, 40 hexadecimal digits, checked against Content.
	SHA string

	// Content is at most 1 MiB.
	Content []byte

	// FetchedAt is when the request left that GitHub last answered with this
	// version.
	FetchedAt time.Time

	etag string
}

// fileKey names a file as one installation sees it. The repository is in lower
// case; paths have case.
type fileKey struct {
	installation int64
	repository   string // name only
	path         string
}

// File reads a file of a repository of inst's owner, on the default branch.
// Within Config.PolicyMaxAge it comes from memory; after that GitHub is asked
// whether it changed. That a file is absent, or not a file, is kept for
// PolicyMaxAge, at most 25 s. Callers who come together share one request.
//
// Where GitHub limits our rate, a version that it confirmed less than 10 minutes
// ago is returned (see FetchedAt). No other failure is papered over.
//
// Errors: ErrNotFound, ErrNotAFile, ErrRefused, ErrRateLimited, ErrUnavailable.
func (c *Client) File(ctx context.Context, inst Installation, repo, path string) (*File, error) {
	key := fileKey{inst.ID, strings.ToLower(repo), path}
	// Only what passed the checks below was ever kept.
	if file, err, ok := c.recallFile(key); ok {
		return file, err
	}
	doing := fmt.Sprintf("reading %s of %s/%s", path, inst.Owner, repo)
	escaped, err := escapePath(path)
	if err := errors.Join(checkName(inst.Owner), checkName(repo), err); err != nil {
		return nil, &apiError{kind: ErrRefused, doing: doing, cause: err}
	}
	return share(ctx, &c.flights, fmt.Sprintf("file %d %s %s", key.installation, key.repository, key.path), func(ctx context.Context) (*File, error) {
		// A flight that ended between our look and this one may have read it.
		if file, err, ok := c.recallFile(key); ok {
			return file, err
		}
		return c.fetchFile(ctx, inst, key, call{
			doing:     doing,
			method:    http.MethodGet,
			path:      "repos/" + inst.Owner + "/" + repo + "/contents/" + escaped,
			bodyLimit: contentsBodyLimit,
			missing:   ErrNotFound,
		}, inst.Owner+"/"+repo)
	})
}

// recallFile returns what is known of key and young enough.
func (c *Client) recallFile(key fileKey) (*File, error, bool) {
	now := c.now()
	if file := c.files.get(key); file != nil && now.Sub(file.FetchedAt) < c.policyMaxAge {
		return file, nil, true
	}
	if known, ok := c.noFiles.Get(key); ok && now.Before(known.until) {
		return nil, known.err, true
	}
	return nil, nil, false
}

// fetchFile asks GitHub, conditionally where a version is at hand.
func (c *Client) fetchFile(ctx context.Context, inst Installation, key fileKey, request call, repository string) (*File, error) {
	old := c.files.get(key)
	if old != nil {
		request.etag = old.etag
	}
	asked := c.now()
	var got contentsAnswer
	answered, err := c.read(ctx, inst, request, &got)
	if errors.Is(err, ErrRateLimited) && old != nil && asked.Sub(old.FetchedAt) < stalePolicyMaxAge {
		return old, nil
	}
	file := &File{Repository: repository, Path: key.path, FetchedAt: asked, etag: answered.etag}
	switch {
	case err != nil:
	case answered.notModified:
		file.SHA, file.Content, file.etag = old.SHA, old.Content, old.etag
	default:
		var failure *apiError
		if file.SHA, file.Content, failure = got.check(key.path); failure != nil {
			failure.doing = request.doing
			err = failure
		}
	}
	if err == nil {
		c.noFiles.Remove(key)
		c.files.add(key, file)
		return file, nil
	}
	if errors.Is(err, ErrNotFound) || errors.Is(err, ErrNotAFile) {
		c.files.remove(key)
		c.noFiles.Add(key, knownFailure{err, asked.Add(min(negativeMaxAge, c.policyMaxAge))})
	}
	return nil, err
}

// escapePath escapes a path for a URL, and refuses one that is not in the form
// in which git knows paths.
func escapePath(path string) (string, error) {
	segments := strings.Split(path, "/")
	for i, segment := range segments {
		if segment == "" || segment == "." || segment == ".." || strings.ContainsRune(segment, 0) {
			return "", fmt.Errorf("%q is not a path in a repository", path)
		}
		segments[i] = url.PathEscape(segment)
	}
	return strings.Join(segments, "/"), nil
}
