package githubapp

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
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
}

// Installation finds the installation that one repository of owner's is part
// of, in one call an App of the owner's pool. Names are taken in any case. What
// is found is kept for that one repository and for PolicyMaxAge: another
// repository of the owner's may not be part of the installation and still be
// public, and tomorrow its name may be another owner's. That there is none is
// kept for 25 s.
//
// Where GitHub limits our rate, an installation that it confirmed less than 10
// minutes ago is returned; File believes nothing that it reads with one like that.
//
// The Apps that name the owner are its pool; those with AnyOrganization serve
// owners that nobody names. An owner without a pool is ErrNotInstalled without
// any call.
//
// Errors: ErrNotInstalled, ErrRefused, ErrRateLimited, ErrUnavailable.
func (c *Client) Installation(ctx context.Context, owner, repo string) (Installation, error) {
	if err := errors.Join(checkName(owner), checkName(repo)); err != nil {
		return Installation{}, &apiError{kind: ErrRefused, doing: finding(owner, repo), cause: err}
	}
	pool := c.poolOf(owner)
	if len(pool) == 0 {
		return Installation{}, &apiError{kind: ErrNotInstalled, doing: finding(owner, repo),
			detail: fmt.Sprintf("no configured App serves %s: add it to an App's organizations", owner)}
	}
	found, err := c.locate(ctx, pool, owner, repo, c.now().Add(-max(c.policyMaxAge, confirmationAge)))
	if errors.Is(err, ErrRateLimited) {
		if known, ok := c.found.Get(installationKey(owner, repo)); ok && c.now().Sub(known.confirmed) < stalePolicyMaxAge {
			return known, nil
		}
	}
	return found, err
}

// locate returns what GitHub says of owner/repo, or said no earlier than since.
// A caller who joins a look-up that is under way may get what is a little older.
func (c *Client) locate(ctx context.Context, pool []*app, owner, repo string, since time.Time) (Installation, error) {
	key := installationKey(owner, repo)
	if found, err, ok := c.recallInstallation(key, since); ok {
		return found, err
	}
	return share(ctx, &c.flights, "installation "+key, func(ctx context.Context) (Installation, error) {
		// A flight that ended between our look and this one may have found it. It
		// must do for whoever joins, so it is held to the strictest rule.
		if found, err, ok := c.recallInstallation(key, c.now().Add(-confirmationAge)); ok {
			return found, err
		}
		return c.findInstallation(ctx, pool, owner, repo)
	})
}

// confirm makes sure that the repository that inst was found by is still part of
// it, by what GitHub says now or said no earlier than since.
func (c *Client) confirm(ctx context.Context, inst Installation, since time.Time) error {
	if !inst.confirmed.Before(since) {
		return nil
	}
	for range 2 { // the first time we may join a look-up that began before since
		found, err := c.locate(ctx, c.poolOf(inst.Owner), inst.Owner, inst.repository, since)
		switch {
		case err != nil:
			return err
		case found.ID != inst.ID || found.AppID != inst.AppID:
			c.forgetFiles(inst)
			return &apiError{kind: ErrNotInstalled, doing: finding(inst.Owner, inst.repository),
				detail: fmt.Sprintf("it was installation %d and is now installation %d: ask again", inst.ID, found.ID)}
		case !found.confirmed.Before(since):
			return nil
		}
	}
	return &apiError{kind: ErrUnavailable, doing: finding(inst.Owner, inst.repository), detail: "GitHub takes too long"}
}

// installationKey is in lower case, as GitHub compares names.
func installationKey(owner, repo string) string { return strings.ToLower(owner + "/" + repo) }

func finding(owner, repo string) string {
	return "finding the installation for " + owner + "/" + repo
}

func (c *Client) poolOf(owner string) []*app {
	if pool := c.pool[strings.ToLower(owner)]; len(pool) > 0 {
		return pool
	}
	return c.pool[AnyOrganization]
}

// recallInstallation looks key up in what is known.
func (c *Client) recallInstallation(key string, since time.Time) (Installation, error, bool) {
	if known, ok := c.found.Get(key); ok && !known.confirmed.Before(since) {
		return known, nil, true
	}
	if known, ok := c.notInstalled.Get(key); ok && c.now().Sub(known.asked) < negativeMaxAge {
		return Installation{}, known.err, true
	}
	return Installation{}, nil, false
}

// forgetInstallation makes the next exchange look the installation up again,
// after GitHub said something that does not fit one that works.
func (c *Client) forgetInstallation(inst Installation) {
	key := installationKey(inst.Owner, inst.repository)
	if known, ok := c.found.Peek(key); ok && known.ID == inst.ID {
		c.found.Remove(key)
	}
}

// findInstallation asks each App of the pool until one is installed. Anything
// but "not installed" ends the search: an App that cannot be asked might be the
// one to use.
func (c *Client) findInstallation(ctx context.Context, pool []*app, owner, repo string) (Installation, error) {
	key := installationKey(owner, repo)
	var absent []error
	for _, a := range pool {
		found, err := c.askInstallation(ctx, a, owner, repo)
		switch {
		case err == nil:
			c.notInstalled.Remove(key)
			c.found.Add(key, found)
			return found, nil
		case errors.Is(err, ErrNotInstalled):
			absent = append(absent, err)
			continue
		case errors.Is(err, ErrRefused): // renamed or moved, perhaps
			c.forgetFound(key)
		}
		return Installation{}, err
	}
	err := errors.Join(absent...)
	c.forgetFound(key)
	c.notInstalled.Add(key, knownFailure{err, c.now()})
	return Installation{}, err
}

// forgetFound drops what rests on something that GitHub said earlier of a
// repository, and does not say any more.
func (c *Client) forgetFound(key string) {
	if known, ok := c.found.Peek(key); ok {
		c.found.Remove(key)
		c.forgetFiles(known)
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
// GET /repos/{owner}/{repo}/installation.
func (c *Client) askInstallation(ctx context.Context, a *app, owner, repo string) (Installation, error) {
	doing := fmt.Sprintf("%s as App %d", finding(owner, repo), a.id)
	asked := c.now()
	var got installationAnswer
	_, err := c.doAsApp(ctx, a, a.quota, call{
		doing:   doing,
		method:  http.MethodGet,
		path:    "repos/" + owner + "/" + repo + "/installation",
		missing: ErrNotInstalled,
	}, &got)
	if err != nil {
		return Installation{}, err
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
	return Installation{AppID: a.id, ID: got.ID, Owner: got.Account.Login, Permissions: got.Permissions, repository: repo, confirmed: asked}, nil
}

// Status tells, for each App in ascending order of ID, whether it can act.
func (c *Client) Status() []AppStatus {
	all := make([]AppStatus, 0, len(c.apps))
	for _, a := range c.apps {
		all = append(all, a.jwt.status())
	}
	slices.SortFunc(all, func(a, b AppStatus) int { return cmp.Compare(a.AppID, b.AppID) })
	return all
}
