package idtoken

import (
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"time"
	"unicode"
)

const (
	maxSubjectSize  = 1024 // bytes of sub, and of one aud
	maxJTISize      = 512  // bytes
	maxAudiences    = 32
	clockSkew       = 60 * time.Second // how far the issuer's clock and ours may differ
	latestTime      = 253402300799     // 9999-12-31T23:59:59Z, the last second that RFC 3339 can write
	defaultLifetime = 24 * time.Hour
)

// newIDToken reads the registered claims out of a claims set. It checks their form (RFC 7519 section 4.1, OpenID Connect
// Core 1.0 section 2). checkTimes reads nbf, and judges all times.
func newIDToken(claims map[string]any) (*IDToken, error) {
	t := &IDToken{Claims: claims}
	var err error
	if t.Issuer, err = textClaim("iss", claims["iss"], maxTokenSize); err != nil {
		return nil, err
	}
	if t.Subject, err = textClaim("sub", claims["sub"], maxSubjectSize); err != nil {
		return nil, err
	}
	if t.Audience, err = audience(claims["aud"]); err != nil {
		return nil, err
	}
	if jti, present := claims["jti"]; present {
		if t.JTI, err = textClaim("jti", jti, maxJTISize); err != nil {
			return nil, err
		}
	}
	if t.Expiry, err = timeClaim("exp", claims["exp"]); err != nil {
		return nil, err
	}
	if t.IssuedAt, err = timeClaim("iat", claims["iat"]); err != nil {
		return nil, err
	}
	return t, nil
}

// textClaim checks a claim that must be a non-empty string. Spaces, parentheses, braces and dollar signs are common in
// subjects (GitHub environments have such names); control characters are not, and would confuse whoever reads a log.
func textClaim(name string, value any, most int) (string, error) {
	text, ok := value.(string)
	switch {
	case !ok:
		return "", badClaim("%s is missing or not a string", name)
	case text == "":
		return "", badClaim("%s is empty", name)
	case len(text) > most:
		return "", badClaim("%s is longer than %d bytes", name, most)
	case strings.ContainsFunc(text, func(r rune) bool { return unicode.IsControl(r) || unicode.Is(unicode.Cf, r) }):
		return "", badClaim("%s has a control or format character", name)
	}
	return text, nil
}

// audience reads aud: one string, or an array of them (RFC 7519 section 4.1.3).
func audience(value any) ([]string, error) {
	list, ok := value.([]any)
	if !ok {
		list = []any{value}
	}
	if len(list) == 0 || len(list) > maxAudiences {
		return nil, badClaim("aud has %d entries, not 1 to %d", len(list), maxAudiences)
	}
	audience := make([]string, len(list))
	for i, entry := range list {
		var err error
		if audience[i], err = textClaim("aud", entry, maxSubjectSize); err != nil {
			return nil, err
		}
	}
	return audience, nil
}

// timeClaim reads a NumericDate (RFC 7519 section 2): seconds since 1970 as a JSON number, perhaps with a fraction.
func timeClaim(name string, value any) (time.Time, error) {
	number, ok := value.(json.Number)
	if !ok {
		return time.Time{}, badClaim("%s is missing or not a number", name)
	}
	if strings.HasPrefix(number.String(), "-") {
		return time.Time{}, badClaim("%s is negative", name)
	}
	seconds, err := strconv.ParseInt(number.String(), 10, 64)
	if err == nil && seconds <= latestTime {
		return time.Unix(seconds, 0), nil
	}
	fraction, err := strconv.ParseFloat(number.String(), 64)
	if err != nil || fraction > latestTime {
		return time.Time{}, badClaim("%s is out of range", name)
	}
	whole := int64(fraction)
	return time.Unix(whole, int64((fraction-float64(whole))*1e9)), nil
}

// checkTimes judges a token's times at a moment: exp and nbf with the clock skew that RFC 7519 section 4.1.4 allows for,
// iat because a token from the future means that a clock is wrong, and the lifetime because a token that is good for
// years is a password.
func checkTimes(t *IDToken, now time.Time, maxLifetime time.Duration) error {
	if notBefore, present := t.Claims["nbf"]; present {
		nbf, err := timeClaim("nbf", notBefore)
		if err != nil {
			return err
		}
		if nbf.After(now.Add(clockSkew)) {
			return &Error{ReasonNotYetValid, fmt.Errorf("nbf is %s, now it is %s", utc(nbf), utc(now))}
		}
	}
	if t.IssuedAt.After(now.Add(clockSkew)) {
		return &Error{ReasonNotYetValid, fmt.Errorf("iat is %s, now it is %s: is a clock wrong?", utc(t.IssuedAt), utc(now))}
	}
	if !now.Before(t.Expiry.Add(clockSkew)) {
		return &Error{ReasonExpired, fmt.Errorf("exp was %s, now it is %s", utc(t.Expiry), utc(now))}
	}
	switch lifetime := t.Expiry.Sub(t.IssuedAt); {
	case lifetime <= 0:
		return &Error{ReasonLifetime, fmt.Errorf("exp %s is not after iat %s", utc(t.Expiry), utc(t.IssuedAt))}
	case lifetime > maxLifetime:
		return &Error{ReasonLifetime, fmt.Errorf("lifetime is %s, the limit is %s", lifetime, maxLifetime)}
	}
	return nil
}

func utc(t time.Time) string { return t.UTC().Format(time.RFC3339) }

func badClaim(format string, args ...any) error {
	return &Error{ReasonClaims, fmt.Errorf(format, args...)}
}
