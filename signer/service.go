package signer

import (
	"context"
	"crypto"
	"crypto/rsa"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"
)

var (
	// ErrUnknownApp means that the configuration does not list the App.
	ErrUnknownApp = errors.New("the App is not in this signer's configuration")
	// ErrNotReady means that the App's key cannot sign at the moment: the HSM, the key, or the time allowed is the reason.
	ErrNotReady = errors.New("the App's key cannot sign at the moment")
)

// signTimeout bounds how long a caller waits for a signature. It is shorter than the Client's own time-out, so that the
// caller hears a reason.
const signTimeout = 1500 * time.Millisecond

// ServiceConfig configures a Service.
type ServiceConfig struct {
	Apps []AppConfig
	// Key returns the key under a CKA_LABEL, fit to sign at this moment, or why there is none. Required.
	Key func(label string) (crypto.Signer, error)
	// HSMs returns the state of the tokens, for Status. Required.
	HSMs func() []HSMStatus
	// Concurrent bounds the signatures under way at once. At least 1.
	Concurrent int
	Version    string
	Logger     *zap.Logger
	Now        func() time.Time // nil: time.Now
}

// Service makes App JWTs for the configured Apps. It knows nothing of sockets. It is safe for concurrent use.
type Service struct {
	config ServiceConfig
	apps   map[int64]AppConfig
	// slots holds one element for each signature under way.
	slots      chan struct{}
	signatures atomic.Uint64

	mu sync.Mutex
	// failures holds how the last signature of an App failed, until one succeeds; guarded by mu.
	failures map[int64]string
}

// NewService checks its configuration and returns a Service that is ready at once, whether or not the keys are.
func NewService(c ServiceConfig) (*Service, error) {
	if c.Key == nil || c.HSMs == nil || c.Logger == nil {
		return nil, errors.New("configuring the signer: Key, HSMs and Logger are required")
	}
	if c.Concurrent < 1 {
		return nil, fmt.Errorf("configuring the signer: %d concurrent signatures, must be at least 1", c.Concurrent)
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	s := &Service{config: c, apps: map[int64]AppConfig{}, slots: make(chan struct{}, c.Concurrent), failures: map[int64]string{}}
	for _, app := range c.Apps {
		if len(app.Keys) == 0 {
			return nil, fmt.Errorf("configuring the signer: App %d has no key", app.ID)
		}
		s.apps[app.ID] = app
	}
	return s, nil
}

// AppJWT signs a fresh App JWT with the App's first key. The error matches ErrUnknownApp or ErrNotReady.
func (s *Service) AppJWT(ctx context.Context, appID int64) (AppJWT, error) {
	app, ok := s.apps[appID]
	if !ok {
		return AppJWT{}, fmt.Errorf("App %d: %w", appID, ErrUnknownApp)
	}
	ctx, cancel := context.WithTimeout(ctx, signTimeout)
	defer cancel()
	jwt, err := s.sign(ctx, app)
	if err != nil {
		return AppJWT{}, fmt.Errorf("App %d, key %q: %w: %w", appID, app.Keys[0], ErrNotReady, err)
	}
	s.signatures.Add(1)
	return jwt, nil
}

// sign runs one signature in a goroutine of its own, because a module that hangs cannot be interrupted: the caller gets
// its answer in time, and the slot stays taken until the module returns, so that a hang holds at most Concurrent threads.
func (s *Service) sign(ctx context.Context, app AppConfig) (AppJWT, error) {
	select {
	case s.slots <- struct{}{}:
	case <-ctx.Done():
		return AppJWT{}, fmt.Errorf("waiting for a free HSM session: %w", ctx.Err())
	}
	type result struct {
		jwt AppJWT
		err error
	}
	done := make(chan result, 1)
	go func() {
		defer func() { <-s.slots }()
		key, err := s.config.Key(app.Keys[0])
		var jwt AppJWT
		if err == nil {
			jwt, err = SignAppJWT(key, app.ID, s.config.Now())
		}
		s.note(app.ID, err)
		done <- result{jwt, err}
	}()
	select {
	case r := <-done:
		return r.jwt, r.err
	case <-ctx.Done():
		return AppJWT{}, fmt.Errorf("waiting for the HSM's signature: %w", ctx.Err())
	}
}

// note remembers how the last signature of an App went.
func (s *Service) note(appID int64, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err == nil {
		delete(s.failures, appID)
		return
	}
	s.failures[appID] = err.Error()
}

// Status reports the state of the tokens and of each App, without asking the token for anything.
func (s *Service) Status() Status {
	status := Status{Version: s.config.Version, Ready: true, Signatures: s.signatures.Load(), HSMs: s.config.HSMs()}
	for _, app := range s.config.Apps {
		a := s.appStatus(app)
		status.Ready = status.Ready && a.Ready
		status.Apps = append(status.Apps, a)
	}
	return status
}

func (s *Service) appStatus(app AppConfig) AppStatus {
	status := AppStatus{AppID: app.ID, Key: app.Keys[0]}
	key, err := s.config.Key(app.Keys[0])
	if err != nil {
		status.Error = err.Error()
		return status
	}
	public, ok := key.Public().(*rsa.PublicKey)
	if !ok {
		status.Error = fmt.Sprintf("the key is a %T, not RSA", key.Public())
		return status
	}
	status.Ready = true
	status.Fingerprint = Fingerprint(public)
	s.mu.Lock()
	defer s.mu.Unlock()
	status.Error = s.failures[app.ID]
	return status
}
