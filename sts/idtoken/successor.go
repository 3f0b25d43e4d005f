package idtoken

import (
	"bytes"
	"context"
	"slices"
)

// Successor returns a Verifier for other issuers that knows what v knows: how often each ID token was used, and the keys
// of issuers whose keys come from the same place as before, so that none of their tokens is refused and nothing is
// fetched. It starts nothing, and v goes on as it is, until Begin and Retire are called. Key files are read again. Errors
// are those of New.
func (v *Verifier) Successor(c Config) (*Verifier, error) {
	c.Now = v.now
	return verifierFor(c, v)
}

// Begin starts to fetch the keys of issuers that before, whose Successor v is, did not have, or had from elsewhere. That
// goes on until ctx ends, or v is retired. How often a token may be used is as v says from now on, for before too.
func (v *Verifier) Begin(ctx context.Context, before *Verifier) {
	for url, l := range v.issuers {
		l.guard.allow(l.SingleUse)
		if before != nil && before.has(url, l.keys) {
			continue
		}
		var running context.Context
		running, l.keys.stop = context.WithCancel(ctx)
		go l.keys.run(running)
	}
}

// Retire ends what v does in the background for issuers that next, its Successor, does not have, or has from elsewhere. It
// is for when nobody uses v any more.
func (v *Verifier) Retire(next *Verifier) {
	for url, l := range v.issuers {
		if !next.has(url, l.keys) {
			l.keys.stop()
		}
	}
}

func (v *Verifier) has(url string, keys *keySource) bool {
	l, ok := v.issuers[url]
	return ok && l.keys == keys
}

// follow takes over from the same issuer of before, which is nil where there was none: the uses of its tokens, and its
// keys where they come from the same place by the same way.
func (l *listedIssuer) follow(before *listedIssuer) {
	if before == nil {
		return
	}
	l.guard = before.guard
	if l.JWKSFile == "" && before.JWKSFile == "" && l.JWKSURL == before.JWKSURL && (l.JWKS == nil) == (before.JWKS == nil) &&
		bytes.Equal(l.ca, before.ca) && slices.Equal(l.Networks, before.Networks) {
		l.keys = before.keys
	}
}
