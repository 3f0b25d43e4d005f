package webhook

import (
	"context"
	"errors"
	"time"

	"go.uber.org/zap"

	"github.com/octo-sts/appliance/sts/audit"
	"github.com/octo-sts/appliance/sts/githubapp"
	"github.com/octo-sts/appliance/sts/span"
)

const (
	// checkName is what a rule of GitHub's that requires the check calls it.
	checkName = "Trust Policy Validation"
	// workTimeout bounds one attempt at the items of one lane.
	workTimeout = 10 * time.Minute
	// firstRetry and lastRetry are how long to wait after a failure.
	firstRetry = time.Second
	lastRetry  = 5 * time.Minute
	// giveUpAfter is for how long an item is tried.
	giveUpAfter = 3 * 24 * time.Hour
	// doubtedAttempts is how often GitHub may say that a commit that it told us of
	// does not exist (404, or 422 where it is to be reported on), or refuse something
	// else, before that is believed: its replicas lag.
	doubtedAttempts = 5
)

// Outcomes of a delivery that was queued.
const (
	OutcomeDone     = "done"      // its audit entries are written, and there was nothing to report
	OutcomeReported = "reported"  // so is its check run
	OutcomeOtherApp = "other_app" // another App of the owner's reports checks
	OutcomeRetry    = "retry"     // not yet: tried again
	OutcomeRefused  = "refused"   // GitHub does not let the App check or report
	OutcomeFailed   = "failed"    // given up after 3 days
)

// task is an item while it is worked on.
type task struct {
	*entry
	*item
	changes []audit.Entry // about its change, those that are written included
	outcome string
	err     error
}

// work does what the entries, which are one lane's, ask for, and says how each
// of them ended.
func (r *Receiver) work(ctx context.Context, entries []*entry) {
	var again []*entry
	defer func() { r.schedule.done(entries[0].lane, again) }()
	attempt, cancel := context.WithTimeout(ctx, workTimeout)
	defer cancel()
	items, err := r.store.items(entries)
	var checks []*task
	tasks := make([]*task, len(entries))
	for n, e := range entries {
		t := &task{entry: e, outcome: OutcomeDone, err: err}
		tasks[n] = t
		if err != nil {
			continue
		}
		t.item = items[n]
		t.changes = t.item.changeEntries()
		if t.err = r.record(attempt, t); t.err == nil && t.Check != nil && !t.reported {
			checks = append(checks, t)
		}
	}
	r.check(attempt, checks)
	for _, t := range tasks {
		if t.err != nil && ctx.Err() != nil {
			continue // stopping: it stays in the queue on disk
		}
		if !r.conclude(t) {
			again = append(again, t.entry)
		}
	}
}

// record writes the audit entries about what changed that are not written yet.
func (r *Receiver) record(ctx context.Context, t *task) error {
	for t.recorded < len(t.changes) {
		if _, err := r.audit.Append(ctx, t.changes[t.recorded]); err != nil {
			return err
		}
		t.recorded++
	}
	return nil
}

// check makes one check for all tasks, which are about one commit, and reports it.
func (r *Receiver) check(ctx context.Context, tasks []*task) {
	tasks = r.withoutNeedless(tasks)
	if len(tasks) == 0 {
		return
	}
	job := *tasks[0].Check
	ctx = span.WithRequestID(ctx, tasks[0].Delivery.String()) // as the audit log has it
	with := r.settings.Load()
	inst, err := with.github.StickyInstallation(ctx, job.Owner, job.Repository)
	if err != nil {
		failAll(tasks, err)
		return
	}
	var mine []*task
	for _, t := range tasks {
		if t.AppID == inst.AppID {
			mine = append(mine, t)
		} else {
			t.outcome = OutcomeOtherApp
		}
	}
	if len(mine) == 0 {
		return
	}
	job = merged(mine)
	v, err := with.checker.check(ctx, inst, job)
	if err == nil && v != nil {
		err = with.github.ReportCheckRun(ctx, inst, job.Repository, githubapp.CheckRun{
			Name: checkName, HeadSHA: job.Head, Conclusion: v.conclusion,
			Title: v.title, Summary: v.summary, Annotations: v.annotations,
		})
	}
	if err != nil {
		failAll(mine, err)
		return
	}
	with.checker.unfinished.forget(job)
	r.heads.Add(mine[0].entry.lane, struct{}{})
	if v == nil {
		return
	}
	for _, t := range mine {
		t.outcome = OutcomeReported
		_, t.err = r.audit.Append(ctx, t.checkEntry(inst.ID, v))
		t.reported = t.err == nil
	}
}

// withoutNeedless leaves out the suites that GitHub made by itself for a commit
// about which all is said.
func (r *Receiver) withoutNeedless(tasks []*task) []*task {
	var needed []*task
	for _, t := range tasks {
		if t.Suite && r.heads.Contains(t.entry.lane) {
			continue
		}
		needed = append(needed, t)
	}
	return needed
}

// merged is the one job that does for all tasks. What a push brought to the
// default branch tells more of a commit than that it is on it: nothing is left
// there to compare. Where two pushes brought it, everything is looked at.
func merged(tasks []*task) checkJob {
	job := *tasks[0].Check
	for _, t := range tasks[1:] {
		next := *t.Check
		always := job.Always || next.Always
		switch {
		case next.Exact && !job.Exact:
			job = next
		case next.Exact && next.Base != job.Base:
			job.Base = ""
		}
		job.Always = always
	}
	return job
}

func failAll(tasks []*task, err error) {
	for _, t := range tasks {
		t.err = err
	}
}

// conclude decides what becomes of a task that was tried; false: it is tried
// again at its new due time.
func (r *Receiver) conclude(t *task) bool {
	name := "other"
	if t.item != nil {
		name = t.Event
	}
	outcome, final := t.outcome, true
	if t.err != nil {
		outcome, final = r.failed(t, name)
	}
	r.observe(Observation{Event: name, Outcome: outcome})
	if !final {
		return false
	}
	end := byte(stateDone)
	if outcome == OutcomeFailed {
		end = stateFailed
		if t.item != nil && t.recorded == len(t.changes) {
			end = stateFailedRecorded
		}
	}
	r.finish(settlement{t.entry, end})
	return true
}

// failed decides what a failure means for a task, and tells the operator.
func (r *Receiver) failed(t *task, event string) (outcome string, final bool) {
	fields := []zap.Field{zap.Stringer("delivery", t.entry.key.id), zap.String("event", event),
		zap.String("lane", t.entry.lane), zap.Error(t.err)}
	now := time.Now()
	t.attempts++
	switch limit := (*githubapp.RateLimitError)(nil); {
	case isFinal(t.err), isDoubted(t.err) && t.attempts >= doubtedAttempts:
		r.log.Warn("webhook: GitHub does not let the App check this commit or report on it", fields...)
		return OutcomeRefused, true
	case now.Sub(t.received) > giveUpAfter:
		r.log.Error("webhook: given up after 3 days: have GitHub redeliver it from the App's settings, Advanced", fields...)
		return OutcomeFailed, true
	case errors.As(t.err, &limit):
		t.due = now.Add(max(limit.RetryAfter, firstRetry))
	default:
		t.due = now.Add(backoff(t.attempts))
	}
	if r.noise.Allow() { // GitHub may be away, and thousands wait
		r.log.Info("webhook: tried again later", append(fields, zap.Time("due", t.due), zap.Int("attempts", t.attempts))...)
	}
	return OutcomeRetry, false
}

// isFinal says whether trying again cannot help.
func isFinal(err error) bool {
	return errors.Is(err, githubapp.ErrNotInstalled) || errors.Is(err, githubapp.ErrNotAFile) || errors.Is(err, githubapp.ErrTooLarge)
}

// isDoubted says whether GitHub may give another answer in a moment.
func isDoubted(err error) bool {
	return errors.Is(err, githubapp.ErrNotFound) || errors.Is(err, githubapp.ErrRefused)
}

// backoff doubles from firstRetry to lastRetry.
func backoff(attempts int) time.Duration {
	if attempts > 9 {
		return lastRetry
	}
	return min(firstRetry<<(attempts-1), lastRetry)
}
