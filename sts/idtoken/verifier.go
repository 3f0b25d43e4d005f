package idtoken

import (
	"context"
	"errors"
	"fmt"
	"time"

	"go.uber.org/zap"
)

// Verifier verifies ID tokens of the listed issuers. It is safe for concurrent use.
type Verifier struct {
	issuers map[string]*listedIssuer // by URL; never changes
	order   []string                 // the URLs as they were configured
	now     func() time.Time
}

type listedIssuer struct {
	Issuer
	keys  *keySource
	guard *replayGuard
	ca    []byte // what CAFile held
}

// New checks the configuration and begins to fetch the issuers' keys. That goes on in the background until ctx ends.
//
// An issuer that cannot be reached is no error: its tokens are refused until it can be (see Status). A bad URL, one issuer
// listed twice, and a file that cannot be read are errors, and all of them are reported together.
func New(ctx context.Context, c Config) (*Verifier, error) {
	v, err := verifierFor(c, nil)
	if err != nil {
		return nil, err
	}
	v.Begin(ctx, nil)
	return v, nil
}

// verifierFor takes from before, where there is one, what has not changed.
func verifierFor(c Config, before *Verifier) (*Verifier, error) {
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.Logger == nil {
		c.Logger = zap.NewNop()
	}
	v := &Verifier{issuers: make(map[string]*listedIssuer), now: c.Now}
	var problems []error
	for _, issuer := range c.Issuers {
		if _, twice := v.issuers[issuer.URL]; twice {
			problems = append(problems, fmt.Errorf("issuer %q is listed twice", shorten(issuer.URL)))
			continue
		}
		l, err := newListedIssuer(issuer, c)
		if err != nil {
			problems = append(problems, fmt.Errorf("issuer %q: %w", shorten(issuer.URL), err))
			continue
		}
		if before != nil {
			l.follow(before.issuers[issuer.URL])
		}
		v.issuers[issuer.URL] = l
		v.order = append(v.order, issuer.URL)
	}
	if err := errors.Join(problems...); err != nil {
		return nil, err
	}
	return v, nil
}

// newListedIssuer checks one issuer's configuration and reads its files. It starts nothing.
func newListedIssuer(issuer Issuer, c Config) (*listedIssuer, error) {
	if err := CheckIssuerURL(issuer.URL, issuer.Networks); err != nil {
		return nil, err
	}
	if issuer.MaxLifetime < 0 {
		return nil, errors.New("max_lifetime is negative")
	}
	if issuer.MaxLifetime == 0 {
		issuer.MaxLifetime = defaultLifetime
	}
	l := &listedIssuer{Issuer: issuer, guard: newReplayGuard(issuer.SingleUse)}
	log := c.Logger.With(zap.String("issuer", issuer.URL))
	if issuer.JWKSFile != "" {
		if issuer.JWKSURL != "" {
			return nil, errors.New("both jwks_url and jwks_file are set: leave one out")
		}
		asked := c.Now()
		set, err := readKeyFile(issuer.JWKSFile)
		if err != nil {
			return nil, fmt.Errorf("reading jwks_file: %w", err)
		}
		set.asked = asked
		read := func(context.Context) (*keySet, error) { return readKeyFile(issuer.JWKSFile) }
		l.keys = newKeySource(read, 0, c.Now, log)
		l.keys.set.Store(set)
		l.keys.logChange(nil, set)
		return l, nil
	}
	if issuer.JWKS != nil {
		fetch := func(ctx context.Context) (*keySet, error) {
			data, err := issuer.JWKS(ctx)
			if err != nil {
				return nil, err
			}
			return parseKeySet(data)
		}
		l.keys = newKeySource(fetch, maxKeySetAge, c.Now, log)
		return l, nil
	}
	if issuer.JWKSURL != "" {
		if _, err := checkURL(issuer.JWKSURL, issuer.Networks); err != nil {
			return nil, fmt.Errorf("jwks_url %q: %w", shorten(issuer.JWKSURL), err)
		}
	}
	var err error
	if l.ca, err = readCA(issuer.CAFile); err != nil {
		return nil, err
	}
	source := &remote{issuer: issuer, client: newClient(issuer, l.ca), now: c.Now}
	l.keys = newKeySource(source.fetch, maxKeySetAge, c.Now, log)
	return l, nil
}

// Verify verifies an ID token in the JWS compact serialization and counts one use of it.
//
// The error is always an *Error. Where errors.Is(err, ErrUnavailable), the token may be good and trying again may help;
// otherwise the token is refused for good. The token that is returned is nil but for two cases: it was accepted, or it is
// good in every respect and was used too often (ReasonReplayed), so that the caller can log whose token that was: the
// first few times, that is. It is not returned for an expired token, though that is signed too: old tokens are easy to
// come by, and whoever has one could write to the log for ever.
//
// ctx bounds the wait for keys that have to be fetched first; the fetch itself goes on for others.
func (v *Verifier) Verify(ctx context.Context, raw string) (*IDToken, error) {
	jws, err := parseCompact(raw)
	if err != nil {
		return nil, err
	}
	issuer, err := v.listed(jws)
	if err != nil {
		return nil, err
	}
	keys, err := issuer.keys.find(ctx, jws.kid, jws.alg)
	if err != nil {
		return nil, &Error{reasonOfKeys(err), fmt.Errorf("issuer %s, kid %q, alg %s: %w", issuer.URL, shorten(jws.kid), jws.alg, err)}
	}
	if err := checkSignature(jws, keys); err != nil {
		return nil, err
	}
	token, err := newIDToken(jws.claims)
	if err != nil {
		return nil, err
	}
	now := v.now()
	if err := checkTimes(token, now, issuer.MaxLifetime); err != nil {
		return nil, token.about(err)
	}
	hash, err := issuer.replayHash(token, jws)
	if err != nil {
		return nil, err
	}
	if err := issuer.guard.use(hash, token.Expiry, now); err != nil {
		if errors.Is(err, errReplayedAgain) {
			return nil, token.about(&Error{ReasonReplayed, err})
		}
		return token, token.about(&Error{ReasonReplayed, fmt.Errorf("jti %q: %w", shorten(token.JTI), err)})
	}
	return token, nil
}

// about adds to an Error whose token it was, which is known once the signature is.
func (t *IDToken) about(err error) error {
	if e, ok := errors.AsType[*Error](err); ok {
		return &Error{e.Reason, fmt.Errorf("issuer %s, subject %q: %w", t.Issuer, shorten(t.Subject), e.Err)}
	}
	return err
}

// ParseUnverified reads the claims of an ID token as strictly as Verify does, and verifies nothing: neither the issuer, nor
// the signature, nor the times. It is for explaining a token to a person, and never for granting anything. The error is
// an *Error.
func ParseUnverified(raw string) (*IDToken, error) {
	jws, err := parseCompact(raw)
	if err != nil {
		return nil, err
	}
	return newIDToken(jws.claims)
}

// listed finds the issuer that the token names. It is decided here, before anything is sent to anybody.
func (v *Verifier) listed(jws *compactJWS) (*listedIssuer, error) {
	iss, err := jws.issuer()
	if err != nil {
		return nil, err
	}
	issuer, ok := v.issuers[iss]
	if !ok {
		return nil, &Error{ReasonUnlistedIssuer, fmt.Errorf("issuer %q is not listed", shorten(iss))}
	}
	return issuer, nil
}

// replayHash names the token for the replay guard.
func (l *listedIssuer) replayHash(token *IDToken, jws *compactJWS) (tokenHash, error) {
	switch {
	case token.JTI != "":
		return jtiHash(token.JTI), nil
	case l.SingleUse:
		return tokenHash{}, badClaim("no jti, and issuer %s is single_use", l.URL)
	}
	return contentHash(jws.signed), nil
}

// reasonOfKeys gives the label for what keySource.find returned.
func reasonOfKeys(err error) string {
	switch {
	case errors.Is(err, ErrUnavailable):
		return ReasonKeysUnavailable
	case errors.Is(err, errWrongAlg):
		return ReasonAlgorithm
	}
	return ReasonUnknownKey
}

// Status gives the state of each issuer's keys, in the order of the configuration.
func (v *Verifier) Status() []IssuerStatus {
	list := make([]IssuerStatus, 0, len(v.order))
	for _, url := range v.order {
		keys := v.issuers[url].keys
		status := IssuerStatus{URL: url}
		if set := keys.set.Load(); set != nil {
			status.Usable, status.LastSuccess, status.Keys = keys.usable(set), set.asked, len(set.keys)
		}
		keys.mu.Lock()
		status.LastError = keys.lastErr
		keys.mu.Unlock()
		list = append(list, status)
	}
	return list
}

// Seen counts a use that another process, or this one before a restart, has logged: one call for each. A token that has
// expired, an issuer that is not listed and an empty jti are ignored; so uses of tokens without a jti are not known after
// a restart.
func (v *Verifier) Seen(issuer, jti string, expiry time.Time) {
	l, ok := v.issuers[issuer]
	now := v.now()
	if !ok || jti == "" || !now.Before(expiry.Add(2*clockSkew)) {
		return
	}
	// An error means that there were as many uses already, or (single use, and full) that nothing is accepted anyway.
	_ = l.guard.use(jtiHash(jti), expiry, now)
}
