package audit

import (
	"errors"
	"fmt"
	"io"
	"iter"
	"time"
)

// clockSlack is how far the times of neighbouring entries may be out of order, through waiting in the queue and through
// a clock that is set back, before ReadSince passes over a segment that it should have read.
const clockSlack = 10 * time.Minute

// Record is one entry as it was read.
type Record struct {
	// Index counts from 0 over all segments.
	Index uint64
	// Line is the line's bytes without the newline: the leaf of the tree.
	Line []byte
	// Entry is what the line says. Numbers among the claims are json.Number.
	Entry Entry
}

// Read yields every entry in dir in order. It needs no daemon, takes no lock and may run beside the process that appends:
// it then ends somewhere among the newest lines, the very last of which may still be on their way to the disk. An
// unfinished line at the very end is passed over. Anything else that is no entry, a gap, or an overlap is yielded as an
// error that names file and line, and ends the iteration.
func Read(dir string) iter.Seq2[Record, error] {
	return ReadSince(dir, time.Time{})
}

// ReadSince is Read for the entries whose time is not before since. It reads no segment that ended, by its last entry, more
// than ten minutes before since, nor any before that one: where the clock was once set back by more than that, entries
// from around that moment may be missing.
func ReadSince(dir string, since time.Time) iter.Seq2[Record, error] {
	return func(yield func(Record, error) bool) {
		if err := readSegments([]string{dir}, since, yield); err != nil {
			yield(Record{}, fmt.Errorf("reading audit log: %w", err))
		}
	}
}

// readSegments yields entries and returns the error that ended it; nil where the consumer did.
func readSegments(dirs []string, since time.Time, yield func(Record, error) bool) error {
	segments, err := segmentsOf(dirs)
	if err != nil {
		return err
	}
	if !since.IsZero() {
		segments = segmentsSince(segments, since.Add(-clockSlack))
	}
	for i, s := range segments {
		isLast := i == len(segments)-1
		next := s.first
		more, err := readSegment(s.path, isLast, func(line []byte, e Entry) bool {
			next++
			return !since.IsZero() && e.Time.Before(since) || yield(Record{next - 1, line, e}, nil)
		})
		if err != nil || !more {
			return err
		}
		if !isLast {
			if err := checkJoint(s, next-s.first, segments[i+1]); err != nil {
				return err
			}
		}
	}
	return nil
}

// readSegment calls each for every line until it returns false; more is false then.
func readSegment(path string, isLast bool, each func(line []byte, e Entry) bool) (more bool, err error) {
	f, err := openRegular(path)
	if err != nil {
		return false, err
	}
	defer f.Close()
	lines := newLineReader(f)
	for {
		line, err := lines.next()
		if errors.Is(err, io.EOF) {
			return true, nil
		} else if err != nil {
			return false, fmt.Errorf("%s: %w", path, err)
		}
		if !line.complete {
			if isLast {
				return true, nil
			}
			return false, fmt.Errorf("%s:%d: the line has no end, and this is not the last segment", path, lines.number)
		}
		e, err := ParseEntry(line.text)
		if err != nil {
			return false, fmt.Errorf("%s:%d: not an entry: %w", path, lines.number, err)
		}
		if !each(append([]byte(nil), line.text...), e) {
			return false, nil
		}
	}
}

// segmentsSince leaves out the segments that ended before t.
func segmentsSince(segments []segmentFile, t time.Time) []segmentFile {
	for i := len(segments) - 1; i >= 0; i-- {
		if last, ok := lastEntryTime(segments[i].path); ok && last.Before(t) {
			return segments[i+1:]
		}
	}
	return segments
}

// lastEntryTime returns the time of a segment's last entry. ok is false where that is not simply to be had: read it then.
func lastEntryTime(path string) (_ time.Time, ok bool) {
	f, err := openRegular(path)
	if err != nil {
		return time.Time{}, false
	}
	defer f.Close()
	end, err := f.Seek(0, io.SeekEnd)
	if err != nil {
		return time.Time{}, false
	}
	from := max(0, end-MaxLine-1) // what comes first is the end of another line, if the last is not of full length
	lines := newLineReader(io.NewSectionReader(f, from, end-from))
	var last Entry
	for {
		line, err := lines.next()
		if errors.Is(err, io.EOF) {
			return last.Time, ok
		} else if err != nil {
			return time.Time{}, false
		}
		last, err = ParseEntry(line.text)
		ok = err == nil && line.complete
	}
}
