package idtoken

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// issuerURL is the issuer of the tests that need no network: its keys are in a file.
const issuerURL = "https://issuer.example"

var (
	loopback = []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8"), netip.MustParsePrefix("::1/128")}
	start    = time.Date(2026, 8, 1, 12, 0, 0, 0, time.UTC)
)

// clock is a clock that a test sets.
type clock struct {
	mu sync.Mutex
	t  time.Time
}

func newClock() *clock { return &clock{t: start} }

func (c *clock) now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.t
}

func (c *clock) advance(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.t = c.t.Add(d)
}

// object is a JSON object to be.
type object = map[string]any

// claims are good claims of an issuer, with changes: a nil value removes a claim, null is the word.
func claims(issuer string, changes object) object {
	c := object{
		"iss": issuer, "sub": "repo:octo-org/octo-repo:ref:refs/heads/main", "aud": "sts.example.com",
		"iat": start.Unix() - 10, "nbf": start.Unix() - 10, "exp": start.Unix() + 300, "jti": rand.Text(),
	}
	maps.Copy(c, changes)
	maps.DeleteFunc(c, func(_ string, v any) bool { return v == nil })
	return c
}

var null = json.RawMessage("null")

// key is a key pair with the JWK of its public half.
type key struct {
	private crypto.Signer
	alg     string
	jwk     object
}

func newKey(t testing.TB, alg, kid string) key {
	t.Helper()
	k := key{alg: alg, jwk: object{"use": "sig", "alg": alg}}
	if kid != "" {
		k.jwk["kid"] = kid
	}
	var err error
	switch alg {
	case "ES256":
		k.private, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	case "ES384":
		k.private, err = ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	case "ES512":
		k.private, err = ecdsa.GenerateKey(elliptic.P521(), rand.Reader)
	case "EdDSA":
		_, k.private, err = ed25519.GenerateKey(rand.Reader)
	default:
		k.private, err = rsa.GenerateKey(rand.Reader, 2048)
	}
	if err != nil {
		t.Fatal(err)
	}
	maps.Copy(k.jwk, publicJWK(t, k.private.Public()))
	return k
}

func publicJWK(t testing.TB, public crypto.PublicKey) object {
	t.Helper()
	switch public := public.(type) {
	case *rsa.PublicKey:
		return object{"kty": "RSA", "n": b64(public.N.Bytes()), "e": b64(big.NewInt(int64(public.E)).Bytes())}
	case *ecdsa.PublicKey:
		point, err := public.Bytes()
		if err != nil {
			t.Fatal(err)
		}
		size := len(point) / 2
		return object{"kty": "EC", "crv": public.Curve.Params().Name, "x": b64(point[1 : 1+size]), "y": b64(point[1+size:])}
	case ed25519.PublicKey:
		return object{"kty": "OKP", "crv": "Ed25519", "x": b64(public)}
	}
	t.Fatalf("no JWK for %T", public)
	return nil
}

// with gives the key with a changed JWK; a nil value removes a member.
func (k key) with(changes object) key {
	k.jwk = maps.Clone(k.jwk)
	maps.Copy(k.jwk, changes)
	maps.DeleteFunc(k.jwk, func(_ string, v any) bool { return v == nil })
	return k
}

// sign makes a good token.
func (k key) sign(t testing.TB, claims object) string {
	t.Helper()
	header := object{"typ": "JWT", "alg": k.alg}
	if kid, ok := k.jwk["kid"]; ok {
		header["kid"] = kid
	}
	return k.signRaw(t, k.alg, jsonOf(t, header), jsonOf(t, claims))
}

// signHeader makes a token with a header of the test's choice and good claims of issuerURL.
func (k key) signHeader(t testing.TB, header string) string {
	t.Helper()
	return k.signRaw(t, k.alg, header, jsonOf(t, claims(issuerURL, nil)))
}

// signRaw signs whatever it is given, with the algorithm alg, whatever the header says.
func (k key) signRaw(t testing.TB, alg, header, payload string) string {
	t.Helper()
	return k.signSegments(t, alg, b64([]byte(header))+"."+b64([]byte(payload)))
}

func (k key) signSegments(t testing.TB, alg, signed string) string {
	t.Helper()
	return signed + "." + b64(k.signature(t, alg, signed))
}

func (k key) signature(t testing.TB, alg, signed string) []byte {
	t.Helper()
	hashes := map[string]crypto.Hash{"256": crypto.SHA256, "384": crypto.SHA384, "512": crypto.SHA512}
	digest := []byte(signed)
	hash := hashes[alg[2:]]
	if hash != 0 {
		h := hash.New()
		h.Write(digest)
		digest = h.Sum(nil)
	}
	var signature []byte
	var err error
	switch private := k.private.(type) {
	case *ecdsa.PrivateKey:
		var r, s *big.Int
		r, s, err = ecdsa.Sign(rand.Reader, private, digest)
		size := (private.Params().BitSize + 7) / 8
		signature = append(r.FillBytes(make([]byte, size)), s.FillBytes(make([]byte, size))...)
	case *rsa.PrivateKey:
		var options crypto.SignerOpts = hash
		if alg[:2] == "PS" {
			options = &rsa.PSSOptions{SaltLength: rsa.PSSSaltLengthEqualsHash, Hash: hash}
		}
		signature, err = private.Sign(rand.Reader, digest, options)
	default:
		signature, err = k.private.Sign(rand.Reader, digest, crypto.Hash(0))
	}
	if err != nil {
		t.Fatal(err)
	}
	return signature
}

func b64(data []byte) string { return base64.RawURLEncoding.EncodeToString(data) }

func jsonOf(t testing.TB, v any) string {
	t.Helper()
	data, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

func jwks(t testing.TB, keys ...key) string {
	t.Helper()
	list := []object{}
	for _, k := range keys {
		list = append(list, k.jwk)
	}
	return jsonOf(t, object{"keys": list})
}

func writeFile(t testing.TB, content string) string {
	t.Helper()
	name := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(name, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	return name
}

func newVerifier(t testing.TB, c *clock, issuers ...Issuer) *Verifier {
	t.Helper()
	v, err := New(t.Context(), Config{Issuers: issuers, Now: c.now})
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// fileVerifier lists issuerURL with these keys.
func fileVerifier(t testing.TB, keys ...key) *Verifier {
	t.Helper()
	return newVerifier(t, newClock(), Issuer{URL: issuerURL, JWKSFile: writeFile(t, jwks(t, keys...))})
}

// reason is the Reason of an error of Verify, "" for none.
func reason(t testing.TB, err error) string {
	t.Helper()
	if err == nil {
		return ""
	}
	e, ok := errors.AsType[*Error](err)
	if !ok {
		t.Fatalf("not an *Error: %v", err)
	}
	return e.Reason
}

// testIssuer is a real HTTP server that publishes keys.
type testIssuer struct {
	*httptest.Server
	discoveries, fetches, connections atomic.Int64

	mu     sync.Mutex
	keys   []key
	answer http.HandlerFunc // nil: the keys
	meta   http.HandlerFunc // nil: a good discovery document
}

func newTestIssuer(t testing.TB, keys ...key) *testIssuer { return startIssuer(t, false, keys...) }

func startIssuer(t testing.TB, withTLS bool, keys ...key) *testIssuer {
	t.Helper()
	i := &testIssuer{keys: keys}
	mux := http.NewServeMux()
	mux.HandleFunc("/.well-known/openid-configuration", func(w http.ResponseWriter, r *http.Request) {
		i.discoveries.Add(1)
		i.mu.Lock()
		meta := i.meta
		i.mu.Unlock()
		if meta != nil {
			meta(w, r)
			return
		}
		fmt.Fprintf(w, `{"issuer":%q,"jwks_uri":%q}`, i.URL, i.URL+"/jwks")
	})
	mux.HandleFunc("/jwks", func(w http.ResponseWriter, r *http.Request) {
		i.fetches.Add(1)
		i.mu.Lock()
		answer, body := i.answer, jwks(t, i.keys...)
		i.mu.Unlock()
		if answer != nil {
			answer(w, r)
			return
		}
		fmt.Fprint(w, body)
	})
	i.Server = httptest.NewUnstartedServer(mux)
	i.Config.ConnState = func(_ net.Conn, state http.ConnState) {
		if state == http.StateNew {
			i.connections.Add(1)
		}
	}
	i.Config.ErrorLog = quiet()
	if withTLS {
		i.StartTLS()
	} else {
		i.Start()
	}
	t.Cleanup(i.Close)
	return i
}

func (i *testIssuer) publish(keys ...key) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.keys = keys
}

// respond has the key set's URL answer otherwise; nil: with the keys again.
func (i *testIssuer) respond(answer http.HandlerFunc) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.answer = answer
}

func (i *testIssuer) respondMeta(meta http.HandlerFunc) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.meta = meta
}

// listed is the issuer as an operator would list it.
func (i *testIssuer) listed() Issuer { return Issuer{URL: i.URL, Networks: loopback} }

// eventually waits until something is so, which other goroutines bring about.
func eventually(t testing.TB, what string, so func() bool) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !so(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("waited in vain until %s", what)
		}
	}
}

// timeout is a context for what should not take long.
func timeout(t testing.TB) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	t.Cleanup(cancel)
	return ctx
}
