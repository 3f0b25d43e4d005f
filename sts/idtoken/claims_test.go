package idtoken

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"
)

func TestVerifyClaims(t *testing.T) {
	k := newKey(t, "ES256", "k")
	spaced := "https://issuer.example/my%20org/"
	file := writeFile(t, jwks(t, k))
	v := newVerifier(t, newClock(), Issuer{URL: issuerURL, JWKSFile: file}, Issuer{URL: spaced, JWKSFile: file})
	now := start.Unix()
	for _, c := range []struct {
		name    string
		changes object
		want    string
	}{
		{"good", nil, ""},
		// Issuer.
		{"no iss", object{"iss": nil}, ReasonClaims},
		{"iss is null", object{"iss": null}, ReasonClaims},
		{"iss is an array", object{"iss": []string{issuerURL}}, ReasonClaims},
		{"iss is empty", object{"iss": ""}, ReasonClaims},
		{"iss with %20 and a slash, as listed", object{"iss": spaced}, ""},
		{"iss with a space for %20", object{"iss": "https://issuer.example/my org/"}, ReasonUnlistedIssuer},
		{"iss without the listed slash", object{"iss": strings.TrimSuffix(spaced, "/")}, ReasonUnlistedIssuer},
		{"iss with a trailing slash", object{"iss": issuerURL + "/"}, ReasonUnlistedIssuer},
		{"iss in other case", object{"iss": "https://Issuer.example"}, ReasonUnlistedIssuer},
		{"iss with http", object{"iss": "http://issuer.example"}, ReasonUnlistedIssuer},
		{"iss without scheme", object{"iss": "issuer.example"}, ReasonUnlistedIssuer},
		{"iss with a port", object{"iss": issuerURL + ":443"}, ReasonUnlistedIssuer},
		{"iss with user information", object{"iss": "https://a@issuer.example"}, ReasonUnlistedIssuer},
		{"iss with a suffix", object{"iss": issuerURL + ".evil.example"}, ReasonUnlistedIssuer},
		{"iss with a fragment", object{"iss": issuerURL + "#x"}, ReasonUnlistedIssuer},
		{"iss with a query", object{"iss": issuerURL + "?x"}, ReasonUnlistedIssuer},
		{"iss is a file", object{"iss": "file:///etc/passwd"}, ReasonUnlistedIssuer},
		{"iss is gopher", object{"iss": "gopher://issuer.example"}, ReasonUnlistedIssuer},
		{"iss with a space after it", object{"iss": issuerURL + " "}, ReasonUnlistedIssuer},
		// Subject.
		{"no sub", object{"sub": nil}, ReasonClaims},
		{"sub is null", object{"sub": null}, ReasonClaims},
		{"sub is a number", object{"sub": 1}, ReasonClaims},
		{"sub is an array", object{"sub": []string{"a"}}, ReasonClaims},
		{"sub is empty", object{"sub": ""}, ReasonClaims},
		{"sub of 1,024 bytes", object{"sub": strings.Repeat("s", 1024)}, ""},
		{"sub of 1,025 bytes", object{"sub": strings.Repeat("s", 1025)}, ReasonClaims},
		{"sub of 342 letters of three bytes", object{"sub": strings.Repeat("€", 342)}, ReasonClaims},
		{"sub with a newline", object{"sub": "a\nb"}, ReasonClaims},
		{"sub with NUL", object{"sub": "a\x00"}, ReasonClaims},
		{"sub with DEL", object{"sub": "a\x7f"}, ReasonClaims},
		{"sub with a C1 control", object{"sub": "a\u0085"}, ReasonClaims},
		{"sub with an escape sequence", object{"sub": "\x1b[2J"}, ReasonClaims},
		{"sub with spaces, parentheses, braces, $", object{"sub": "repo:a/b:environment:Prod (EU) {x} ${y} $"}, ""},
		{"sub with letters of every kind", object{"sub": "repo:a/b:environment:Größe-環境-😀"}, ""},
		// Audience.
		{"no aud", object{"aud": nil}, ReasonClaims},
		{"aud is null", object{"aud": null}, ReasonClaims},
		{"aud is empty", object{"aud": ""}, ReasonClaims},
		{"aud is an empty array", object{"aud": []string{}}, ReasonClaims},
		{"aud is an object", object{"aud": object{"a": "b"}}, ReasonClaims},
		{"aud is a number", object{"aud": 1}, ReasonClaims},
		{"aud has an empty string", object{"aud": []string{"a", ""}}, ReasonClaims},
		{"aud has a number", object{"aud": []any{"a", 1}}, ReasonClaims},
		{"aud has an array", object{"aud": []any{[]string{"a"}}}, ReasonClaims},
		{"aud has a control character", object{"aud": "a\tb"}, ReasonClaims},
		{"sub that writes backwards", object{"sub": "repo:a/b\u202ex"}, ReasonClaims},
		{"sub with a C1 control character", object{"sub": "repo:a/b\u009b"}, ReasonClaims},
		{"aud with 32 entries", object{"aud": strings.Split(strings.Repeat("a", 32), "")}, ""},
		{"aud with 33 entries", object{"aud": strings.Split(strings.Repeat("a", 33), "")}, ReasonClaims},
		{"an odd audience more", object{"aud": []string{"sts.example.com", "urn:{odd} $(x)"}}, ""},
		{"GitHub's default audience (the policy's to judge)", object{"aud": "https://github.com/octo-org"}, ""},
		// jti.
		{"no jti", object{"jti": nil}, ""},
		{"jti is null", object{"jti": null}, ReasonClaims},
		{"jti is a number", object{"jti": 1}, ReasonClaims},
		{"jti is empty", object{"jti": ""}, ReasonClaims},
		{"jti of 512 bytes", object{"jti": strings.Repeat("j", 512)}, ""},
		{"jti of 513 bytes", object{"jti": strings.Repeat("j", 513)}, ReasonClaims},
		// Times.
		{"expired", object{"exp": now - 61}, ReasonExpired},
		{"expired exactly at the end of the skew", object{"iat": now - 100, "exp": now - 60}, ReasonExpired},
		{"expired within the skew", object{"iat": now - 100, "nbf": now - 100, "exp": now - 59}, ""},
		{"no exp", object{"exp": nil}, ReasonClaims},
		{"exp is null", object{"exp": null}, ReasonClaims},
		{"exp is a string", object{"exp": fmt.Sprint(now + 300)}, ReasonClaims},
		{"exp is negative", object{"exp": -1}, ReasonClaims},
		{"exp is minus zero", object{"exp": json.RawMessage("-0")}, ReasonClaims},
		{"exp is huge", object{"exp": json.RawMessage("1e300")}, ReasonClaims},
		{"exp is over float64", object{"exp": json.RawMessage("1e999")}, ReasonClaims},
		{"exp is 2^63", object{"exp": json.RawMessage("9223372036854775808")}, ReasonClaims},
		{"exp is a boolean", object{"exp": true}, ReasonClaims},
		{"exp with a fraction", object{"exp": json.RawMessage(fmt.Sprintf("%d.75", now+300))}, ""},
		{"exp in exponent form", object{"exp": json.RawMessage(fmt.Sprintf("%de-1", (now+300)*10))}, ""},
		{"lifetime of 24 h", object{"iat": now, "exp": now + 24*3600}, ""},
		{"lifetime over 24 h", object{"iat": now, "exp": now + 24*3600 + 1}, ReasonLifetime},
		{"lifetime of years", object{"exp": now + 10*365*24*3600}, ReasonLifetime},
		{"lifetime of nothing", object{"iat": now, "exp": now}, ReasonLifetime},
		{"exp before iat", object{"iat": now + 30, "exp": now + 10}, ReasonLifetime},
		{"no nbf", object{"nbf": nil}, ""},
		{"nbf at the end of the skew", object{"nbf": now + 60}, ""},
		{"nbf past the skew", object{"nbf": now + 61}, ReasonNotYetValid},
		{"nbf is a string", object{"nbf": "0"}, ReasonClaims},
		{"nbf is null", object{"nbf": null}, ReasonClaims},
		{"nbf is negative", object{"nbf": -5}, ReasonClaims},
		{"no iat", object{"iat": nil}, ReasonClaims},
		{"iat is a string", object{"iat": fmt.Sprint(now)}, ReasonClaims},
		{"iat is negative", object{"iat": -5}, ReasonClaims},
		{"iat at the end of the skew", object{"iat": now + 60}, ""},
		{"iat in the future", object{"iat": now + 61}, ReasonNotYetValid},
		// Others.
		{"custom claims of every type", object{"n": 1, "b": false, "l": []any{1, "x", null}, "z": null, "o": object{"k": 1}}, ""},
		{"distributed claims, which nobody follows", object{"_claim_names": object{"a": "src"}}, ""},
	} {
		t.Run(c.name, func(t *testing.T) { check(t, v, k.sign(t, claims(issuerURL, c.changes)), c.want) })
	}
}

func TestVerifyMaxLifetime(t *testing.T) {
	k := newKey(t, "ES256", "k")
	v := newVerifier(t, newClock(), Issuer{URL: issuerURL, JWKSFile: writeFile(t, jwks(t, k)), MaxLifetime: time.Hour})
	check(t, v, k.sign(t, claims(issuerURL, object{"iat": start.Unix(), "exp": start.Unix() + 3600})), "")
	check(t, v, k.sign(t, claims(issuerURL, object{"iat": start.Unix(), "exp": start.Unix() + 3601})), ReasonLifetime)
}

func TestVerifyClockSteps(t *testing.T) {
	k, c := newKey(t, "ES256", "k"), newClock()
	v := newVerifier(t, c, Issuer{URL: issuerURL, JWKSFile: writeFile(t, jwks(t, k))})
	raw := k.sign(t, claims(issuerURL, nil))
	check(t, v, raw, "")
	c.advance(time.Hour)
	check(t, v, raw, ReasonExpired)
	c.advance(-2 * time.Hour)
	check(t, v, raw, ReasonNotYetValid)
	c.advance(time.Hour)
	check(t, v, raw, "")
}
