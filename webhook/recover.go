package webhook

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"go.uber.org/zap"

	"github.com/octo-sts/appliance/sts/githubapp"
)

const (
	// recoverBack is how far the first sweep of an App's deliveries looks back:
	// as long as GitHub sends them again
	// (https://docs.github.com/en/webhooks/testing-and-troubleshooting-webhooks/redelivering-webhooks).
	recoverBack = 3 * 24 * time.Hour
	// recoverOverlap is by how much a sweep looks back beyond the last one: an
	// attempt may be listed late.
	recoverOverlap = 10 * time.Minute
	// recoverSettle is how old an attempt must be: a younger one may be under way.
	recoverSettle = 30 * time.Second
	// quickAttempts are made as sweeps come, that at a start among them. The time to
	// the next is firstSpacing, and doubles with each, up to lastSpacing: what keeps
	// deliveries out may last for days, and so may what is wrong with one of them.
	quickAttempts = 5
	firstSpacing  = 10 * time.Minute
	lastSpacing   = 4 * time.Hour
	// maxRedeliveries is how many deliveries one sweep asks for; the next goes on.
	maxRedeliveries = 500
)

// OutcomeRedelivered: GitHub was asked to send a delivery again.
const OutcomeRedelivered = "redelivered"

// RecoveryStatus is how asking GitHub for missed deliveries went.
type RecoveryStatus struct {
	// Last is when it was tried last; zero: not yet.
	Last time.Time `json:"last,omitzero"`
	// Error is why that is not complete; empty: it is.
	Error string `json:"error,omitempty"`
	// Unreached says that deliveries do not get here, and since when; empty: the newest
	// one did, or there is none.
	Unreached string `json:"unreached,omitempty"`
	// Redelivered is how many deliveries were asked for since the start.
	Redelivered int `json:"redelivered"`
}

// recoverAll asks GitHub for what each App missed. A GitHub that cannot be asked
// is asked again soon: see recoverAgain.
func (r *Receiver) recoverAll(ctx context.Context) {
	var errs []error
	redelivered := 0
	unreached := ""
	for _, appID := range r.settings.Load().appIDs {
		n, last, err := r.recoverApp(ctx, appID, time.Now())
		redelivered += n
		if err != nil {
			errs = append(errs, err)
		}
		if last != "" {
			unreached = fmt.Sprintf("App %d: %s", appID, last)
		}
	}
	if ctx.Err() != nil {
		return
	}
	err := errors.Join(errs...)
	status := RecoveryStatus{Last: time.Now(), Unreached: unreached}
	if err != nil {
		status.Error = err.Error()
		r.log.Warn("webhook: GitHub could not be asked for missed deliveries: it is asked again", zap.Error(err))
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	status.Redelivered = r.recovery.Redelivered + redelivered
	r.recovery = status
}

// recoverApp asks GitHub to send again what one App missed, and returns for how
// many deliveries it asked, and whether the newest got here: see unreached.
//
// How often a delivery was attempted, and when, is what GitHub lists: so a restart
// changes nothing. Each sweep therefore looks back to the oldest delivery that is
// still missed, and that is what the state's file holds, until GitHub has
// delivered it or does not keep it any more.
func (r *Receiver) recoverApp(ctx context.Context, appID int64, now time.Time) (redelivered int, last string, err error) {
	complete, err := r.store.recovered(appID)
	if err != nil {
		return 0, "", fmt.Errorf("reading up to when App %d's deliveries are complete: %w", appID, err)
	}
	since := now.Add(-recoverBack)
	// In the future it says nothing: the clock was wrong then, or is now.
	if from := complete.Add(-recoverOverlap); from.After(since) && !complete.After(now) {
		since = from
	}
	attempts, err := r.settings.Load().github.Deliveries(ctx, appID, since)
	switch {
	case errors.Is(err, githubapp.ErrTooLarge): // looking again would show no more
		r.log.Warn("webhook: GitHub lists too many deliveries; older ones that were missed stay so", zap.Error(err))
	case err != nil:
		return 0, "", err
	}
	last = unreached(attempts, now)
	// What is not listed yet is covered by the overlap.
	complete = now
	var errs []error
	for _, m := range missed(attempts) {
		key := deliveryKey{appID, m.id}
		known, err := r.store.knows(key)
		if err != nil {
			return redelivered, last, err
		}
		if known {
			continue // GitHub had no answer, and yet it came
		}
		if m.first.Before(complete) {
			complete = m.first
		}
		// GitHub may list an attempt late, and none where it refuses one.
		again, _ := r.again.Get(key)
		if redelivered == maxRedeliveries || now.Before(m.due()) || now.Before(again) {
			continue
		}
		done, err := r.redeliver(ctx, appID, m, now)
		if done {
			redelivered++
		}
		if err != nil {
			errs = append(errs, err)
			if errors.Is(err, githubapp.ErrRateLimited) || ctx.Err() != nil {
				break // nothing would leave
			}
		}
	}
	if err := errors.Join(errs...); err != nil {
		return redelivered, last, err
	}
	return redelivered, last, r.store.setRecovered(appID, complete)
}

// missedDelivery is a delivery of which no attempt succeeded.
type missedDelivery struct {
	id       deliveryID
	event    string
	first    time.Time          // when GitHub sent it of itself
	newest   githubapp.Delivery // attempt
	attempts int
}

// due is when it may be asked for again.
func (m *missedDelivery) due() time.Time { return m.newest.DeliveredAt.Add(spacing(m.attempts)) }

// spacing is the time between an attempt, counted from 1, and the next.
func spacing(attempt int) time.Duration {
	switch {
	case attempt < quickAttempts:
		return recoverSettle
	case attempt > quickAttempts+5:
		return lastSpacing
	}
	return min(firstSpacing<<(attempt-quickAttempts), lastSpacing)
}

// missed returns what none of the attempts, newest first, delivered, oldest
// first. Where GitHub lists only attempts that were asked for, what it sent of
// itself is older than what is looked at, and the delivery is left: else one that
// never succeeds would be asked for without end.
func missed(attempts []githubapp.Delivery) []*missedDelivery {
	found := map[deliveryID]*missedDelivery{}
	delivered := map[deliveryID]bool{}
	for _, a := range attempts {
		id, err := parseDeliveryID(a.GUID)
		if err != nil || !isUsed(a.Event) {
			continue
		}
		m := found[id]
		if m == nil {
			m = &missedDelivery{id: id, event: a.Event, newest: a}
			found[id] = m
		}
		m.attempts++
		if !a.Redelivery {
			m.first = a.DeliveredAt
		}
		if 200 <= a.StatusCode && a.StatusCode < 300 {
			delivered[id] = true
		}
	}
	var all []*missedDelivery
	for id, m := range found {
		if !delivered[id] && !m.first.IsZero() {
			all = append(all, m)
		}
	}
	slices.SortFunc(all, func(a, b *missedDelivery) int {
		return cmp.Or(a.first.Compare(b.first), cmp.Compare(a.newest.ID, b.newest.ID))
	})
	return all
}

// redeliver asks for m again.
func (r *Receiver) redeliver(ctx context.Context, appID int64, m *missedDelivery, now time.Time) (done bool, err error) {
	key := deliveryKey{appID, m.id}
	err = r.settings.Load().github.Redeliver(ctx, appID, m.newest.ID)
	switch {
	case errors.Is(err, githubapp.ErrNotFound), errors.Is(err, githubapp.ErrRefused):
		r.again.Add(key, now.Add(lastSpacing))
		r.log.Warn("webhook: GitHub does not send a missed delivery again", zap.Stringer("delivery", m.id),
			zap.String("event", m.event), zap.Int64("app", appID), zap.Error(err))
		return false, nil
	case err != nil:
		return false, err
	}
	r.again.Add(key, now.Add(spacing(m.attempts+1)))
	r.observe(Observation{Event: m.event, Outcome: OutcomeRedelivered})
	r.log.Info("webhook: asked GitHub to send a missed delivery again", zap.Stringer("delivery", m.id),
		zap.String("event", m.event), zap.Int64("app", appID), zap.Int("attempts", m.attempts))
	return true, nil
}
