package idtoken

import (
	"crypto/rand"
	"crypto/rsa"
	"encoding/base64"
	"errors"
	"math/big"
	"strings"
	"testing"
)

func TestParseKeyOfEachKind(t *testing.T) {
	rs, es, ed := newKey(t, "RS256", "k"), newKey(t, "ES256", "k"), newKey(t, "EdDSA", "k")
	es384, es512 := newKey(t, "ES384", "k"), newKey(t, "ES512", "k")
	modulus := func(bits int) string { // any odd number will do: nothing is signed with it
		n := new(big.Int).Lsh(big.NewInt(1), uint(bits-1))
		return b64(n.SetBit(n, 0, 1).Bytes())
	}
	offCurve := func(x string) string {
		bytes, _ := base64.RawURLEncoding.DecodeString(x)
		bytes[len(bytes)-1] ^= 1
		return b64(bytes)
	}
	for _, c := range []struct {
		name string
		key  key
		want string // part of why it is ignored; "" if it is not
	}{
		{"RSA", rs, ""},
		{"EC P-256", es, ""},
		{"EC P-384", es384, ""},
		{"EC P-521", es512, ""},
		{"Ed25519", ed, ""},
		{"Ed25519 by RFC 9864's alg", ed.with(object{"alg": "Ed25519"}), ""},
		{"no use, no alg, no kid", rs.with(object{"use": nil, "alg": nil, "kid": nil}), ""},
		{"certificates, which nobody reads", rs.with(object{"x5c": []string{"AAAA"}, "x5t": "AAAA", "x5u": "::"}), ""},
		{"key_ops verify", rs.with(object{"key_ops": []string{"verify"}}), ""},
		{"use enc", rs.with(object{"use": "enc"}), "use"},
		{"use null", rs.with(object{"use": null}), "use"},
		{"key_ops without verify", rs.with(object{"key_ops": []string{"encrypt"}}), "key_ops"},
		{"key_ops a string", rs.with(object{"key_ops": "verify"}), "key_ops"},
		{"private RSA key", rs.with(object{"d": "AQAB"}), "private"},
		{"private RSA key, primes only", rs.with(object{"p": "AQAB", "q": "AQAB"}), "private"},
		{"private EC key", es.with(object{"d": "AQAB"}), "private"},
		{"private Ed25519 key", ed.with(object{"d": "AQAB"}), "private"},
		{"symmetric key", key{jwk: object{"kty": "oct", "k": "c2VjcmV0", "kid": "k", "alg": "HS256"}}, "symmetric"},
		{"symmetric key without its value", key{jwk: object{"kty": "oct", "kid": "k"}}, "kty"},
		{"unknown kty", rs.with(object{"kty": "AKP"}), "kty"},
		{"kty in another case", rs.with(object{"kty": "rsa"}), "kty"},
		{"no kty", rs.with(object{"kty": nil}), "kty"},
		{"alg for encryption", rs.with(object{"alg": "RSA-OAEP"}), "alg"},
		{"alg HS256 on an RSA key", rs.with(object{"alg": "HS256"}), "alg"},
		{"alg none", rs.with(object{"alg": "none"}), "alg"},
		{"alg of another type", rs.with(object{"alg": "ES256"}), "alg"},
		{"alg of another curve", es.with(object{"alg": "ES384"}), "alg"},
		{"alg no string", rs.with(object{"alg": []string{"RS256"}}), "alg"},
		{"kid a number", rs.with(object{"kid": 5}), "kid"},
		{"kid empty", rs.with(object{"kid": ""}), "kid"},
		{"RSA of 1,024 bits", rs.with(object{"n": modulus(1024)}), "1024 bits"},
		{"RSA of 2,047 bits", rs.with(object{"n": modulus(2047)}), "2047 bits"},
		{"RSA of 2,048 bits", rs.with(object{"n": modulus(2048)}), ""},
		{"RSA of 1,024 bits behind zeros", rs.with(object{"n": b64(append(make([]byte, 256), big.NewInt(3).Bytes()...))}), "bits"},
		{"RSA of 8,192 bits", rs.with(object{"n": modulus(8192)}), ""},
		{"RSA of 8,193 bits", rs.with(object{"n": modulus(8193)}), "8193 bits"},
		{"RSA with an even modulus", rs.with(object{"n": b64(new(big.Int).Lsh(big.NewInt(1), 2047).Bytes())}), "even"},
		{"RSA with e = 1", rs.with(object{"e": b64([]byte{1})}), "exponent"},
		{"RSA with e = 2", rs.with(object{"e": b64([]byte{2})}), "exponent"},
		{"RSA with e = 3", rs.with(object{"e": b64([]byte{3})}), ""},
		{"RSA with e over 31 bits", rs.with(object{"e": b64([]byte{1, 0, 0, 0, 1})}), "exponent"},
		{"RSA without n", rs.with(object{"n": nil}), "its n"},
		{"RSA with n in standard base64", rs.with(object{"n": "+/+/"}), "its n"},
		{"RSA with n a number", rs.with(object{"n": 5}), "its n"},
		{"EC off its curve", es.with(object{"x": offCurve(es.jwk["x"].(string))}), "curve"},
		{"EC at infinity", es.with(object{"x": b64(make([]byte, 32)), "y": b64(make([]byte, 32))}), "curve"},
		{"EC on another curve", es.with(object{"crv": "P-384"}), "size"},
		{"EC with x too short", es.with(object{"x": "AQAB"}), "size"},
		{"EC without y", es.with(object{"y": nil}), "its y"},
		{"secp256k1", es.with(object{"crv": "secp256k1"}), "crv"},
		{"P-224", es.with(object{"crv": "P-224"}), "crv"},
		{"X25519", ed.with(object{"crv": "X25519"}), "crv"},
		{"Ed448", ed.with(object{"crv": "Ed448"}), "crv"},
		{"Ed25519 too short", ed.with(object{"x": "AQAB"}), "size"},
	} {
		t.Run(c.name, func(t *testing.T) {
			other := newKey(t, "EdDSA", "other") // a set needs one good key
			set, err := parseKeySet([]byte(jwks(t, c.key, other)))
			if err != nil {
				t.Fatal(err)
			}
			switch {
			case c.want == "" && (len(set.keys) != 2 || len(set.ignored) != 0):
				t.Errorf("ignored: %q", set.ignored)
			case c.want != "" && (len(set.keys) != 1 || len(set.ignored) != 1 || !strings.Contains(set.ignored[0], c.want)):
				t.Errorf("%d keys, ignored: %q, want one for its %s", len(set.keys), set.ignored, c.want)
			}
		})
	}
}

func TestParseKeySet(t *testing.T) {
	k := newKey(t, "EdDSA", "k")
	one := jsonOf(t, k.jwk)
	many := func(n int) string { return `{"keys":[` + strings.TrimSuffix(strings.Repeat(one+",", n), ",") + `]}` }
	for _, c := range []struct {
		name, body string
		keys       int // -1: an error
	}{
		{"one key", many(1), 1},
		{"other members", `{"keys":[` + one + `],"more":1}`, 1},
		{"entries that are no objects", `{"keys":[1,null,"x",[],` + one + `]}`, 1},
		{"empty", "", -1},
		{"no JSON", "<html>", -1},
		{"truncated", many(2)[:150], -1},
		{"null", "null", -1},
		{"an array", "[" + one + "]", -1},
		{"no keys", "{}", -1},
		{"KEYS", `{"KEYS":[` + one + `]}`, -1},
		{"keys is an object", `{"keys":{}}`, -1},
		{"keys is empty", `{"keys":[]}`, -1},
		{"keys twice", `{"keys":[` + one + `],"keys":[]}`, -1},
		{"a member twice in a key", `{"keys":[{"kty":"oct","kty":"RSA"}]}`, -1},
		{"only a symmetric key", `{"keys":[{"kty":"oct","k":"AAAA"}]}`, -1},
		{"data after the set", many(1) + "{}", -1},
		{"deeply nested", `{"keys":` + strings.Repeat("[", 100_000), -1},
		{"four keys of one ID", many(4), 4},
		{"more keys of one ID: the first four", many(256), 4},
		{"257 keys", many(257), -1},
		{"10,000 keys", many(10_000)[:maxKeySetSize-2] + "]}", -1},
		{"over 1 MiB", many(1) + strings.Repeat(" ", maxKeySetSize), -1},
	} {
		t.Run(c.name, func(t *testing.T) {
			set, err := parseKeySet([]byte(c.body))
			switch {
			case c.keys < 0 && err == nil:
				t.Errorf("%d keys and no error", len(set.keys))
			case c.keys >= 0 && err != nil:
				t.Error(err)
			case c.keys >= 0 && len(set.keys) != c.keys:
				t.Errorf("%d keys, want %d (ignored: %q)", len(set.keys), c.keys, set.ignored)
			}
		})
	}
}

func TestKeySetFind(t *testing.T) {
	rs, es := newKey(t, "RS256", "rs"), newKey(t, "ES256", "es")
	nameless, shared := newKey(t, "ES384", ""), newKey(t, "EdDSA", "es")
	set, err := parseKeySet([]byte(jwks(t, rs, es, nameless, shared)))
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		kid, alg string
		keys     int
		want     error
	}{
		{"rs", "RS256", 1, nil},
		{"rs", "PS256", 0, errWrongAlg},
		{"rs", "ES256", 0, errWrongAlg},
		{"es", "ES256", 1, nil}, // the ID is shared by keys of two types
		{"es", "EdDSA", 1, nil},
		{"other", "RS256", 0, errUnknownKey},
		{"", "RS256", 1, nil},
		{"", "ES384", 1, nil},
		{"", "ES512", 0, errUnknownKey},
	} {
		keys, err := set.find(c.kid, c.alg)
		if len(keys) != c.keys || !errors.Is(err, c.want) {
			t.Errorf("find(%q, %s): %d keys, %v; want %d, %v", c.kid, c.alg, len(keys), err, c.keys, c.want)
		}
	}
	if len(set.keys) != 4 {
		t.Errorf("find changed the set: %d keys", len(set.keys))
	}
}

// An RSA key of more bits than go-jose reads by default (4,096) verifies.
func TestVerifyLargeRSAKey(t *testing.T) {
	if testing.Short() {
		t.Skip("makes a large RSA key")
	}
	private, err := rsa.GenerateKey(rand.Reader, 4104)
	if err != nil {
		t.Fatal(err)
	}
	k := key{private: private, alg: "RS256", jwk: publicJWK(t, &private.PublicKey)}
	check(t, fileVerifier(t, k), k.sign(t, claims(issuerURL, nil)), "")
}
