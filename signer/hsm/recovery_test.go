package hsm

import (
	"context"
	"crypto"
	"crypto/ed25519"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"testing"
	"time"

	"go.uber.org/zap"

	"github.com/octo-sts/appliance/signer/signertest"
)

// codes are the return values that every call must be recovered from.
var codes = map[string]uint{
	"CKR_DEVICE_REMOVED": 0x32, "CKR_DEVICE_ERROR": 0x30, "CKR_TOKEN_NOT_PRESENT": 0xE0, "CKR_SESSION_HANDLE_INVALID": 0xB3,
	"CKR_SESSION_CLOSED": 0xB0, "CKR_SESSION_COUNT": 0xB1, "CKR_USER_NOT_LOGGED_IN": 0x101, "CKR_OBJECT_HANDLE_INVALID": 0x82,
	"CKR_CRYPTOKI_NOT_INITIALIZED": 0x190, "CKR_HOST_MEMORY": 0x2, "CKR_FUNCTION_FAILED": 0x6, "CKR_GENERAL_ERROR": 0x5,
}

// shimRing is a Keyring over a shim, with an App's key and a checkpoint key, and a third that is not there yet.
func shimRing(t *testing.T) (*signertest.Shim, *Keyring) {
	t.Helper()
	shim, config := shimToken(t)
	token, err := Open(t.Context(), config)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := token.Import("app-1", newKey(t, 2048)); err != nil {
		t.Fatal(err)
	}
	if _, err := token.GenerateCheckpointKey("checkpoint"); err != nil {
		t.Fatal(err)
	}
	if err := token.Close(); err != nil {
		t.Fatal(err)
	}
	forget(t, shim)
	ctx, cancel := context.WithCancel(context.Background())
	ring, err := New(ctx, Config{Token: config, Labels: []string{"app-1", "checkpoint", "missing"}, Retry: 8 * time.Millisecond, KeepAlive: 100 * time.Millisecond, Logger: zap.NewNop()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := shim.Clear(); err != nil {
			t.Error(err)
		}
		cancel()
		ring.Wait()
	})
	eventually(t, "opening", func() error { return signBoth(ring) })
	return shim, ring
}

// signBoth signs with both keys and does not believe what the package says of the signatures.
func signBoth(ring *Keyring) error {
	for label, hash := range map[string]crypto.Hash{"app-1": crypto.SHA256, "checkpoint": 0} {
		key, err := ring.Key(label)
		if err != nil {
			return err
		}
		message := []byte("message for " + label)
		signature, err := crypto.SignMessage(key, nil, message, hash)
		if err != nil {
			return err
		}
		if _, err := verified(key.Public(), message, signature); err != nil {
			return errors.Join(errGotOut, err)
		}
	}
	return nil
}

// reopen has the Keyring go through its whole life: signing, closing, opening, looking at the keys.
func reopen(ring *Keyring) {
	ring.mu.Lock()
	defer ring.mu.Unlock()
	if ring.connection != nil {
		ring.connection.report(errors.New("a test wants it opened afresh"))
	}
}

// callsOfServe is every function that a Keyring calls in its life.
func callsOfServe(t *testing.T, shim *signertest.Shim, ring *Keyring) []string {
	t.Helper()
	reopen(ring)
	eventually(t, "every kind of call", func() error {
		if err := signBoth(ring); err != nil {
			return err
		}
		for _, must := range []string{"C_Finalize", "C_Initialize", "C_Login", "C_CloseSession", "C_Sign", "C_GetSessionInfo"} {
			if counted(t, shim)[must] == 0 {
				return errors.New(must + " was not called")
			}
		}
		return nil
	})
	return slices.Sorted(maps.Keys(counted(t, shim)))
}

// Each of the twelve codes from each of the calls that serve makes, for long enough that the Keyring runs into it, and
// then the fault ends. Nobody helps.
func TestKeyringRecoversFromEveryCodeOfEveryCall(t *testing.T) {
	shim, ring := shimRing(t)
	functions := callsOfServe(t, shim, ring)
	if len(functions) < 17 {
		t.Errorf("serve makes %d kinds of calls only: %v", len(functions), functions)
	}
	stop := signAlong(t, ring)
	defer stop()
	for _, function := range functions {
		slowest := time.Duration(0)
		for name, code := range codes {
			fault := fmt.Sprintf("%s rv=%#x", function, code)
			forget(t, shim)
			set(t, shim, fault)
			reopen(ring)
			eventually(t, "running into "+fault, func() error {
				calls, err := shim.Calls()
				if err != nil {
					return err
				}
				if !slices.Contains(calls, signertest.Call{Function: function, Result: fmt.Sprintf("%#x", code)}) {
					return errors.New("it has not come to that")
				}
				return nil
			})
			set(t, shim)
			end := time.Now()
			eventually(t, "recovery from "+name+" of "+function, func() error { return signBoth(ring) })
			slowest = max(slowest, time.Since(end))
		}
		t.Logf("%-22s recovered within %s of the fault's end, in all %d cases", function, slowest.Round(time.Millisecond), len(codes))
	}
}

// signAlong signs all the while: what callers get may be an error, but never a wrong signature.
func signAlong(t *testing.T, ring *Keyring) (stop func()) {
	done := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			select {
			case <-done:
				return
			case <-time.After(10 * time.Millisecond):
				if err := signBoth(ring); errors.Is(err, errGotOut) {
					t.Error(err)
				}
			}
		}
	})
	return func() {
		close(done)
		wg.Wait()
	}
}

var errGotOut = errors.New("a signature that does not verify got out")

// Callers that are in the middle of signing get a good signature or an error, and go on afterwards.
func TestKeyringRecoversUnderLoad(t *testing.T) {
	shim, ring := shimRing(t)
	var stops []func()
	for range 6 {
		stops = append(stops, signAlong(t, ring))
	}
	for range 5 {
		set(t, shim, "C_SignInit rv=0x101 count=3", "C_Sign rv=0xb3 count=1", "C_OpenSession rv=0x30 count=1")
		time.Sleep(50 * time.Millisecond)
	}
	for _, stop := range stops {
		stop()
	}
	set(t, shim)
	eventually(t, "signing again", func() error { return signBoth(ring) })
}

// A single failure is not seen from outside at all.
func TestOneFailedSignatureIsMadeGood(t *testing.T) {
	shim, ring := shimRing(t)
	for name, code := range codes {
		set(t, shim, fmt.Sprintf("C_SignInit rv=%#x count=1", code))
		if err := signBoth(ring); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestWrongSignaturesAreWithheld(t *testing.T) {
	shim, ring := shimRing(t)
	key, err := ring.Key("checkpoint")
	if err != nil {
		t.Fatal(err)
	}
	set(t, shim, "C_Sign corrupt")
	for range 20 {
		signature, err := crypto.SignMessage(key, nil, []byte("x"), crypto.Hash(0))
		if err == nil || signature != nil {
			t.Fatalf("got %x, %v", signature, err)
		}
	}
	eventually(t, "saying why", func() error {
		if s := ring.Status(); s.Open || s.Error == "" {
			return errors.New("it still says that it is open")
		}
		return nil
	})
	set(t, shim)
	eventually(t, "recovery", func() error { return signBoth(ring) })
	if !ed25519.Verify(key.Public().(ed25519.PublicKey), []byte("x"), mustSign(t, key, "x")) {
		t.Error("a key that was held over the fault signs wrongly")
	}
}

func mustSign(t *testing.T, key crypto.MessageSigner, message string) []byte {
	t.Helper()
	signature, err := crypto.SignMessage(key, nil, []byte(message), crypto.Hash(0))
	if err != nil {
		t.Fatal(err)
	}
	return signature
}

// The parent kills a worker by this time.
func TestStatusShowsACallThatHangs(t *testing.T) {
	shim, ring := shimRing(t)
	before := time.Now()
	set(t, shim, "C_Sign hang")
	var wg sync.WaitGroup
	wg.Go(func() { _ = signBoth(ring) })
	var since time.Time
	eventually(t, "the hang to show", func() error {
		if since = ring.Status().CallSince; since.IsZero() || time.Since(since) < 300*time.Millisecond {
			return errors.New("no call is under way for long")
		}
		return nil
	})
	if since.Before(before) || since.After(time.Now()) {
		t.Errorf("CallSince is %s, the call began after %s", since, before)
	}
	if again := ring.Status().CallSince; !again.Equal(since) {
		t.Errorf("CallSince moved from %s to %s while the call hung", since, again)
	}
	set(t, shim)
	wg.Wait()
	eventually(t, "recovery", func() error { return signBoth(ring) })
	eventually(t, "the hang to end", func() error {
		if s := ring.Status().CallSince; s.Equal(since) {
			return errors.New("CallSince still shows it")
		}
		return nil
	})
}

// Other programs have used up the token's sessions: what is open here goes on working, and nothing is closed, since what
// is given up might not be got back.
func TestKeyringKeepsItsSessionsWhenTheTokenHasNoMore(t *testing.T) {
	shim, ring := shimRing(t)
	set(t, shim, "C_OpenSession rv=0xb1")
	forget(t, shim)
	var wg sync.WaitGroup
	for range 6 {
		wg.Go(func() {
			for range 3 {
				if err := signBoth(ring); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	if n := counted(t, shim)["C_Finalize"]; n != 0 {
		t.Error("the token was closed")
	}
}

// A login that is lost while no key is known: the keys that the operator imports afterwards must be seen.
func TestKeyringNoticesALostLoginWithoutKeys(t *testing.T) {
	shim, config := shimToken(t)
	ring := startRing(t, config, zap.NewNop(), "app-1")
	eventually(t, "opening", func() error {
		if s := ring.Status(); !s.Open {
			return errors.New(s.Error)
		}
		return nil
	})
	forget(t, shim)
	sabotage(t, config.Module, logOut)
	eventually(t, "another login", func() error {
		if counted(t, shim)["C_Login"] == 0 {
			return errors.New("there was none")
		}
		return nil
	})
}

// Idle sessions are used before they die, every one, and a dead one is found before a caller finds it.
func TestKeyringKeepsSessionsAlive(t *testing.T) {
	shim, ring := shimRing(t)
	var wg sync.WaitGroup
	for range 8 { // opens all sessions that there may be
		wg.Go(func() { _ = signBoth(ring) })
	}
	wg.Wait()
	forget(t, shim)
	eventually(t, "test signatures with nobody asking", func() error {
		if n := counted(t, shim)["C_SignInit"]; n < 6 {
			return fmt.Errorf("%d so far", n)
		}
		return nil
	})
	set(t, shim, "C_SignInit rv=0xb3 count=1")
	forget(t, shim)
	eventually(t, "opening afresh with nobody asking", func() error {
		if counted(t, shim)["C_Login"] == 0 {
			return errors.New("the dead session was not noticed")
		}
		return nil
	})
}
