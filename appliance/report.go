package appliance

import (
	"context"
	"strings"
	"time"

	"go.uber.org/zap"
)

// statusEvery is how often the service manager is told the state, where that has
// changed.
const statusEvery = 5 * time.Second

// tellStatus tells the service manager what /readyz says, in one line.
func (d *Daemon) tellStatus(ctx context.Context) {
	line := summary(d.health.checks(ctx))
	if _, waiting := d.reloads.status(); len(waiting) > 0 {
		line += "; needs a restart: " + strings.Join(waiting, ", ")
	}
	if ctx.Err() == nil {
		d.notify.Status(line)
	}
}

// report tells the state until ctx is done.
func (d *Daemon) report(ctx context.Context) {
	ticker := time.NewTicker(statusEvery)
	defer ticker.Stop()
	for {
		d.tellStatus(ctx)
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
	}
}

// answerWatchdog says that the daemon is alive as often as the service manager
// wants, for as long as nothing is stuck that a new process would mend. A GitHub,
// an issuer, a signer or a collector that is away is no reason, and neither is a
// full disk: the next process would find them as they are.
func (d *Daemon) answerWatchdog(ctx context.Context) {
	interval := d.notify.Watchdog() / 3
	if interval == 0 {
		return
	}
	ticker := time.NewTicker(interval)
	defer ticker.Stop()
	said := ""
	for {
		stuck := d.stuck(ctx, interval)
		d.isStuck.Store(stuck != "" && ctx.Err() == nil)
		if stuck == "" {
			d.notify.Alive()
		} else if stuck != said && ctx.Err() == nil {
			d.logger.Error("the watchdog is not answered: a restart is needed", zap.String("stuck", stuck))
		}
		said = stuck
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
	}
}
