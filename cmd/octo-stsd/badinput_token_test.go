package main

import (
	"encoding/base64"
	"fmt"
	"strings"
	"testing"

	"github.com/octo-sts/appliance/sts/ststest"
)

func b64(s string) string { return base64.RawURLEncoding.EncodeToString([]byte(s)) }

// tokenStructure is what is wrong before any signature is looked at. Tokens that
// no client of HTTP or gRPC would send are in socketRows. Each is tried at /sts/token,
// too.
func tokenStructure(t *testing.T, w *world) {
	i := w.Issuer
	good := func() string { return w.sign(t, i, nil) }
	header := func(raw string) string {
		return w.signWith(t, i, ststest.Signing{RawHeader: []byte(raw)})
	}
	claims := func(raw string) string {
		return w.signWith(t, i, ststest.Signing{Payload: []byte(raw)})
	}
	kid := i.SigningKey().ID
	whole := payload(t, i)
	open := strings.TrimSuffix(whole, "}") // to be gone on with

	parts := strings.Split(good(), ".")
	first, second, signature := parts[0], parts[1], parts[2]
	json := fmt.Sprintf(`{"protected":%q,"payload":%q,"signature":%q}`, first, second, signature)
	several := fmt.Sprintf(`{"payload":%q,"signatures":[{"protected":%q,"signature":%q},{"protected":%q,"signature":%q}]}`, second, first, signature, first, signature)
	w.remember(signature)

	w.try(t, refused("empty", "", "authorization_header"))
	for _, r := range onlyInForms(t, w) {
		w.tryOn(t, r, w.overOAuth)
	}
	for _, r := range []row{
		granted("(a good token)", good()),
		refused("one segment", first, "three segments"),
		refused("two segments", first+"."+second, "three segments"),
		refused("four segments", good()+"."+signature, "three segments"),
		refused("empty segments", "..", "empty header"),
		refused("no payload", first+".."+signature, "empty payload"),
		refused("no signature", first+"."+second+".", "empty signature"),
		refused("a megabyte of dots: as many as the listener lets in", strings.Repeat(".", 48<<10), "malformed: longer than 16384 bytes"),
		refused("a header over 8 KiB", header(fmt.Sprintf(`{"alg":"RS256","kid":%q,"x":%q}`, kid, strings.Repeat("x", 8<<10))), "header longer than 8192 bytes"),
		refused("a token over 16 KiB", w.sign(t, i, map[string]any{"x": strings.Repeat("x", 13<<10)}), "longer than 16384 bytes"),
		refused("JWE", b64(`{"alg":"RSA-OAEP","enc":"A256GCM"}`)+".a2V5.aXY."+second+".dGFn", "three segments"),
		refused("JWE: an enc in a JWS", header(fmt.Sprintf(`{"alg":"RS256","kid":%q,"enc":"A256GCM"}`, kid)), `"enc" is not accepted`),
		refused("JSON-serialised JWS", json, "malformed"),
		refused("several signatures", several, "malformed"),
		refused("padded base64", b64Padded(t, w), "not unpadded base64url"),
		refused("non-URL base64", b64Standard(t, w), "not unpadded base64url"),
		refused("bits after the end of base64", lastBitSet(good()), "not unpadded base64url"),
		refused("a space inside", first+" ."+second+"."+signature, "not unpadded base64url"),
		refused("duplicate header keys", header(fmt.Sprintf(`{"alg":"RS256","kid":%q,"alg":"RS256"}`, kid)), "duplicate member name"),
		refused("duplicate claims", claims(open+`,"sub":"another"}`), "duplicate member name"),
		refused("case-variant header keys", header(fmt.Sprintf(`{"alg":"RS256","kid":%q,"Alg":"none"}`, kid)), "differs from \"alg\" in case only"),
		refused("case-variant claims (SUB)", claims(strings.Replace(whole, `"sub"`, `"SUB"`, 1)), "differs from \"sub\" in case only"),
		refused("case-variant claims beside the right ones", claims(open+`,"Aud":"x"}`), "differs from \"aud\" in case only"),
		refused("invalid UTF-8", claims(open+",\"x\":\"\xff\"}"), "not valid UTF-8"),
		refused("half of a surrogate pair", claims(open+`,"x":"\ud800"}`), "lone surrogate"),
		refused("10,000 levels of nesting", claims(open+`,"x":`+strings.Repeat("[", 10_000)), "nested too deeply"),
		refused("5,000 levels of nesting, closed", claims(open+`,"x":`+strings.Repeat("[", 5000)+strings.Repeat("]", 5000)+"}"), "nested too deeply"),
		refused("a payload that is no object: an array", claims(`[`+whole+`]`), "not a JSON object"),
		refused("a payload that is no object: a string", claims(`"sub"`), "not a JSON object"),
		refused("a payload that is no object: null", claims(`null`), "not a JSON object"),
		refused("a payload that is no object: nothing", claims(` `), "not a JSON object"),
		refused("two payloads", claims(whole+whole), "data after the object"),
		refused("a nested JWT", w.signWith(t, i, ststest.Signing{Header: map[string]any{"cty": "JWT"}, Payload: []byte(good())}), `"cty" is not accepted`),
		refused("a nested JWT without cty", claims(good()), "not a JSON object"),
		refused("a body changed by one letter", flip(good()), "signature"),
	} {
		w.tryOn(t, r, w.overHTTP, w.overGRPC, w.overOAuth)
	}
}

// b64Padded has a segment with =, as standard base64 has it.
func b64Padded(t *testing.T, w *world) string {
	raw := w.sign(t, w.Issuer, nil)
	at := strings.LastIndex(raw, ".")
	signature, err := base64.RawURLEncoding.DecodeString(raw[at+1:])
	if err != nil {
		t.Fatal(err)
	}
	return raw[:at+1] + base64.URLEncoding.EncodeToString(signature)
}

// b64Standard has a signature with + or / in it.
func b64Standard(t *testing.T, w *world) string {
	for {
		raw := w.sign(t, w.Issuer, nil)
		at := strings.LastIndex(raw, ".")
		if signature := raw[at:]; strings.ContainsAny(signature, "-_") {
			return raw[:at] + strings.NewReplacer("-", "+", "_", "/").Replace(signature)
		}
	}
}

// lastBitSet is another spelling of the same bytes: 256 bytes leave four bits over.
func lastBitSet(raw string) string {
	const alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
	last := strings.IndexByte(alphabet, raw[len(raw)-1])
	return raw[:len(raw)-1] + alphabet[last|1:last|1+1]
}

// flip changes one letter of the payload without making it another document:
// the digits at the end of the issuer's port, say.
func flip(raw string) string {
	parts := strings.Split(raw, ".")
	text, err := base64.RawURLEncoding.DecodeString(parts[1])
	if err != nil {
		panic(err)
	}
	changed := strings.Replace(string(text), "heads/main", "heads/mail", 1)
	return parts[0] + "." + b64(changed) + "." + parts[2]
}

// decoded is the payload of a token.
func decoded(t *testing.T, raw string) string {
	t.Helper()
	text, err := base64.RawURLEncoding.DecodeString(strings.Split(raw, ".")[1])
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}
