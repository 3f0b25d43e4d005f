package appliance

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/caddyserver/certmagic"
	"github.com/mholt/acmez/v3"
	"github.com/mholt/acmez/v3/acme"
	"go.uber.org/zap"
)

const (
	// acmeAttempt bounds one attempt at a certificate, whatever the CA does: a
	// validation takes seconds, with a busy CA a minute or two.
	acmeAttempt = 5 * time.Minute

	// acmeLook is how often the certificate is looked at: whether it is to be
	// renewed, was revoked, or needs a new OCSP staple. Short-lived ones are looked
	// at more often, acmeLooks times in their life.
	acmeLook  = 10 * time.Minute
	acmeLooks = 60

	// renewalShare is how much of its life a certificate has left when it is
	// renewed, where the CA does not say when it should be (RFC 9773). /readyz is
	// degraded from a quarter on, so there is time to try.
	renewalShare = 1.0 / 3
)

// acmeCertificates serves the certificate of one name, which a CA issues. certmagic
// issues, renews, staples and stores; when it is to look is decided here, and so
// is what is served. A handshake touches neither the disk nor the network.
type acmeCertificates struct {
	domain     string
	magic      *certmagic.Config
	cache      *certmagic.Cache
	store      *acmeStore
	issuer     *acmeIssuer
	challenge  *acmeChallenges
	logger     *zap.Logger
	current    atomic.Pointer[tls.Certificate] // nil: there is none yet
	wake       chan struct{}                   // asks for an attempt now
	mu         sync.Mutex                      // guards what follows
	err        error                           // of the last attempt
	next       time.Time                       // when the next one begins
	retryAfter time.Time                       // what the CA asked for, last
}

// newACME takes up the certificate that is on the disk, if one is, and asks nobody
// for one yet: a CA that is away keeps no daemon from starting.
func newACME(c *Config, logger *zap.Logger) (*acmeCertificates, error) {
	a := &acmeCertificates{
		domain:    strings.ToLower(c.Domain),
		challenge: &acmeChallenges{domain: strings.ToLower(c.Domain)},
		logger:    logger.Named("acme"),
		wake:      make(chan struct{}, 1),
	}
	a.store = newACMEStore(filepath.Join(c.StateDirectory, "acme"), a.logger)
	var err error
	if a.issuer, err = newACMEIssuer(c.TLS.ACME, a); err != nil {
		return nil, err
	}
	a.cache = certmagic.NewCache(certmagic.CacheOptions{
		GetConfigForCert: func(certmagic.Certificate) (*certmagic.Config, error) { return a.magic, nil },
		// By this much before the time that the CA suggests is renewal due.
		RenewCheckInterval: time.Second,
		Logger:             zap.NewNop(),
	})
	a.cache.Stop() // its own maintenance: tend does that, and knows what came of it
	a.magic = certmagic.New(a.cache, certmagic.Config{
		RenewalWindowRatio: renewalShare,
		Issuers:            []certmagic.Issuer{a.issuer},
		KeySource:          certmagic.StandardKeyGenerator{KeyType: certmagic.P256},
		OCSP:               certmagic.OCSPConfig{HTTPProxy: http.ProxyFromEnvironment},
		Storage:            a.store,
		Logger:             a.logger,
	})
	a.store.sweep()
	pair, err := a.store.load(a.issuer.IssuerKey(), a.domain)
	if err != nil {
		a.logger.Error("no certificate taken from the store", zap.Error(err))
		a.err = err
	}
	if pair != nil {
		a.use(pair)
	}
	return a, nil
}

// config answers every server name with the one certificate: who asks for another
// name, or by address, sees that it does not fit and hangs up, which says more than
// our hanging up would. No name ever causes a request to the CA.
func (a *acmeCertificates) config() *tls.Config {
	c := publicTLS(func(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
		if isChallenge(hello) {
			return a.challenge.certificate(hello.ServerName)
		}
		if pair := a.current.Load(); pair != nil {
			return pair, nil
		}
		return nil, errors.New("there is no certificate yet")
	})
	c.NextProtos = append(c.NextProtos, acmez.ACMETLS1Protocol)
	return c
}

func (a *acmeCertificates) challenges(next http.Handler) http.Handler {
	a.challenge.overHTTP.Store(true)
	return a.challenge.handler(next)
}

// reload tries at once, even where the last failure would have it wait.
func (a *acmeCertificates) reload() error {
	select {
	case a.wake <- struct{}{}:
	default: // it is asked for already
	}
	return nil
}

func (a *acmeCertificates) status() certificateStatus {
	a.mu.Lock()
	defer a.mu.Unlock()
	s := certificateStatus{lastError: a.err, nextAttempt: a.next}
	if pair := a.current.Load(); pair != nil {
		s.notBefore, s.notAfter = pair.Leaf.NotBefore, pair.Leaf.NotAfter
	}
	return s
}

func (a *acmeCertificates) run(ctx context.Context) {
	failures := 0
	for {
		attempt, cancel := context.WithTimeout(ctx, acmeAttempt)
		err := a.tend(attempt)
		cancel()
		if ctx.Err() != nil {
			return
		}
		var wait time.Duration
		if err == nil {
			failures, wait = 0, a.untilNextLook()
		} else {
			wait = a.untilRetry(failures, err)
			failures++
			a.logger.Error("the certificate could not be looked after", zap.Error(err), zap.Duration("retry_in", wait))
		}
		a.mu.Lock()
		a.err, a.next = err, time.Now().Add(wait)
		a.mu.Unlock()
		timer := time.NewTimer(wait)
		select {
		case <-ctx.Done():
		case <-timer.C:
		case <-a.wake:
			failures = 0
		}
		timer.Stop()
	}
}

// tend does what is to be done: obtain the certificate, renew it where it is due,
// replace it where it was revoked, staple to it. What is served stays where that
// fails.
func (a *acmeCertificates) tend(ctx context.Context) error {
	if _, err := a.store.load(a.issuer.IssuerKey(), a.domain); err != nil {
		return err
	}
	// certmagic leaves alone what it has in its memory, so that is emptied: then it
	// reads the store, which has the last word.
	a.cache.RemoveManaged([]certmagic.SubjectIssuer{{Subject: a.domain}})
	err := a.magic.ManageSync(ctx, []string{a.domain})
	for _, c := range a.cache.AllMatchingCertificates(a.domain) {
		if c.Leaf != nil {
			a.use(&c.Certificate)
		}
	}
	if err == nil {
		return nil
	}
	if own := (*issueError)(nil); errors.As(err, &own) {
		err = own // without certmagic's words around it
	}
	if errors.Is(err, context.DeadlineExceeded) {
		err = fmt.Errorf("not within %s: %w", acmeAttempt, err)
	}
	return err
}

func (a *acmeCertificates) use(pair *tls.Certificate) {
	old := a.current.Swap(pair)
	if old == nil || !old.Leaf.Equal(pair.Leaf) {
		a.logger.Info("certificate in use", zap.Time("not_after", pair.Leaf.NotAfter), zap.String("issuer", pair.Leaf.Issuer.String()))
	}
}

func (a *acmeCertificates) untilNextLook() time.Duration {
	pair := a.current.Load()
	if pair == nil {
		return acmeLook
	}
	life := pair.Leaf.NotAfter.Sub(pair.Leaf.NotBefore)
	return min(acmeLook, max(time.Second, life/acmeLooks))
}

// untilRetry doubles. A CA that could not be reached is tried again soon. One that
// said no is not: Let's Encrypt takes five failed validations an hour. What a CA
// asks for in Retry-After it gets, up to a day.
func (a *acmeCertificates) untilRetry(failures int, err error) time.Duration {
	first, most := time.Second, 5*time.Minute
	if problem := (acme.Problem{}); errors.As(err, &problem) && problem.Status < http.StatusInternalServerError {
		first, most = time.Minute, time.Hour
	}
	wait := min(most, first<<min(failures, 16))
	wait += rand.N(wait / 5) // so that all who met one outage do not come back at once
	a.mu.Lock()
	defer a.mu.Unlock()
	return max(wait, min(24*time.Hour, time.Until(a.retryAfter)))
}

// askedToWait notes a CA's Retry-After.
func (a *acmeCertificates) askedToWait(until time.Time) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.retryAfter = until
}
