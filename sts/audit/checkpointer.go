package audit

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/octo-sts/appliance/sts/audit/checkpoint"
)

const (
	// checkpointPace is how far apart two requests to the signer are, and so the longest that an entry waits for the next.
	checkpointPace = time.Second
	// countersignLimit is how long one request may take, lastTry what the end of Run may.
	countersignLimit = 5 * time.Second
	lastTry          = 2 * time.Second
	// mendPause is how long missing tiles that could not be written wait for the next try.
	mendPause = 10 * time.Minute
	// checkpointName is the file with the newest signed checkpoint.
	checkpointName = "checkpoint"
)

// CheckpointerConfig says whose checkpoints are to be signed, and by whom.
type CheckpointerConfig struct {
	Log *Log
	// Origin is the log's name in its checkpoints.
	Origin string
	// Countersign asks for the signed note of a checkpoint. Where the signer signed something last that the request does
	// not extend, the error is a *checkpoint.Conflict.
	Countersign func(context.Context, checkpoint.Request) ([]byte, error)
	// OnSigned, where it is not nil, hears of each signed checkpoint once it is in the directory. It must not block.
	OnSigned func(signed []byte)
	// Logger hears of changes of state. nil: nobody does.
	Logger *zap.Logger
}

// CheckpointStatus is how far the log is covered by signed checkpoints.
type CheckpointStatus struct {
	// Signed is the newest checkpoint in the directory; its Size is 0 where there is none. SignedAt is when it was written.
	Signed   checkpoint.Checkpoint
	SignedAt time.Time
	// Uncovered is how many durable entries it does not cover, Oldest the time of the oldest of those; zero where there is
	// none, or where it was not read yet.
	Uncovered uint64
	Oldest    time.Time
	// Err is why the last try failed, or what of the tiles could not be mended; nil where all is well.
	Err error
	// Contradiction: the log is not the one that was signed; Err says in what way.
	Contradiction bool
}

// Checkpointer has checkpoints of a log signed, and writes its tiles. It follows the log as any reader does: whatever goes
// wrong here, entries are accepted.
type Checkpointer struct {
	config CheckpointerConfig
	pace   time.Duration
	tiles  *tileStore

	// These belong to Run.
	tree     *growingTree // nil: to be loaded
	cursor   *Cursor      // at tree.size; nil where tree is
	asked    bool         // the signer has answered with a signature since the start
	mended   bool         // all tiles were read since it last did
	unmended error        // what was found that could not be put right

	mu       sync.Mutex
	signed   checkpoint.Checkpoint // guarded by mu; only Run changes it
	signedAt time.Time             // guarded by mu
	oldest   time.Time             // guarded by mu
	err      error                 // guarded by mu; only Run changes it: of the last round
	tilesErr error                 // guarded by mu: of looking for missing tiles
}

// NewCheckpointer reads the newest checkpoint in the log's directory; Run does the work. One log has one Checkpointer.
func NewCheckpointer(ctx context.Context, config CheckpointerConfig) (*Checkpointer, error) {
	return newCheckpointer(ctx, config, checkpointPace)
}

func newCheckpointer(_ context.Context, config CheckpointerConfig, pace time.Duration) (*Checkpointer, error) {
	if err := checkpoint.CheckOrigin(config.Origin); err != nil {
		return nil, fmt.Errorf("checkpoints of the audit log: %w", err)
	}
	if config.Logger == nil {
		config.Logger = zap.NewNop()
	}
	c := &Checkpointer{
		config: config,
		pace:   pace,
		tiles:  &tileStore{dir: config.Log.config.Directory},
		signed: checkpoint.Empty(config.Origin),
	}
	c.loadSigned()
	return c, nil
}

// loadSigned reads the newest checkpoint. One that cannot be read is passed over: the signer knows what it signed last.
func (c *Checkpointer) loadSigned() {
	path := filepath.Join(c.tiles.dir, checkpointName)
	note, err := readBounded(path, checkpoint.MaxNote)
	if errors.Is(err, os.ErrNotExist) {
		return
	}
	var signed checkpoint.Checkpoint
	var info os.FileInfo
	if err == nil {
		signed, err = checkpoint.Parse(note)
	}
	if err == nil && signed.Origin != c.config.Origin {
		err = fmt.Errorf("it is for the origin %q", signed.Origin)
	}
	if err == nil {
		info, err = os.Stat(path)
	}
	if err != nil {
		c.config.Logger.Warn("audit log: its last checkpoint is of no use; asking the signer for it", zap.String("path", path), zap.Error(err))
		return
	}
	c.signed, c.signedAt = signed, info.ModTime()
}

// Run follows the log until ctx ends or the log is closed, then tries for at most two seconds to have signed what is not
// covered yet: close the log first, and what is left is nothing. It returns why that failed, nil where it did not.
func (c *Checkpointer) Run(ctx context.Context) error {
	defer c.forget()
	c.rounds(ctx)
	if c.Status().Uncovered == 0 {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), lastTry)
	defer cancel()
	err := c.lastRounds(ctx)
	c.note(err)
	return err
}

// lastRounds does rounds until one succeeds or ctx ends, and returns what was wrong with the last that ctx did not end: a
// signer may be changing over to another HSM, or have signed as many checkpoints as it signs in a second.
func (c *Checkpointer) lastRounds(ctx context.Context) error {
	err := c.round(ctx)
	for err != nil && !isDisagreement(err) {
		select {
		case <-time.After(c.pace / 4):
		case <-ctx.Done():
			return err
		}
		if again := c.round(ctx); again == nil || ctx.Err() == nil {
			err = again
		}
	}
	return err
}

// rounds does rounds until ctx ends or the log is closed: one a second while there are new entries, and one every few
// seconds while they fail.
func (c *Checkpointer) rounds(ctx context.Context) {
	var mending sync.WaitGroup
	defer mending.Wait()
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	isMending, isCovered, failures := false, false, 0
	for next := time.Now(); c.await(ctx, next, isCovered); {
		next = time.Now().Add(c.pace)
		err := c.round(ctx)
		c.note(err)
		if isCovered = err == nil; isCovered {
			failures = 0
		} else {
			next = next.Add(c.pace * time.Duration(min(failures, 2)))
			failures++
		}
		if c.tree != nil && !isMending {
			isMending = true
			size := c.tree.size // the tiles from there on are written as entries come
			mending.Go(func() { c.mendMissing(ctx, size) })
		}
	}
}

// await waits until a time, and then, where all is covered, for the next entry. It returns false where ctx has ended or the
// log is closed.
func (c *Checkpointer) await(ctx context.Context, until time.Time, isCovered bool) bool {
	timer := time.NewTimer(time.Until(until))
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
		return false
	case <-c.config.Log.stopped:
		return false
	}
	return !isCovered || c.config.Log.Cursor(c.signed.Size).Wait(ctx) == nil
}

// note keeps what a round came to, and logs it where it is news.
func (c *Checkpointer) note(err error) {
	c.mu.Lock()
	before := c.err
	c.err = err
	c.mu.Unlock()
	switch {
	case err != nil && (before == nil || before.Error() != err.Error()):
		message := "audit log: no checkpoint; entries go on, and it is tried again"
		if isDisagreement(err) {
			message = "audit log: IT IS NOT THE LOG THAT WAS SIGNED; entries go on without checkpoints"
		}
		c.config.Logger.Error(message, zap.Error(err), zap.Uint64("signed_size", c.signed.Size), zap.Uint64("size", c.config.Log.Size()))
	case err == nil && before != nil:
		c.config.Logger.Info("audit log: checkpoints are signed again", zap.Uint64("signed_size", c.signed.Size))
	}
}

// mendMissing writes the tiles that are missing from the first size entries, beside everything else: how long it takes
// grows with the age of the log.
func (c *Checkpointer) mendMissing(ctx context.Context, size uint64) {
	for {
		err := mendTiles(ctx, c.tiles, size, false)
		if ctx.Err() != nil {
			return
		}
		c.mu.Lock()
		c.tilesErr = err
		c.mu.Unlock()
		if err == nil {
			return
		}
		c.config.Logger.Error("audit log: tiles are missing", zap.Error(err))
		select {
		case <-time.After(mendPause):
		case <-ctx.Done():
			return
		}
	}
}

// Status tells how far it is. It may be called at any time.
func (c *Checkpointer) Status() CheckpointStatus {
	size := c.config.Log.Size()
	c.mu.Lock()
	defer c.mu.Unlock()
	s := CheckpointStatus{
		Signed: c.signed, SignedAt: c.signedAt,
		Err: errors.Join(c.err, c.tilesErr), Contradiction: isDisagreement(c.err),
	}
	if size > c.signed.Size {
		s.Uncovered, s.Oldest = size-c.signed.Size, c.oldest
	}
	return s
}
