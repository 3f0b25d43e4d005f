// Package idtoken verifies OpenID Connect ID tokens of listed issuers and gives back what they say.
//
// It owns everything between a string that a stranger sent and a set of claims that a listed issuer signed: the
// strict parse (RFC 7515 compact serialization, RFC 8259 JSON), the issuers' key sets (RFC 7517) with their fetching,
// refreshing and bounds, the signature (RFC 7518, RFC 8037), the times (RFC 7519) and the number of times that one
// token may be used.
//
// It is not a policy engine: it does not look at the audience, and a token that it accepts says only who the caller
// is. It knows nothing of GitHub and asks an issuer nothing but its discovery document and its keys. Nothing is sent
// to anybody on behalf of a token whose issuer is not listed.
package idtoken

import (
	"context"
	"errors"
	"net/netip"
	"time"

	"go.uber.org/zap"
)

// Config is what New needs.
type Config struct {
	// Issuers are the only ones whose tokens are accepted. An empty list means that every token is refused.
	Issuers []Issuer
	// Logger gets one line for each failed fetch and for each change of a key set. nil: nothing is logged.
	Logger *zap.Logger
	// Now is the clock that tokens and key sets are judged by. nil: time.Now.
	Now func() time.Time
}

// Issuer is one listed issuer.
type Issuer struct {
	// URL is the issuer's identifier. A token's iss must equal it byte for byte, and so must the issuer in the discovery
	// document. CheckIssuerURL says which forms are accepted.
	URL string
	// JWKSURL is where the keys are. Empty: OpenID Connect Discovery 1.0, whose jwks_uri must then be on the issuer's own
	// scheme, host and port. If it is set, no discovery document is asked for.
	JWKSURL string
	// JWKSFile is a file with the keys (a JWK Set, RFC 7517 section 5), for issuers that cannot be reached. Nothing is
	// dialled. New reads it; it is read again every five minutes and when a token names a key that is not in it. A file
	// that later turns unreadable leaves the last good keys in use, without a limit in time.
	JWKSFile string
	// JWKS returns the keys (a JWK Set), for an issuer that is this program's own. Nothing is dialled. Where two
	// configurations both have one, it is the same.
	JWKS func(ctx context.Context) ([]byte, error)
	// CAFile is a PEM file of certificate authorities that replaces the system's for this issuer. New reads it, once.
	CAFile string
	// Networks are the private, loopback, link-local and otherwise special networks that may be dialled for this issuer.
	// Public addresses always may.
	Networks []netip.Prefix
	// MaxLifetime is the longest exp minus iat that a token may have. 0: 24 hours.
	MaxLifetime time.Duration
	// SingleUse accepts each jti once, and no token without a jti. A use is a token that Verify accepted, whatever came
	// of it afterwards. Otherwise a token may be used 1,000 times.
	SingleUse bool
}

// IDToken is what a verified ID token says. All of it comes from the signed payload.
type IDToken struct {
	Issuer, Subject string
	// Audience has at least one entry, in the token's order. Nobody has compared it with anything yet.
	Audience []string
	// JTI is empty where the token has none.
	JTI              string
	IssuedAt, Expiry time.Time
	// Claims are all claims, the registered ones too, in the types of encoding/json: string, bool, nil, []any,
	// map[string]any, and json.Number for numbers, as written in the token.
	Claims map[string]any
}

// The values of Error.Reason, a closed set that is fit to be a metric's label.
const (
	ReasonMalformed       = "malformed"        // no JWS in the compact form, or a header that is refused
	ReasonUnlistedIssuer  = "unlisted_issuer"  // iss is none of the listed issuers
	ReasonAlgorithm       = "algorithm"        // alg is not accepted, or does not fit the key
	ReasonUnknownKey      = "unknown_key"      // the issuer has no such key
	ReasonSignature       = "signature"        // the signature is not the key's
	ReasonExpired         = "expired"          // exp has passed
	ReasonNotYetValid     = "not_yet_valid"    // nbf or iat is in the future
	ReasonLifetime        = "lifetime"         // exp minus iat is over the limit, or not positive
	ReasonClaims          = "claims"           // a registered claim is missing or has a wrong form
	ReasonReplayed        = "replayed"         // the token was used too often; also an ErrUnavailable where there is no room to count it
	ReasonKeysUnavailable = "keys_unavailable" // the issuer's keys cannot be had; also an ErrUnavailable
)

// Error is why a token was refused. Its text is for the operator: it may quote the token's issuer and key ID, shortened,
// never the token. A caller is to be told nothing of it but that the token was refused.
type Error struct {
	Reason string // one of the Reason constants
	Err    error
}

func (e *Error) Error() string { return e.Reason + ": " + e.Err.Error() }

// Unwrap gives the cause.
func (e *Error) Unwrap() error { return e.Err }

// ErrUnavailable marks refusals that say nothing about the token: the issuer's keys cannot be had right now, or there
// is no room to remember another single-use token. The same token may be accepted later.
var ErrUnavailable = errors.New("ID tokens of this issuer cannot be verified right now")

// IssuerStatus is the state of one issuer's keys, for readiness and for people.
type IssuerStatus struct {
	URL string
	// Usable says whether a token of this issuer could be accepted now: there are keys, and they are not too old.
	Usable bool
	// LastSuccess is when the keys in use were asked for. Zero: never.
	LastSuccess time.Time
	// Keys is how many keys are in use.
	Keys int
	// LastError is what went wrong at the last attempt; nil where it succeeded or none has ended yet.
	LastError error
}

// shorten makes a string that somebody else chose fit to be quoted in an error.
func shorten(s string) string {
	const most = 200
	if len(s) > most {
		return s[:most] + "…"
	}
	return s
}
