package githubapp

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"
)

// Installation is an App installed on an owner.
type Installation struct {
	AppID int64
	ID    int64

	// Owner is the organization or user, as GitHub spells it.
	Owner string

	// Permissions are those that the owner granted the App, name → level.
	Permissions map[string]string

	repository string    // of the owner's: the one that it was found by
	confirmed  time.Time // when the request left that GitHub answered with it
	etag       string
}

// lookupKey names the question whether one App is installed on a repository.
// Names are in lower case.
type lookupKey struct {
	app               int64
	owner, repository string
}

func (k lookupKey) groups(found Installation) []group {
	all := []group{{owner: k.owner}, {owner: k.owner, repository: k.repository}}
	if found.ID != 0 {
		all = append(all, group{installation: found.ID})
	}
	return all
}

// lookupKeyOf: GitHub compares names in any case.
func lookupKeyOf(a *app, owner, repo string) lookupKey {
	return lookupKey{a.id, strings.ToLower(owner), strings.ToLower(repo)}
}

// locate returns what GitHub says of an App on owner/repo, or said no earlier
// than since. A caller who joins a look-up that is under way may get what is a
// little older.
func (c *Client) locate(ctx context.Context, a *app, owner, repo string, since time.Time) (Installation, error) {
	key := lookupKeyOf(a, owner, repo)
	if k := c.lookups.recall(key); c.isCurrent(k, since) {
		c.lookups.hits.Add(1)
		return k.answer()
	}
	current := func(k known[Installation]) bool { return c.isCurrent(k, since) }
	c.lookups.misses.Add(1)
	return c.lookups.ask(ctx, key, current, func(ctx context.Context, f *flight[Installation]) (Installation, error) {
		found, err := c.askInstallation(ctx, a, owner, repo, c.lookups.recall(key).value)
		absent := errors.Is(err, ErrNotInstalled)
		// Refused: renamed or moved, perhaps.
		if (absent || errors.Is(err, ErrRefused)) && !c.lookups.isForgotten(f) {
			c.forgetFound(key)
		}
		switch {
		case err == nil:
			c.lookups.keep(key, f, found)
			c.owners.Add(ownerKey{a.id, key.owner}, found.ID)
		case absent:
			c.lookups.keepAbsent(key, f, knownFailure{err, c.now()})
		}
		return found, err
	})
}

func (c *Client) isCurrent(k known[Installation], since time.Time) bool {
	if k.found {
		return !k.value.confirmed.Before(since)
	}
	return c.isAbsent(k)
}

// isAbsent tells whether GitHub said not long ago that there is no installation.
func (c *Client) isAbsent(k known[Installation]) bool {
	return k.absent.err != nil && c.now().Sub(k.absent.asked) < negativeMaxAge
}

// confirm makes sure that the repository that inst was found by is still part of
// it, by what GitHub says now or said no earlier than since.
func (c *Client) confirm(ctx context.Context, inst Installation, since time.Time) error {
	if !inst.confirmed.Before(since) {
		return nil
	}
	for range 2 { // the first time we may join a look-up that began before since
		found, err := c.locate(ctx, c.apps[inst.AppID], inst.Owner, inst.repository, since)
		switch {
		case err != nil:
			return err
		case found.ID != inst.ID:
			c.forgetFiles(inst)
			return &apiError{kind: ErrNotInstalled, doing: finding(inst.Owner, inst.repository),
				detail: fmt.Sprintf("it was installation %d and is now installation %d: ask again", inst.ID, found.ID)}
		case !found.confirmed.Before(since):
			return nil
		}
	}
	return &apiError{kind: ErrUnavailable, doing: finding(inst.Owner, inst.repository), detail: "GitHub takes too long"}
}

func finding(owner, repo string) string {
	return "finding the installation for " + owner + "/" + repo
}

// forgetInstallation makes the next exchange look the installation up again,
// after GitHub said something that does not fit one that works.
func (c *Client) forgetInstallation(inst Installation) {
	c.lookups.remove(lookupKeyOf(c.apps[inst.AppID], inst.Owner, inst.repository), func(found Installation) bool { return found.ID == inst.ID })
}

// forgetFound drops what rests on something that GitHub said earlier of a
// repository, and does not say any more.
func (c *Client) forgetFound(key lookupKey) {
	if k := c.lookups.recall(key); k.found {
		c.lookups.remove(key, func(found Installation) bool { return found.ID == k.value.ID })
		c.forgetFiles(k.value)
	}
}

// installationAnswer is the part of GitHub's installation object that is used.
type installationAnswer struct {
	ID      int64 `json:"id"`
	AppID   int64 `json:"app_id"`
	Account struct {
		Login string `json:"login"`
	} `json:"account"`
	Permissions map[string]string `json:"permissions"`
	SuspendedAt string            `json:"suspended_at"`
}

// askInstallation makes the one call that finds an installation:
// GET /repos/{owner}/{repo}/installation. It is asked whether old, if there is one,
// is still what it was: that it is does not count against GitHub's primary limit.
func (c *Client) askInstallation(ctx context.Context, a *app, owner, repo string, old Installation) (Installation, error) {
	doing := fmt.Sprintf("%s as App %d", finding(owner, repo), a.id)
	asked := c.now()
	var got installationAnswer
	answered, err := c.doAsApp(ctx, a, a.quota, call{
		operation: "find_installation",
		doing:     doing,
		method:    http.MethodGet,
		path:      "repos/" + owner + "/" + repo + "/installation",
		etag:      old.etag,
		missing:   ErrNotInstalled,
	}, &got)
	if err != nil {
		return Installation{}, err
	}
	if answered.notModified {
		old.confirmed = asked
		return old, nil
	}
	failure := &apiError{kind: ErrUnavailable, doing: doing, status: http.StatusOK}
	switch {
	case got.ID <= 0 || got.AppID != a.id:
		failure.detail = fmt.Sprintf("GitHub answered with installation %d of App %d", got.ID, got.AppID)
		return Installation{}, failure
	case !strings.EqualFold(got.Account.Login, owner):
		failure.kind = ErrNotInstalled
		failure.detail = fmt.Sprintf("GitHub answered with the installation of %s: use the owner's present name", quote(got.Account.Login))
		return Installation{}, failure
	case got.SuspendedAt != "":
		failure.kind = ErrNotInstalled
		failure.detail = fmt.Sprintf("installation %d of %s has been suspended since %s", got.ID, got.Account.Login, quote(got.SuspendedAt))
		return Installation{}, failure
	}
	return Installation{AppID: a.id, ID: got.ID, Owner: got.Account.Login, Permissions: got.Permissions,
		repository: repo, confirmed: asked, etag: answered.etag}, nil
}
