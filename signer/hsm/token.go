package hsm

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/ThalesIgnite/crypto11"
	"github.com/miekg/pkcs11"
)

// MinSessions is the least number of sessions that a Token works with: one stays logged in, one reads objects and
// attributes, and at least one signs.
const MinSessions = 3

// poolWait bounds how long a signature waits for a free session. crypto11's default is for ever.
const poolWait = 2 * time.Second

// TokenConfig names a token and how to log in to it. Exactly one of TokenLabel, TokenSerial and Slot is set.
type TokenConfig struct {
	Module      string // absolute path of the PKCS#11 shared library
	TokenLabel  string
	TokenSerial string
	Slot        *uint // slot ID
	PIN         string
	// MaxSessions bounds the sessions open at once, at least MinSessions. Real HSMs have few (a YubiHSM 2 has 16) and share
	// them among all programs.
	MaxSessions int
}

func (c TokenConfig) check() error {
	selectors := 0
	for _, set := range []bool{c.TokenLabel != "", c.TokenSerial != "", c.Slot != nil} {
		if set {
			selectors++
		}
	}
	switch {
	case c.Module == "":
		return errors.New("no PKCS#11 module given")
	case selectors != 1:
		return errors.New("exactly one of token label, token serial and slot must be given")
	case c.PIN == "":
		return errors.New("empty PIN")
	case c.MaxSessions < MinSessions:
		return fmt.Errorf("max sessions is %d, must be at least %d", c.MaxSessions, MinSessions)
	}
	return nil
}

// Token is one logged-in connection to a token. Its methods may be called from several goroutines, except that Close must
// come last. See the package comment for what it does not do.
type Token struct {
	info Info
	// crypto holds the login and the pool of sessions that sign.
	crypto *crypto11.Context
	// module is a second handle on the same library, for what crypto11 has no call for: exact searches, all attributes,
	// C_CreateObject. Cryptoki is one per process, so it shares crypto's initialization and login.
	module *pkcs11.Ctx
	// reading admits one holder of the session that MaxSessions sets aside for module.
	reading chan struct{}
}

// Open loads the module, finds the token, and logs in: exactly one attempt with the PIN. The error matches ErrPINRefused
// where the token refused it; then neither this process nor its supervisor may try the same PIN again. ctx is looked at
// between the steps only, because a call into the module cannot be cancelled.
func Open(ctx context.Context, c TokenConfig) (*Token, error) {
	if err := c.check(); err != nil {
		return nil, err
	}
	module, err := loadModule(c.Module)
	if err != nil {
		return nil, err
	}
	info, err := locate(module, c)
	if err == nil {
		err = ctx.Err()
	}
	if err != nil {
		module.Destroy()
		return nil, err
	}
	slot := int(info.Slot)
	login, err := crypto11.Configure(&crypto11.Config{
		Path:            c.Module,
		SlotNumber:      &slot,
		Pin:             c.PIN,
		MaxSessions:     c.MaxSessions - 1, // the one left over is Token.reading's
		PoolWaitTimeout: poolWait,
	})
	if err != nil {
		module.Destroy()
		if pinRefused(err) {
			return nil, fmt.Errorf("logging in to %s: %w: %w", info, ErrPINRefused, err)
		}
		return nil, fmt.Errorf("logging in to %s: %w", info, err)
	}
	return &Token{info: info, crypto: login, module: module, reading: make(chan struct{}, 1)}, nil
}

// Info describes the module and the token.
func (t *Token) Info() Info { return t.info }

// Close logs out and unloads the module. It waits for signatures under way.
func (t *Token) Close() error {
	t.reading <- struct{}{} // never given back: nothing may read through module any more
	err := t.crypto.Close()
	t.module.Destroy()
	if err != nil {
		return fmt.Errorf("closing %s: %w", t.info, err)
	}
	return nil
}

// withSession lends f a session for reading and creating objects, opened for it and closed after it: held for long, it
// would die unnoticed on HSMs that end idle sessions.
func (t *Token) withSession(f func(session pkcs11.SessionHandle) error) error {
	select {
	case t.reading <- struct{}{}:
		defer func() { <-t.reading }()
	case <-time.After(poolWait):
		return errors.New("no session free to read the token's objects with")
	}
	session, err := t.module.OpenSession(t.info.Slot, pkcs11.CKF_SERIAL_SESSION|pkcs11.CKF_RW_SESSION)
	if err != nil {
		return fmt.Errorf("opening a session: %w", err)
	}
	defer func() { _ = t.module.CloseSession(session) }()
	return f(session)
}
