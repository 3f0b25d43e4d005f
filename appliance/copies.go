package appliance

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/coreos/go-systemd/v22/journal"
	"github.com/prometheus/client_golang/prometheus"
	"go.etcd.io/bbolt"
	"go.uber.org/zap"

	"github.com/octo-sts/appliance/signer"
	"github.com/octo-sts/appliance/sts/audit"
	"github.com/octo-sts/appliance/sts/audit/forward"
)

// copies are the audit log's. No exchange waits for them.
type copies struct {
	journal *forward.Journal // nil: this process does not log to the journal
	events  *forward.Events  // nil: no sink is configured
}

func newCopies(ctx context.Context, c Audit, log *audit.Log, state *bbolt.DB, logger *zap.Logger) (*copies, error) {
	cursors, err := forward.NewCursors(state)
	if err != nil {
		return nil, err
	}
	all := &copies{}
	// A daemon that somebody runs by hand has no business in the machine's journal; one that systemd runs logs there.
	if isService, err := journal.StderrIsJournalStream(); err == nil && isService {
		if all.journal, err = forward.NewJournal(ctx, forward.JournalConfig{Log: log, Cursors: cursors, Logger: logger}); err != nil {
			return nil, err
		}
	}
	if c.CloudEventsSink == "" {
		return all, nil
	}
	config := forward.EventsConfig{
		Log:     log,
		Cursors: cursors,
		Origin:  c.Origin,
		URL:     c.CloudEventsSink,
		CAFile:  c.CloudEventsCAFile,
		From:    c.CloudEventsFrom,
		Logger:  logger,
	}
	if c.CloudEventsCredential != "" {
		if config.Credential, err = signer.ReadCredential(os.Getenv(credentialsDirectory), c.CloudEventsCredential); err != nil {
			return nil, fmt.Errorf("audit.cloudevents_credential: %w", err)
		}
	}
	all.events, err = forward.NewEvents(ctx, config)
	if err != nil {
		return nil, err
	}
	return all, nil
}

// signed takes each signed checkpoint. It never waits.
func (c *copies) signed(checkpoint []byte) {
	if c.journal != nil {
		c.journal.Checkpoint(checkpoint)
	}
}

// lastCopies is how long the copies get, once the log is closed, for what they
// have not copied. What is left is copied after the next start.
const lastCopies = 2 * time.Second

// start copies in the background, until finish is called. That is for when the log
// is closed.
func (c *copies) start() (finish func()) {
	ctx, stop := context.WithCancel(context.Background())
	var copying sync.WaitGroup
	if c.journal != nil {
		copying.Go(func() { c.journal.Run(ctx) })
	}
	if c.events != nil {
		copying.Go(func() { c.events.Run(ctx) })
	}
	return func() {
		for deadline := time.Now().Add(lastCopies); c.isGoingOn() && time.Now().Before(deadline); {
			time.Sleep(10 * time.Millisecond)
		}
		stop()
		copying.Wait()
	}
}

// isGoingOn tells whether a copy that works has something left to copy.
func (c *copies) isGoingOn() bool {
	return slices.ContainsFunc(c.all(), func(n namedCopy) bool {
		s := n.status()
		return s.Err == nil && s.Behind > 0
	})
}

// namedCopy is a copy by the name that health and metrics have for it.
type namedCopy struct {
	name   string
	status func() forward.Status
}

func (c *copies) all() []namedCopy {
	var all []namedCopy
	if c.journal != nil {
		all = append(all, namedCopy{"journal", c.journal.Status})
	}
	if c.events != nil {
		all = append(all, namedCopy{"cloudevents", c.events.Status})
	}
	return all
}

// checks never fail: exchanges need no copy.
func (c *copies) checks() []check {
	var checks []check
	for _, named := range c.all() {
		checks = append(checks, checkCopy("audit "+named.name, named.status()))
	}
	return checks
}

func checkCopy(name string, s forward.Status) check {
	detail := fmt.Sprintf("%d entries to copy", s.Behind)
	switch {
	case errors.Is(s.Err, forward.ErrNoJournald):
		return check{name, stateReady, s.Err.Error()}
	case s.Err != nil:
		return check{name, stateDegraded, fmt.Sprintf("%s, stopped at entry %d since %s: %v", detail, s.Next, s.Since.UTC().Format(time.RFC3339), s.Err)}
	}
	return check{name, stateReady, detail}
}

// measure adds gauges of each copy to the metrics. They are 0 where there is no
// journald, which is nothing to be woken for.
func (c *copies) measure(m *metrics) {
	for _, named := range c.all() {
		gauge := func(name, help string, value func(forward.Status) float64) {
			m.registry.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{
				Name: name, Help: help, ConstLabels: prometheus.Labels{"copy": named.name},
			}, func() float64 {
				s := named.status()
				if errors.Is(s.Err, forward.ErrNoJournald) {
					return 0
				}
				return value(s)
			}))
		}
		gauge("octo_sts_audit_copy_behind_entries", "Entries of the audit log that are not copied yet, by copy.",
			func(s forward.Status) float64 { return float64(s.Behind) })
		gauge("octo_sts_audit_copy_stopped_seconds", "For how long a copy of the audit log has not gone on, by copy; 0 while it does.",
			func(s forward.Status) float64 {
				if s.Err == nil {
					return 0
				}
				return time.Since(s.Since).Seconds()
			})
	}
}
