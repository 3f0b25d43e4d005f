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
}

// knownOwner is a positive answer, used until it has aged.
type knownOwner struct {
	installation Installation
	until        time.Time
}

// Installation finds the installation that serves owner, by way of one of its
// repositories, in one call an App of the owner's pool. Names are taken in any
// case. A found installation is kept for an hour for the whole owner, also for
// repositories that are not part of it: reading or minting there is refused by
// GitHub. An absent one is kept for 25 s for that one repository.
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
	key := strings.ToLower(owner + "/" + repo)
	if found, err, ok := c.recallInstallation(key); ok {
		return found, err
	}
	return share(ctx, &c.flights, "installation "+key, func(ctx context.Context) (Installation, error) {
		// A flight that ended between our look and this one may have found it.
		if found, err, ok := c.recallInstallation(key); ok {
			return found, err
		}
		return c.findInstallation(ctx, pool, owner, repo)
	})
}

func finding(owner, repo string) string {
	return "finding the installation for " + owner + "/" + repo
}

func (c *Client) poolOf(owner string) []*app {
	if pool := c.pool[strings.ToLower(owner)]; len(pool) > 0 {
		return pool
	}
	return c.pool[AnyOrganization]
}

// recallInstallation looks key, a lower-case owner/repo, up in what is known.
func (c *Client) recallInstallation(key string) (Installation, error, bool) {
	owner, _, _ := strings.Cut(key, "/")
	if known, ok := c.owners.Get(owner); ok && c.now().Before(known.until) {
		return known.installation, nil, true
	}
	if known, ok := c.notInstalled.Get(key); ok && c.now().Before(known.until) {
		return Installation{}, known.err, true
	}
	return Installation{}, nil, false
}

// forgetInstallation makes the next exchange look the installation up again,
// after GitHub said something that does not fit one that works.
func (c *Client) forgetInstallation(inst Installation) {
	owner := strings.ToLower(inst.Owner)
	if known, ok := c.owners.Peek(owner); ok && known.installation.ID == inst.ID {
		c.owners.Remove(owner)
	}
}

// findInstallation asks each App of the pool until one is installed. Anything
// but "not installed" ends the search: an App that cannot be asked might be the
// one to use.
func (c *Client) findInstallation(ctx context.Context, pool []*app, owner, repo string) (Installation, error) {
	var absent []error
	for _, a := range pool {
		found, err := c.askInstallation(ctx, a, owner, repo)
		switch {
		case err == nil:
			c.owners.Add(strings.ToLower(owner), knownOwner{found, c.now().Add(installationAge)})
			return found, nil
		case !errors.Is(err, ErrNotInstalled):
			return Installation{}, err
		}
		absent = append(absent, err)
	}
	err := errors.Join(absent...)
	c.notInstalled.Add(strings.ToLower(owner+"/"+repo), knownFailure{err, c.now().Add(negativeMaxAge)})
	return Installation{}, err
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
	return Installation{AppID: a.id, ID: got.ID, Owner: got.Account.Login, Permissions: got.Permissions}, nil
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
