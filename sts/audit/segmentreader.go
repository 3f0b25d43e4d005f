package audit

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"slices"
)

// segmentReader reads the lines of one segment in order.
type segmentReader struct {
	segmentFile
	// end is the index with which the next segment begins; the greatest number where there is none.
	end   uint64
	next  uint64 // the index of the line to come
	file  *os.File
	lines *lineReader
	// limit is the offset in bytes up to which the file is read, position how far it was.
	limit, position int64
}

// openSegmentAt opens the segment that has the entry index, in any of dirs, and passes over the lines before it. The error
// is a *MissingError where there is none such; whether a last segment has the entry shows when line is called.
func openSegmentAt(dirs []string, index uint64) (*segmentReader, error) {
	segments, err := segmentsOf(dirs)
	if err != nil {
		return nil, err
	}
	i, begins := slices.BinarySearchFunc(segments, index, func(s segmentFile, index uint64) int {
		return cmp.Compare(s.first, index)
	})
	if !begins {
		i--
	}
	end := uint64(math.MaxUint64)
	if i+1 < len(segments) {
		end = segments[i+1].first
	}
	if i < 0 {
		return nil, &MissingError{index, end}
	}
	r := &segmentReader{segmentFile: segments[i], end: end, next: segments[i].first, limit: math.MaxInt64}
	if r.file, err = openRegular(r.path); err != nil {
		return nil, err
	}
	r.lines = newLineReader(r)
	if err := r.skipTo(index); err != nil {
		return nil, errors.Join(err, r.file.Close())
	}
	return r, nil
}

// skipTo passes over the lines before index. The error is a *MissingError where the segment ends before that.
func (r *segmentReader) skipTo(index uint64) error {
	for r.next < index {
		if _, err := r.line(); errors.Is(err, io.EOF) {
			return &MissingError{r.next, r.end}
		} else if err != nil {
			return err
		}
	}
	return nil
}

// line returns the next line, which is valid until the next call, or io.EOF.
func (r *segmentReader) line() ([]byte, error) {
	if r.next >= r.end {
		return nil, io.EOF
	}
	line, err := r.lines.next()
	switch {
	case err != nil:
		return nil, err
	case !line.complete:
		return nil, fmt.Errorf("%s:%d: the line has no end", r.path, r.lines.number)
	case len(line.text) > MaxLine:
		return nil, fmt.Errorf("%s:%d: the line is longer than %d bytes", r.path, r.lines.number, MaxLine)
	}
	r.next++
	return line.text, nil
}

// Read reads up to the limit, for lines.
func (r *segmentReader) Read(p []byte) (n int, err error) {
	if r.position >= r.limit {
		return 0, io.EOF
	}
	n, err = r.file.Read(p[:min(int64(len(p)), r.limit-r.position)])
	r.position += int64(n)
	return n, err
}

// segmentsOf returns the segments of several directories, which together are one log, in order. Of a segment that is in
// several of them, while it is copied from the first to another, say, the one in the first of those counts. They are
// listed in that order: a segment that is moved meanwhile is found twice, and not missed.
func segmentsOf(dirs []string) ([]segmentFile, error) {
	var all []segmentFile
	for _, dir := range dirs {
		segments, err := listSegments(dir)
		if err != nil {
			return nil, err
		}
		all = append(all, segments...)
	}
	slices.SortStableFunc(all, func(a, b segmentFile) int { return cmp.Compare(a.first, b.first) })
	return slices.CompactFunc(all, func(a, b segmentFile) bool { return a.first == b.first }), nil
}
