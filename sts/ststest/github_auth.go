package ststest

import (
	"crypto"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// Limits of App JWTs, from GitHub's "Generating a JSON Web Token (JWT) for a
// GitHub App".
const (
	maxJWTAhead = 10 * time.Minute
	// iatSkew is how far in the future iat may be. GitHub does not say; it
	// advises to set it 60 seconds back against clock drift.
	iatSkew = 60 * time.Second
)

// authenticate fills in r.app and, for installation tokens, r.grant.
func (r *request) authenticate(wants credential) (answer, bool) {
	scheme, credential, _ := strings.Cut(r.Header.Get("Authorization"), " ")
	credential = strings.TrimSpace(credential)
	if scheme == "" {
		return refusal(http.StatusUnauthorized, "Requires authentication", ""), false
	}
	bearer := strings.EqualFold(scheme, "Bearer")
	if !bearer && !strings.EqualFold(scheme, "token") {
		return badCredentials(), false
	}
	if wants == wantAppJWT {
		if !bearer { // GitHub takes an installation token with either scheme, a JWT with Bearer alone
			return badCredentials(), false
		}
		return r.authenticateApp(credential)
	}
	if looksLikeAppJWT(credential) {
		if a, ok := r.authenticateApp(credential); !ok {
			return a, false
		}
		return forbidden(""), false // an App is no installation
	}
	return r.authenticateInstallation(credential)
}

func looksLikeAppJWT(credential string) bool {
	return strings.HasPrefix(credential, "ey") && strings.Count(credential, ".") == 2
}

// appJWT is an App JWT whose signature was verified.
type appJWT struct {
	app      *app
	iat, exp time.Time
}

// authenticateApp checks an App JWT: its signature once, its times at every
// use.
func (r *request) authenticateApp(raw string) (answer, bool) {
	sum := sha256.Sum256([]byte(raw))
	cached, ok := r.g.jwts.Load(sum)
	if !ok {
		j, a, ok := r.g.verifyAppJWT(raw)
		if !ok {
			return a, false
		}
		cached = j
		r.g.jwts.Store(sum, j)
	}
	j, now := cached.(*appJWT), r.g.now()
	unauthorized := func(message string) (answer, bool) {
		return refusal(http.StatusUnauthorized, message, ""), false
	}
	switch {
	case !j.exp.After(now):
		return unauthorized("'Expiration time' claim ('exp') must be a numeric value representing the future time at which the assertion expires")
	case j.exp.Sub(now) > maxJWTAhead:
		return unauthorized("'Expiration time' claim ('exp') is too far in the future")
	case j.iat.Sub(now) > iatSkew:
		return unauthorized("'Issued at' claim ('iat') must be an Integer representing the time that the assertion was issued")
	}
	r.app = j.app
	return answer{}, true
}

// verifyAppJWT parses raw and verifies its RS256 signature with the keys of
// the App that it names. It does not compare times with the clock.
func (g *GitHub) verifyAppJWT(raw string) (*appJWT, answer, bool) {
	undecodable := refusal(http.StatusUnauthorized, "A JSON web token could not be decoded", "")
	parts := strings.Split(raw, ".")
	if len(parts) != 3 {
		return nil, undecodable, false
	}
	var decoded [3][]byte
	for i, p := range parts {
		var err error
		if decoded[i], err = base64.RawURLEncoding.DecodeString(p); err != nil {
			return nil, undecodable, false
		}
	}
	var header struct {
		Alg string `json:"alg"`
	}
	var claims struct {
		Iss any          `json:"iss"`
		Iat *json.Number `json:"iat"`
		Exp *json.Number `json:"exp"`
	}
	if json.Unmarshal(decoded[0], &header) != nil || header.Alg != "RS256" || json.Unmarshal(decoded[1], &claims) != nil {
		return nil, undecodable, false
	}
	iat, okIat := numericDate(claims.Iat)
	exp, okExp := numericDate(claims.Exp)
	switch {
	case claims.Iss == nil:
		return nil, refusal(http.StatusUnauthorized, "'Issuer' claim ('iss') must be an Integer", ""), false
	case claims.Exp == nil:
		return nil, refusal(http.StatusUnauthorized, "Missing 'expiration time' claim ('exp') in assertion", ""), false
	case claims.Iat == nil:
		return nil, refusal(http.StatusUnauthorized, "Missing 'issued at' claim ('iat') in assertion", ""), false
	case !okIat || !okExp:
		return nil, undecodable, false
	}
	g.world.mu.RLock()
	defer g.world.mu.RUnlock()
	a := g.appByIssuer(claims.Iss)
	if a == nil {
		return nil, refusal(http.StatusNotFound, "Integration not found", ""), false
	}
	digest := sha256.Sum256([]byte(parts[0] + "." + parts[1]))
	for _, k := range a.keys {
		if rsa.VerifyPKCS1v15(k, crypto.SHA256, digest[:], decoded[2]) == nil {
			return &appJWT{app: a, iat: iat, exp: exp}, answer{}, true
		}
	}
	return nil, undecodable, false
}

// appByIssuer finds the App that iss names: its ID as a string or a number, or
// its client ID. The caller holds world.mu.
func (g *GitHub) appByIssuer(iss any) *app {
	switch v := iss.(type) {
	case float64:
		return g.world.apps[int64(v)]
	case string:
		if id, err := strconv.ParseInt(v, 10, 64); err == nil {
			return g.world.apps[id]
		}
		for _, a := range g.world.apps {
			if a.clientID() == v {
				return a
			}
		}
	}
	return nil
}

func (a *app) clientID() string { return fmt.Sprintf("Iv1.%016x", a.id) }

// numericDate reads RFC 7519's NumericDate; GitHub takes integers alone.
func numericDate(n *json.Number) (time.Time, bool) {
	if n == nil {
		return time.Time{}, false
	}
	s, err := n.Int64()
	return time.Unix(s, 0), err == nil
}

// authenticateInstallation finds the grant of an installation token.
func (r *request) authenticateInstallation(raw string) (answer, bool) {
	gr := r.g.ledger.find(raw)
	if gr == nil || gr.dead(r.g.now()) {
		return badCredentials(), false
	}
	if n := r.g.freshUses.Load(); n > 0 && gr.uses.Add(1) <= n {
		return freshRefusal(int(r.g.freshStatus.Load())), false
	}
	r.g.world.mu.RLock()
	installed := r.g.world.installations[gr.installation.id] == gr.installation
	suspended := !gr.installation.suspended.IsZero()
	r.g.world.mu.RUnlock()
	switch {
	case !installed:
		return badCredentials(), false
	case suspended:
		return refusal(http.StatusForbidden, "This installation has been suspended", ""), false
	}
	r.grant, r.app = gr, gr.installation.app
	return answer{}, true
}

// freshRefusal is what a replica says that does not know a token yet.
func freshRefusal(status int) answer {
	switch status {
	case http.StatusNotFound:
		return notFound()
	case http.StatusForbidden:
		return forbidden("")
	default:
		return badCredentials()
	}
}

// permits says whether a granted level ("", read, write, admin) is enough.
func permits(granted, wanted string) bool {
	rank := func(level string) int {
		switch level {
		case "read":
			return 1
		case "write":
			return 2
		case "admin":
			return 3
		}
		return 0
	}
	return rank(wanted) > 0 && rank(granted) >= rank(wanted)
}

// decode reads the request's body: JSON of at most 40 MiB. An empty body is an
// empty object.
func (r *request) decode(v any) (answer, bool) {
	data, err := io.ReadAll(http.MaxBytesReader(nil, r.Body, 40<<20))
	if err != nil {
		return refusal(http.StatusBadRequest, "Problems reading the body", ""), false
	}
	if len(data) == 0 {
		return answer{}, true
	}
	if err := json.Unmarshal(data, v); err != nil {
		return refusal(http.StatusBadRequest, "Problems parsing JSON", ""), false
	}
	return answer{}, true
}
