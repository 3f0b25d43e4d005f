package idtoken

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"
)

// ready waits for the first fetch.
func ready(t testing.TB, v *Verifier) {
	t.Helper()
	eventually(t, "the keys are there", func() bool { return v.Status()[0].Usable })
}

func TestNothingIsSentForAnUnlistedIssuer(t *testing.T) {
	k := newKey(t, "ES256", "k")
	unlisted := newTestIssuer(t, k)
	v := fileVerifier(t, k)
	for _, c := range []struct{ raw, want string }{
		{k.sign(t, claims(unlisted.URL, nil)), ReasonUnlistedIssuer},
		{k.sign(t, claims(unlisted.URL+"/", nil)), ReasonUnlistedIssuer},
		{k.sign(t, claims(strings.Replace(unlisted.URL, "127.0.0.1", "localhost", 1), nil)), ReasonUnlistedIssuer},
		{k.sign(t, claims(unlisted.URL, object{"exp": 1})), ReasonUnlistedIssuer},
		{k.signHeader(t, `{"alg":"ES256","kid":"k","jku":"`+unlisted.URL+`/jwks"}`), ReasonMalformed},
		{k.signHeader(t, `{"alg":"ES256","kid":"k","x5u":"`+unlisted.URL+`/jwks"}`), ReasonMalformed},
		{k.signHeader(t, `{"alg":"ES256","kid":"`+unlisted.URL+`/jwks"}`), ReasonUnknownKey},
	} {
		check(t, v, c.raw, c.want)
	}
	if n := unlisted.connections.Load(); n != 0 {
		t.Errorf("%d connections to an issuer that is not listed", n)
	}
}

func TestFirstTokenWaitsForTheKeys(t *testing.T) {
	k := newKey(t, "RS256", "k")
	issuer := newTestIssuer(t, k)
	v := newVerifier(t, newClock(), issuer.listed())
	if _, err := v.Verify(timeout(t), k.sign(t, claims(issuer.URL, nil))); err != nil {
		t.Fatal(err)
	}
	status := v.Status()[0]
	if status.URL != issuer.URL || !status.Usable || status.Keys != 1 || !status.LastSuccess.Equal(start) || status.LastError != nil {
		t.Errorf("status %+v", status)
	}
	if d, f := issuer.discoveries.Load(), issuer.fetches.Load(); d != 1 || f != 1 {
		t.Errorf("%d discoveries and %d fetches, want one of each", d, f)
	}
}

func TestKeyRotation(t *testing.T) {
	old, next := newKey(t, "ES256", "old"), newKey(t, "ES256", "next")
	issuer := newTestIssuer(t, old)
	c := newClock()
	v := newVerifier(t, c, issuer.listed())
	ready(t, v)
	oldToken := func() string { return old.sign(t, claims(issuer.URL, object{"exp": start.Unix() + 3600})) }
	nextToken := func() string { return next.sign(t, claims(issuer.URL, object{"exp": start.Unix() + 3600})) }

	issuer.publish(next)
	check(t, v, oldToken(), "")
	check(t, v, nextToken(), ReasonUnknownKey) // too early to ask again
	c.advance(minInterval)
	check(t, v, nextToken(), "") // asks
	check(t, v, oldToken(), ReasonUnknownKey)
	if n := issuer.fetches.Load(); n != 2 {
		t.Errorf("%d fetches, want 2", n)
	}
}

func TestFloodOfUnknownKeys(t *testing.T) {
	k := newKey(t, "ES256", "k")
	issuer := newTestIssuer(t, k)
	c := newClock()
	v := newVerifier(t, c, issuer.listed())
	ready(t, v)
	flood := func() {
		var wg sync.WaitGroup
		for i := range 8 {
			wg.Go(func() {
				for j := range 50 {
					raw := k.signRaw(t, "ES256", fmt.Sprintf(`{"alg":"ES256","kid":"random-%d-%d"}`, i, j), jsonOf(t, claims(issuer.URL, nil)))
					if _, err := v.Verify(timeout(t), raw); err == nil || errors.Is(err, ErrUnavailable) {
						t.Errorf("unknown kid: %v", err)
					}
				}
			})
		}
		wg.Wait()
	}
	flood()
	if n := issuer.fetches.Load(); n != 1 {
		t.Errorf("%d fetches within ten seconds of the first, want 1", n)
	}
	for want := int64(2); want < 5; want++ {
		c.advance(minInterval)
		flood()
		if n := issuer.fetches.Load(); n != want {
			t.Errorf("%d fetches, want %d", n, want)
		}
	}
	check(t, v, k.sign(t, claims(issuer.URL, nil)), "")
}

func TestGoodCallersDoNotWaitForAFetch(t *testing.T) {
	k := newKey(t, "ES256", "k")
	issuer := newTestIssuer(t, k)
	c := newClock()
	v := newVerifier(t, c, issuer.listed())
	ready(t, v)
	release := make(chan struct{})
	issuer.respond(func(http.ResponseWriter, *http.Request) { <-release })
	defer close(release)
	c.advance(minInterval)

	// Callers with an unknown kid wait for the fetch that hangs, but only so many, and only as long as they want to.
	unknown := k.with(object{"kid": "unknown"}).sign(t, claims(issuer.URL, nil))
	ctx, cancel := context.WithCancel(t.Context())
	errs := make(chan error, maxWaiters)
	for range maxWaiters {
		go func() {
			_, err := v.Verify(ctx, unknown)
			errs <- err
		}()
	}
	source := v.issuers[issuer.URL].keys
	waiters := func() int {
		source.mu.Lock()
		defer source.mu.Unlock()
		return source.waiters
	}
	eventually(t, "all wait", func() bool { return waiters() == maxWaiters })
	check(t, v, unknown, ReasonUnknownKey) // one too many: does not wait
	for range 100 {
		check(t, v, k.sign(t, claims(issuer.URL, nil)), "")
	}
	cancel()
	for range maxWaiters {
		if err := <-errs; reason(t, err) != ReasonKeysUnavailable || !errors.Is(err, context.Canceled) || !errors.Is(err, ErrUnavailable) {
			t.Errorf("a caller that gave up: %v", err)
		}
	}
	if n := waiters(); n != 0 {
		t.Errorf("%d waiters are left", n)
	}
}

// Those who came while the daemon was restarted all wait for the first keys, however many they are.
func TestFirstTokensAllWait(t *testing.T) {
	k := newKey(t, "ES256", "k")
	issuer := newTestIssuer(t, k)
	release := make(chan struct{})
	issuer.respond(func(w http.ResponseWriter, _ *http.Request) {
		<-release
		fmt.Fprint(w, jwks(t, k))
	})
	v := newVerifier(t, newClock(), issuer.listed())
	idToken := k.sign(t, claims(issuer.URL, nil))
	const callers = 4 * maxWaiters
	errs := make(chan error, callers)
	for range callers {
		go func() {
			_, err := v.Verify(timeout(t), idToken)
			errs <- err
		}()
	}
	source := v.issuers[issuer.URL].keys
	eventually(t, "all wait", func() bool {
		source.mu.Lock()
		defer source.mu.Unlock()
		return source.waiters == callers
	})
	close(release)
	for range callers {
		if err := <-errs; err != nil {
			t.Fatal(err)
		}
	}
	if n := issuer.fetches.Load(); n != 1 {
		t.Errorf("the keys were fetched %d times", n)
	}
}

func TestStaleKeysAreNotUsed(t *testing.T) {
	k := newKey(t, "ES256", "k")
	issuer := newTestIssuer(t, k)
	c := newClock()
	v := newVerifier(t, c, issuer.listed())
	ready(t, v)
	raw := k.sign(t, claims(issuer.URL, object{"exp": start.Unix() + 7200}))
	issuer.respond(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusInternalServerError) })

	c.advance(maxKeySetAge)
	check(t, v, raw, "")
	// A failed fetch leaves the old keys; with an unknown kid nobody can tell whether the key is new.
	_, err := v.Verify(timeout(t), k.with(object{"kid": "x"}).sign(t, claims(issuer.URL, object{"exp": start.Unix() + 7200})))
	if reason(t, err) != ReasonKeysUnavailable || !strings.Contains(err.Error(), "500") {
		t.Errorf("unknown kid while the issuer fails: %v", err)
	}
	check(t, v, raw, "")
	c.advance(time.Second)
	if _, err := v.Verify(timeout(t), raw); reason(t, err) != ReasonKeysUnavailable || !errors.Is(err, ErrUnavailable) {
		t.Errorf("keys older than %s: %v", maxKeySetAge, err)
	}
	if status := v.Status()[0]; status.Usable || status.LastError == nil || !status.LastSuccess.Equal(start) {
		t.Errorf("status %+v", status)
	}
	issuer.respond(nil)
	c.advance(minInterval)
	check(t, v, raw, "")
}

func TestKeyFile(t *testing.T) {
	old, next := newKey(t, "ES256", "old"), newKey(t, "ES256", "next")
	file := writeFile(t, jwks(t, old))
	c := newClock()
	v := newVerifier(t, c, Issuer{URL: issuerURL, JWKSFile: file})
	far := object{"exp": start.Unix() + 24*3600 - 10}
	check(t, v, old.sign(t, claims(issuerURL, far)), "")
	replace := func(content string) {
		if err := os.WriteFile(file, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	// A broken file leaves the keys in use, however long ago they were read.
	replace("{")
	c.advance(5 * time.Hour)
	if _, err := v.Verify(timeout(t), next.sign(t, claims(issuerURL, far))); reason(t, err) != ReasonKeysUnavailable {
		t.Errorf("unknown kid with a broken file: %v", err)
	}
	check(t, v, old.sign(t, claims(issuerURL, far)), "")
	if status := v.Status()[0]; !status.Usable || status.LastError == nil {
		t.Errorf("status %+v", status)
	}
	replace(jwks(t, next))
	c.advance(minInterval)
	check(t, v, next.sign(t, claims(issuerURL, far)), "")
	check(t, v, old.sign(t, claims(issuerURL, far)), ReasonUnknownKey)
}

// attemptLog is a fetch that writes down when it was called.
type attemptLog struct {
	mu      sync.Mutex
	failing bool
	times   []time.Time
}

func (l *attemptLog) fetch(body string) func(context.Context) (*keySet, error) {
	return func(context.Context) (*keySet, error) {
		l.mu.Lock()
		defer l.mu.Unlock()
		l.times = append(l.times, time.Now())
		if l.failing {
			return nil, errors.New("no answer")
		}
		return parseKeySet([]byte(body))
	}
}

// restart forgets the attempts and says how the next ones end.
func (l *attemptLog) restart(failing bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.failing, l.times = failing, nil
}

// gaps are the times between attempts.
func (l *attemptLog) gaps() []time.Duration {
	l.mu.Lock()
	defer l.mu.Unlock()
	var gaps []time.Duration
	for i := 1; i < len(l.times); i++ {
		gaps = append(gaps, l.times[i].Sub(l.times[i-1]))
	}
	return gaps
}

// The schedule, by a clock that jumps to the next timer: the fetch is a function, since real connections would keep
// that clock from moving.
func TestBackgroundSchedule(t *testing.T) {
	body := jwks(t, newKey(t, "ES256", "k"))
	synctest.Test(t, func(t *testing.T) {
		attempts := &attemptLog{}
		ctx, cancel := context.WithCancel(t.Context())
		s := newKeySource(attempts.fetch(body), maxKeySetAge, time.Now, zap.NewNop())
		go s.run(ctx)
		synctest.Wait()
		if _, err := s.current("k", "ES256"); err != nil {
			t.Fatalf("no attempt at once: %v", err)
		}
		time.Sleep(time.Hour)
		if gaps := attempts.gaps(); len(gaps) < 12 {
			t.Errorf("%d attempts in an hour after the first", len(gaps))
		}
		for _, gap := range attempts.gaps() {
			if gap < refreshEvery-time.Minute || gap > refreshEvery {
				t.Errorf("%s between two attempts", gap)
			}
		}

		attempts.restart(true)
		time.Sleep(refreshEvery + maxKeySetAge)
		if _, err := s.current("k", "ES256"); !errors.Is(err, ErrUnavailable) {
			t.Errorf("error %v although nothing was fetched for long", err)
		}
		for i, least := range []time.Duration{10 * time.Second, 20 * time.Second, 40 * time.Second, time.Minute, time.Minute} {
			if gap := attempts.gaps()[i]; gap < least || gap > least+time.Second {
				t.Errorf("%s after failure %d, want %s and a little", gap, i+1, least)
			}
		}

		attempts.restart(false)
		time.Sleep(maxBackoff + time.Second)
		if _, err := s.current("k", "ES256"); err != nil {
			t.Errorf("after the recovery: %v", err)
		}

		// An attempt that a caller demands postpones the next one that is due.
		time.Sleep(2 * time.Minute)
		attempts.restart(false)
		if _, err := s.find(ctx, "unknown", "ES256"); !errors.Is(err, errUnknownKey) {
			t.Error(err)
		}
		time.Sleep(refreshEvery)
		if gaps := attempts.gaps(); len(gaps) != 1 || gaps[0] < refreshEvery-time.Minute {
			t.Errorf("times between attempts: %v", gaps)
		}
		cancel()
		<-s.stopped
	})
}

func TestCallersAreNotStuckAfterTheEnd(t *testing.T) {
	k := newKey(t, "ES256", "k")
	c := newClock()
	ctx, cancel := context.WithCancel(t.Context())
	v, err := New(ctx, Config{Issuers: []Issuer{{URL: issuerURL, JWKSFile: writeFile(t, jwks(t, k))}}, Now: c.now})
	if err != nil {
		t.Fatal(err)
	}
	cancel()
	<-v.issuers[issuerURL].keys.stopped
	if _, err := v.Verify(timeout(t), k.with(object{"kid": "x"}).sign(t, claims(issuerURL, nil))); !errors.Is(err, ErrUnavailable) {
		t.Errorf("unknown kid: %v", err)
	}
	check(t, v, k.sign(t, claims(issuerURL, nil)), "")
}

func TestKeyChangesAreLoggedOnce(t *testing.T) {
	k, private := newKey(t, "ES256", "k"), newKey(t, "RS256", "leaked").with(object{"d": "AQAB"})
	issuer := newTestIssuer(t, k, private)
	c := newClock()
	core, logs := observer.New(zap.InfoLevel)
	v, err := New(t.Context(), Config{Issuers: []Issuer{issuer.listed()}, Now: c.now, Logger: zap.New(core)})
	if err != nil {
		t.Fatal(err)
	}
	ready(t, v)
	for range 3 { // the same keys again
		c.advance(minInterval)
		check(t, v, k.with(object{"kid": "x"}).sign(t, claims(issuer.URL, nil)), ReasonUnknownKey)
	}
	if n := issuer.fetches.Load(); n != 4 {
		t.Fatalf("%d fetches, want 4", n)
	}
	if n := logs.FilterMessage("issuer's keys changed").Len(); n != 1 {
		t.Errorf("%d lines of a change", n)
	}
	ignored := logs.FilterMessage("some of the issuer's keys are of no use and ignored").All()
	if len(ignored) != 1 {
		t.Fatalf("%d lines of ignored keys", len(ignored))
	}
	if text := fmt.Sprint(ignored[0].ContextMap()); !strings.Contains(text, "leaked") || !strings.Contains(text, issuer.URL) {
		t.Errorf("the line has %s", text)
	}
}
