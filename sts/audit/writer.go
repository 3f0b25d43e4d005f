package audit

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"time"

	"go.uber.org/zap"
)

// enqueue adds a line to the queue, waiting while the queue is full, and returns its batch and its place there.
func (l *Log) enqueue(ctx context.Context, line []byte) (_ *batch, position uint64, err error) {
	for {
		if err := ctx.Err(); err != nil {
			return nil, 0, err
		}
		b, position, room, err := l.tryEnqueue(line)
		if b != nil || err != nil {
			return b, position, err
		}
		select {
		case <-room:
		case <-ctx.Done():
		}
	}
}

// tryEnqueue returns no batch and a channel where the queue is full; the channel is closed when it is worth trying again.
func (l *Log) tryEnqueue(line []byte) (_ *batch, position uint64, room <-chan struct{}, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case l.isClosed:
		return nil, 0, nil, ErrClosed
	case l.err != nil:
		return nil, 0, nil, l.err
	case l.queue == nil:
		l.queue = &batch{buf: l.spare[:0], done: make(chan struct{})}
		l.spare = nil
		defer l.signal()
	case len(l.queue.buf)+len(line) > maxBatch:
		if l.room == nil {
			l.room = make(chan struct{})
		}
		return nil, 0, l.room, nil
	}
	l.queue.buf = append(l.queue.buf, line...)
	l.queue.entries++
	return l.queue, l.queue.entries - 1, nil, nil
}

// signal tells the writer to look at the state.
func (l *Log) signal() {
	select {
	case l.wake <- struct{}{}:
	default: // it is told already
	}
}

// run is the writer goroutine.
func (l *Log) run() {
	defer close(l.stopped)
	probe := time.NewTicker(probeInterval)
	probe.Stop()
	probing := errors.Is(l.Err(), ErrFull)
	crowded := false // the last batch had several entries
	if probing {
		probe.Reset(probeInterval)
	}
	for {
		select {
		case <-l.wake:
			// Callers that the last batch woke are about to come back: letting them run first, and waiting for them where there
			// were several, makes fuller batches and fewer syncs. It measured a fifth less CPU an entry, and costs a lone caller
			// nothing.
			if crowded {
				time.Sleep(gatherTime)
			}
			runtime.Gosched()
			b, done := l.take()
			if done {
				return
			}
			if b != nil {
				crowded = b.entries > 1
				l.commit(b)
			}
		case <-probe.C:
			l.probe()
		}
		if full := errors.Is(l.Err(), ErrFull); full && !probing {
			probe.Reset(probeInterval)
			probing = true
		} else if !full && probing {
			probe.Stop()
			probing = false
		}
	}
}

// take makes the queue the batch that is being written. done: the log is closed and nothing is left to write.
func (l *Log) take() (b *batch, done bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	b, l.queue = l.queue, nil
	l.writing = b
	l.releaseRoom()
	return b, b == nil && l.isClosed
}

// releaseRoom lets those try again who wait for a place in the queue. mu must be held.
func (l *Log) releaseRoom() {
	if l.room != nil {
		close(l.room)
		l.room = nil
	}
}

// commit writes a batch, makes it durable and answers those who wait for it.
func (l *Log) commit(b *batch) {
	watchdog := time.AfterFunc(l.stall, func() { l.stalled(b) })
	began := time.Now()
	err := l.write(b.buf)
	l.config.ObserveWrite(time.Since(began))
	watchdog.Stop()

	l.mu.Lock()
	defer l.mu.Unlock()
	l.writing = nil
	if cap(b.buf) <= maxBatch/4 { // a rare burst must not be kept in memory
		l.spare = b.buf
	}
	if err != nil {
		l.refuse(err)
		l.settle(b, l.err)
	} else {
		b.first = l.durable.size
		l.durable = durable{b.first + b.entries, l.segment.first, l.segment.length}
		if l.grown != nil {
			close(l.grown)
			l.grown = nil
		}
		l.settle(b, nil)
		if l.err != nil { // the watchdog had barked
			l.err = nil
			l.config.Logger.Info("audit log: the disk answers again; accepting entries")
		}
	}
	if l.isClosed {
		l.signal() // one signal may have stood for both: a queue, and closed
	}
}

// write puts the lines in buf onto the disk, in a new segment where this one is as large or as old as it may get.
func (l *Log) write(buf []byte) error {
	if s := l.segment; s != nil && s.length > 0 && (s.length+int64(len(buf)) > l.config.SegmentSize || time.Since(s.began) >= l.config.SegmentAge) {
		// All of it is durable already, so closing has nothing left to lose.
		l.segment = nil
		if err := s.file.Close(); err != nil {
			return fmt.Errorf("closing %s: %w", s.path, err)
		}
	}
	if err := l.ensureSegment(); err != nil {
		return err
	}
	return l.segment.append(buf)
}

// ensureSegment makes a segment where there is none.
func (l *Log) ensureSegment() error {
	if l.segment != nil {
		return nil
	}
	s, err := createSegment(l.directory, l.Size())
	l.segment = s
	return err
}

// refuse notes why nothing is accepted from now on, and fails what waits in the queue. mu must be held.
func (l *Log) refuse(err error) {
	switch {
	case errors.Is(err, ErrFull):
		l.config.Logger.Error("audit log: no room; refusing entries until there is", zap.Error(err))
	case errors.Is(err, ErrStalled):
		l.config.Logger.Error("audit log: the disk does not answer; refusing entries until it does", zap.Error(err))
	default:
		err = fmt.Errorf("%w: %w", ErrFailed, err)
		l.config.Logger.Error("audit log: failed; refusing entries until a restart", zap.Error(err))
	}
	l.err = err
	if b := l.queue; b != nil {
		l.queue = nil
		l.settle(b, err)
	}
	l.releaseRoom()
}

// settle answers those who wait for b, once. mu must be held.
func (l *Log) settle(b *batch, err error) {
	if b.settled {
		return
	}
	b.settled = true
	b.err = err
	close(b.done)
}

// stalled gives up on a batch that is still being written. Its lines may yet become durable; nobody relies on them.
func (l *Log) stalled(b *batch) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.writing != b {
		return
	}
	err := fmt.Errorf("%w: a write and sync began %s ago", ErrStalled, l.stall)
	l.refuse(err)
	l.settle(b, err)
}

// probe tries whether there is room again: for a new segment where one is needed, and for the bytes of two of the
// longest lines, in the lock file, since a segment holds nothing but entries.
func (l *Log) probe() {
	err := l.ensureSegment()
	if err == nil {
		_, err = l.lock.WriteAt(make([]byte, 2*MaxLine), 0)
		err = errors.Join(err, l.lock.Truncate(0))
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case err == nil:
		l.err = nil
		l.config.Logger.Info("audit log: there is room again; accepting entries")
	case errors.Is(err, ErrFull), isFull(err):
		// Still full.
	default:
		l.refuse(err)
	}
}
