package signer

import (
	"context"
	"crypto"
	"crypto/rsa"
	"errors"
	"fmt"
	"slices"
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
	Apps    []AppConfig
	HSMs    *HSMs // that hold the Apps' keys
	Version string
	Logger  *zap.Logger
	Now     func() time.Time // nil: time.Now
}

// Service makes App JWTs for the configured Apps. It knows nothing of sockets. It is safe for concurrent use.
type Service struct {
	config     ServiceConfig
	signatures atomic.Uint64

	mu   sync.Mutex
	apps []AppConfig // guarded by mu
	// failures holds how the last signature of an App failed, until one succeeds; guarded by mu.
	failures map[int64]string
}

// NewService checks its configuration and returns a Service that is ready at once, whether or not the keys are.
func NewService(c ServiceConfig) (*Service, error) {
	if c.HSMs == nil || c.Logger == nil {
		return nil, errors.New("configuring the signer: HSMs and Logger are required")
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	s := &Service{config: c, failures: map[int64]string{}}
	if err := s.SetApps(c.Apps); err != nil {
		return nil, err
	}
	return s, nil
}

// SetApps replaces the Apps. Signatures under way are finished.
func (s *Service) SetApps(apps []AppConfig) error {
	for _, app := range apps {
		if len(app.Keys) == 0 {
			return fmt.Errorf("configuring the signer: App %d has no key", app.ID)
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.apps = slices.Clone(apps)
	clear(s.failures)
	return nil
}

func (s *Service) app(id int64) (AppConfig, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	i := slices.IndexFunc(s.apps, func(a AppConfig) bool { return a.ID == id })
	if i < 0 {
		return AppConfig{}, false
	}
	return s.apps[i], true
}

// AppJWT signs a fresh App JWT with the App's first key. The error matches ErrUnknownApp or ErrNotReady.
func (s *Service) AppJWT(ctx context.Context, appID int64) (AppJWT, error) {
	app, ok := s.app(appID)
	if !ok {
		return AppJWT{}, fmt.Errorf("App %d: %w", appID, ErrUnknownApp)
	}
	// A caller that goes away must not look like an HSM that fails.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), signTimeout)
	defer cancel()
	var jwt AppJWT
	err := s.config.HSMs.UseKey(ctx, app.Keys[0], func(key crypto.Signer) error {
		var err error
		jwt, err = SignAppJWT(key, app.ID, s.config.Now())
		return err
	})
	s.note(app.ID, err)
	if err != nil {
		return AppJWT{}, fmt.Errorf("App %d, key %q: %w: %w", appID, app.Keys[0], ErrNotReady, err)
	}
	s.signatures.Add(1)
	return jwt, nil
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

// Status reports the state of the tokens and of each App, without asking a token for anything.
func (s *Service) Status() Status {
	status := Status{Version: s.config.Version, Ready: true, Signatures: s.signatures.Load(), HSMs: s.config.HSMs.Status()}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, app := range s.apps {
		a := s.appStatus(app)
		status.Ready = status.Ready && a.Ready
		status.Apps = append(status.Apps, a)
	}
	return status
}

// appStatus is the state of one App. The caller holds s.mu.
func (s *Service) appStatus(app AppConfig) AppStatus {
	status := AppStatus{AppID: app.ID, Key: app.Keys[0]}
	public, err := s.config.HSMs.Public(app.Keys[0])
	if err != nil {
		status.Error = err.Error()
		return status
	}
	if _, ok := public.(*rsa.PublicKey); !ok {
		status.Error = fmt.Sprintf("the key is a %T, not RSA", public)
		return status
	}
	status.Ready = true
	status.Fingerprint = Fingerprint(public)
	status.Error = s.failures[app.ID]
	return status
}
