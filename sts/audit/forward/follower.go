package forward

import (
	"context"
	"errors"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/octo-sts/appliance/sts/audit"
)

// saveInterval is how often at most a copy's place is written to the disk: that is a sync, beside those of the log itself.
// After a crash, what was copied since is copied again.
const saveInterval = time.Second

// Status is how one copy does.
type Status struct {
	// Next is the index of the first entry that is not copied, Behind how many entries of the log are not.
	Next, Behind uint64
	// Err is why the copy does not go on; nil while it does.
	Err error
	// Since is when it stopped; zero where Err is nil.
	Since time.Time
}

// follower is what both copies have in common: a place in the log, which it remembers.
type follower struct {
	log          *audit.Log
	cursors      *Cursors
	name, target string
	logger       *zap.Logger

	// These belong to the goroutine of Run.
	cursor  *audit.Cursor // nil: the next read makes one
	saved   uint64
	savedAt time.Time

	mu     sync.Mutex
	next   uint64 // guarded by mu, written by Run's goroutine alone
	status Status // guarded by mu; Err and Since alone
}

// open finds the place to go on from: where the copy stopped, or first where it never began.
func (f *follower) open(first uint64) error {
	next, known, err := f.cursors.load(f.name, f.target)
	if err != nil {
		return err
	}
	f.next, f.saved = first, next
	if size := f.log.Size(); known && next <= size {
		f.next = next
		return nil
	} else if known {
		oldest, err := f.log.First()
		if err != nil {
			return err
		}
		f.logger.Error("the audit log is shorter than what was copied of it: it was rolled back or replaced; copying it from its oldest entry",
			zap.Uint64("size", size), zap.Uint64("copied", next), zap.Uint64("from", oldest))
		f.next = oldest
	}
	return f.cursors.save(f.name, f.target, f.next)
}

// read returns the entry with the index, which is the one after that of the last call, or ok false where the log has
// none yet.
func (f *follower) read(index uint64) (line audit.Line, ok bool, err error) {
	if f.cursor == nil {
		f.cursor = f.log.Cursor(index)
	}
	return f.cursor.Next()
}

// wait returns when the log has another entry; its error is that of ctx, or audit.ErrClosed. Meanwhile it saves the place.
func (f *follower) wait(ctx context.Context) error {
	for f.next != f.saved {
		until, cancel := context.WithDeadline(ctx, f.savedAt.Add(saveInterval))
		err := f.cursor.Wait(until)
		cancel()
		if err == nil || isOver(ctx, err) {
			return err
		}
		f.save()
	}
	return f.cursor.Wait(ctx)
}

// forget has the next read begin anew, at whatever index it is given.
func (f *follower) forget() {
	if f.cursor != nil {
		f.cursor.Close()
		f.cursor = nil
	}
}

// copied says that all entries before next were taken, or are passed over.
func (f *follower) copied(next uint64) {
	f.mu.Lock()
	f.next = next
	f.mu.Unlock()
	if time.Since(f.savedAt) >= saveInterval {
		f.save()
	}
}

// save puts the place on the disk, if it is not there. Where that fails, the copy goes on, and the next save says all
// that this one would have said.
func (f *follower) save() {
	if f.next == f.saved {
		return
	}
	f.savedAt = time.Now()
	if err := f.cursors.save(f.name, f.target, f.next); err != nil {
		f.logger.Error("the place of a copy of the audit log is not on the disk: a restart would copy entries again", zap.Error(err))
		return
	}
	f.saved = f.next
}

// works says that what was sent was taken.
func (f *follower) works() {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.status.Err != nil {
		f.logger.Info("the copy of the audit log goes on", zap.Uint64("next", f.next), zap.Time("stopped", f.status.Since))
	}
	f.status = Status{}
}

// failed notes why the copy does not go on.
func (f *follower) failed(err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.status.Err == nil {
		f.status.Since = time.Now()
	}
	f.status.Err = err
}

// Status may be called at any time.
func (f *follower) Status() Status {
	size := f.log.Size()
	f.mu.Lock()
	defer f.mu.Unlock()
	s := f.status
	s.Next, s.Behind = f.next, size-min(size, f.next)
	return s
}

// sleep returns false where ctx ended first.
func sleep(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
		return true
	}
}

// isOver tells the errors of a wait that end a copy from those that are to be told.
func isOver(ctx context.Context, err error) bool {
	return ctx.Err() != nil || errors.Is(err, audit.ErrClosed)
}
