package githubapp

import (
	"context"
	"fmt"
	"net/http"
	"sync"
	"time"

	"golang.org/x/sync/singleflight"
)

const (
	// readTokenMargin is how long before its end a read token is replaced.
	readTokenMargin = 5 * time.Minute

	// youngToken is the age up to which GitHub may not know its own token, or
	// the token's permissions, everywhere yet: it then answers 401, 403 or 404.
	youngToken = 10 * time.Second
)

// installation is what is kept for one installation.
type installation struct {
	quota *quota

	mu     sync.Mutex // guards what follows
	token  *readToken
	flight *singleflight.Group // of minting the next one; another one once the token was forgotten
}

// readToken is an installation token with contents: read for everything that
// the installation can see. It does not change, except for being proven.
//
// That it spans all of the installation's repositories makes a cold policy read
// one call rather than two, and gives nothing away: this process can mint such a
// token whenever it likes, it never hands this one to anybody, and it never
// writes it down.
type readToken struct {
	value    string
	obtained time.Time
	until    time.Time          // no longer used from then on
	flight   singleflight.Group // of proving it

	mu     sync.Mutex // guards proven
	proven bool       // GitHub has served something to it
}

func (t *readToken) isProven(now time.Time) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.proven || now.Sub(t.obtained) >= youngToken
}

func (t *readToken) prove() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.proven = true
}

// installationFor returns what is kept for inst.
func (c *Client) installationFor(inst Installation) *installation {
	if known, ok := c.installations.Get(inst.ID); ok {
		return known
	}
	fresh := &installation{flight: new(singleflight.Group), quota: c.newQuota(fmt.Sprintf("installation %d of %s", inst.ID, inst.Owner))}
	if known, ok, _ := c.installations.PeekOrAdd(inst.ID, fresh); ok {
		return known
	}
	return fresh
}

// readToken returns the token to read with, minting one where there is none.
func (c *Client) readToken(ctx context.Context, inst Installation, kept *installation) (*readToken, error) {
	token, flight := kept.current(c.now())
	if token != nil {
		return token, nil
	}
	return share(ctx, flight, "", func(ctx context.Context) (*readToken, error) {
		// A flight that ended between our look and this one may have brought it.
		if token, _ := kept.current(c.now()); token != nil {
			return token, nil
		}
		minted, life, err := c.mint(ctx, inst, MintRequest{AllRepositories: true, Permissions: map[string]string{"contents": "read"}},
			fmt.Sprintf("minting a token to read policies with for %s (installation %d)", inst.Owner, inst.ID))
		if err != nil {
			return nil, err
		}
		now := c.now()
		token := &readToken{value: minted.Token, obtained: now, until: now.Add(life - readTokenMargin)}
		kept.keep(token, flight)
		return token, nil
	})
}

// current returns the token, or nil and where to get the next one.
func (i *installation) current(now time.Time) (*readToken, *singleflight.Group) {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.token == nil || !now.Before(i.token.until) {
		return nil, i.flight
	}
	return i.token, i.flight
}

// keep keeps what a flight brought, unless tokens were forgotten meanwhile.
func (i *installation) keep(token *readToken, flight *singleflight.Group) {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.flight == flight {
		i.token = token
	}
}

// forgetToken drops the token, and keeps none that is being minted.
func (i *installation) forgetToken() {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.token, i.flight = nil, new(singleflight.Group)
}

func (i *installation) drop(token *readToken) {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.token == token {
		i.token = nil
	}
}

// readDelays are the pauses before a read is tried again that GitHub refused to
// a young token. With the calls between them they stay within callTimeout.
var readDelays = [...]time.Duration{300 * time.Millisecond, 700 * time.Millisecond, 1500 * time.Millisecond, 2500 * time.Millisecond}

// read makes one GET with the installation's read token. Where GitHub refuses
// the token itself, a young one is given time and an old one replaced.
//
// A 404 to a young token that GitHub has not served before might be about the
// token rather than about the file. Then the token is first shown to work, and
// the file asked for again, since a file's absence can allow what the file would
// forbid. That costs two calls, unless some file that exists was read first.
func (c *Client) read(ctx context.Context, inst Installation, request call, out any) (answer, error) {
	kept := c.installationFor(inst)
	replaced := false
	for attempt := 0; ; {
		token, err := c.readToken(ctx, inst, kept)
		if err != nil {
			return answer{}, err
		}
		got, err := c.do(ctx, kept.quota, token.value, request, out)
		if err == nil {
			token.prove()
			return got, nil
		}
		status, proven := statusOf(err), token.isProven(c.now())
		switch {
		case status == http.StatusUnauthorized && proven && !replaced:
			kept.drop(token)
			replaced = true
			continue // at once, with another one
		case proven, status != http.StatusUnauthorized && status != http.StatusForbidden && status != http.StatusNotFound:
			return answer{}, err
		case status == http.StatusNotFound && c.proveToken(ctx, inst, kept, token):
			continue // the answer was from before the proof
		case attempt < len(readDelays) && sleep(ctx, readDelays[attempt]) == nil:
			attempt++
			continue
		case status == http.StatusForbidden:
			return answer{}, err // so it is about the App's permissions after all
		case status == http.StatusUnauthorized:
			kept.drop(token)
		}
		// Not ErrNotFound, not even underneath: see above.
		return answer{}, &apiError{kind: ErrUnavailable, doing: request.doing, detail: "GitHub does not yet serve the token that it minted: " + err.Error()}
	}
}

// proveToken asks for something that is there for any token that works: the
// list of what it may see. It reports whether GitHub served it.
func (c *Client) proveToken(ctx context.Context, inst Installation, kept *installation, token *readToken) bool {
	_, err := share(ctx, &token.flight, "", func(ctx context.Context) (struct{}, error) {
		var seen struct {
			TotalCount int `json:"total_count"`
		}
		request := call{
			doing:   fmt.Sprintf("checking the token to read policies with for %s (installation %d)", inst.Owner, inst.ID),
			method:  http.MethodGet,
			path:    "installation/repositories?per_page=1",
			missing: ErrUnavailable,
		}
		_, err := c.do(ctx, kept.quota, token.value, request, &seen)
		if err == nil && seen.TotalCount == 0 {
			err = &apiError{kind: ErrUnavailable, doing: request.doing, detail: "it sees no repository"}
		}
		return struct{}{}, err
	})
	if err == nil {
		token.prove()
	}
	return err == nil
}

// sleep returns early, with an error, where ctx ends.
func sleep(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-timer.C:
		return nil
	}
}
