package idtoken

import (
	"crypto"
	"crypto/hmac"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/asn1"
	"encoding/json"
	"encoding/pem"
	"io"
	"log"
	"math/big"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func quiet() *log.Logger { return log.New(io.Discard, "", 0) }

func TestVerifyEachAlgorithm(t *testing.T) {
	var keys []key
	for _, alg := range []string{"RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"} {
		keys = append(keys, newKey(t, alg, "key-"+alg))
	}
	v := fileVerifier(t, keys...)
	for _, k := range keys {
		t.Run(k.alg, func(t *testing.T) {
			raw := k.sign(t, claims(issuerURL, nil))
			if _, err := v.Verify(t.Context(), raw); err != nil {
				t.Errorf("good token: %v", err)
			}
			// Another payload under the same signature.
			header, rest, _ := strings.Cut(raw, ".")
			_, signature, _ := strings.Cut(rest, ".")
			forged := header + "." + b64([]byte(jsonOf(t, claims(issuerURL, object{"sub": "other"})))) + "." + signature
			if _, err := v.Verify(t.Context(), forged); reason(t, err) != ReasonSignature {
				t.Errorf("another payload: %v, want %s", err, ReasonSignature)
			}
			// The same header and payload, signed by somebody else.
			stranger := newKey(t, k.alg, "key-"+k.alg)
			if _, err := v.Verify(t.Context(), stranger.sign(t, claims(issuerURL, nil))); reason(t, err) != ReasonSignature {
				t.Errorf("another key: %v, want %s", err, ReasonSignature)
			}
		})
	}
}

func TestVerifyReturnsWhatTheTokenSays(t *testing.T) {
	k := newKey(t, "ES256", "k")
	payload := `{"iss":"https://issuer.example","sub":"repo:a/b:environment:Prod (EU) {1} $x","aud":["x","sts.example.com"],
		"iat":1785585600,"exp":1785585900.5,"jti":"j\u0031","run":12345678901234567890,"flag":true,"nothing":null,"groups":["a",1.50,{"b":[]}]}`
	token, err := fileVerifier(t, k).Verify(t.Context(), k.signRaw(t, "ES256", `{"alg":"ES256","kid":"k"}`, payload))
	if err != nil {
		t.Fatal(err)
	}
	want := &IDToken{
		Issuer: issuerURL, Subject: "repo:a/b:environment:Prod (EU) {1} $x", Audience: []string{"x", "sts.example.com"}, JTI: "j1",
		IssuedAt: time.Unix(1785585600, 0), Expiry: time.Unix(1785585900, 5e8),
		Claims: object{
			"iss": issuerURL, "sub": "repo:a/b:environment:Prod (EU) {1} $x", "aud": []any{"x", "sts.example.com"},
			"iat": json.Number("1785585600"), "exp": json.Number("1785585900.5"), "jti": "j1", "run": json.Number("12345678901234567890"),
			"flag": true, "nothing": nil, "groups": []any{"a", json.Number("1.50"), object{"b": []any{}}},
		},
	}
	if diff := cmp.Diff(want, token); diff != "" {
		t.Errorf("token (-want +got):\n%s", diff)
	}
}

func check(t *testing.T, v *Verifier, raw, want string) {
	t.Helper()
	token, err := v.Verify(t.Context(), raw)
	if got := reason(t, err); got != want {
		t.Fatalf("reason %q (%v), want %q", got, err, want)
	}
	if (token != nil) != (err == nil) {
		t.Errorf("token %v with error %v", token, err)
	}
	if err != nil && len(err.Error()) > 2000 {
		t.Errorf("error of %d bytes", len(err.Error()))
	}
}

func TestVerifySignatureAndKeys(t *testing.T) {
	rs, rs384, es := newKey(t, "RS256", "rs"), newKey(t, "RS384", "rs384"), newKey(t, "ES256", "es")
	es384, ed := newKey(t, "ES384", "es384"), newKey(t, "EdDSA", "ed")
	// Two keys without an alg of their own: an RSA key fits all of RS and PS.
	free, twin := newKey(t, "RS256", "free").with(object{"alg": nil}), newKey(t, "RS256", "free")
	path := newKey(t, "ES512", "../../etc/passwd?x=' OR 1=1 --")
	v := fileVerifier(t, rs, rs384, es, es384, ed, free, twin, path)
	good := jsonOf(t, claims(issuerURL, nil))
	public := pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: must(x509.MarshalPKIXPublicKey(rs.private.Public()))})
	hs256 := func(header string) string {
		signed := b64([]byte(header)) + "." + b64([]byte(good))
		mac := hmac.New(sha256.New, public)
		mac.Write([]byte(signed))
		return signed + "." + b64(mac.Sum(nil))
	}
	raw := func(k key, alg, header string) string { return k.signRaw(t, alg, header, good) }
	esSigned := b64([]byte(`{"alg":"ES256","kid":"es"}`)) + "." + b64([]byte(good))
	esSignature := es.signature(t, "ES256", esSigned)
	order, _ := new(big.Int).SetString(p256Order, 16)
	r, s := new(big.Int).SetBytes(esSignature[:32]), new(big.Int).SetBytes(esSignature[32:])
	der := must(asn1.Marshal(struct{ R, S *big.Int }{r, s}))
	edSigned := b64([]byte(`{"alg":"EdDSA","kid":"ed"}`)) + "." + b64([]byte(good))

	rsSigned := b64([]byte(`{"alg":"RS256","kid":"rs"}`)) + "." + b64([]byte(good))

	for _, c := range []struct{ name, raw, want string }{
		{"RSA, good", rs.signSegments(t, "RS256", rsSigned), ""},
		{"alg none", b64([]byte(`{"alg":"none","kid":"rs"}`)) + "." + b64([]byte(good)) + ".", ReasonMalformed},
		{"alg none, with a signature", raw(rs, "RS256", `{"alg":"none","kid":"rs"}`), ReasonAlgorithm},
		{"alg None", raw(rs, "RS256", `{"alg":"None","kid":"rs"}`), ReasonAlgorithm},
		{"alg NONE", raw(rs, "RS256", `{"alg":"NONE","kid":"rs"}`), ReasonAlgorithm},
		{"alg nOnE", raw(rs, "RS256", `{"alg":"nOnE","kid":"rs"}`), ReasonAlgorithm},
		{"alg empty", raw(rs, "RS256", `{"alg":"","kid":"rs"}`), ReasonAlgorithm},
		{"alg null", raw(rs, "RS256", `{"alg":null,"kid":"rs"}`), ReasonAlgorithm},
		{"alg an array", raw(rs, "RS256", `{"alg":["RS256"],"kid":"rs"}`), ReasonAlgorithm},
		{"alg in lower case", raw(rs, "RS256", `{"alg":"rs256","kid":"rs"}`), ReasonAlgorithm},
		{"RS1", raw(rs, "RS256", `{"alg":"RS1","kid":"rs"}`), ReasonAlgorithm},
		{"ES256K", raw(es, "ES256", `{"alg":"ES256K","kid":"es"}`), ReasonAlgorithm},
		{"HS256 with the RSA public key", hs256(`{"alg":"HS256","kid":"rs"}`), ReasonAlgorithm},
		{"RS256 with an HMAC", hs256(`{"alg":"RS256","kid":"rs"}`), ReasonSignature},
		{"ES256 over an RSA key", raw(es, "ES256", `{"alg":"ES256","kid":"rs"}`), ReasonAlgorithm},
		{"RS256 over an EC key", raw(rs, "RS256", `{"alg":"RS256","kid":"es"}`), ReasonAlgorithm},
		{"EdDSA over an EC key", raw(ed, "EdDSA", `{"alg":"EdDSA","kid":"es"}`), ReasonAlgorithm},
		{"ES384 over a P-256 key", raw(es, "ES384", `{"alg":"ES384","kid":"es"}`), ReasonAlgorithm},
		{"RS384 where the JWK says RS256", raw(rs, "RS384", `{"alg":"RS384","kid":"rs"}`), ReasonAlgorithm},
		{"PS256 where the JWK says RS256", raw(rs, "PS256", `{"alg":"PS256","kid":"rs"}`), ReasonAlgorithm},
		{"RS512 where the JWK says nothing", raw(free, "RS512", `{"alg":"RS512","kid":"free"}`), ""},
		{"PS256 where the JWK says nothing", raw(free, "PS256", `{"alg":"PS256","kid":"free"}`), ""},
		{"PS256 signature under RS256", raw(rs, "PS256", `{"alg":"RS256","kid":"rs"}`), ReasonSignature},
		{"RS256 signature under PS256", raw(free, "RS256", `{"alg":"PS256","kid":"free"}`), ReasonSignature},
		{"PSS with a salt of 32 bytes", pssWithSalt(t, free, good, 32), ""},
		{"PSS with a salt of 20 bytes", pssWithSalt(t, free, good, 20), ReasonSignature},
		{"embedded jwk", raw(rs, "RS256", `{"alg":"RS256","kid":"rs","jwk":`+jsonOf(t, rs.jwk)+`}`), ReasonMalformed},
		{"embedded jwk, null", raw(rs, "RS256", `{"alg":"RS256","kid":"rs","jwk":null}`), ReasonMalformed},
		{"jku", raw(rs, "RS256", `{"alg":"RS256","kid":"rs","jku":"https://evil.example/"}`), ReasonMalformed},
		{"x5u", raw(rs, "RS256", `{"alg":"RS256","kid":"rs","x5u":"https://evil.example/"}`), ReasonMalformed},
		{"x5c", raw(rs, "RS256", `{"alg":"RS256","kid":"rs","x5c":["AAAA"]}`), ReasonMalformed},
		{"unknown crit", raw(rs, "RS256", `{"alg":"RS256","kid":"rs","crit":["foo"],"foo":1}`), ReasonMalformed},
		{"empty crit", raw(rs, "RS256", `{"alg":"RS256","kid":"rs","crit":[]}`), ReasonMalformed},
		{"b64 false", raw(rs, "RS256", `{"alg":"RS256","kid":"rs","b64":false,"crit":["b64"]}`), ReasonMalformed},
		{"b64 true", raw(rs, "RS256", `{"alg":"RS256","kid":"rs","b64":true}`), ReasonMalformed},
		{"ECDSA, good", esSigned + "." + b64(esSignature), ""},
		{"ECDSA in DER", esSigned + "." + b64(der), ReasonSignature},
		{"ECDSA with r = 0", esSigned + "." + b64(append(make([]byte, 32), esSignature[32:]...)), ReasonSignature},
		{"ECDSA with s = 0", esSigned + "." + b64(append(esSignature[:32:32], make([]byte, 32)...)), ReasonSignature},
		{"ECDSA with r = s = 0", esSigned + "." + b64(make([]byte, 64)), ReasonSignature},
		{"ECDSA with r over the order", esSigned + "." + b64(append(r.Add(r, order).FillBytes(make([]byte, 33)), esSignature[32:]...)), ReasonSignature},
		{"ECDSA, too short", esSigned + "." + b64(esSignature[:63]), ReasonSignature},
		{"ECDSA, too long", esSigned + "." + b64(append([]byte{0}, esSignature...)), ReasonSignature},
		{"EdDSA, good", edSigned + "." + b64(ed.signature(t, "EdDSA", edSigned)), ""},
		{"EdDSA, too short", edSigned + "." + b64(ed.signature(t, "EdDSA", edSigned)[:63]), ReasonSignature},
		{"RSA, too short", rsSigned + "." + b64(rs.signature(t, "RS256", rsSigned)[:255]), ReasonSignature},
		{"no kid, one key fits", raw(ed, "EdDSA", `{"alg":"EdDSA"}`), ""},
		{"no kid, several keys fit", raw(rs, "RS256", `{"alg":"RS256"}`), ReasonUnknownKey},
		{"no kid, one EC key fits", raw(es384, "ES384", `{"alg":"ES384"}`), ""},
		{"unknown kid", raw(rs, "RS256", `{"alg":"RS256","kid":"other"}`), ReasonUnknownKey},
		{"kid in another case", raw(rs, "RS256", `{"alg":"RS256","kid":"RS"}`), ReasonUnknownKey},
		{"kid as a path", raw(rs, "RS256", `{"alg":"RS256","kid":"../../../dev/null"}`), ReasonUnknownKey},
		{"kid as SQL", raw(rs, "RS256", `{"alg":"RS256","kid":"x' UNION SELECT 'k';--"}`), ReasonUnknownKey},
		{"kid with NUL", raw(rs, "RS256", `{"alg":"RS256","kid":"rs\u0000"}`), ReasonUnknownKey},
		{"odd kid that is published", raw(path, "ES512", `{"alg":"ES512","kid":`+jsonOf(t, path.jwk["kid"])+`}`), ""},
		{"kid of another key", raw(rs, "RS256", `{"alg":"RS256","kid":"free"}`), ReasonSignature},
		{"duplicate kid, first key", raw(free, "RS256", `{"alg":"RS256","kid":"free"}`), ""},
		{"duplicate kid, second key", raw(twin, "RS256", `{"alg":"RS256","kid":"free"}`), ""},
	} {
		t.Run(c.name, func(t *testing.T) { check(t, v, c.raw, c.want) })
	}
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// p256Order is the order of P-256, SP 800-186 section 3.2.1.3.
const p256Order = "ffffffff00000000ffffffffffffffffbce6faada7179e84f3b9cac2fc632551"

func pssWithSalt(t *testing.T, k key, payload string, salt int) string {
	t.Helper()
	signed := b64([]byte(`{"alg":"PS256","kid":"free"}`)) + "." + b64([]byte(payload))
	digest := sha256.Sum256([]byte(signed))
	options := &rsa.PSSOptions{SaltLength: salt}
	return signed + "." + b64(must(rsa.SignPSS(rand.Reader, k.private.(*rsa.PrivateKey), crypto.SHA256, digest[:], options)))
}

func TestNoErrorQuotesTheToken(t *testing.T) {
	k := newKey(t, "ES256", "k")
	v := fileVerifier(t, k)
	for _, changes := range []object{{"exp": 1}, {"sub": nil}, {"iss": "https://other.example"}, {"aud": 1}} {
		raw := k.sign(t, claims(issuerURL, changes))
		_, err := v.Verify(t.Context(), raw)
		if err == nil {
			t.Fatalf("%v was accepted", changes)
		}
		for segment := range strings.SplitSeq(raw, ".") {
			if strings.Contains(err.Error(), segment) {
				t.Errorf("the error quotes the token: %v", err)
			}
		}
	}
}

func TestNewRefusesABadConfiguration(t *testing.T) {
	good := writeFile(t, jwks(t, newKey(t, "EdDSA", "k")))
	missing := filepath.Join(t.TempDir(), "missing")
	for _, c := range []struct {
		name    string
		issuers []Issuer
		want    string
	}{
		{"a bad URL", []Issuer{{URL: "http://issuer.example"}}, "is http"},
		{"no URL", []Issuer{{}}, "https://"},
		{"one twice", []Issuer{{URL: issuerURL}, {URL: issuerURL}}, "twice"},
		{"a bad JWKS URL", []Issuer{{URL: issuerURL, JWKSURL: "ftp://x"}}, "jwks_url"},
		{"two places for keys", []Issuer{{URL: issuerURL, JWKSURL: "https://x", JWKSFile: good}}, "both"},
		{"no such key file", []Issuer{{URL: issuerURL, JWKSFile: missing}}, missing},
		{"a directory for a key file", []Issuer{{URL: issuerURL, JWKSFile: filepath.Dir(missing)}}, "jwks_file"},
		{"a key file without keys", []Issuer{{URL: issuerURL, JWKSFile: writeFile(t, `{"keys":[]}`)}}, "no usable key"},
		{"a key file over 1 MiB", []Issuer{{URL: issuerURL, JWKSFile: writeFile(t, strings.Repeat(" ", 1<<20+1))}}, "over"},
		{"no such CA file", []Issuer{{URL: issuerURL, CAFile: missing}}, missing},
		{"a CA file without certificates", []Issuer{{URL: issuerURL, CAFile: good}}, "no PEM certificate"},
		{"a negative lifetime", []Issuer{{URL: issuerURL, MaxLifetime: -1}}, "max_lifetime"},
		{"all problems at once", []Issuer{{URL: "x"}, {URL: issuerURL, CAFile: missing}}, missing},
	} {
		v, err := New(t.Context(), Config{Issuers: c.issuers})
		if err == nil {
			t.Errorf("%s: no error, %v", c.name, v)
			continue
		}
		contains(t, err.Error(), c.want)
	}
	v, err := New(t.Context(), Config{})
	if err != nil {
		t.Fatal(err)
	}
	check(t, v, newKey(t, "EdDSA", "k").sign(t, claims(issuerURL, nil)), ReasonUnlistedIssuer)
}
