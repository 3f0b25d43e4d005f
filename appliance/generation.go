package appliance

import (
	"context"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"go.etcd.io/bbolt"
	"go.uber.org/zap"

	"github.com/octo-sts/appliance/signer"
	"github.com/octo-sts/appliance/sts"
	"github.com/octo-sts/appliance/sts/audit"
	"github.com/octo-sts/appliance/sts/githubapp"
	"github.com/octo-sts/appliance/sts/idtoken"
)

// parts stay as they are for as long as the daemon runs; every generation is made
// with them.
type parts struct {
	version string
	logger  *zap.Logger
	audit   *audit.Log
	state   *bbolt.DB
	signer  *signer.Client
	counts  *metrics
	tracing *tracing // nil: off
}

// generation is the exchange as one reading of the configuration has it. It never
// changes: a reload makes another one, and an exchange keeps the one that it began
// with.
type generation struct {
	config   *Config
	verifier *idtoken.Verifier
	github   *githubapp.Client
	service  *sts.Service
	exchange http.Handler

	underWay atomic.Int64  // requests
	replaced atomic.Bool   // none begins any more
	once     sync.Once     // of closing unused
	unused   chan struct{} // closed when it is replaced and the last request has ended
}

// newGeneration makes the first one, which works in the background until ctx ends,
// and tells its verifier which single-use ID tokens the audit log has seen, so that
// a restart gives none of them a second life.
func (p *parts) newGeneration(ctx context.Context, c *Config) (*generation, error) {
	verifier, err := idtoken.New(ctx, p.verifierConfig(c))
	if err != nil {
		return nil, err
	}
	github, err := githubapp.New(ctx, p.githubConfig(c))
	if err != nil {
		return nil, err
	}
	service, err := sts.New(ctx, p.serviceConfig(c, verifier, github))
	if err != nil {
		return nil, err
	}
	return p.finished(c, verifier, github, service), recallShown(c, verifier)
}

// successor makes the next one, which knows everything that g does. It starts
// nothing and changes nothing; on an error g simply goes on.
func (p *parts) successor(ctx context.Context, g *generation, c *Config) (*generation, error) {
	verifier, err := g.verifier.Successor(p.verifierConfig(c))
	if err != nil {
		return nil, err
	}
	if becameSingleUse(g.config, c) {
		if err := recallShown(c, verifier); err != nil {
			return nil, err
		}
	}
	github, err := g.github.Successor(p.githubConfig(c))
	if err != nil {
		return nil, err
	}
	service, err := g.service.Successor(ctx, p.serviceConfig(c, verifier, github))
	if err != nil {
		return nil, err
	}
	return p.finished(c, verifier, github, service), nil
}

func (p *parts) finished(c *Config, verifier *idtoken.Verifier, github *githubapp.Client, service *sts.Service) *generation {
	return &generation{config: c, verifier: verifier, github: github, service: service,
		exchange: p.withProbeIssuer(c, sts.NewHandler(service)), unused: make(chan struct{})}
}

// becameSingleUse tells whether an issuer's ID tokens are to be used once from now
// on that could be used more often before.
func becameSingleUse(before, after *Config) bool {
	was := map[string]bool{}
	for _, issuer := range before.Issuers {
		was[issuer.URL] = issuer.SingleUse
	}
	for _, issuer := range after.Issuers {
		if issuer.SingleUse && !was[issuer.URL] {
			return true
		}
	}
	return false
}

func (g *generation) leave() {
	if g.underWay.Add(-1) == 0 && g.replaced.Load() {
		g.once.Do(func() { close(g.unused) })
	}
}

// generations is the handler of exchanges: the newest generation's.
type generations struct {
	current atomic.Pointer[generation]
	began   time.Time

	// What shows that exchanges end: how many are under way, and when one ended last,
	// or began where none was under way: so many nanoseconds after began, whatever is
	// done to the clock.
	underWay atomic.Int64
	progress atomic.Int64
}

// enter returns the generation for one request, which must leave it.
func (s *generations) enter() *generation {
	for {
		g := s.current.Load()
		g.underWay.Add(1)
		if s.current.Load() == g {
			return g
		}
		g.leave() // it was replaced in between, and may be taken apart already
	}
}

// replace has every request from now on served by next, and takes the generation
// before apart when its last one has ended.
func (s *generations) replace(ctx context.Context, next *generation) {
	before := s.current.Load()
	next.verifier.Begin(ctx, before.verifier)
	next.github.Begin(ctx, before.github)
	next.service.Begin()
	s.current.Store(next)
	before.replaced.Store(true)
	if before.underWay.Load() == 0 {
		before.once.Do(func() { close(before.unused) })
	}
	go func() {
		select {
		case <-before.unused:
			before.verifier.Retire(next.verifier)
			before.github.Retire(next.github)
		case <-ctx.Done(): // which ends all of it
		}
	}()
}

func (s *generations) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	g := s.enter()
	defer g.leave()
	if !isSelfCheck(r) {
		if s.underWay.Add(1) == 1 {
			s.progress.Store(int64(time.Since(s.began)))
		}
		defer func() {
			s.progress.Store(int64(time.Since(s.began)))
			s.underWay.Add(-1)
		}()
	}
	g.exchange.ServeHTTP(w, r)
}

// stuckFor is for how long requests have been under way without any of them ending.
func (s *generations) stuckFor() time.Duration {
	if s.underWay.Load() == 0 {
		return 0
	}
	return time.Since(s.began) - time.Duration(s.progress.Load())
}
