package githubapp

import (
	"context"
	"errors"
	"fmt"
	"math"
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

	// Content is at most 64 KiB.
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

func (k fileKey) groups(*File) []group {
	return []group{{owner: k.owner}, {owner: k.owner, repository: k.repository}, {installation: k.installation}}
}

// File reads a file of a repository of inst's owner, on the default branch.
// Within Config.PolicyMaxAge it comes from memory; after that GitHub is asked
// whether it changed. That a file is absent, or not a file, is kept for exactly
// as long: otherwise the time that a refusal takes would tell whether a policy
// exists. (Of a file that was there before, for 25 s at most.) Callers who come together share one request.
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
	if k := c.files.recall(key); c.isYoung(k) {
		c.files.hits.Add(1)
		return k.answer()
	}
	doing := fmt.Sprintf("reading %s of %s/%s", path, inst.Owner, repo)
	escaped, err := escapePath(path)
	if err := errors.Join(checkName(inst.Owner), checkName(inst.repository), checkName(repo), err); err != nil {
		return nil, &apiError{kind: ErrRefused, doing: doing, cause: err}
	}
	c.files.misses.Add(1)
	return c.files.ask(ctx, key, c.isYoung, func(ctx context.Context, f *flight[*File]) (*File, error) {
		return c.fetchFile(ctx, f, inst, key, call{
			operation: "read_file",
			doing:     doing,
			method:    http.MethodGet,
			path:      "repos/" + inst.Owner + "/" + repo + "/contents/" + escaped,
			bodyLimit: contentsBodyLimit,
			missing:   ErrNotFound,
		}, inst.Owner+"/"+repo)
	})
}

// isYoung tells whether what is known of a file is used without asking GitHub.
func (c *Client) isYoung(k known[*File]) bool { return c.fileAge(k) < c.policyMaxAge }

// fileAge is the time since GitHub was asked for what is known of a file; where
// nothing is, it is longer than anything is used for.
func (c *Client) fileAge(k known[*File]) time.Duration {
	switch {
	case k.found:
		return c.now().Sub(k.value.FetchedAt)
	case k.absent.err != nil:
		return c.now().Sub(k.absent.asked)
	}
	return math.MaxInt64
}

// fetchFile asks GitHub, conditionally where a version is at hand.
func (c *Client) fetchFile(ctx context.Context, f *flight[*File], inst Installation, key fileKey, request call, repository string) (*File, error) {
	old := c.files.recall(key).value
	if old != nil {
		request.etag = old.etag
	}
	asked := c.now()
	var got contentsAnswer
	answered, err := c.read(ctx, inst, request, &got)
	err = largeFile(request.doing, err)
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
		c.files.keep(key, f, file)
		return file, nil
	case absent:
		if old != nil {
			// It was there until now, and perhaps GitHub is wrong: that is found out
			// sooner than how long the absence of what never was is kept.
			asked = asked.Add(-max(0, c.policyMaxAge-negativeMaxAge))
		}
		c.files.keepAbsent(key, f, knownFailure{err, asked})
	case errors.Is(err, ErrRateLimited):
		// What GitHub said last; nothing, where that was forgotten meanwhile.
		if k := c.files.recall(key); c.fileAge(k) < stalePolicyMaxAge {
			return k.answer()
		}
	}
	return nil, err
}

// forgetFiles drops all that was read with inst, under its owner's name of the time.
func (c *Client) forgetFiles(inst Installation) {
	owner := strings.ToLower(inst.Owner)
	c.files.forget(group{installation: inst.ID}, func(key fileKey) bool { return key.owner == owner })
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
