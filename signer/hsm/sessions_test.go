package hsm

import (
	"crypto"
	"crypto/rsa"
	"errors"
	"sync"
	"testing"

	"github.com/miekg/pkcs11"
)

// openSessions reads from the calls how many sessions were open at the most.
func openSessions(t *testing.T, calls []string) (most int) {
	t.Helper()
	open := 0
	for _, function := range calls {
		switch function {
		case "C_OpenSession":
			open++
		case "C_CloseSession":
			open--
		}
		most = max(most, open)
	}
	return most
}

func TestSessionsAreBounded(t *testing.T) {
	shim, config := shimToken(t)
	config.MaxSessions = 4
	forget(t, shim)
	token := openToken(t, config)
	key, err := token.Import("app-1", newKey(t, 2048))
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	for range 20 {
		wg.Go(func() {
			for range 5 {
				if err := key.SelfTest(); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	calls, err := shim.Calls()
	if err != nil {
		t.Fatal(err)
	}
	var functions []string
	for _, call := range calls {
		functions = append(functions, call.Function)
	}
	if most := openSessions(t, functions); most < 2 || most > config.MaxSessions {
		t.Errorf("%d sessions were open at once, with max_sessions %d", most, config.MaxSessions)
	}
}

func TestSessionIsNotUsedAfterAnError(t *testing.T) {
	shim, config := shimToken(t)
	token := openToken(t, config)
	key, err := token.Import("app-1", newKey(t, 2048))
	if err != nil {
		t.Fatal(err)
	}
	for name, fault := range map[string]string{
		"SignInit": "C_SignInit rv=0x5 count=1", "Sign": "C_Sign rv=0x5 count=1", "a wrong signature": "C_Sign corrupt",
	} {
		forget(t, shim)
		set(t, shim, fault)
		if err := key.SelfTest(); err == nil {
			t.Errorf("%s: no error", name)
		}
		set(t, shim)
		if n := token.sessions.waiting(); n != 0 {
			t.Errorf("%s: %d sessions are kept", name, n)
		}
		if err := key.SelfTest(); err != nil {
			t.Errorf("%s: the next signature: %v", name, err)
		}
		got := counted(t, shim)
		if got["C_CloseSession"] != 1 || got["C_OpenSession"] != 1 {
			t.Errorf("%s: %d sessions closed and %d opened, want one of each", name, got["C_CloseSession"], got["C_OpenSession"])
		}
	}
}

func TestTokensOwnBoundOnSessions(t *testing.T) {
	const unlimited, unknown = pkcs11.CK_EFFECTIVELY_INFINITE, uint(pkcs11.CK_UNAVAILABLE_INFORMATION)
	for _, test := range []struct{ all, readWrite, want uint }{
		{unlimited, unlimited, 0}, {unknown, unknown, 0}, {16, unlimited, 16}, {unknown, 16, 16}, {16, 4, 4}, {4, 16, 4},
	} {
		if got := sessionLimit(pkcs11.TokenInfo{MaxSessionCount: test.all, MaxRwSessionCount: test.readWrite}); got != test.want {
			t.Errorf("%d of all and %d read-write: %d, want %d", test.all, test.readWrite, got, test.want)
		}
	}
	_, config := softToken(t)
	module, err := loadModule(config.Module, newClock())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := start(config, found{maxSessions: 2}, module); err == nil {
		t.Error("a token with two sessions was opened")
	}
}

// A token that does not hash signs the DigestInfo that is made for it: the same signature.
func TestSigningWithAndWithoutHashingInTheToken(t *testing.T) {
	_, config := softToken(t)
	token := openToken(t, config)
	if _, err := token.Import("app-1", newKey(t, 2048)); err != nil {
		t.Fatal(err)
	}
	sign := func() []byte {
		key, err := token.Key("app-1")
		if err != nil {
			t.Fatal(err)
		}
		signature, err := crypto.SignMessage(key, nil, []byte("x"), crypto.SHA256)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := verified(key.Public().(*rsa.PublicKey), []byte("x"), signature); err != nil {
			t.Error(err)
		}
		return signature
	}
	with := sign()
	if key, err := token.Key("app-1"); err != nil || key.mechanism != pkcs11.CKM_SHA256_RSA_PKCS {
		t.Errorf("the token hashes where it can: %v", err)
	}
	delete(token.mechanisms, pkcs11.CKM_SHA256_RSA_PKCS)
	if without := sign(); string(with) != string(without) {
		t.Error("the two mechanisms sign differently")
	}
	delete(token.mechanisms, pkcs11.CKM_RSA_PKCS)
	if _, err := token.Key("app-1"); !errors.Is(err, ErrKeyUnfit) {
		t.Errorf("no mechanism at all: %v", err)
	}
}

// Whoever asks a token for a signature after it was closed hears so at once, and can try another connection.
func TestNothingIsLentAfterClose(t *testing.T) {
	_, config := softToken(t)
	token, err := Open(t.Context(), config)
	if err != nil {
		t.Fatal(err)
	}
	key, err := token.Import("app-1", newKey(t, 2048))
	if err != nil {
		t.Error(err)
	}
	if err := token.Close(); err != nil {
		t.Fatal(err)
	}
	if err := key.SelfTest(); !errors.Is(err, errClosed) {
		t.Errorf("%v", err)
	}
}
