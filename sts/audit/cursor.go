package audit

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
)

// Line is one entry as a Cursor reads it.
type Line struct {
	// Index counts from 0 over all segments.
	Index uint64
	// Bytes are the line without its newline: the leaf of the tree. They are valid until the cursor's next call.
	Bytes []byte
}

// MissingError says that the entries from From up to, and not including, To are in no segment where they were looked for.
type MissingError struct{ From, To uint64 }

func (e *MissingError) Error() string {
	return fmt.Sprintf("entries %d to %d are in no segment here: they were moved away or removed", e.From, e.To-1)
}

// durable is what of a log is on the disk: size entries, of which the newest are the first length bytes of the segment
// that begins with entry first. The segments before that one are complete.
type durable struct {
	size, first uint64
	length      int64
}

// Cursor follows a log: it reads the durable lines in order from the segments, which the page cache still holds where it
// keeps up. However slow it is, it costs the writer nothing and keeps nothing in memory but one buffer of 64 KiB. A cursor
// belongs to one goroutine; a log may have many.
type Cursor struct {
	log     *Log
	next    uint64         // the index of the line to come
	durable durable        // as the log said last
	segment *segmentReader // holds the line to come, or ends before it; nil: to be opened
}

// Cursor returns a cursor whose first line is entry from. It opens no file yet; Close it in the end.
func (l *Log) Cursor(from uint64) *Cursor {
	return &Cursor{log: l, next: from}
}

// Wait returns nil once Next has a line. Otherwise it ends with ctx, or with ErrClosed where the log was closed and
// every line was read.
func (c *Cursor) Wait(ctx context.Context) error {
	for {
		grown := c.log.grownBeyond(c.next)
		if grown == nil {
			return nil
		}
		select {
		case <-grown:
		case <-ctx.Done():
			return ctx.Err()
		case <-c.log.stopped:
			if c.log.Size() <= c.next {
				return ErrClosed
			}
		}
	}
}

// Next returns the next line and moves on. It never waits: ok is false where the line is not durable yet. An error that
// errors.As a *MissingError tells of entries whose segment is gone: they may be put back, or passed over with a new cursor
// from MissingError.To. After any error the cursor is where it was, and Next may be called again.
func (c *Cursor) Next() (line Line, ok bool, err error) {
	if c.next >= c.durable.size {
		c.durable = c.log.durableNow()
		if c.next >= c.durable.size {
			return Line{}, false, nil
		}
		c.limit()
	}
	text, err := c.read()
	if err != nil {
		c.Close()
		return Line{}, false, fmt.Errorf("reading entry %d of the audit log: %w", c.next, err)
	}
	c.next++
	return Line{c.next - 1, text}, true, nil
}

// read returns the line to come, which must be durable.
func (c *Cursor) read() ([]byte, error) {
	if c.segment != nil {
		text, err := c.segment.line()
		if !errors.Is(err, io.EOF) {
			return text, err
		}
		c.Close()
	}
	var err error
	if c.segment, err = openSegmentAt([]string{c.log.config.Directory}, c.next); err == nil {
		c.limit()
		var text []byte
		if text, err = c.segment.line(); err == nil {
			return text, nil
		}
		if errors.Is(err, io.EOF) {
			err = &MissingError{c.next, c.segment.end}
		}
	}
	if missing := (*MissingError)(nil); errors.As(err, &missing) {
		return nil, &MissingError{c.next, min(missing.To, c.durable.size)}
	}
	return nil, err
}

// limit keeps what is not durable yet, and may be cut off and written anew, out of the reader's buffer.
func (c *Cursor) limit() {
	if c.segment == nil {
		return
	}
	c.segment.limit = math.MaxInt64
	if c.segment.first == c.durable.first {
		c.segment.limit = c.durable.length
	}
}

// Close gives up the open file. The cursor stays where it is.
func (c *Cursor) Close() {
	if c.segment != nil {
		c.segment.file.Close() // it was only read from
		c.segment = nil
	}
}

// First is the index of the oldest entry whose segment is in the directory; Size where there is none.
func (l *Log) First() (uint64, error) {
	segments, err := listSegments(l.config.Directory)
	if err != nil {
		return 0, fmt.Errorf("looking for the oldest entry of the audit log: %w", err)
	}
	if len(segments) == 0 {
		return l.Size(), nil
	}
	return segments[0].first, nil
}

// durableNow returns what is durable at this moment.
func (l *Log) durableNow() durable {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.durable
}

// grownBeyond returns nil where entry index is durable, or else a channel that is closed when the log has grown.
func (l *Log) grownBeyond(index uint64) <-chan struct{} {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.durable.size > index {
		return nil
	}
	if l.grown == nil {
		l.grown = make(chan struct{})
	}
	return l.grown
}
