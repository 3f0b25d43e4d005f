package idtoken

import (
	"strings"
	"testing"
)

func TestVerifyTokenStructure(t *testing.T) {
	k := newKey(t, "ES256", "k")
	v := fileVerifier(t, k)
	good := k.sign(t, claims(issuerURL, nil))
	segment := strings.Split(good, ".")
	header := func(h string) string { return k.signHeader(t, h) }
	payload := func(p string) string { return k.signRaw(t, "ES256", `{"alg":"ES256","kid":"k"}`, p) }
	member := func(m string) string { // a good payload with something more
		return payload(strings.TrimSuffix(jsonOf(t, claims(issuerURL, nil)), "}") + "," + m + "}")
	}
	for _, c := range []struct{ name, raw, want string }{
		{"good", good, ""},
		{"empty", "", ReasonMalformed},
		{"one segment", segment[0], ReasonMalformed},
		{"two segments", segment[0] + "." + segment[1], ReasonMalformed},
		{"four segments", good + ".AAAA", ReasonMalformed},
		{"a megabyte of dots", strings.Repeat(".", 1<<20), ReasonMalformed},
		{"16 KiB of dots", strings.Repeat(".", 16<<10), ReasonMalformed},
		{"empty header", "." + segment[1] + "." + segment[2], ReasonMalformed},
		{"empty payload", segment[0] + ".." + segment[2], ReasonMalformed},
		{"empty signature", segment[0] + "." + segment[1] + ".", ReasonMalformed},
		{"header over 8 KiB", header(`{"alg":"ES256","kid":"k","x":"` + strings.Repeat("a", 8<<10) + `"}`), ReasonMalformed},
		{"header under 8 KiB", header(`{"alg":"ES256","kid":"k","x":"` + strings.Repeat("a", 8000) + `"}`), ""},
		{"token over 16 KiB", member(`"x":"` + strings.Repeat("a", 12<<10) + `"`), ReasonMalformed},
		{"token just under 16 KiB", member(`"x":"` + strings.Repeat("a", 11<<10) + `"`), ""},
		{"JWE", header(`{"alg":"ES256","kid":"k"}`) + ".AAAA.AAAA", ReasonMalformed},
		{"JWE header on a JWS", header(`{"alg":"ES256","kid":"k","enc":"A128GCM"}`), ReasonMalformed},
		{"compressed", header(`{"alg":"ES256","kid":"k","zip":"DEF"}`), ReasonMalformed},
		{"JSON serialization", `{"protected":"` + segment[0] + `","payload":"` + segment[1] + `","signature":"` + segment[2] + `"}`, ReasonMalformed},
		{"several signatures", `{"payload":"` + segment[1] + `","signatures":[{"protected":"` + segment[0] + `","signature":"` + segment[2] + `"},{"protected":"` + segment[0] + `","signature":"` + segment[2] + `"}]}`, ReasonMalformed},
		{"padding", segment[0] + "." + segment[1] + "." + segment[2] + "==", ReasonMalformed},
		{"standard base64", k.signSegments(t, "ES256", segment[0]+".+/"+segment[1]), ReasonMalformed},
		{"unused bits set", segment[0] + "." + segment[1] + "." + segment[2][:85] + nextLetter(segment[2][85]), ReasonMalformed},
		{"trailing newline", good + "\n", ReasonMalformed},
		{"newline inside", segment[0] + ".\n" + segment[1] + "." + segment[2], ReasonMalformed},
		{"carriage return", good[:10] + "\r" + good[10:], ReasonMalformed},
		{"trailing NUL", good + "\x00", ReasonMalformed},
		{"space before", " " + good, ReasonMalformed},
		{"header is no JSON", header(`alg`), ReasonMalformed},
		{"header is an array", header(`[{"alg":"ES256"}]`), ReasonMalformed},
		{"header with data after it", header(`{"alg":"ES256","kid":"k"}{}`), ReasonMalformed},
		{"duplicate header keys", header(`{"alg":"ES256","kid":"k","alg":"ES256"}`), ReasonMalformed},
		{"header in other case", header(`{"alg":"ES256","kid":"k","ALG":"none"}`), ReasonMalformed},
		{"header in other case alone", header(`{"Alg":"ES256","kid":"k"}`), ReasonMalformed},
		{"crit in other case", header(`{"alg":"ES256","kid":"k","CRIT":["x"]}`), ReasonMalformed},
		{"no alg", header(`{"kid":"k"}`), ReasonMalformed},
		{"unknown header parameter", header(`{"alg":"ES256","kid":"k","x5t":"abc","foo":{"a":1}}`), ""},
		{"kid is a number", header(`{"alg":"ES256","kid":1}`), ReasonMalformed},
		{"kid is null", header(`{"alg":"ES256","kid":null}`), ReasonMalformed},
		{"kid is empty", header(`{"alg":"ES256","kid":""}`), ReasonMalformed},
		{"kid of 2 KiB", header(`{"alg":"ES256","kid":"` + strings.Repeat("k", 2048) + `"}`), ReasonMalformed},
		{"typ jwt", header(`{"alg":"ES256","kid":"k","typ":"jwt"}`), ""},
		{"typ JOSE", header(`{"alg":"ES256","kid":"k","typ":"JOSE"}`), ""},
		{"access token's typ", header(`{"alg":"ES256","kid":"k","typ":"at+jwt"}`), ReasonMalformed},
		{"access token's full typ", header(`{"alg":"ES256","kid":"k","typ":"application/at+jwt"}`), ReasonMalformed},
		{"logout token's typ", header(`{"alg":"ES256","kid":"k","typ":"logout+jwt"}`), ReasonMalformed},
		{"typ is no string", header(`{"alg":"ES256","kid":"k","typ":["JWT"]}`), ReasonMalformed},
		{"typ is null", header(`{"alg":"ES256","kid":"k","typ":null}`), ReasonMalformed},
		{"nested JWT by cty", header(`{"alg":"ES256","kid":"k","cty":"JWT"}`), ReasonMalformed},
		{"nested JWT", payload(good), ReasonMalformed},
		{"payload is a string", payload(`"x"`), ReasonMalformed},
		{"payload is an array", payload(`[]`), ReasonMalformed},
		{"payload is null", payload(`null`), ReasonMalformed},
		{"payload with data after it", payload(jsonOf(t, claims(issuerURL, nil)) + "x"), ReasonMalformed},
		{"payload with a byte order mark", payload("\ufeff" + jsonOf(t, claims(issuerURL, nil))), ReasonMalformed},
		{"payload with white space", payload(" \t\r\n" + jsonOf(t, claims(issuerURL, nil)) + "\n"), ""},
		{"truncated payload", payload(`{"iss":"https://issuer.example"`), ReasonMalformed},
		{"duplicate claim", member(`"sub":"other"`), ReasonMalformed},
		{"duplicate claim, escaped", member(`"\u0073ub":"other"`), ReasonMalformed},
		{"duplicate key further in", member(`"x":[{"a":1,"a":2}]`), ReasonMalformed},
		{"SUB", member(`"SUB":"other"`), ReasonMalformed},
		{"Sub", member(`"Sub":"other"`), ReasonMalformed},
		{"sub with a long s", member(`"ſub":"other"`), ReasonMalformed},
		{"iss with two long s", member(`"iſſ":"other"`), ReasonMalformed},
		{"EXP", member(`"EXP":1`), ReasonMalformed},
		{"case variant of no registered claim", member(`"Ref":"x","ref":"y"`), ""},
		{"invalid UTF-8", member("\"x\":\"\xff\""), ReasonMalformed},
		{"overlong UTF-8", member("\"x\":\"\xc0\xaf\""), ReasonMalformed},
		{"lone surrogate", member(`"x":"\ud800"`), ReasonMalformed},
		{"surrogates the wrong way round", member(`"x":"\udc00\ud800"`), ReasonMalformed},
		{"surrogate pair", member(`"x":"\ud83d\ude00"`), ""},
		{"raw newline in a string", member("\"x\":\"a\nb\""), ReasonMalformed},
		{"32 levels", member(`"x":` + strings.Repeat("[", 31) + strings.Repeat("]", 31)), ""},
		{"33 levels", member(`"x":` + strings.Repeat("[", 32) + strings.Repeat("]", 32)), ReasonMalformed},
		{"33 levels of objects", member(`"x":` + strings.Repeat(`{"a":`, 32) + "1" + strings.Repeat("}", 32)), ReasonMalformed},
		{"10,000 levels", member(`"x":` + strings.Repeat("[", 10_000)), ReasonMalformed},
		{"NaN", member(`"x":NaN`), ReasonMalformed},
		{"a number of 65 digits", member(`"x":` + strings.Repeat("1", 65)), ReasonMalformed},
	} {
		t.Run(c.name, func(t *testing.T) { check(t, v, c.raw, c.want) })
	}
}

// nextLetter gives a base64url letter that stands for the same bits but one that is unused.
func nextLetter(letter byte) string {
	const alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
	return string(alphabet[strings.IndexByte(alphabet, letter)|1])
}
