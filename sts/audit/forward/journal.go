package forward

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/octo-sts/appliance/sts/audit"
	"github.com/octo-sts/appliance/sts/journald"
)

// ErrNoJournald: this machine has no journald, so there is no copy. No fault: a container has none. Should one appear, it
// gets what was not copied.
var ErrNoJournald = errors.New("there is no journald on this machine")

const (
	// sendLimit is how long journald may leave its socket full before an attempt to send is given up.
	sendLimit = 5 * time.Second
	// firstRetry is the pause after journald did not take an entry; each further one doubles it, up to lastRetry.
	firstRetry = 100 * time.Millisecond
	lastRetry  = 5 * time.Second
)

// JournalConfig says what is copied.
type JournalConfig struct {
	Log     *audit.Log
	Cursors *Cursors
	// Socket is journald's. Default /run/systemd/journal/socket.
	Socket string
	// Logger hears when the copy stops and goes on. nil: nobody does.
	Logger *zap.Logger
}

// Journal copies entries and checkpoints to systemd's journal on this machine, from where journald's own means take them
// to another one. Entries come in order, as fields; see entryFields.
//
// journald acknowledges nothing: what it took and then lost, because it was killed or because of its own rate limit, is a
// gap in OCTO_STS_INDEX. A copy in which there must be no gap is what Events makes.
type Journal struct {
	follower
	socket      string
	checkpoints chan []byte // capacity 1: the newest that is not yet copied
}

// NewJournal copies nothing yet. The first one ever begins with the entries that come after it.
func NewJournal(_ context.Context, c JournalConfig) (*Journal, error) {
	if c.Logger == nil {
		c.Logger = zap.NewNop()
	}
	if c.Socket == "" {
		c.Socket = journald.Socket
	}
	j := &Journal{
		follower: follower{
			log: c.Log, cursors: c.Cursors, name: "journal", target: "journald",
			logger: c.Logger.With(zap.String("copy", "journal")),
		},
		socket:      c.Socket,
		checkpoints: make(chan []byte, 1),
	}
	if err := j.open(c.Log.Size()); err != nil {
		return nil, fmt.Errorf("copying the audit log to the journal: %w", err)
	}
	return j, nil
}

// Checkpoint has a signed checkpoint, a C2SP signed note, copied as well. It never waits: while journald takes nothing, the
// newest checkpoint alone is kept, which says all that those before it said.
func (j *Journal) Checkpoint(signed []byte) {
	for {
		select {
		case j.checkpoints <- append([]byte(nil), signed...):
			return
		default:
		}
		select {
		case <-j.checkpoints: // an older one
		default:
		}
	}
}

// Run copies until ctx ends: also after the log was closed, since its last checkpoint comes then.
func (j *Journal) Run(ctx context.Context) {
	var copying sync.WaitGroup
	copying.Go(func() { j.copyEntries(ctx) })
	copying.Go(func() { j.copyCheckpoints(ctx) })
	copying.Wait()
}

func (j *Journal) copyEntries(ctx context.Context) {
	defer j.forget()
	defer j.save()
	conn := &journald.Conn{Path: j.socket, Limit: sendLimit}
	defer conn.Close()
	for retry := firstRetry; ; {
		line, ok, err := j.read(j.next)
		if ok {
			if err = j.deliver(ctx, conn, entryFields(line)); err != nil {
				return // ctx ended
			}
			j.copied(line.Index + 1)
			retry = firstRetry
			continue
		}
		var missing *audit.MissingError
		if errors.As(err, &missing) {
			// To wait here would leave this machine's journal without entries for good. Events does wait.
			j.logger.Error("audit entries were moved away before they were copied to the journal; going on after them", zap.Error(err))
			j.forget()
			j.copied(missing.To)
			continue
		}
		if err != nil {
			j.stopped(err)
			if !sleep(ctx, retry) {
				return
			}
			retry = min(2*retry, lastRetry)
			continue
		}
		if err := j.wait(ctx); err != nil {
			return // ctx ended, or the log was closed
		}
	}
}

func (j *Journal) copyCheckpoints(ctx context.Context) {
	conn := &journald.Conn{Path: j.socket, Limit: sendLimit}
	defer conn.Close()
	for {
		select {
		case <-ctx.Done():
			j.lastCheckpoint(conn, nil)
			return
		case signed := <-j.checkpoints:
			if err := j.deliver(ctx, conn, checkpointFields(signed)); err != nil { // ctx ended
				j.lastCheckpoint(conn, signed)
				return
			}
		}
	}
}

// lastCheckpoint makes one more attempt to copy the newest checkpoint, which at the end covers all of the log: the one that
// waits, or else signed, where there is one.
func (j *Journal) lastCheckpoint(conn *journald.Conn, signed []byte) {
	select {
	case signed = <-j.checkpoints:
	default:
	}
	if signed == nil {
		return
	}
	conn.Limit = time.Second
	if err := conn.Send(context.Background(), checkpointFields(signed).Datagram()); err != nil && !errors.Is(err, fs.ErrNotExist) {
		j.logger.Warn("the last checkpoint is not in the journal", zap.Error(err))
	}
}

// deliver returns nil once journald has taken the fields, an error where ctx ended before.
func (j *Journal) deliver(ctx context.Context, conn *journald.Conn, fields journald.Fields) error {
	datagram := fields.Datagram()
	for retry := firstRetry; ; retry = min(2*retry, lastRetry) {
		err := conn.Send(ctx, datagram)
		if err == nil {
			j.works()
			return nil
		}
		if errors.Is(err, fs.ErrNotExist) {
			err = ErrNoJournald
		}
		if ctx.Err() == nil {
			j.stopped(err)
		}
		if !sleep(ctx, retry) {
			return ctx.Err()
		}
	}
}

// stopped notes why the copy does not go on, and tells it once.
func (j *Journal) stopped(err error) {
	before := j.Status().Err
	j.failed(err)
	switch {
	case before != nil && before.Error() == err.Error():
	case errors.Is(err, ErrNoJournald):
		j.logger.Info("the audit log is not copied to the journal: there is no journald on this machine")
	default:
		j.logger.Error("audit entries are not copied to the journal", zap.Error(err), zap.Uint64("next", j.Status().Next))
	}
}
