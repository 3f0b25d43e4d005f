package hsm

import (
	"context"
	"errors"
	"fmt"

	"github.com/ThalesIgnite/crypto11"
	"github.com/miekg/pkcs11"

	"github.com/octo-sts/appliance/signer"
)

// MinSessions is the least number of sessions that a Token works with: one only keeps the login, one reads objects and
// attributes, and at least one signs.
const MinSessions = 3

// TokenConfig names a token and how to log in to it. Exactly one of TokenLabel, TokenSerial, Slot and URI is set.
type TokenConfig struct {
	Module      string // absolute path of the PKCS#11 shared library
	TokenLabel  string
	TokenSerial string
	Slot        *uint  // slot ID
	URI         string // RFC 7512, as signer.ParseURI reads it
	PIN         string
	// Latch remembers over restarts that the token refused the PIN. nil: nothing does.
	Latch *signer.PINLatch
	// MaxSessions bounds the sessions open at once, at least MinSessions. Real HSMs have few (a YubiHSM 2 has 16) and share
	// them among all programs. A lower bound of the token's own goes before it.
	MaxSessions int
}

func (c TokenConfig) check() error {
	selectors := 0
	for _, set := range []bool{c.TokenLabel != "", c.TokenSerial != "", c.Slot != nil, c.URI != ""} {
		if set {
			selectors++
		}
	}
	switch {
	case c.Module == "":
		return errors.New("no PKCS#11 module given")
	case selectors != 1:
		return errors.New("exactly one of token label, token serial, slot and URI must be given")
	case c.PIN == "":
		return errors.New("empty PIN")
	case c.MaxSessions < MinSessions:
		return fmt.Errorf("max sessions is %d, must be at least %d", c.MaxSessions, MinSessions)
	}
	_, err := c.matcher()
	return err
}

// Token is one logged-in connection to a token. Its methods may be called from several goroutines, except that Close must
// come last. See the package comment for what it does not do.
type Token struct {
	info Info
	// crypto holds Cryptoki initialized, and one session open so that the login lasts.
	crypto *crypto11.Context
	// module is a second handle on the same library, for all that crypto11 has no call for or no recovery from. Cryptoki is
	// one per process, so that it shares crypto's initialization.
	module     *module
	mechanisms map[uint]bool // CKM numbers that the token lists
	sessions   *sessions
}

// Open loads the module, finds the token, and logs in: exactly one attempt with the PIN, and none where the token's flags
// or c.Latch speak against it. The error matches ErrPINRefused where the token refused the PIN, now or before; then it
// must not be tried again. ctx is looked at between the steps only, because a call into the module cannot be cancelled.
func Open(ctx context.Context, c TokenConfig) (*Token, error) {
	return open(ctx, c, newClock())
}

func open(ctx context.Context, c TokenConfig, clock *clock) (*Token, error) {
	if err := c.check(); err != nil {
		return nil, err
	}
	module, err := loadModule(c.Module, clock)
	if err != nil {
		return nil, err
	}
	token, err := locate(module, c)
	if err == nil {
		err = ctx.Err()
	}
	if err == nil {
		err = safeToLogIn(token.flags)
	}
	if err != nil {
		module.unload()
		return nil, err
	}
	t, err := start(c, token, module)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", token.Info, err)
	}
	return t, nil
}

// start opens the token that was found. It owns module, and unloads it where it fails.
func start(c TokenConfig, token found, module *module) (*Token, error) {
	limit := c.MaxSessions
	if token.maxSessions != 0 && token.maxSessions < uint(limit) {
		limit = int(token.maxSessions)
	}
	if limit < MinSessions {
		module.unload()
		return nil, fmt.Errorf("the token allows %d sessions, and at least %d are needed", limit, MinSessions)
	}
	login, err := configure(c.Module, token.Slot, module.clock)
	if err != nil {
		module.unload()
		return nil, fmt.Errorf("opening the token: %w", err)
	}
	t := &Token{info: token.Info, crypto: login, module: module, sessions: newSessions(module, token.Slot, limit-1)}
	if err := t.login(c, token.flags); err != nil {
		return nil, errors.Join(fmt.Errorf("logging in: %w", err), t.Close())
	}
	if t.mechanisms, err = module.mechanisms(token.Slot); err != nil {
		return nil, errors.Join(err, t.Close())
	}
	return t, nil
}

// configure has crypto11 initialize Cryptoki and open the session that lasts as long as the Token. The login is not left to
// it: it takes CKR_USER_ALREADY_LOGGED_IN for a good PIN, and an error of its does not tell whether the PIN was tried.
func configure(path string, slot uint, clock *clock) (*crypto11.Context, error) {
	defer clock.call()()
	number := int(slot)
	return crypto11.Configure(&crypto11.Config{
		Path:              path,
		SlotNumber:        &number,
		MaxSessions:       2, // its least; the second would be that of a pool, which stays empty
		LoginNotSupported: true,
	})
}

// login makes the one attempt. The login is the whole program's (PKCS #11 v2.40, section 2.6.4), so that any session will
// do.
func (t *Token) login(c TokenConfig, flags uint) error {
	return t.sessions.with(func(session pkcs11.SessionHandle) error {
		if c.Latch != nil {
			if err := c.Latch.Begin(c.PIN, flags&pkcs11.CKF_USER_PIN_COUNT_LOW != 0); err != nil {
				if errors.Is(err, signer.ErrPINLatched) {
					return fmt.Errorf("%w: %w", ErrPINRefused, err)
				}
				return err
			}
		}
		err := t.module.login(session, c.PIN)
		refused := pinRefused(err)
		if c.Latch != nil {
			switch {
			case err == nil:
				err = c.Latch.Succeeded()
			case refused:
				err = errors.Join(err, c.Latch.Refused())
			default:
				c.Latch.Unclear()
			}
		}
		if refused {
			return fmt.Errorf("%w: %w", ErrPINRefused, err)
		}
		return err
	})
}

// checkLogin makes sure that the token still takes this program for logged in. Where it does not, private keys are not
// there, as if they had never been.
func (t *Token) checkLogin() error {
	return t.sessions.with(func(session pkcs11.SessionHandle) error {
		info, err := t.module.sessionInfo(session)
		if err != nil {
			return fmt.Errorf("asking after the state of a session: %w", err)
		}
		if info.State != pkcs11.CKS_RW_USER_FUNCTIONS {
			return errors.New("the token has logged the user out")
		}
		return nil
	})
}

// countSessions tells how many sessions are open, without asking the module, and how many may be: the one that keeps the
// login is among both.
func (t *Token) countSessions() (open, most int) {
	return t.sessions.count() + 1, cap(t.sessions.places) + 1
}

// Info describes the module and the token.
func (t *Token) Info() Info { return t.info }

// Close logs out and unloads the module. It waits for signatures under way.
func (t *Token) Close() error {
	_ = t.sessions.close() // what cannot be closed by itself ends with C_Finalize
	done := t.module.clock.call()
	err := t.crypto.Close()
	done()
	t.module.unload()
	if err != nil {
		return fmt.Errorf("closing %s: %w", t.info, err)
	}
	return nil
}
