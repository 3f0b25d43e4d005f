package idtoken

import (
	"bytes"
	"encoding/json"
	"reflect"
	"strings"
	"testing"

	jose "github.com/go-jose/go-jose/v4"
)

// FuzzParse holds the strict parser against encoding/json and go-jose: what it accepts, they accept too, and they read
// the same out of it.
func FuzzParse(f *testing.F) {
	token := func(header, payload, signature string) string {
		return b64([]byte(header)) + "." + b64([]byte(payload)) + "." + b64([]byte(signature))
	}
	f.Add(token(`{"alg":"RS256","kid":"k","typ":"JWT"}`, `{"iss":"https://i.example","sub":"s","aud":["a"],"exp":1,"iat":0}`, "s"))
	f.Add(token(`{"alg":"EdDSA"}`, `{"a":[1,-0.5e+3,true,false,null,{"b":{}}],"\u00e9\ud83d\ude00\n":"\"\\\/\b\f\r\t"}`, "s"))
	f.Add(token(`{"alg":"none"}`, `{}`, "s"))
	f.Add(token(`{"alg":"ES256","alg":"ES256"}`, `{"SUB":1}`, "s"))
	f.Add(token(`{"alg":"ES256","crit":["b64"],"b64":false}`, `{"a":1,"a":2}`, "s"))
	f.Add(token(`{"alg":"ES256"}`, strings.Repeat(`{"a":`, 40)+"1"+strings.Repeat("}", 40), "s"))
	f.Add("..")
	f.Add("a.b.c\n")
	var names []jose.SignatureAlgorithm
	for name := range algorithms {
		names = append(names, jose.SignatureAlgorithm(name))
	}
	f.Fuzz(func(t *testing.T, raw string) {
		jws, err := parseCompact(raw)
		if err != nil {
			if r := reason(t, err); r != ReasonMalformed && r != ReasonAlgorithm {
				t.Errorf("reason %q: %v", r, err)
			}
			return
		}
		other, err := jose.ParseSignedCompact(raw, names)
		if err != nil {
			// go-jose wants a nonce to be a string (RFC 8555), which is nothing to us.
			if strings.Contains(err.Error(), "nonce") || headerHas(t, raw, "nonce") {
				return
			}
			t.Fatalf("go-jose refuses what we accept: %v", err)
		}
		header := other.Signatures[0].Header
		if header.Algorithm != jws.alg || header.KeyID != jws.kid {
			t.Errorf("alg %q and kid %q, go-jose reads %q and %q", jws.alg, jws.kid, header.Algorithm, header.KeyID)
		}
		if !bytes.Equal(other.UnsafePayloadWithoutVerification(), jws.payload) {
			t.Error("go-jose reads another payload")
		}
		sameJSON(t, string(jws.payload), jws.claims)
		if token, err := newIDToken(jws.claims); err == nil && (token.Subject == "" || len(token.Audience) == 0) {
			t.Errorf("token %+v", token)
		}
	})
}

func headerHas(t *testing.T, raw, name string) bool {
	header, err := decodeSegment("header", raw[:strings.IndexByte(raw, '.')])
	if err != nil {
		t.Fatal(err)
	}
	object, err := parseJSONObject(string(header), 0)
	if err != nil {
		t.Fatal(err)
	}
	_, has := object[name]
	return has
}

// sameJSON fails where encoding/json reads something else out of s.
func sameJSON(t *testing.T, s string, got map[string]any) {
	t.Helper()
	decoder := json.NewDecoder(strings.NewReader(s))
	decoder.UseNumber()
	var want map[string]any
	if err := decoder.Decode(&want); err != nil {
		t.Fatalf("encoding/json refuses what we accept: %v", err)
	}
	if decoder.More() {
		t.Error("encoding/json finds more after the object")
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("read %v, encoding/json reads %v", got, want)
	}
}

func FuzzJSON(f *testing.F) {
	for _, seed := range []string{
		`{}`, `{"a":1}`, ` {"a" : [ 1 , 2.5e-3 ] , "b":{"c":null}} `, `{"a":"\u0041\ud83d\ude00\\"}`, `{"a":1,"a":1}`,
		`{"a":01}`, `{"a":1.}`, `{"a":-}`, `{"a":[1,]}`, `{"a":1,}`, `{,}`, `{"a"}`, `{"a":tru}`, `{"a":"\ud800"}`, "{\"a\":\"\x00\"}", "{\"\xff\":1}", `{"a":"\`,
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if object, err := parseJSONObject(s, 0); err == nil {
			sameJSON(t, s, object)
		}
	})
}

func FuzzKeySet(f *testing.F) {
	f.Add([]byte(jwks(f, newKey(f, "RS256", "a"), newKey(f, "ES256", "b"), newKey(f, "ES384", "c"), newKey(f, "ES512", "c"), newKey(f, "EdDSA", ""))))
	f.Add([]byte(`{"keys":[{"kty":"RSA","n":"AQAB","e":"AQAB"},{"kty":"oct","k":"AA"},{"kty":"EC","crv":"P-256","x":"","y":null},null,7]}`))
	f.Add([]byte(`{"keys":[]}`))
	token := &compactJWS{signed: "a.b", signature: make([]byte, 64)}
	f.Fuzz(func(t *testing.T, data []byte) {
		set, err := parseKeySet(data)
		if err != nil {
			return
		}
		if len(set.keys) == 0 || len(set.keys)+len(set.ignored) > maxKeys {
			t.Errorf("%d keys and %d ignored", len(set.keys), len(set.ignored))
		}
		for _, k := range set.keys {
			for alg := range algorithms {
				if !k.fits(alg) {
					continue
				}
				token.alg = alg
				if k.verify(token) == nil {
					t.Errorf("%s: a signature of zeros verifies", alg)
				}
				if keys, err := set.find(k.kid, alg); err != nil && (k.kid != "" || len(keys) > maxKeysOfOneID) {
					t.Errorf("%s: key %q is not found: %v", alg, k.kid, err)
				}
			}
		}
	})
}
