package main

import (
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/asn1"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"math/big"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc/codes"

	"github.com/octo-sts/appliance/sts/ststest"
)

// oddKeys is an issuer that publishes keys of every kind, good and bad.
type oddKeys struct {
	issuer                                     *ststest.Issuer
	rsa, es256, ed                             *ststest.Key // good ones
	weak, offCurve, encryption, private, nokid *ststest.Key
	secret                                     []byte // of a symmetric key in the set
}

func newOddKeys(t *testing.T) *oddKeys {
	k := &oddKeys{issuer: newIssuer(t, ststest.IssuerConfig{}), secret: []byte("a secret that everybody can read")}
	k.rsa = k.issuer.SigningKey()
	for key, alg := range map[**ststest.Key]string{
		&k.es256: "ES256", &k.ed: "EdDSA", &k.offCurve: "ES256", &k.encryption: "ES256", &k.private: "ES256", &k.nokid: "ES256",
	} {
		made, err := ststest.NewKey(alg)
		if err != nil {
			t.Fatal(err)
		}
		*key = made
	}
	var err error
	if k.weak, err = ststest.NewWeakKey(); err != nil {
		t.Fatal(err)
	}
	k.issuer.Publish(k.es256)
	k.issuer.Publish(k.ed)
	k.issuer.Publish(k.weak)
	off, encryption := k.offCurve.JWK(), k.encryption.JWK()
	y, err := base64.RawURLEncoding.DecodeString(off["y"].(string))
	if err != nil {
		t.Fatal(err)
	}
	y[31] ^= 1
	off["y"] = base64.RawURLEncoding.EncodeToString(y)
	encryption["use"] = "enc"
	k.issuer.PublishJWKs(off, encryption, k.private.PrivateJWK(), k.nokid.JWK(), ststest.SymmetricJWK("symmetric", k.secret))
	return k
}

func signatureAndKeys(t *testing.T, w *world) {
	k, i := w.keys, w.keys.issuer
	by := func(key *ststest.Key, header map[string]any) string {
		return w.signWith(t, i, ststest.Signing{Key: key, Header: header})
	}
	as := func(key *ststest.Key, alg string, header map[string]any) string {
		return w.signWith(t, i, ststest.Signing{Key: key, Alg: alg, Header: header})
	}
	hmac := func(secret []byte, kid string) string {
		return w.signWith(t, i, ststest.Signing{Alg: "HS256", Secret: secret, Header: map[string]any{"kid": kid}})
	}
	der, err := x509.MarshalPKIXPublicKey(k.rsa.Private.Public())
	if err != nil {
		t.Fatal(err)
	}
	public := pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})
	jwk, err := json.Marshal(k.rsa.JWK())
	if err != nil {
		t.Fatal(err)
	}
	attacker, err := ststest.NewKey("ES256")
	if err != nil {
		t.Fatal(err)
	}
	elsewhere := w.unlisted.JWKSURL()

	w.tryAll(t, []row{
		granted("(RS256)", by(k.rsa, nil)),
		granted("(ES256)", by(k.es256, nil)),
		granted("(EdDSA)", by(k.ed, nil)),
	})
	for _, none := range []string{"none", "None", "NONE", "nOnE"} {
		header := map[string]any{"alg": none, "kid": k.rsa.ID}
		w.tryAll(t, []row{
			refused("alg: "+none+", no signature", as(k.rsa, "none", header), "malformed: empty signature"),
			refused("alg: "+none+", a signature", as(k.rsa, "RS256", header), "algorithm"),
		})
	}
	w.tryAll(t, []row{
		refused("HS256 with the RSA public key as secret: PEM", hmac(public, k.rsa.ID), "algorithm"),
		refused("HS256 with the RSA public key as secret: DER", hmac(der, k.rsa.ID), "algorithm"),
		refused("HS256 with the RSA public key as secret: JWK", hmac(jwk, k.rsa.ID), "algorithm"),
		refused("HS256 with an RS256 header", w.signWith(t, i, ststest.Signing{Alg: "HS256", Secret: public, Header: map[string]any{"alg": "RS256"}}), "signature"),
		refused("an ES256 header over an RSA key", as(k.es256, "ES256", map[string]any{"kid": k.rsa.ID}), "algorithm"),
		refused("an RS256 header over an EC key", as(k.rsa, "RS256", map[string]any{"kid": k.es256.ID}), "algorithm"),
		refused("an alg other than the JWK's: RS384", as(k.rsa, "RS384", nil), "algorithm"),
		refused("an alg other than the JWK's: PS256", as(k.rsa, "PS256", nil), "algorithm"),
		refused("an embedded jwk", by(attacker, map[string]any{"jwk": attacker.JWK()}), `"jwk" is not accepted`),
		refused("an embedded jwk, under a good kid", by(attacker, map[string]any{"jwk": attacker.JWK(), "kid": k.es256.ID}), `"jwk" is not accepted`),
		refused("jku", by(attacker, map[string]any{"jku": elsewhere}), `"jku" is not accepted`),
		refused("x5u", by(attacker, map[string]any{"x5u": elsewhere}), `"x5u" is not accepted`),
		refused("x5c", by(attacker, map[string]any{"x5c": []string{base64.StdEncoding.EncodeToString(der)}}), `"x5c" is not accepted`),
		refused("an unknown crit", by(k.rsa, map[string]any{"crit": []string{"urn:x"}, "urn:x": 1}), `"crit" is not accepted`),
		refused("b64: false", by(k.rsa, map[string]any{"b64": false, "crit": []string{"b64"}}), "is not accepted"),
	})
	keysOfTheSet(t, w, by, hmac)
	t.Run("a new key (accepted within 10 s), and the key that it replaced", func(t *testing.T) { rotation(t, w) })
	t.Run("a flood of random kids", func(t *testing.T) { flood(t, w) })
}

// keysOfTheSet are tokens by keys that no token should be verified with, and
// tokens that do not say which key they mean.
func keysOfTheSet(t *testing.T, w *world, by func(*ststest.Key, map[string]any) string, hmac func([]byte, string) string) {
	k := w.keys
	w.tryAll(t, []row{
		refused("RSA under 2048 bits", by(k.weak, nil), "unknown_key"),
		refused("an EC point off its curve", by(k.offCurve, nil), "unknown_key"),
		refused("ECDSA with r = 0", ecdsaSigned(t, w, func(_, s *big.Int) []byte { return fixed(new(big.Int), s) }), "signature"),
		refused("ECDSA with s = 0", ecdsaSigned(t, w, func(r, _ *big.Int) []byte { return fixed(r, new(big.Int)) }), "signature"),
		refused("ECDSA with r = s = 0", ecdsaSigned(t, w, func(_, _ *big.Int) []byte { return make([]byte, 64) }), "signature"),
		refused("ECDSA in DER", ecdsaSigned(t, w, inDER), "signature"),
		granted("(ECDSA, r and s as they are)", ecdsaSigned(t, w, fixed)),
		refused("no kid where the set has many keys", by(k.es256, map[string]any{"kid": ststest.Omit}), "several of the issuer's keys fit"),
		granted("no kid where one key fits (accepted)", by(k.ed, map[string]any{"kid": ststest.Omit})),
		refused("kid as a path", by(k.rsa, map[string]any{"kid": "../../../../dev/null"}), "unknown_key"),
		refused("kid as SQL", by(k.rsa, map[string]any{"kid": "' UNION SELECT 'k' --"}), "unknown_key"),
		refused("kid as a number", by(k.rsa, map[string]any{"kid": 1}), "kid is not a string"),
		refused("a JWK with use: enc", by(k.encryption, nil), "unknown_key"),
		refused("a private key in a key set", by(k.private, nil), "unknown_key"),
		refused("a symmetric key in a key set", hmac(k.secret, "symmetric"), "algorithm"),
		refused("another issuer's key", w.signWith(t, w.Issuer, ststest.Signing{Key: k.rsa}), "unknown_key"),
		refused("another issuer's key under the right kid", w.signWith(t, w.Issuer, ststest.Signing{Key: k.rsa, Header: map[string]any{"kid": w.Issuer.SigningKey().ID}}), "signature"),
	})
}

// ecdsaSigned is a good token but for how its two numbers are written.
func ecdsaSigned(t *testing.T, w *world, write func(r, s *big.Int) []byte) string {
	key := w.keys.es256
	return w.signWith(t, w.keys.issuer, ststest.Signing{Key: key, Sign: func(input []byte) ([]byte, error) {
		digest := sha256.Sum256(input)
		r, s, err := ecdsa.Sign(rand.Reader, key.Private.(*ecdsa.PrivateKey), digest[:])
		if err != nil {
			return nil, err
		}
		return write(r, s), nil
	}})
}

func fixed(r, s *big.Int) []byte {
	return append(r.FillBytes(make([]byte, 32)), s.FillBytes(make([]byte, 32))...)
}

func inDER(r, s *big.Int) []byte {
	der, err := asn1.Marshal(struct{ R, S *big.Int }{r, s})
	if err != nil {
		panic(err)
	}
	return der
}

// rotation exchanges the issuer's key for another. The daemon has until then
// asked for its keys once, at the start.
func rotation(t *testing.T, w *world) {
	i := w.issuers["rotating"]
	old := i.SigningKey()
	w.tryAll(t, []row{granted("the old key, before", w.sign(t, i, nil))})
	if _, err := i.Rotate(); err != nil {
		t.Fatal(err)
	}
	i.Retire(old)
	// The daemon may have to wait for ten seconds since it last asked.
	deadline := time.Now().Add(time.Minute)
	for {
		a := w.overHTTP(t, ask(w.sign(t, i, nil)))
		if a.code == codes.OK {
			w.remember(a.token)
			break
		}
		if a.code != codes.Unauthenticated || time.Now().After(deadline) {
			t.Fatalf("the new key: %v %s", a.code, a.message)
		}
		time.Sleep(250 * time.Millisecond)
	}
	w.tryAll(t, []row{
		granted("the new key", w.sign(t, i, nil)),
		refused("a key that was rotated out", w.signWith(t, i, ststest.Signing{Key: old}), "unknown_key"),
	})
	if n := i.KeySetFetches(); n > 3 {
		t.Errorf("the key set was fetched %d times", n)
	}
}

// flood sends tokens with random kids for three seconds, while good callers of
// the same issuer go on.
func flood(t *testing.T, w *world) {
	i := w.issuers["flooded"]
	until := time.Now().Add(3 * time.Second)
	var wg sync.WaitGroup
	for n := range 4 {
		// Made before, so that the daemon and not this process is what is busy.
		var raws []string
		for j := range 50 {
			raws = append(raws, w.signWith(t, i, ststest.Signing{Header: map[string]any{"kid": fmt.Sprintf("random-%d-%d", n, j)}}))
		}
		w.remember(raws[0])
		wg.Go(func() {
			for j := 0; time.Now().Before(until); j++ {
				if a := w.overHTTP(t, ask(raws[j%len(raws)])); a.code != codes.Unauthenticated {
					t.Errorf("a random kid: %v %s", a.code, a.message)
				}
			}
		})
	}
	good := 0
	for time.Now().Before(until) {
		a := w.overHTTP(t, ask(w.sign(t, i, nil)))
		if a.code != codes.OK {
			t.Errorf("a good caller: %v %s", a.code, a.message)
		}
		w.remember(a.token)
		good++
	}
	wg.Wait()
	if good < 3 {
		t.Errorf("good callers got %d tokens in three seconds", good)
	}
	if n, most := i.KeySetFetches(), 2+int(time.Since(w.began)/(10*time.Second)); n > most {
		t.Errorf("the key set was fetched %d times, more than once in ten seconds (%d)", n, most)
	}
	t.Logf("good callers got %d tokens; the key set was fetched %d times", good, i.KeySetFetches())
}
