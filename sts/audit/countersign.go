package audit

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"time"

	"golang.org/x/mod/sumdb/tlog"

	"github.com/octo-sts/appliance/sts/audit/checkpoint"
)

// disagreement says in what way the log is not the one that was signed.
type disagreement struct {
	words string
	// mayBeDamage: tiles that say something else than the lines would look the same.
	mayBeDamage bool
}

func (d *disagreement) Error() string { return d.words }

func isDisagreement(err error) bool {
	d := (*disagreement)(nil)
	return errors.As(err, &d)
}

// round brings the tree up to the log and has it signed, where that is not done yet. A log that does not fit what was
// signed may have damaged tiles, so they are read first, all of them, before it is said.
func (c *Checkpointer) round(ctx context.Context) error {
	err := c.followAndSign(ctx)
	if d := (*disagreement)(nil); !errors.As(err, &d) || !d.mayBeDamage {
		return err
	}
	if !c.mended {
		c.forget() // its right edge may come from what is damaged
		if err := c.mendAll(ctx); err != nil {
			return err
		}
		c.mended = true
		err = c.followAndSign(ctx)
	}
	if isDisagreement(err) && c.unmended != nil {
		// It cannot be told from damage.
		return fmt.Errorf("%v; it may be for this reason: %w", err, c.unmended)
	}
	return err
}

// mendAll reads all lines and tiles, which may take minutes: it ends early with ctx, and where the log is closed.
func (c *Checkpointer) mendAll(ctx context.Context) error {
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	go func() {
		select {
		case <-c.config.Log.stopped:
			stop()
		case <-ctx.Done():
		}
	}()
	c.unmended = mendTiles(ctx, c.tiles, c.config.Log.Size(), true)
	return ctx.Err()
}

func (c *Checkpointer) followAndSign(ctx context.Context) error {
	if err := c.follow(ctx); err != nil {
		return err
	}
	// The signer is asked once at every start, with or without something new: that shows a directory that was put back
	// to an older state as a whole.
	if c.asked && c.tree.size == c.signed.Size || c.tree.size == 0 && c.signed.Size == 0 {
		return nil
	}
	return c.sign(ctx)
}

// follow adds the log's entries to the tree, up to those that are durable at its start.
func (c *Checkpointer) follow(ctx context.Context) (err error) {
	if c.tree == nil {
		if err := c.load(ctx); err != nil {
			return err
		}
	}
	defer func() {
		if err != nil { // a line that was read may not be in the tree
			c.cursor.Close()
			c.cursor = c.config.Log.Cursor(c.tree.size)
		}
	}()
	if err := c.tree.flush(); err != nil {
		return err
	}
	for end := c.config.Log.durableNow(); c.tree.size < end.size; {
		if err := ctx.Err(); err != nil {
			return err
		}
		line, ok, err := c.cursor.Next()
		if err != nil || !ok {
			return err
		}
		if line.Index == c.cursor.segment.first {
			if err := c.tree.savePartial(); err != nil {
				return err
			}
		}
		if line.Index == c.signed.Size {
			c.setOldest(line)
		}
		if err := c.tree.add(tlog.RecordHash(line.Bytes)); err != nil {
			return err
		}
	}
	if c.config.Log.durableNow().first == c.tree.size { // a segment was closed, and the next is empty
		return c.tree.savePartial()
	}
	return nil
}

// load makes tree and cursor.
func (c *Checkpointer) load(ctx context.Context) error {
	first, err := c.config.Log.First()
	if err != nil {
		return err
	}
	tree, err := loadTree(ctx, c.tiles, first, c.config.Log.Size())
	if err != nil {
		return err
	}
	c.tree, c.cursor = tree, c.config.Log.Cursor(tree.size)
	if c.signed.Size < tree.size {
		uncovered := c.config.Log.Cursor(c.signed.Size)
		defer uncovered.Close()
		if line, ok, err := uncovered.Next(); ok && err == nil {
			c.setOldest(line)
		}
	}
	return nil
}

// forget makes the next round load the tree anew.
func (c *Checkpointer) forget() {
	if c.cursor != nil {
		c.cursor.Close()
	}
	c.tree, c.cursor = nil, nil
}

// setOldest notes the time of the first entry that is not covered.
func (c *Checkpointer) setOldest(line Line) {
	if e, err := ParseEntry(line.Bytes); err == nil {
		c.mu.Lock()
		c.oldest = e.Time
		c.mu.Unlock()
	}
}

// sign has the tree signed as it is, with a proof from what was signed last: by what the directory says and, where the
// signer says otherwise, by what that says.
func (c *Checkpointer) sign(ctx context.Context) error {
	old, whose, isSigners := c.signed, filepath.Join(c.tiles.dir, checkpointName), false
	for {
		request, err := c.request(ctx, old, whose)
		if err != nil {
			return err
		}
		signed, err := c.countersign(ctx, request)
		var conflict *checkpoint.Conflict
		switch {
		case err == nil:
			return c.keep(request.Checkpoint, signed)
		case errors.As(err, &conflict) && !isSigners:
			old, whose, isSigners = conflict.Last, "the signer", true
		default:
			return fmt.Errorf("having a checkpoint signed: %w", err) // without the size: note tells what is news
		}
	}
}

func (c *Checkpointer) countersign(ctx context.Context, r checkpoint.Request) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, countersignLimit)
	defer cancel()
	return c.config.Countersign(ctx, r)
}

// request makes the request for a checkpoint of the tree that extends old, which whose says was signed. The error is a
// *disagreement where the tree does not.
func (c *Checkpointer) request(ctx context.Context, old checkpoint.Checkpoint, whose string) (r checkpoint.Request, err error) {
	if old.Origin != c.config.Origin {
		return r, fmt.Errorf("%s has checkpoints of the origin %q, and this log is %q", whose, old.Origin, c.config.Origin)
	}
	if old.Size > c.tree.size {
		return r, &disagreement{fmt.Sprintf("the audit log was rolled back: %s has a checkpoint of size %d, and the log has fewer entries",
			whose, old.Size), false}
	}
	hashes := c.tree.reader(ctx)
	root, err := tlog.TreeHash(int64(old.Size), hashes)
	if err != nil {
		return r, fmt.Errorf("making the root of size %d: %w", old.Size, err)
	}
	if root != old.Root {
		return r, &disagreement{fmt.Sprintf("the audit log was rewritten: %s has a checkpoint of size %d with root %s, and the log's first %d entries have root %s",
			whose, old.Size, old.Root, old.Size, root), true}
	}
	r = checkpoint.Request{Checkpoint: checkpoint.Checkpoint{Origin: c.config.Origin, Size: c.tree.size}, OldSize: old.Size}
	if r.Root, err = tlog.TreeHash(int64(r.Size), hashes); err != nil {
		return r, fmt.Errorf("making the root of size %d: %w", r.Size, err)
	}
	if old.Size > 0 && old.Size < r.Size {
		if r.Proof, err = tlog.ProveTree(int64(r.Size), int64(old.Size), hashes); err != nil {
			return r, fmt.Errorf("proving that size %d extends size %d: %w", r.Size, old.Size, err)
		}
	}
	if err := r.Extends(old); err != nil {
		return r, &disagreement{fmt.Sprintf("the audit log's tiles contradict each other: %v", err), true}
	}
	return r, nil
}

// keep makes a signed checkpoint the newest one in the directory, after looking that it is what was asked for.
func (c *Checkpointer) keep(want checkpoint.Checkpoint, signed []byte) error {
	got, err := checkpoint.Parse(signed)
	if err != nil {
		return fmt.Errorf("what the signer sent: %w", err)
	}
	if got != want {
		return fmt.Errorf("the signer signed %q, size %d, root %s, and was asked for %q, size %d, root %s", got.Origin, got.Size, got.Root, want.Origin, want.Size, want.Root)
	}
	if err := replaceFile(filepath.Join(c.tiles.dir, checkpointName), signed); err != nil {
		return fmt.Errorf("writing a checkpoint: %w", err)
	}
	c.mu.Lock()
	c.signed, c.signedAt, c.oldest = got, time.Now(), time.Time{}
	c.mu.Unlock()
	c.asked, c.mended, c.unmended = true, false, nil
	if c.config.OnSigned != nil {
		c.config.OnSigned(signed)
	}
	return nil
}
