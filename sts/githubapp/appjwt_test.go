package githubapp_test

import (
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/octo-sts/appliance/sts/ststest"
)

// mint mints a token and reports why not.
func (w *world) mint() error {
	inst, err := w.client.Installation(w.ctx, "acme", "app")
	if err == nil {
		_, err = w.client.Mint(w.ctx, inst, readIssues)
	}
	return err
}

func TestJWTIsSignedOnceAtATime(t *testing.T) {
	t.Parallel()
	w := newWorld(t, func(o *options) { o.signer.delay = 50 * time.Millisecond })
	var group sync.WaitGroup
	for range 200 {
		group.Go(func() {
			if err := w.mint(); err != nil {
				t.Error(err)
			}
		})
	}
	group.Wait()
	if signed, peak := w.signer.signed.Load(), w.signer.peak.Load(); signed != 1 || peak != 1 {
		t.Errorf("%d signatures, up to %d at once: want 1 and 1", signed, peak)
	}
}

// TestJWTOutlivesTheSigner: renewed from half-life on, used to the end, and
// picked up again when the signer is back.
func TestJWTOutlivesTheSigner(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.wants(w.mint(), "ok")
	w.clock.advance(4 * time.Minute)
	time.Sleep(1500 * time.Millisecond) // more than one tick
	if n := w.signer.signed.Load(); n != 1 {
		t.Errorf("%d signatures before half of the life is over, want 1", n)
	}
	w.clock.advance(time.Minute)
	eventually(t, "the JWT is renewed in the background", func() bool { return w.signer.signed.Load() == 2 })

	w.signer.broken.Store(true)
	w.clock.advance(5 * time.Minute)
	eventually(t, "the failure is in Status", func() bool { return w.client.Status()[0].LastError != nil })
	w.clock.advance(3 * time.Minute)
	w.wants(w.mint(), "ok") // a minute is left
	status := w.client.Status()[0]
	if status.AppID != appID || !status.CachedUntil.After(w.clock.now()) || !strings.Contains(status.LastError.Error(), "the signer is not there") {
		t.Errorf("Status is %+v", status)
	}
	w.clock.advance(40 * time.Second) // 20 s are left
	w.github.ResetCalls()
	w.wants(w.mint(), "no App JWT", "the signer is not there")
	w.calls()
	if w.client.Status()[0].CachedUntil.After(w.clock.now()) {
		t.Error("Status says that a JWT is at hand")
	}

	w.signer.broken.Store(false)
	eventually(t, "it works again", func() bool { return w.mint() == nil })
	eventually(t, "Status is good again", func() bool { return w.client.Status()[0].LastError == nil })
}

// TestRefusedJWT: a 401 is answered with one new JWT, and a GitHub that refuses
// all of them costs no signature a call.
func TestRefusedJWT(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	inst := w.installation()
	once := w.github.Fail(ststest.Fault{Route: ststest.MintRoute, Status: 401, Count: 1})
	_, err := w.client.Mint(w.ctx, inst, readIssues)
	w.wants(err, "ok")
	w.calls(ststest.MintRoute + "*2")
	if n := w.signer.signed.Load(); n != 2 {
		t.Errorf("%d signatures, want 2", n)
	}
	once.Clear()

	w.clock.advance(2 * time.Second)
	var credentials sync.Map
	w.github.Fail(ststest.Fault{Route: ststest.MintRoute, Status: 401, Match: func(r *http.Request) bool {
		credentials.Store(r.Header.Get("Authorization"), true)
		return true
	}})
	for range 50 {
		_, err = w.client.Mint(w.ctx, inst, readIssues)
		w.wants(err, "unavailable", "App 1234's current key")
	}
	different := 0
	credentials.Range(func(any, any) bool { different++; return true })
	if different > 10 {
		t.Errorf("%d JWTs were used up on a GitHub that refuses all", different)
	}
}

// TestClockOff: the operator is told which clock is wrong.
func TestClockOff(t *testing.T) {
	t.Parallel()
	for words, off := range map[string]time.Duration{"behind GitHub's": 10 * time.Minute, "ahead of GitHub's": -10 * time.Minute} {
		w := newWorld(t)
		w.github.SetClockOffset(off)
		_, err := w.client.Installation(w.ctx, "acme", "app")
		w.wants(err, "unavailable", "This host's clock is 10m0s "+words)
		w.github.SetClockOffset(0)
		w.clock.advance(29 * time.Second)
		_, err = w.client.Installation(w.ctx, "acme", "app")
		w.wants(err, "ok")
	}
}

// TestWrongKey: GitHub does not know the key that signs.
func TestWrongKey(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.github.RemoveAppKey(appID, &appKey().PublicKey)
	_, err := w.client.Installation(w.ctx, "acme", "app")
	w.wants(err, "unavailable", "could not be decoded", "App 1234's current key")
}
