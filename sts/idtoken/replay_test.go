package idtoken

import (
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

func TestTokenUsedTooOften(t *testing.T) {
	k, c := newKey(t, "EdDSA", "k"), newClock()
	other := "https://other.example"
	file := writeFile(t, jwks(t, k))
	v := newVerifier(t, c, Issuer{URL: issuerURL, JWKSFile: file}, Issuer{URL: other, JWKSFile: file})
	for _, withJTI := range []any{"the-jti", nil} {
		raw := k.sign(t, claims(issuerURL, object{"jti": withJTI}))
		for i := range usesOfOneToken {
			if _, err := v.Verify(t.Context(), raw); err != nil {
				t.Fatalf("use %d with jti %v: %v", i+1, withJTI, err)
			}
		}
		token, err := v.Verify(t.Context(), raw)
		if reason(t, err) != ReasonReplayed || errors.Is(err, ErrUnavailable) {
			t.Errorf("one use too many with jti %v: %v", withJTI, err)
		}
		if token == nil || token.Subject == "" {
			t.Error("no token to log with the refusal")
		}
	}
	// The same jti from another issuer is another token; the same jti in another token of this issuer is not.
	check(t, v, k.sign(t, claims(other, object{"jti": "the-jti"})), "")
	if _, err := v.Verify(t.Context(), k.sign(t, claims(issuerURL, object{"jti": "the-jti", "sub": "x"}))); reason(t, err) != ReasonReplayed {
		t.Errorf("the jti in another token: %v", err)
	}
}

func TestSingleUse(t *testing.T) {
	k, c := newKey(t, "EdDSA", "k"), newClock()
	v := newVerifier(t, c, Issuer{URL: issuerURL, JWKSFile: writeFile(t, jwks(t, k)), SingleUse: true})
	raw := k.sign(t, claims(issuerURL, nil))
	check(t, v, raw, "")
	if _, err := v.Verify(t.Context(), raw); reason(t, err) != ReasonReplayed {
		t.Errorf("second use: %v", err)
	}
	c.advance(300*time.Second + clockSkew - time.Second) // the last second in which it is not expired
	if _, err := v.Verify(t.Context(), raw); reason(t, err) != ReasonReplayed {
		t.Errorf("second use at the end: %v", err)
	}
	check(t, v, k.sign(t, claims(issuerURL, object{"jti": nil, "exp": start.Unix() + 3600})), ReasonClaims)

	// A refused token is not used up: the signature must come first.
	fresh := claims(issuerURL, object{"exp": start.Unix() + 3600})
	stranger := newKey(t, "EdDSA", "k")
	check(t, v, stranger.sign(t, fresh), ReasonSignature)
	check(t, v, k.sign(t, fresh), "")
}

func TestSingleUseUnderRace(t *testing.T) {
	k := newKey(t, "EdDSA", "k")
	v := newVerifier(t, newClock(), Issuer{URL: issuerURL, JWKSFile: writeFile(t, jwks(t, k)), SingleUse: true})
	raw := k.sign(t, claims(issuerURL, nil))
	var accepted atomic.Int32
	var wg sync.WaitGroup
	for range 50 {
		wg.Go(func() {
			if _, err := v.Verify(t.Context(), raw); err == nil {
				accepted.Add(1)
			}
		})
	}
	wg.Wait()
	if accepted.Load() != 1 {
		t.Errorf("accepted %d times", accepted.Load())
	}
}

func TestSeen(t *testing.T) {
	k, c := newKey(t, "EdDSA", "k"), newClock()
	file := writeFile(t, jwks(t, k))
	single := "https://single.example"
	v := newVerifier(t, c, Issuer{URL: issuerURL, JWKSFile: file}, Issuer{URL: single, JWKSFile: file, SingleUse: true})
	expiry := start.Add(300 * time.Second)
	v.Seen(single, "used", expiry)
	v.Seen(single, "used", expiry) // a log may well name it twice
	v.Seen(single, "", expiry)
	v.Seen("https://unlisted.example", "used", expiry)
	v.Seen(single, "old", start.Add(-time.Hour))
	if _, err := v.Verify(t.Context(), k.sign(t, claims(single, object{"jti": "used"}))); reason(t, err) != ReasonReplayed {
		t.Errorf("a token used before the restart: %v", err)
	}
	check(t, v, k.sign(t, claims(single, object{"jti": "fresh"})), "")
	check(t, v, k.sign(t, claims(single, object{"jti": "old"})), "")

	for range usesOfOneToken - 1 {
		v.Seen(issuerURL, "often", expiry)
	}
	often := k.sign(t, claims(issuerURL, object{"jti": "often"}))
	check(t, v, often, "")
	if _, err := v.Verify(t.Context(), often); reason(t, err) != ReasonReplayed {
		t.Errorf("a token used often before the restart: %v", err)
	}
}

func TestReplayGuardIsBounded(t *testing.T) {
	expiry := func(i int) time.Time { return start.Add(time.Duration(i) * time.Minute) }
	t.Run("single use refuses what it could not remember", func(t *testing.T) {
		g := newReplayGuard(true)
		g.capacity = 10
		for i := range 10 {
			if err := g.use(jtiHash(fmt.Sprint(i)), expiry(10+i), start); err != nil {
				t.Fatal(err)
			}
		}
		if err := g.use(jtiHash("more"), expiry(5), start); !errors.Is(err, ErrUnavailable) {
			t.Errorf("full: %v, want ErrUnavailable", err)
		}
		if err := g.use(jtiHash("0"), expiry(10), start); !errors.Is(err, errReplayed) {
			t.Errorf("first token again: %v", err)
		}
		// The first is forgotten some time after it expired, and there is room for one.
		later := expiry(10).Add(2*clockSkew + 2*time.Second)
		if err := g.use(jtiHash("more"), expiry(30), later); err != nil {
			t.Errorf("after one has expired: %v", err)
		}
		if err := g.use(jtiHash("still more"), expiry(30), later); !errors.Is(err, ErrUnavailable) {
			t.Errorf("full again: %v", err)
		}
		if len(g.tokens) != 10 || len(g.byExpiry) != 10 {
			t.Errorf("%d tokens, %d in the heap", len(g.tokens), len(g.byExpiry))
		}
	})
	t.Run("otherwise the token that expires first is forgotten", func(t *testing.T) {
		g := newReplayGuard(false)
		g.capacity, g.most = 10, 1
		for i := range 10 {
			if err := g.use(jtiHash(fmt.Sprint(i)), expiry(20-i), start); err != nil { // "9" expires first
				t.Fatal(err)
			}
		}
		if err := g.use(jtiHash("more"), expiry(30), start); err != nil {
			t.Error(err)
		}
		if err := g.use(jtiHash("0"), expiry(20), start); !errors.Is(err, errReplayed) {
			t.Errorf("a token that was kept: %v", err)
		}
		if err := g.use(jtiHash("9"), expiry(11), start); err != nil {
			t.Errorf("the token that was forgotten: %v", err)
		}
		if len(g.tokens) != 10 || len(g.byExpiry) != 10 {
			t.Errorf("%d tokens, %d in the heap", len(g.tokens), len(g.byExpiry))
		}
	})
	t.Run("a jti that comes back with a later expiry is kept longer", func(t *testing.T) {
		g := newReplayGuard(false)
		g.most = 2
		for i := range 2 {
			if err := g.use(jtiHash("a"), expiry(10+100*i), start); err != nil {
				t.Fatal(err)
			}
		}
		if err := g.use(jtiHash("a"), expiry(110), expiry(60)); !errors.Is(err, errReplayed) {
			t.Errorf("after the first expiry: %v", err)
		}
	})
}

func TestJTIHashes(t *testing.T) {
	if jtiHash("x") == contentHash("x") {
		t.Error("a jti can stand for a token without one")
	}
	if jtiHash("x") == jtiHash("y") {
		t.Error("two jti have one hash")
	}
}

// Whoever shows a used-up token on and on is named a few times, and from then on only counted.
func TestReplaysAreReportedAFewTimes(t *testing.T) {
	k := newKey(t, "ES256", "k")
	v := newVerifier(t, newClock(), Issuer{URL: issuerURL, JWKSFile: writeFile(t, jwks(t, k)), SingleUse: true})
	token := k.sign(t, claims(issuerURL, object{"jti": "once"}))
	check(t, v, token, "")
	named := 0
	for range 3 * reportedReplays {
		got, err := v.Verify(t.Context(), token)
		if reason(t, err) != ReasonReplayed {
			t.Fatalf("%v", err)
		}
		if got != nil {
			named++
		}
	}
	if named != reportedReplays {
		t.Errorf("%d refusals name the token, want %d", named, reportedReplays)
	}
}
