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

// fileKey names a file as one installation sees it under its owner's name of the
// time. Owner and repository are in lower case; paths have case.
type fileKey struct {
	installation int64
	owner        string
	repository   string // name only
	path         string
}

// File reads a file of a repository of inst's owner, on the default branch.
// Within Config.PolicyMaxAge it comes from memory; after that GitHub is asked
// whether it changed. That a file is absent, or not a file, is kept for exactly
// as long: otherwise the time that a refusal takes would tell whether a policy
// exists. Callers who come together share one request.
//
// A read token reads every public repository, and names change hands: an owner
// who is renamed leaves the old name to whoever wants it. So what GitHub answers
// is believed only if the repository that inst was found by was still part of
// inst: by an answer that was asked for at most confirmationAge before this one
// came, or by asking anew, after it came. Otherwise it is ErrNotInstalled, and
// inst and its files are forgotten.
//
// Where GitHub limits our rate, what it said less than 10 minutes ago is
// returned (see FetchedAt). No other failure is papered over.
//
// Errors: ErrNotFound, ErrNotAFile, ErrNotInstalled, ErrRefused, ErrRateLimited,
// ErrUnavailable, ErrNoAppJWT.
func (c *Client) File(ctx context.Context, inst Installation, repo, path string) (*File, error) {
	key := fileKey{inst.ID, strings.ToLower(inst.Owner), strings.ToLower(repo), path}
	// Only what passed the checks below was ever kept.
	if file, err, ok := c.recallFile(key); ok {
		return file, err
	}
	doing := fmt.Sprintf("reading %s of %s/%s", path, inst.Owner, repo)
	escaped, err := escapePath(path)
	if err := errors.Join(checkName(inst.Owner), checkName(inst.repository), checkName(repo), err); err != nil {
		return nil, &apiError{kind: ErrRefused, doing: doing, cause: err}
	}
	return share(ctx, &c.flights, fmt.Sprintf("file %d %s/%s %s", key.installation, key.owner, key.repository, key.path), func(ctx context.Context) (*File, error) {
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
	if known, ok := c.noFiles.Get(key); ok && now.Sub(known.asked) < c.policyMaxAge {
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
	absent := errors.Is(err, ErrNotFound) || errors.Is(err, ErrNotAFile)
	if err == nil || absent {
		// After the fact: a name that was lost in between does not come back.
		if unconfirmed := c.confirm(ctx, inst, c.now().Add(-confirmationAge)); unconfirmed != nil {
			err, absent = unconfirmed, false
		}
	}
	switch {
	case err == nil:
		c.noFiles.Remove(key)
		c.files.add(key, file)
		return file, nil
	case absent:
		c.files.remove(key)
		c.noFiles.Add(key, knownFailure{err, asked})
	case errors.Is(err, ErrRateLimited):
		return c.recallStale(key, old, asked, err)
	}
	return nil, err
}

// recallStale returns what GitHub said last of key, where it limits our rate.
func (c *Client) recallStale(key fileKey, old *File, now time.Time, limited error) (*File, error) {
	if old != nil && now.Sub(old.FetchedAt) < stalePolicyMaxAge {
		return old, nil
	}
	if known, ok := c.noFiles.Get(key); ok && now.Sub(known.asked) < stalePolicyMaxAge {
		return nil, known.err
	}
	return nil, limited
}

// forgetFiles drops all that was read with inst, under its owner's name of the time.
func (c *Client) forgetFiles(inst Installation) {
	gone := func(key fileKey) bool {
		return key.installation == inst.ID && key.owner == strings.ToLower(inst.Owner)
	}
	c.files.removeIf(gone)
	for _, key := range c.noFiles.Keys() {
		if gone(key) {
			c.noFiles.Remove(key)
		}
	}
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
