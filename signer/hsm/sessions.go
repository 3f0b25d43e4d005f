package hsm

import (
	"errors"
	"fmt"
	"time"

	"github.com/miekg/pkcs11"
)

const (
	// sessionWait bounds how long a signature waits for a free session.
	sessionWait = 2 * time.Second
	// sessionPoll is how often a session is looked for while the token has none left.
	sessionPoll = 20 * time.Millisecond
)

// errBusy means that every session is lent: too much is asked of the token, or it is slow. Nothing is broken.
var errBusy = fmt.Errorf("no session with the token has come free for %s", sessionWait)

// errClosed means that the token is being closed, or is: there may be another connection soon.
var errClosed = errors.New("this connection to the token has been closed")

// sessions is a bounded pool of sessions with one token. A session is lent to one holder at a time, as PKCS #11 demands
// (v2.40, section 2.6.7), and is closed as soon as anything has failed in it: after that nobody knows its state.
type sessions struct {
	module *module
	slot   uint
	// places holds an element for each session that is lent, or being opened for it.
	places chan struct{}
	// closed is closed when no session is lent any more.
	closed chan struct{}
	// idle holds the open sessions that are not lent. The longest idle is lent first, so that each is used in its turn and
	// none dies of idleness.
	idle chan pkcs11.SessionHandle
}

func newSessions(m *module, slot uint, limit int) *sessions {
	return &sessions{module: m, slot: slot, places: make(chan struct{}, limit), closed: make(chan struct{}), idle: make(chan pkcs11.SessionHandle, limit)}
}

// with lends f a session. Where f fails the session is not used again.
func (s *sessions) with(f func(session pkcs11.SessionHandle) error) error {
	deadline := time.NewTimer(sessionWait)
	defer deadline.Stop()
	select {
	case s.places <- struct{}{}:
		defer func() { <-s.places }()
	case <-s.closed:
		return errClosed
	case <-deadline.C:
		return fmt.Errorf("waiting for one of %d sessions: %w", cap(s.places), errBusy)
	}
	session, err := s.get(deadline.C)
	if err != nil {
		return fmt.Errorf("opening a session: %w", err)
	}
	if err := f(session); err != nil {
		// It may be dead already: that it cannot be closed says nothing new.
		_ = s.module.closeSession(session)
		return err
	}
	s.idle <- session
	return nil
}

// get takes an idle session or opens one. A token that has no session left, because other programs use them, still has
// those that are lent here: the next to come back will do.
func (s *sessions) get(deadline <-chan time.Time) (pkcs11.SessionHandle, error) {
	for {
		select {
		case session := <-s.idle:
			return session, nil
		default:
		}
		session, err := s.module.openSession(s.slot)
		if rv, ok := returnValue(err); !ok || rv != pkcs11.CKR_SESSION_COUNT {
			return session, err
		}
		if others := len(s.places) - 1; others == 0 {
			// The last of them gave its session back before its place, so it is here unless it is broken.
			select {
			case session := <-s.idle:
				return session, nil
			default:
				return 0, err
			}
		}
		select {
		case <-deadline:
			return 0, err
		case <-time.After(sessionPoll):
		}
	}
}

// count is the number of open sessions, or one more or fewer for a moment: those that are lent, and those that are not.
func (s *sessions) count() int { return min(len(s.places)+len(s.idle), cap(s.places)) }

// waiting is the number of open sessions that are not lent.
func (s *sessions) waiting() int { return len(s.idle) }

// close waits until every session is back and closes them all. Nothing can be lent after it. It is called once.
func (s *sessions) close() error {
	close(s.closed)
	for range cap(s.places) {
		s.places <- struct{}{}
	}
	var errs []error
	for {
		select {
		case session := <-s.idle:
			errs = append(errs, s.module.closeSession(session))
		default:
			return errors.Join(errs...)
		}
	}
}
