package signer

import (
	"bytes"
	"context"
	"crypto"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"
)

// probation is how long an HSM that failed must have been well before it is preferred again to one that works, so that
// signatures do not go back and forth with an HSM that comes and goes.
const probation = 30 * time.Second

// HSMsConfig configures HSMs.
type HSMsConfig struct {
	// Config is what signer.yaml says of the HSMs, the Apps' keys and the checkpoint key.
	Config *Config
	// Command runs a worker; "--hsm" and the index of the HSM are added to it. It finds a WorkerSetup on its standard
	// input and its socket at WorkerFD.
	Command []string
	Logger  *zap.Logger
}

// HSMs are the configured tokens, each in the hands of a process of its own, since a vendor's module may hang or crash.
// They are kept running, and a signature is made by the first one that works. It is safe for concurrent use.
type HSMs struct {
	log           *zap.Logger
	state         string // directory
	checkpointKey string
	probeKey      string // "": there is none
	began         time.Time
	// start starts the worker of one HSM. The supervisor calls it on a locked thread.
	start func(index int, setup WorkerSetup) (*worker, error)

	mu      sync.Mutex
	labels  []string      // the keys to keep usable; guarded by mu
	members []*member     // in order of preference; what they hold is guarded by mu
	active  int           // the member that signs, or did last where none can now; -1: none ever could; guarded by mu
	changed chan struct{} // closed and replaced whenever anything of this changes; guarded by mu

	stopped sync.WaitGroup // the supervisors
}

// member is one HSM, as its worker told it last. HSMs.mu guards it, but for index and config, which never change.
type member struct {
	index  int
	config HSMConfig

	worker  *worker // nil while none runs
	token   TokenStatus
	problem string                // why no worker runs
	public  map[string]*memberKey // of each key that can sign, or could when the token was last open
	unfit   map[string]string     // why the other keys cannot
	since   time.Time             // of the token's being open
	// failed is when the HSM last failed to do what it should; zero: it never did.
	failed       time.Time
	restarts     uint64
	lastFailover time.Time
	failovers    uint64
	signatures   atomic.Uint64 // not guarded
	failures     uint64
	relabel      chan struct{} // holds one order to tell the worker the labels
}

// memberKey is the public half of a key. It is never changed.
type memberKey struct {
	encoded []byte // PKIX form
	public  crypto.PublicKey
}

// NewHSMs starts a worker for each HSM and keeps it running until ctx ends; Wait then waits until all are gone. That no HSM
// can be reached is not an error.
func NewHSMs(ctx context.Context, c HSMsConfig) (*HSMs, error) {
	if c.Config == nil || len(c.Command) == 0 || c.Logger == nil {
		return nil, errors.New("configuring the HSMs: Config, Command and Logger are required")
	}
	h := newHSMs(c.Config, c.Logger, func(index int, setup WorkerSetup) (*worker, error) {
		return startProcess(c.Command, index, setup)
	})
	h.run(ctx)
	return h, nil
}

func newHSMs(c *Config, log *zap.Logger, start func(int, WorkerSetup) (*worker, error)) *HSMs {
	h := &HSMs{
		log:           log,
		state:         c.Checkpoint.StateDirectory,
		checkpointKey: c.Checkpoint.Key,
		probeKey:      c.Probe.Key,
		began:         time.Now(),
		start:         start,
		labels:        c.KeyLabels(),
		active:        -1,
		changed:       make(chan struct{}),
	}
	for i, config := range c.HSMs {
		h.members = append(h.members, &member{
			index:   i,
			config:  config,
			problem: "its worker has not been started yet",
			token:   TokenStatus{Module: config.Module},
			public:  map[string]*memberKey{},
			unfit:   map[string]string{},
			relabel: make(chan struct{}, 1),
		})
	}
	return h
}

func (h *HSMs) run(ctx context.Context) {
	for _, m := range h.members {
		h.stopped.Go(func() { h.supervise(ctx, m) })
	}
}

// Wait returns when every worker has been stopped after the end of NewHSMs' ctx.
func (h *HSMs) Wait() { h.stopped.Wait() }

// SetLabels has other keys kept usable from now on, in every HSM.
func (h *HSMs) SetLabels(labels []string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.labels = slices.Clone(labels)
	for _, m := range h.members {
		select {
		case m.relabel <- struct{}{}:
		default: // the order that waits there will do
		}
	}
}

// Public returns the public half of the key under label that would sign at this moment, or why none can.
func (h *HSMs) Public(label string) (crypto.PublicKey, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, m := range h.order() {
		if h.whyUnfit(m, label) == "" {
			return m.public[label].public, nil
		}
	}
	return nil, h.whyNot(label)
}

// order lists the HSMs that are open, the one to try first first: in the order of the file those that never failed or have
// been well for long enough, then the others, the one that failed last at the end. The caller holds h.mu.
func (h *HSMs) order() []*member {
	var trusted, others []*member
	for _, m := range h.members {
		switch {
		case m.worker == nil || !m.token.Open:
		case m.trusted(time.Now()):
			trusted = append(trusted, m)
		default:
			others = append(others, m)
		}
	}
	slices.SortStableFunc(others, func(a, b *member) int { return a.failed.Compare(b.failed) })
	return append(trusted, others...)
}

// trusted says whether m has been well for long enough. The caller holds HSMs.mu.
func (m *member) trusted(now time.Time) bool {
	return m.failed.IsZero() || now.Sub(m.failed) >= probation && now.Sub(m.since) >= probation
}

// whyUnfit says why m cannot sign with the key under label at this moment, "" where it can. The caller holds h.mu.
func (h *HSMs) whyUnfit(m *member, label string) string {
	switch {
	case m.worker == nil:
		return m.problem
	case !m.token.Open:
		return "the token is not open: " + m.token.Error
	case m.unfit[label] != "":
		return m.unfit[label]
	case m.public[label] == nil:
		return "the key has not been looked for yet"
	}
	if first := h.reference(label); first != nil && !bytes.Equal(first.public[label].encoded, m.public[label].encoded) {
		return fmt.Sprintf("another key lies under the label %q than in HSM %d, and both must hold the same", label, first.index)
	}
	return ""
}

// isOwn says whether the key under label cannot leave the HSM that made it, and so differs in each.
func (h *HSMs) isOwn(label string) bool { return label == h.checkpointKey || label == h.probeKey }

// reference is the HSM whose key all others must hold under label: the first one of which a key is known. It is nil for
// keys that are each HSM's own. The caller holds h.mu.
func (h *HSMs) reference(label string) *member {
	if h.isOwn(label) {
		return nil
	}
	for _, m := range h.members {
		if m.public[label] != nil {
			return m
		}
	}
	return nil
}

// whyNot is why no HSM, or no further one, can sign with the key under label. The caller holds h.mu.
func (h *HSMs) whyNot(label string) error {
	var reasons []error
	for _, m := range h.members {
		if why := h.whyUnfit(m, label); why != "" && len(h.members) == 1 {
			reasons = append(reasons, errors.New(why))
		} else if why != "" {
			reasons = append(reasons, fmt.Errorf("HSM %d: %s", m.index, why))
		}
	}
	return inOneLine(reasons)
}

// update changes the state under the lock, then looks who signs from now on and wakes whoever waits.
func (h *HSMs) update(change func()) {
	h.mu.Lock()
	defer h.mu.Unlock()
	change()
	now := time.Now()
	active := -1
	if order := h.order(); len(order) > 0 {
		active = order[0].index
	}
	if before := h.active; active >= 0 && active != before {
		if before >= 0 && !(h.members[before].worker != nil && h.members[before].token.Open && h.members[before].trusted(now)) {
			h.members[before].lastFailover = now
			h.members[before].failovers++
			h.log.Warn("another HSM takes over", zap.Int("hsm", active), zap.Int("from", before))
		} else {
			h.log.Info("HSM is in use", zap.Int("hsm", active))
		}
		h.active = active
	}
	close(h.changed)
	h.changed = make(chan struct{})
}

// Status reports the state of each HSM, without asking it for anything.
func (h *HSMs) Status() []HSMStatus {
	h.mu.Lock()
	defer h.mu.Unlock()
	order := h.order()
	var all []HSMStatus
	for _, m := range h.members {
		s := HSMStatus{TokenStatus: m.token, Active: len(order) > 0 && order[0] == m, Restarts: m.restarts, LastFailover: m.lastFailover,
			Failovers: m.failovers, Signatures: m.signatures.Load(), Failures: m.failures}
		if m.worker == nil {
			s.Open, s.Sessions, s.Error = false, 0, m.problem
		}
		for _, label := range h.labels {
			key := KeyStatus{Key: label, Error: h.whyUnfit(m, label)}
			if key.Ready = key.Error == ""; key.Ready {
				key.Fingerprint = fingerprint(m.public[label].encoded)
				if h.isOwn(label) {
					key.Public = m.public[label].encoded
				}
			}
			s.Keys = append(s.Keys, key)
		}
		all = append(all, s)
	}
	return all
}
