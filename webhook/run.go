package webhook

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/octo-sts/appliance/sts/audit"
)

const (
	// maxWorkers bounds how many lanes are worked on at once.
	maxWorkers = 16
	// sweepInterval is how often old deliveries are forgotten.
	sweepInterval = time.Hour
	// recoverInterval is how often GitHub is asked for what was missed, and
	// recoverRetry how long after a failure, doubled up to that: at a start the
	// signer may come a moment later.
	recoverInterval = 5 * time.Minute
	recoverRetry    = 5 * time.Second
	// settleDelay is how long items that have ended wait for others to be marked as
	// ended with: each time is two syncs of the disk that exchanges wait for, too.
	// Where the process ends before that, the audit log tells what was done of them.
	settleDelay = 200 * time.Millisecond
	// settleRetry is how long to wait after the disk did not take that
	// deliveries are done.
	settleRetry = time.Second
	// clockSlack is how far the clock may have been set back between the arrival
	// of a delivery and its entries.
	clockSlack = 10 * time.Minute
)

// Run does what deliveries ask for, until ctx ends; then it finishes what it is
// at and returns nil. What is left stays in the queue for the next start. It is
// called once.
//
// An error means that the audit log could not be read at the start, or that the
// disk did not take at the end what was done; the next start finds that out.
func (r *Receiver) Run(ctx context.Context) error {
	if err := r.readAudit(ctx); ctx.Err() != nil {
		return nil
	} else if err != nil {
		return fmt.Errorf("looking up which deliveries of the queue were done: %w", err)
	}
	var loops sync.WaitGroup
	loops.Go(func() { r.recoverAgain(ctx) })
	loops.Go(func() { r.every(ctx, sweepInterval, r.sweep) })
	loops.Go(func() { r.settleAll(ctx) })
	r.dispatch(ctx)
	loops.Wait()
	return r.settleFinished() // what the last workers ended
}

// recoverAgain asks GitHub for what was missed until ctx ends.
func (r *Receiver) recoverAgain(ctx context.Context) {
	for retry := recoverRetry; ctx.Err() == nil; {
		r.recoverAll(ctx)
		pause := recoverInterval
		if r.Status().Recovery.Error == "" {
			retry = recoverRetry
		} else {
			pause = retry
			retry = min(2*retry, recoverInterval)
		}
		select {
		case <-ctx.Done():
		case <-time.After(pause):
		}
	}
}

// every calls f now and then once an interval.
func (r *Receiver) every(ctx context.Context, interval time.Duration, f func(context.Context)) {
	ticker := time.NewTicker(interval)
	defer ticker.Stop()
	for ctx.Err() == nil {
		f(ctx)
		select {
		case <-ctx.Done():
		case <-ticker.C:
		}
	}
}

func (r *Receiver) sweep(context.Context) {
	if err := r.store.sweep(time.Now()); err != nil {
		r.log.Error("webhook: old deliveries are kept for now", zap.Error(err))
	}
}

// readAudit finds out what was written about the items of the queue before the
// process ended that did not come to mark them as done.
func (r *Receiver) readAudit(ctx context.Context) error {
	queued, oldest := r.schedule.status()
	if queued == 0 {
		return nil
	}
	type written struct {
		changes int
		checked bool
	}
	found := map[deliveryKey]written{}
	waiting := r.schedule.deliveries()
	for record, err := range audit.ReadSince(r.auditDirectory, oldest.Add(-clockSlack)) {
		if err = errors.Join(err, ctx.Err()); err != nil {
			return err
		}
		e := record.Entry
		if e.Kind != audit.TrustChange && e.Kind != audit.PolicyCheck {
			continue
		}
		id, err := parseDeliveryID(e.RequestID)
		key := deliveryKey{e.AppID, id}
		if err != nil || !waiting[key] {
			continue
		}
		w := found[key]
		if e.Kind == audit.TrustChange {
			w.changes++
		} else {
			w.checked = true
		}
		found[key] = w
	}
	r.schedule.update(func(e *entry) {
		e.recorded, e.reported = found[e.key].changes, found[e.key].checked
	})
	return nil
}

// dispatch hands what is due to workers, until ctx ends and they have returned.
func (r *Receiver) dispatch(ctx context.Context) {
	var workers sync.WaitGroup
	defer workers.Wait()
	slots := make(chan struct{}, maxWorkers)
	for {
		select {
		case slots <- struct{}{}:
		case <-ctx.Done():
			return
		}
		entries := r.schedule.next(ctx)
		if entries == nil {
			return
		}
		workers.Go(func() {
			r.work(ctx, entries)
			<-slots
		})
	}
}

// finish has items marked as ended, soon.
func (r *Receiver) finish(ended ...settlement) {
	r.mu.Lock()
	r.finished = append(r.finished, ended...)
	r.mu.Unlock()
	select {
	case r.settle <- struct{}{}:
	default:
	}
}

// settleAll marks items as ended, all that have ended at once.
func (r *Receiver) settleAll(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-r.settle:
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(settleDelay):
		}
		if err := r.settleFinished(); err != nil {
			r.log.Error("webhook: the disk does not take that deliveries are done", zap.Error(err))
			select {
			case <-ctx.Done():
			case <-time.After(settleRetry):
				r.finish()
			}
		}
	}
}

// settleFinished marks what has ended so far. On an error it stays to be marked.
func (r *Receiver) settleFinished() error {
	r.mu.Lock()
	ended := r.finished
	r.finished = nil
	r.mu.Unlock()
	if len(ended) == 0 {
		return nil
	}
	if err := r.store.settle(ended, time.Now()); err != nil {
		r.mu.Lock()
		r.finished = append(ended, r.finished...)
		r.mu.Unlock()
		return err
	}
	r.schedule.remove(ended)
	return nil
}
