package githubapp

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"go.uber.org/zap"

	"github.com/octo-sts/appliance/sts/span"
)

const (
	// maxMintRepositories is GitHub's limit.
	maxMintRepositories = 500

	// maxMintLife is GitHub's hour, with some slack.
	maxMintLife = 61 * time.Minute

	// repositoryBytes is room for one repository in the answer: GitHub describes
	// each repository of the token at length, some 6 KiB.
	repositoryBytes = 16 << 10
)

// MintRequest is what a token shall be able to do.
type MintRequest struct {
	// Repositories are names, without the owner, of 1 to 500 repositories.
	Repositories []string

	// AllRepositories asks for every repository of the installation. It is a
	// field of its own because GitHub takes an empty list to mean all of them:
	// a list that came out empty by mistake must not.
	AllRepositories bool

	// Permissions, name → level, must not be empty: GitHub would take that to
	// mean all that the App has.
	Permissions map[string]string
}

// InstallationToken is a token that GitHub minted. Token is a secret; nothing
// may be assumed about its length or its alphabet.
type InstallationToken struct {
	Token  string
	Expiry time.Time

	// Permissions are those that GitHub says the token has: what was asked for,
	// or less, and metadata: read.
	Permissions map[string]string

	// Repositories are the names that were asked for; nil for all.
	Repositories []string
}

// Mint makes a token, and checks that it can do no more than was asked; where it
// can, it is revoked and Mint fails.
//
// A mint is not tried again after a time-out, a reset or a 5xx: the token may
// exist, though its value is lost, and a second one would be one that no audit
// entry accounts for. The lost one is in nobody's hands and dies within the hour.
// It is tried once more after a 401, which mints nothing. Where a connection
// could not be made it is not: net.Dialer has tried each of the host's addresses
// by then, so that a second round would only double what a host gets that is
// down. What net/http itself sends again has not been processed: a request on a
// connection that was closed before any of it was written, or that an HTTP/2
// server says it did not look at (RFC 9113, section 8.7).
//
// Errors: ErrRefused (GitHub's reason is in the text: a permission that the App
// lacks, a repository that the installation cannot see, an installation that is
// gone), ErrRateLimited, ErrUnavailable.
func (c *Client) Mint(ctx context.Context, inst Installation, r MintRequest) (InstallationToken, error) {
	minted, _, err := c.mint(ctx, inst, r, fmt.Sprintf("minting a token for %s (installation %d)", inst.Owner, inst.ID))
	return minted, err
}

// mintBody is what GitHub is asked.
type mintBody struct {
	Repositories []string          `json:"repositories,omitempty"`
	Permissions  map[string]string `json:"permissions"`
}

// mintAnswer is the part of GitHub's installation-token object that is used.
type mintAnswer struct {
	Token        string            `json:"token"`
	ExpiresAt    time.Time         `json:"expires_at"`
	Permissions  map[string]string `json:"permissions"`
	Selection    string            `json:"repository_selection"`
	Repositories []struct {
		FullName string `json:"full_name"` // OWNER/NAME
	} `json:"repositories"`
}

// mint also returns how long the token lives, by GitHub's clock.
func (c *Client) mint(ctx context.Context, inst Installation, r MintRequest, doing string) (InstallationToken, time.Duration, error) {
	a := c.apps[inst.AppID]
	if err := checkMint(a, inst, r); err != nil {
		return InstallationToken{}, 0, &apiError{kind: ErrRefused, doing: doing, cause: err}
	}
	var got mintAnswer
	answered, err := c.doAsApp(ctx, a, c.installationFor(inst).quota, call{
		operation: "mint",
		doing:     doing,
		method:    http.MethodPost,
		path:      fmt.Sprintf("app/installations/%d/access_tokens", inst.ID),
		body:      mintBody{r.Repositories, r.Permissions},
		bodyLimit: defaultBodyLimit + int64(len(r.Repositories))*repositoryBytes,
		missing:   ErrRefused,
	}, &got)
	if err != nil {
		// The installation may be gone or suspended: look again next time. 422
		// is about what was asked of it.
		if errors.Is(err, ErrRefused) && statusOf(err) != http.StatusUnprocessableEntity {
			c.forgetInstallation(inst)
		}
		return InstallationToken{}, 0, err
	}
	life := got.ExpiresAt.Sub(answered.date)
	if err := checkMinted(got, inst.Owner, r, life); err != nil {
		return InstallationToken{}, 0, &apiError{kind: ErrUnavailable, doing: doing, status: http.StatusCreated, cause: c.discard(ctx, got.Token, err)}
	}
	return InstallationToken{Token: got.Token, Expiry: got.ExpiresAt, Permissions: got.Permissions, Repositories: slices.Clone(r.Repositories)}, life, nil
}

// checkMint refuses what must never be sent.
func checkMint(a *app, inst Installation, r MintRequest) error {
	switch {
	case a == nil || inst.ID <= 0:
		return fmt.Errorf("installation %d of App %d is not one that was found", inst.ID, inst.AppID)
	case r.AllRepositories == (len(r.Repositories) > 0):
		return errors.New("a token is for some repositories or for all of them: exactly one of the two must be asked for")
	case len(r.Repositories) > maxMintRepositories:
		return fmt.Errorf("%d repositories were asked for: GitHub allows %d", len(r.Repositories), maxMintRepositories)
	case len(r.Permissions) == 0:
		return errors.New("no permissions were asked for, which GitHub takes to mean all that the App has")
	}
	for name, level := range r.Permissions {
		if name == "" || level == "" {
			return fmt.Errorf("permission %q: %q has no name or no level", name, level)
		}
	}
	for _, name := range r.Repositories {
		if err := checkName(name); err != nil {
			return err
		}
	}
	return nil
}

// checkMinted holds GitHub's answer against what was asked. Owner is whose
// repositories were meant: an installation outlives a change of its owner's name.
func checkMinted(got mintAnswer, owner string, r MintRequest, life time.Duration) error {
	switch {
	case got.Token == "" || strings.ContainsFunc(got.Token, func(r rune) bool { return r <= ' ' || r > '~' }):
		return errors.New("GitHub's answer holds no token that could be sent in a header")
	case life <= 0 || life > maxMintLife:
		return fmt.Errorf("GitHub's answer expires %s from when it was given, not within the hour", life)
	case got.Permissions == nil:
		return errors.New("GitHub's answer does not say what the token may do")
	}
	for name, level := range got.Permissions {
		implied := name == "metadata" && level == "read"
		if !implied && !covers(r.Permissions[name], level) {
			return fmt.Errorf("GitHub granted more than was asked: %s: %s", quote(name), quote(level))
		}
	}
	if r.AllRepositories {
		return nil
	}
	if got.Selection != "selected" {
		return fmt.Errorf("GitHub's answer is for %s repositories, not for those that were asked for", quote(got.Selection))
	}
	if len(got.Repositories) == 0 {
		return errors.New("GitHub's answer does not say for which repositories the token is")
	}
	for _, granted := range got.Repositories {
		whose, name, _ := strings.Cut(granted.FullName, "/")
		wanted := slices.ContainsFunc(r.Repositories, func(asked string) bool { return strings.EqualFold(asked, name) })
		if !wanted || !strings.EqualFold(whose, owner) {
			return fmt.Errorf("GitHub granted a repository that was not asked for: %s", quote(granted.FullName))
		}
	}
	return nil
}

// covers reports whether who was promised one level may be given another.
func covers(asked, given string) bool {
	if asked == given {
		return true
	}
	order := []string{"read", "write", "admin"}
	most, level := slices.Index(order, asked), slices.Index(order, given)
	return level >= 0 && level < most
}

// discard takes back a token that must not be used, because of why.
func (c *Client) discard(ctx context.Context, token string, why error) error {
	if token == "" {
		return why
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), callTimeout)
	defer cancel()
	if err := c.Revoke(ctx, token); err != nil {
		c.log.Error("could not revoke a token that was discarded: it lives until it expires, in nobody's hands", span.Field(ctx), zap.NamedError("discarded", why), zap.Error(err))
		return fmt.Errorf("%w; it could not be revoked: %s", why, err) // its kind is not ours
	}
	return fmt.Errorf("%w; the token was revoked", why)
}
