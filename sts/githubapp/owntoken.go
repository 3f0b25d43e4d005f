package githubapp

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"
	"golang.org/x/sync/singleflight"
)

const (
	// ownTokenMargin is how long before its end a token of our own is replaced.
	ownTokenMargin = 5 * time.Minute

	// youngToken is the age up to which GitHub may not know its own token, or
	// the token's permissions, everywhere yet: it then answers 401, 403 or 404.
	youngToken = 10 * time.Second
)

// maxOwnTokens bounds the tokens of one installation that are kept; one that
// falls out is minted again.
const maxOwnTokens = 64

// installation is what is kept for one installation.
type installation struct {
	appID int64
	quota *quota

	// tokens are those that this package works with: by repository in lower case
	// the token for its check runs, and under "" the one to read with. What is
	// purged from here is not found by anybody who comes later, even where it is
	// still being minted.
	tokens *lru.Cache[string, *ownToken]
}

// ownToken keeps an installation token that this package works with itself. It
// is never handed to anybody, and never written down.
type ownToken struct {
	purpose string // for errors: "to read policies with"
	request MintRequest
	flight  singleflight.Group // of minting it

	mu    sync.Mutex // guards token
	token *workToken
}

// workToken is a token as it was minted. It does not change, except for being
// proven.
type workToken struct {
	value    string
	obtained time.Time
	until    time.Time          // no longer used from then on
	flight   singleflight.Group // of proving it

	mu     sync.Mutex // guards proven
	proven bool       // GitHub has served something to it
}

func (t *workToken) isProven(now time.Time) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.proven || now.Sub(t.obtained) >= youngToken
}

func (t *workToken) prove() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.proven = true
}

// installationFor returns what is kept for inst.
func (c *Client) installationFor(inst Installation) *installation {
	if known, ok := c.installations.Get(inst.ID); ok {
		return known
	}
	tokens, _ := lru.New[string, *ownToken](maxOwnTokens) // fails only for a size below 1
	fresh := &installation{appID: inst.AppID, quota: c.newQuota(fmt.Sprintf("installation %d of %s", inst.ID, inst.Owner)), tokens: tokens}
	if known, ok, _ := c.installations.PeekOrAdd(inst.ID, fresh); ok {
		return known
	}
	return fresh
}

// reading returns where the token to read with is kept: contents: read for all
// that the installation can see. That makes a cold policy read one call rather
// than two, and gives nothing away: this process can mint such a token whenever
// it likes.
func (i *installation) reading() *ownToken {
	return i.own("", "to read policies with", MintRequest{AllRepositories: true, Permissions: map[string]string{"contents": "read"}})
}

// checking returns where the token for one repository's check runs is kept.
func (i *installation) checking(repo string) *ownToken {
	return i.own(strings.ToLower(repo), "to report checks of "+repo+" with", MintRequest{Repositories: []string{repo}, Permissions: map[string]string{"checks": "write"}})
}

func (i *installation) own(key, purpose string, request MintRequest) *ownToken {
	if known, ok := i.tokens.Get(key); ok {
		return known
	}
	fresh := &ownToken{purpose: purpose, request: request}
	if known, ok, _ := i.tokens.PeekOrAdd(key, fresh); ok {
		return known
	}
	return fresh
}

// forgetTokens drops all tokens, and keeps none that is being minted.
func (i *installation) forgetTokens() { i.tokens.Purge() }

// obtain returns the token that own keeps, minting one where there is none.
func (c *Client) obtain(ctx context.Context, inst Installation, own *ownToken) (*workToken, error) {
	if token := own.current(c.now()); token != nil {
		return token, nil
	}
	return share(ctx, &own.flight, "", func(ctx context.Context) (*workToken, error) {
		if token := own.current(c.now()); token != nil {
			return token, nil
		}
		minted, life, err := c.mint(ctx, inst, own.request,
			fmt.Sprintf("minting a token %s for %s (installation %d)", own.purpose, inst.Owner, inst.ID))
		if err != nil {
			return nil, err
		}
		now := c.now()
		token := &workToken{value: minted.Token, obtained: now, until: now.Add(life - ownTokenMargin)}
		own.mu.Lock()
		own.token = token
		own.mu.Unlock()
		return token, nil
	})
}

func (o *ownToken) current(now time.Time) *workToken {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.token == nil || !now.Before(o.token.until) {
		return nil
	}
	return o.token
}

func (o *ownToken) drop(token *workToken) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.token == token {
		o.token = nil
	}
}

// youngDelays are the pauses before a call is tried again that GitHub refused to
// a young token. With the calls between them they stay within callTimeout.
var youngDelays = [...]time.Duration{300 * time.Millisecond, 700 * time.Millisecond, 1500 * time.Millisecond, 2500 * time.Millisecond}

// read makes one GET with the installation's read token.
func (c *Client) read(ctx context.Context, inst Installation, request call, out any) (answer, error) {
	kept := c.installationFor(inst)
	return c.doWith(ctx, inst, kept.quota, kept.reading(), request, out)
}

// doWith makes one call with the token that own keeps. Where GitHub refuses the
// token itself (and so has done nothing), a young one is given time and an old
// one replaced.
//
// A 404 to a young token that GitHub has not served before might be about the
// token rather than about what was asked for. Then the token is first shown to
// work, and the call made again, since a file's absence can allow what the file
// would forbid. That costs two calls, unless something that exists was read
// first.
func (c *Client) doWith(ctx context.Context, inst Installation, q *quota, own *ownToken, request call, out any) (answer, error) {
	replaced := false
	for attempt := 0; ; {
		token, err := c.obtain(ctx, inst, own)
		if err != nil {
			return answer{}, err
		}
		got, err := c.do(ctx, q, token.value, request, out)
		if err == nil {
			token.prove()
			return got, nil
		}
		status, proven := statusOf(err), token.isProven(c.now())
		switch {
		case status == http.StatusUnauthorized && proven && !replaced:
			own.drop(token)
			replaced = true
			continue // at once, with another one
		case proven, status != http.StatusUnauthorized && status != http.StatusForbidden && status != http.StatusNotFound:
			return answer{}, err
		case status == http.StatusNotFound && c.proveToken(ctx, inst, q, own, token):
			continue // the answer was from before the proof
		case attempt < len(youngDelays) && sleep(ctx, youngDelays[attempt]) == nil:
			attempt++
			continue
		case status == http.StatusForbidden:
			return answer{}, err // so it is about the App's permissions after all
		case status == http.StatusUnauthorized:
			own.drop(token)
		}
		// Not ErrNotFound, not even underneath: see above.
		return answer{}, &apiError{kind: ErrUnavailable, doing: request.doing, detail: "GitHub does not yet serve the token that it minted: " + err.Error()}
	}
}

// proveToken asks for something that is there for any token that works: the
// list of what it may see. It reports whether GitHub served it.
func (c *Client) proveToken(ctx context.Context, inst Installation, q *quota, own *ownToken, token *workToken) bool {
	_, err := share(ctx, &token.flight, "", func(ctx context.Context) (struct{}, error) {
		var seen struct {
			TotalCount int `json:"total_count"`
		}
		request := call{
			operation: "prove_token",
			doing:     fmt.Sprintf("checking the token %s for %s (installation %d)", own.purpose, inst.Owner, inst.ID),
			method:    http.MethodGet,
			path:      "installation/repositories?per_page=1",
			missing:   ErrUnavailable,
		}
		_, err := c.do(ctx, q, token.value, request, &seen)
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
