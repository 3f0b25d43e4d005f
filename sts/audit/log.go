package audit

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"go.uber.org/zap"
)

var (
	// ErrLocked: another process has the log open.
	ErrLocked = errors.New("the audit log is open in another process")
	// ErrFull: the disk or the quota has no room, or there is no file descriptor or memory to make the next segment with;
	// the text says which. Nothing is accepted until there is some, then by itself again.
	ErrFull = errors.New("no room for the audit log")
	// ErrStalled: the disk has not answered for ten seconds. Nothing is accepted until it does, then by itself again.
	ErrStalled = errors.New("the disk does not answer the audit log")
	// ErrFailed: a write or a sync failed, or something else changed the segment. What the disk holds is not certain, so
	// nothing is accepted until the process starts again.
	ErrFailed = errors.New("the audit log failed and needs a restart")
	// ErrClosed: Close was called.
	ErrClosed = errors.New("the audit log is closed")
)

const (
	// defaultSegmentSize in bytes.
	defaultSegmentSize = 64 << 20
	// defaultSegmentAge lets an operator move each day's entries away by the next.
	defaultSegmentAge = 24 * time.Hour
	// maxBatch bounds in bytes what one write(2) holds. Recovery relies on it: never raise it without looking there.
	maxBatch = 1 << 20
	// gatherTime is how long the writer waits for company where there was some the last time: about as long as a sync takes.
	gatherTime = 300 * time.Microsecond
	// probeInterval is how often a full disk is tried.
	probeInterval = 250 * time.Millisecond
	// stallLimit is how long one write and sync may take before those who wait are told that they failed.
	stallLimit = 10 * time.Second
	// lockName is the file that the one process that appends keeps locked.
	lockName = "lock"
)

// Config says where a log is.
type Config struct {
	// Directory holds the segments, and what the package documentation says besides. It is made, with mode 0750, where it is
	// missing. No other program may write there.
	Directory string
	// Origin is the log's name, such as "sts.example.com/audit": one line without spaces or plus signs, as checkpoints
	// have it (c2sp.org/tlog-checkpoint). It is not part of any entry. May be empty.
	Origin string
	// SegmentSize in bytes: a segment that would grow beyond it is followed by a new one. 0 means 64 MiB. One write of at
	// most 1 MiB always goes into one segment, whatever its size.
	SegmentSize int64
	// SegmentAge is how long after its first entry a segment is followed by a new one, with the next entry that comes: without
	// one an old segment stays the last. 0 means 24 hours.
	SegmentAge time.Duration
	// ObserveAppend is told how long each entry waited from Append until it was durable, ObserveWrite how long each write of
	// entries, with its sync, took; both also where that failed. They must not wait. nil: nothing is.
	ObserveAppend, ObserveWrite func(time.Duration)
	// Logger hears of changes of state: full, failed, recovered, a torn tail cut. nil: nobody does.
	Logger *zap.Logger
}

// Log appends to an audit log. Its methods may be called by many goroutines at once.
type Log struct {
	config    Config
	directory *os.File // open all the time, so that a new segment needs no descriptor but its own
	lock      *os.File
	stall     time.Duration
	lines     sync.Pool // of *[]byte, to encode into

	wake    chan struct{} // capacity 1: there is a queue, or closed was set
	stopped chan struct{} // closed when the writer has ended

	mu       sync.Mutex
	queue    *batch        // guarded by mu: what the writer takes next; nil: nothing waits
	writing  *batch        // guarded by mu: what the writer is at
	room     chan struct{} // guarded by mu: closed when the writer takes the queue; nil: nobody waits for that
	spare    []byte        // guarded by mu: a buffer for the next queue
	durable  durable       // guarded by mu: what is on the disk
	grown    chan struct{} // guarded by mu: closed when there is more on the disk; nil: no cursor waits for that
	err      error         // guarded by mu: not nil: why nothing is accepted
	isClosed bool          // guarded by mu

	// segment belongs to the writer goroutine. nil: the next write makes one.
	segment *segment
}

// batch is what one write holds. Its first three fields are guarded by Log.mu until the writer takes it and are constant
// from then on; first and err are set before done is closed and constant from then on.
type batch struct {
	buf     []byte
	entries uint64
	settled bool // guarded by Log.mu all the time
	first   uint64
	err     error
	done    chan struct{}
}

// Open makes the log ready for appending: it takes the lock (ErrLocked where another process has it), makes what an
// earlier process left durable, cuts off a write that it did not finish, and starts a new segment. ctx bounds the
// opening alone; the log is open until Close. A full disk is no error here, once the log was read: Err says so until
// there is room.
//
// Segments that are damaged in a way that no crash explains, that overlap or leave a gap, or that end before what the
// directory's checkpoint covers, are an error that names them. The first segment need not begin with entry 0: older ones
// may have been moved away.
func Open(ctx context.Context, c Config) (*Log, error) {
	l, err := open(ctx, c, stallLimit)
	if err != nil {
		return nil, fmt.Errorf("opening audit log: %w", err)
	}
	return l, nil
}

func open(ctx context.Context, c Config, stall time.Duration) (_ *Log, err error) {
	if c.SegmentSize == 0 {
		c.SegmentSize = defaultSegmentSize
	}
	if c.SegmentAge == 0 {
		c.SegmentAge = defaultSegmentAge
	}
	if c.Logger == nil {
		c.Logger = zap.NewNop()
	}
	if c.ObserveAppend == nil {
		c.ObserveAppend = func(time.Duration) {}
	}
	if c.ObserveWrite == nil {
		c.ObserveWrite = func(time.Duration) {}
	}
	switch {
	case c.Directory == "":
		return nil, errors.New("no directory is configured")
	case c.SegmentSize < 0:
		return nil, fmt.Errorf("segment size %d: must not be negative", c.SegmentSize)
	case c.SegmentAge < 0:
		return nil, fmt.Errorf("segment age %s: must not be negative", c.SegmentAge)
	case strings.ContainsAny(c.Origin, " +\t\r\n"):
		return nil, fmt.Errorf("origin %q: must not contain spaces or plus signs", c.Origin)
	}
	if c.Origin != "" {
		c.Logger = c.Logger.With(zap.String("origin", c.Origin))
	}
	if err := makeDirectory(c.Directory); err != nil {
		return nil, err
	}
	l := &Log{
		config:  c,
		stall:   stall,
		lines:   sync.Pool{New: func() any { return new([]byte) }},
		wake:    make(chan struct{}, 1),
		stopped: make(chan struct{}),
	}
	if l.directory, err = os.Open(c.Directory); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, l.directory.Close())
		}
	}()
	if l.lock, err = lockDirectory(c.Directory); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, l.lock.Close())
		}
	}()
	next, err := recoverDirectory(ctx, c.Directory, c.Logger)
	if err != nil {
		return nil, err
	}
	l.durable = durable{size: next, first: next}
	if l.segment, err = createSegment(l.directory, next); errors.Is(err, ErrFull) {
		l.err = err
		c.Logger.Error("audit log: no room; refusing entries until there is", zap.Error(err))
	} else if err != nil {
		return nil, err
	}
	go l.run()
	return l, nil
}

func lockDirectory(dir string) (*os.File, error) {
	f, err := os.OpenFile(filepath.Join(dir, lockName), os.O_RDWR|os.O_CREATE|noFollow, 0o640)
	if err != nil {
		return nil, err
	}
	if err := lock(f); err != nil {
		return nil, errors.Join(fmt.Errorf("locking %s: %w", f.Name(), err), f.Close())
	}
	return f, nil
}

// Append adds e and returns its index once it is durable. On an error, act as though e were not in the log; it may be
// there nonetheless, where the error came while it was being written.
//
// ctx counts only while e waits for a place in the queue, and an error is then ctx's. Once e was handed to the writer its
// fate has to be awaited: for at most ten seconds, then it is ErrStalled. Other errors are ErrFull, ErrFailed, ErrClosed,
// and that of an entry without a proper kind.
func (l *Log) Append(ctx context.Context, e Entry) (index uint64, err error) {
	if err := e.check(); err != nil {
		return 0, err
	}
	if e.Time.IsZero() {
		e.Time = time.Now()
	}
	began := time.Now()
	buf := l.lines.Get().(*[]byte)
	*buf = append(e.appendLine((*buf)[:0]), '\n')
	b, position, err := l.enqueue(ctx, *buf)
	l.lines.Put(buf)
	if err == nil {
		<-b.done
		err = b.err
		l.config.ObserveAppend(time.Since(began))
	}
	if err != nil {
		return 0, fmt.Errorf("appending to the audit log: %w", err)
	}
	return b.first + position, nil
}

// Err returns nil while entries are accepted, or else why not: ErrFull, ErrStalled, ErrFailed or ErrClosed.
func (l *Log) Err() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.isClosed {
		return ErrClosed
	}
	return l.err
}

// Size is the index that the next entry gets: the number of durable entries, including those of segments that were
// moved away.
func (l *Log) Size() uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.durable.size
}

// Close refuses further entries, waits until those that were accepted are durable, and gives up the lock. Further calls
// do nothing.
func (l *Log) Close() error {
	l.mu.Lock()
	wasClosed := l.isClosed
	l.isClosed = true
	l.mu.Unlock()
	l.signal()
	<-l.stopped
	if wasClosed {
		return nil
	}
	var err error
	if l.segment != nil {
		err = l.segment.file.Close()
	}
	if err = errors.Join(err, l.directory.Close(), l.lock.Close()); err != nil {
		return fmt.Errorf("closing audit log: %w", err)
	}
	return nil
}
