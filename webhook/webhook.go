// Package webhook takes GitHub's deliveries for the Apps of the appliance: what
// GitHub says of a change, at once, so that nothing that was taken back goes on
// granting; and the checks of trust policies that GitHub asks for.
//
// A delivery is authenticated by its HMAC, read into a small event of our own,
// and drops what the caches hold about what changed, before it is answered.
// What has to outlast a crash, entries of the audit log and check runs, is
// written to a queue on disk before the answer, and done afterwards by Run, once
// for each delivery however often GitHub sends it. Run also asks GitHub again
// for the deliveries that never arrived.
//
// The package knows no listener and no TLS: a Receiver is an http.Handler and a
// loop. It decides nothing about who may have a token.
//
// Events, headers and payloads follow GitHub's documentation
// (https://docs.github.com/en/webhooks/webhook-events-and-payloads).
package webhook

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"
	"go.etcd.io/bbolt"
	"go.uber.org/zap"
	"golang.org/x/time/rate"

	"github.com/octo-sts/appliance/sts/audit"
	"github.com/octo-sts/appliance/sts/githubapp"
	"github.com/octo-sts/appliance/sts/trustpolicy"
)

// maxHeads bounds for how many commits is kept that nothing is left to check,
// maxAgain for how many deliveries when they may be asked for again.
const (
	maxHeads = 4096
	maxAgain = 4096
)

// Config is what New needs. Everything but Logger and Observe is required.
type Config struct {
	// Secrets are the webhook secrets of the Apps; any one of them makes a
	// delivery good, so that one can be replaced while both are in use. An
	// empty one is an error: its HMAC could be made by anybody.
	Secrets []string

	// State holds the queue, the deliveries that were done, and how far
	// recovery came, in buckets of this package's. New sets its MaxBatchDelay;
	// whoever opened it closes it, after Run has returned.
	State *bbolt.DB

	// GitHub is asked, told what to forget, and given the check runs.
	GitHub *githubapp.Client

	// Audit gets the entries; AuditDirectory is where it is, to be read once
	// after a start that finds deliveries in the queue.
	Audit          *audit.Log
	AuditDirectory string

	// AppIDs are the Apps whose deliveries are taken.
	AppIDs []int64

	// PolicyRepository is the name of an organization's policy repository.
	PolicyRepository string

	// Permissions and Ceiling are what a policy is checked against.
	Permissions trustpolicy.Catalog
	Ceiling     trustpolicy.Ceiling

	// Logger gets what an operator should see. Nil: nothing is logged.
	Logger *zap.Logger

	// Observe is called once for each request, each delivery that Run is done
	// with, and each delivery that GitHub is asked for again. Nil: nothing is.
	Observe func(Observation)
}

// Observation is for metrics. Both fields have few values.
type Observation struct {
	// Event is GitHub's name of an event that is used, else "other"; it is
	// "other" too where nothing shows that the delivery is GitHub's.
	Event string
	// Outcome is one of the Outcome constants' values.
	Outcome string
}

// Receiver is the webhook's endpoint. It is safe for concurrent use.
type Receiver struct {
	settings       atomic.Pointer[settings] // replaced as a whole, never changed
	audit          *audit.Log
	auditDirectory string
	log            *zap.Logger
	observe        func(Observation)

	store    *store
	schedule *schedule
	room     room
	noise    *rate.Limiter // of log lines that strangers cause

	// heads are the commits (by lane) for which a suite that GitHub made by
	// itself has nothing to ask: their check was reported, or their push
	// changed no policy.
	heads *lru.Cache[string, struct{}]
	// again says before when GitHub is not to be asked for a missed delivery once
	// more. After a restart what GitHub lists does.
	again *lru.Cache[deliveryKey, time.Time]

	mu       sync.Mutex
	finished []settlement // guarded by mu: done with, and not yet marked so on disk
	settle   chan struct{}
	recovery RecoveryStatus // guarded by mu
}

// Status is for the operator.
type Status struct {
	// Queued is how many deliveries wait or are being worked on.
	Queued int `json:"queued"`
	// Oldest is when the oldest of them arrived; zero where there is none.
	Oldest time.Time `json:"oldest,omitzero"`
	// Recovery is how asking GitHub for what was missed went.
	Recovery RecoveryStatus `json:"recovery"`
}

// New returns a Receiver with what the queue on disk holds. Run does the work:
// until it is called, deliveries are taken and wait.
func New(ctx context.Context, c Config) (*Receiver, error) {
	r, err := newReceiver(ctx, c)
	if err != nil {
		return nil, fmt.Errorf("setting up the webhook: %w", err)
	}
	return r, nil
}

func newReceiver(ctx context.Context, c Config) (*Receiver, error) {
	if err := c.check(); err != nil {
		return nil, err
	}
	r := &Receiver{
		audit:          c.Audit,
		auditDirectory: c.AuditDirectory,
		log:            c.Logger,
		observe:        c.Observe,
		schedule:       newSchedule(),
		noise:          rate.NewLimiter(20, 20),
		settle:         make(chan struct{}, 1),
	}
	if r.log == nil {
		r.log = zap.NewNop()
	}
	if r.observe == nil {
		r.observe = func(Observation) {}
	}
	var errs [4]error
	r.heads, errs[0] = lru.New[string, struct{}](maxHeads)
	r.again, errs[1] = lru.New[deliveryKey, time.Time](maxAgain)
	r.store, errs[2] = newStore(c.State)
	unfinished, err := newUnfinished()
	errs[3] = err
	if err := errors.Join(errs[:]...); err != nil {
		return nil, err
	}
	r.settings.Store(c.settings(unfinished))
	return r, r.store.load(ctx, func(seq uint64, i item, size int) {
		r.schedule.add(newEntry(seq, i, size))
	})
}

// settings are the part of a Config that Reload changes.
type settings struct {
	secrets [][]byte
	github  *githubapp.Client
	appIDs  []int64
	checker checker
}

func (c Config) settings(known unfinished) *settings {
	s := &settings{
		github: c.GitHub,
		appIDs: slices.Clone(c.AppIDs),
		checker: checker{github: c.GitHub, policyRepository: c.PolicyRepository,
			permissions: c.Permissions, ceiling: c.Ceiling, unfinished: known},
	}
	for _, secret := range c.Secrets {
		s.secrets = append(s.secrets, []byte(secret))
	}
	return s
}

// Reload changes the secrets, the GitHub client, the Apps, the policy repository,
// the permissions and the ceiling, all at once, for whatever begins from now on.
// The rest of c has to be what New was given. On an error nothing changes.
func (r *Receiver) Reload(c Config) error {
	if err := c.check(); err != nil {
		return fmt.Errorf("changing the webhook: %w", err)
	}
	r.settings.Store(c.settings(r.settings.Load().checker.unfinished))
	return nil
}

// check reports everything that is wrong with c.
func (c Config) check() error {
	var errs []error
	if len(c.Secrets) == 0 {
		errs = append(errs, errors.New("no secret is configured: at least one is needed"))
	}
	for i, secret := range c.Secrets {
		if secret == "" {
			errs = append(errs, fmt.Errorf("secret %d of %d is empty: anybody could sign with it", i+1, len(c.Secrets)))
		}
	}
	if len(c.AppIDs) == 0 {
		errs = append(errs, errors.New("no App is configured: at least one is needed"))
	}
	if c.State == nil || c.GitHub == nil || c.Audit == nil || c.AuditDirectory == "" || c.PolicyRepository == "" {
		errs = append(errs, errors.New("the state's file, the GitHub client, the audit log, its directory"+
			" and the policy repository are needed"))
	}
	return errors.Join(errs...)
}

// Status tells how much work waits.
func (r *Receiver) Status() Status {
	queued, oldest := r.schedule.status()
	r.mu.Lock()
	defer r.mu.Unlock()
	return Status{Queued: queued, Oldest: oldest, Recovery: r.recovery}
}
