package main

import (
	"encoding/json"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc/codes"

	"github.com/octo-sts/appliance/sts/ststest"
)

type claims = map[string]any

// mismatched is a row whose ID token is good and whose policy says no.
func mismatched(name, identity, idToken, why string) row {
	return row{name, askAs(identity, idToken), codes.PermissionDenied, why}
}

func timeAndReplay(t *testing.T, w *world) {
	now := time.Now().Unix()
	with := func(c claims) string { return w.sign(t, w.Issuer, c) }
	raw := func(c claims, name, value string) string {
		c[name] = json.RawMessage(value)
		return with(c)
	}
	const hour = 3600
	w.tryAll(t, []row{
		refused("expired", with(claims{"iat": now - 2*hour, "exp": now - hour}), "expired"),
		refused("no exp", with(claims{"exp": ststest.Omit}), "exp is missing"),
		refused("a lifetime over the limit (24 h by default)", with(claims{"exp": now + 24*hour + 5}), "lifetime is 24h0m"),
		granted("a lifetime of 24 h (accepted)", with(claims{"iat": now, "exp": now + 24*hour})),
		refused("a lifetime over the limit, begun long ago", with(claims{"iat": now - 48*hour}), "lifetime"),
		refused("exp before iat", with(claims{"iat": now + 30, "exp": now + 10}), "lifetime"),
		refused("nbf past the skew (60 s)", with(claims{"nbf": now + 90}), "not_yet_valid: "),
		granted("nbf within the skew (accepted)", with(claims{"nbf": now + 30})),
		refused("iat in the future", with(claims{"iat": now + 120}), "is a clock wrong?"),
		refused("no iat", with(claims{"iat": ststest.Omit}), "iat is missing"),
		refused("times as strings: exp", with(claims{"exp": fmt.Sprint(now + 300)}), "exp is missing or not a number"),
		refused("times as strings: iat", with(claims{"iat": fmt.Sprint(now)}), "iat is missing or not a number"),
		refused("times as strings: nbf", with(claims{"nbf": fmt.Sprint(now)}), "nbf is missing or not a number"),
		refused("negative times: exp", with(claims{"exp": -1}), "exp is negative"),
		refused("negative times: iat", with(claims{"iat": -now}), "iat is negative"),
		refused("negative times: nbf", with(claims{"nbf": -1}), "nbf is negative"),
		refused("times beyond every calendar", raw(claims{}, "exp", "1e300"), "exp is out of range"),
		refused("times beyond floating point", raw(claims{}, "exp", "1e999"), "out of range"),
		mismatched("replay at another deployment (its audience differs)", anyone, with(claims{"aud": "sts.elsewhere.example"}), `mismatch: audience: the ID token's "sts.elsewhere.example" does not match "sts.example.com"`),
	})
	t.Run("the same jti where the operator asks for single use", func(t *testing.T) {
		raw := w.sign(t, w.issuers["once"], nil)
		w.tryOn(t, granted("the first time (accepted)", raw), w.overGRPC)
		w.tryAll(t, []row{refused("and never again", raw, "replayed: ")})
		w.tryAll(t, []row{
			refused("nor a token without a jti", w.sign(t, w.issuers["once"], claims{"jti": ststest.Omit}), "claims: no jti"),
			refused("nor under another signature", w.sign(t, w.issuers["once"], claims{"jti": jtiOf(t, raw)}), "replayed: "),
		})
	})
	t.Run("the same jti far too often, bounded by default", func(t *testing.T) { tooOften(t, w) })
}

func jtiOf(t *testing.T, raw string) string {
	t.Helper()
	var c struct{ JTI string }
	if err := json.Unmarshal([]byte(decoded(t, raw)), &c); err != nil || c.JTI == "" {
		t.Fatalf("no jti: %v", err)
	}
	return c.JTI
}

// tooOften shows one token 1,000 times, which is what it is good for, for a
// policy that is not there, and then some.
func tooOften(t *testing.T, w *world) {
	const most, callers = 1000, 8
	raw := w.sign(t, w.Issuer, nil)
	w.remember(raw)
	before := w.minted()
	var denied, other, calls atomic.Int64
	var wg sync.WaitGroup
	for range callers {
		wg.Go(func() {
			for calls.Add(1) <= most {
				if a := w.overHTTP(t, askAs("no-such-policy", raw)); a.code == codes.PermissionDenied {
					denied.Add(1)
				} else {
					other.Add(1)
				}
			}
		})
	}
	wg.Wait()
	if denied.Load() != most || other.Load() != 0 {
		t.Errorf("%d times it counted as a good token, %d times not; want %d and 0", denied.Load(), other.Load(), most)
	}
	w.tryAll(t, []row{refused("the 1,001st time", raw, "replayed: ")})
	if w.minted() != before {
		t.Error("tokens were minted")
	}
}

func claimsRows(t *testing.T, w *world) {
	const pinned = `
issuer_pattern: https?://127\.0\.0\.1:[0-9]+
subject_pattern: (?s).*
claim_pattern: {n: "7", list: one, none: ".*"}
permissions: {issues: write}
`
	w.GitHub.PutPolicy("acme", "app", "pinned", pinned)
	w.GitHub.PutPolicy("acme", "app", "pinned-n", strings.Replace(pinned, `{n: "7", list: one, none: ".*"}`, `{n: "7", list: one, yes: "true"}`, 1))
	with := func(c claims) string { return w.sign(t, w.Issuer, c) }
	typ := func(v any) string {
		return w.signWith(t, w.Issuer, ststest.Signing{Header: map[string]any{"typ": v}})
	}
	w.tryAll(t, []row{
		refused("no sub", with(claims{"sub": ststest.Omit}), "sub is missing"),
		refused("an empty sub", with(claims{"sub": ""}), "sub is empty"),
		refused("a sub that is no string: a number", with(claims{"sub": 1}), "sub is missing or not a string"),
		refused("a sub that is no string: an array", with(claims{"sub": []string{subject}}), "sub is missing or not a string"),
		refused("a sub that is no string: null", with(claims{"sub": nil}), "sub is missing or not a string"),
		refused("a sub over 1,024 bytes", with(claims{"sub": strings.Repeat("s", 1025)}), "sub is longer than 1024 bytes"),
		refused("control characters in sub", with(claims{"sub": subject + "\n"}), "sub has a control or format character"),
		refused("control characters in sub: NUL", with(claims{"sub": "\x00"}), "sub has a control or format character"),
		refused("control characters in sub: an escape sequence", with(claims{"sub": "\x1b[2J"}), "sub has a control or format character"),
		refused("control characters in aud", with(claims{"aud": []string{domain, "a\rb"}}), "aud has a control or format character"),
		refused("control characters in jti", with(claims{"jti": "a\x7f"}), "jti has a control or format character"),
		refused("no aud", with(claims{"aud": ststest.Omit}), "aud is missing"),
		refused("an empty aud", with(claims{"aud": ""}), "aud is empty"),
		refused("an empty list of aud", with(claims{"aud": []string{}}), "aud has 0 entries"),
		refused("aud an object", with(claims{"aud": claims{domain: true}}), "aud is missing or not a string"),
		refused("aud a number beside the right one", with(claims{"aud": []any{domain, 1}}), "aud is missing or not a string"),
		mismatched("an audience that matches by prefix only", anyone, with(claims{"aud": domain + ".evil.example"}), "mismatch: audience"),
		mismatched("an audience that matches by suffix only", anyone, with(claims{"aud": "evil-" + domain}), "mismatch: audience"),
		mismatched("an audience that is a prefix", anyone, with(claims{"aud": "sts.example"}), "mismatch: audience"),
		mismatched("an audience that matches by case only", anyone, with(claims{"aud": "STS.Example.com"}), "mismatch: audience"),
		mismatched("an audience that is the domain's URL", anyone, with(claims{"aud": "https://" + domain}), "mismatch: audience"),
		mismatched("GitHub's default audience (the owner's URL)", anyone, with(claims{"aud": "https://github.com/acme"}), `"https://github.com/acme" does not match "sts.example.com"`),
		mismatched("custom claims that are numbers", "pinned", with(claims{"n": 77, "list": "one", "none": "x"}), "claim_pattern.n"),
		mismatched("custom claims that are arrays", "pinned", with(claims{"n": 7, "list": []any{"two", "on", "ones"}, "none": "x"}), "claim_pattern.list"),
		mismatched("custom claims that are objects", "pinned", with(claims{"n": 7, "list": claims{"one": "one"}, "none": "x"}), "claim_pattern.list"),
		mismatched("custom claims that are null", "pinned", with(claims{"n": 7, "list": "one", "none": nil}), "claim_pattern.none"),
		mismatched("custom claims that are missing", "pinned", with(claims{"n": 7, "list": "one"}), "claim_pattern.none"),
		{"custom claims that are numbers, arrays, true and match (accepted)", askAs("pinned-n", with(claims{"n": 7, "list": []any{"two", "one", nil}, "yes": true})), codes.OK, ""},
		refused("a logout token's typ", typ("logout+jwt"), "typ"),
		refused("an access token's typ", typ("at+jwt"), "typ"),
		refused("an access token's typ, in full", typ("application/at+jwt"), "typ"),
		refused("a typ that is no string", typ(1), "typ"),
	})
	acceptedClaims(t, w)
}

func acceptedClaims(t *testing.T, w *world) {
	const odd = "repo:acme/app:environment:Prod (EU) {blue} $HOME $(id) ${x}"
	w.GitHub.PutPolicy("acme", "app", "odd-subject", fmt.Sprintf("issuer: %s\nsubject: %q\npermissions: {issues: write}\n", w.Issuer.URL(), odd))
	spaced := w.issuers["spaced"]
	w.GitHub.PutPolicy("acme", "app", "odd-issuer", fmt.Sprintf("issuer: %s\nsubject: %q\npermissions: {issues: write}\n", spaced.URL(), odd))
	with := func(c claims) string { return w.sign(t, w.Issuer, c) }
	w.tryAll(t, []row{
		{"subjects with spaces, parentheses, braces and $ (accepted)", askAs("odd-subject", with(claims{"sub": odd})), codes.OK, ""},
		{"a subject of 1,024 bytes (accepted)", ask(with(claims{"sub": strings.Repeat("s", 1024)})), codes.OK, ""},
		{"an extra odd audience beside the right one (accepted)", ask(with(claims{"aud": []string{"urn:{odd} $(x)", domain}})), codes.OK, ""},
		{"issuers whose path has %20 (accepted)", askAs("odd-issuer", w.sign(t, spaced, claims{"sub": odd})), codes.OK, ""},
		refused("and one with a space there", w.sign(t, spaced, claims{"iss": strings.Replace(spaced.URL(), "%20", " ", 1)}), "unlisted_issuer"),
		mismatched("and another issuer's token there", "odd-issuer", with(claims{"sub": odd}), "mismatch: issuer"),
	})
}
