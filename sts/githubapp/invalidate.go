package githubapp

import (
	"slices"
	"strings"
)

// The Forget functions drop what is kept, for all Apps and installations, and
// take effect at once: whoever asks after they returned is answered by what
// GitHub is asked after they returned. A question that is under way is answered
// to those who wait for it, since they came before, and its answer is not kept.
// What GitHub said earlier does not serve under a rate limit any more, either.
//
// Names are taken in any case, paths as they are. What is not known costs next to
// nothing to forget, so that every delivery of a webhook may.

// ForgetFiles drops files of a repository, and that there are none, by their
// paths from its root; without paths, all of them.
func (c *Client) ForgetFiles(owner, repo string, paths ...string) {
	var which func(fileKey) bool
	if len(paths) > 0 {
		which = func(key fileKey) bool { return slices.Contains(paths, key.path) }
	}
	c.files.forget(group{owner: strings.ToLower(owner), repository: strings.ToLower(repo)}, which)
}

// ForgetRepository drops which installation a repository is part of, or that it
// is part of none, and all of its files.
func (c *Client) ForgetRepository(owner, repo string) {
	g := group{owner: strings.ToLower(owner), repository: strings.ToLower(repo)}
	c.lookups.forget(g, nil)
	c.files.forget(g, nil)
}

// ForgetInstallation drops all that is kept for an installation, under whatever
// name its owner had, with the tokens that are kept of it; and all that is kept of
// owner's repositories, whatever they are part of. What GitHub said about when to
// come back still holds.
func (c *Client) ForgetInstallation(id int64, owner string) {
	if kept, ok := c.installations.Peek(id); ok {
		kept.forgetTokens()
	}
	for _, g := range []group{{installation: id}, {owner: strings.ToLower(owner)}} {
		c.lookups.forget(g, nil)
		c.files.forget(g, nil)
	}
}
