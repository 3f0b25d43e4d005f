package audit

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/octo-sts/appliance/sts/audit/checkpoint"
)

const segmentSuffix = ".jsonl"

// segmentName is the file name of the segment whose first entry has the given index.
func segmentName(first uint64) string {
	return fmt.Sprintf("%020d%s", first, segmentSuffix)
}

// openRegular opens a file for reading. What else a directory may hold, if somebody prepared it, is refused: links, devices,
// and pipes, which would be waited for.
func openRegular(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|noFollow|nonBlock, 0)
	if isLink(path, err) {
		f.Close() // where the system followed the link
		return nil, fmt.Errorf("%s: not a regular file", path)
	} else if err != nil {
		return nil, err
	}
	info, err := f.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = fmt.Errorf("%s: not a regular file", path)
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// segmentFile is one segment as listed: its path and the index in its name.
type segmentFile struct {
	path  string
	first uint64
}

// listSegments returns the segments of dir in order. What does not end in .jsonl is not ours to judge; what does, but
// has no index for a name, is an error, since it may be a segment that somebody renamed.
func listSegments(dir string) ([]segmentFile, error) {
	files, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	var segments []segmentFile
	for _, f := range files {
		digits, isSegment := strings.CutSuffix(f.Name(), segmentSuffix)
		if !isSegment {
			continue
		}
		path := filepath.Join(dir, f.Name())
		first, err := strconv.ParseUint(digits, 10, 64)
		if err != nil || segmentName(first) != f.Name() || first > checkpoint.MaxSize {
			return nil, fmt.Errorf("%s: not the name of a segment (20 digits and %s); move it elsewhere", path, segmentSuffix)
		}
		if !f.Type().IsRegular() {
			return nil, fmt.Errorf("%s: not a regular file", path)
		}
		segments = append(segments, segmentFile{path, first})
	}
	slices.SortFunc(segments, func(a, b segmentFile) int { return strings.Compare(a.path, b.path) })
	return segments, nil
}

// segment is the file that is being written. The writer goroutine owns it.
type segment struct {
	path  string
	first uint64 // the index of its first entry
	file  *os.File
	fd    int
	// dev and ino tell whether the path still leads to this file.
	is identity // when it was made
	// length is how many bytes are durable. Between two writes the file is exactly that long.
	length int64
	// began is when its first entry was written; of no meaning while length is 0.
	began time.Time
}

// createSegment makes the segment that begins with entry first, and makes its name durable. An empty file of that name
// is used: an earlier start may have left it, or an earlier try without room. ErrFull: nothing was written, and the same
// call may succeed later. dir is the open directory: making a segment needs one file descriptor and no second one.
func createSegment(dir *os.File, first uint64) (_ *segment, err error) {
	name := segmentName(first)
	s := &segment{path: filepath.Join(dir.Name(), name), first: first}
	s.fd, err = createAppending(dir, name)
	switch {
	case isFull(err):
		return nil, fmt.Errorf("%w: making %s: %w", ErrFull, s.path, err)
	case isExhausted(err):
		return nil, fmt.Errorf("%w: making %s, for want of file descriptors or memory and not of disk space: %w", ErrFull, s.path, err)
	case err != nil:
		return nil, fmt.Errorf("making %s: %w", s.path, err)
	}
	s.file = os.NewFile(uintptr(s.fd), s.path)
	if s.is, err = identifyOpen(s.fd); err == nil && s.is.size != 0 {
		err = fmt.Errorf("%s: exists already and is not empty", s.path)
	}
	if err == nil {
		// Not tried again where it fails, whatever the reason: only the first fsync(2) after a fault tells of it.
		err = dir.Sync()
	}
	if err != nil {
		return nil, errors.Join(err, s.file.Close())
	}
	return s, nil
}

// append writes buf with one write(2) and makes it durable with one fdatasync(2). An error that errors.Is ErrFull
// leaves the file as it was; after any other the segment must not be used again.
func (s *segment) append(buf []byte) error {
	if n, err := s.file.Write(buf); err != nil {
		if !isFull(err) {
			return err
		}
		if n > 0 {
			if cutErr := s.cut(); cutErr != nil {
				return fmt.Errorf("cutting off a line half written (%w): %w", cutErr, err)
			}
		}
		return fmt.Errorf("%w: %w", ErrFull, err)
	}
	// fdatasync also writes the file's new size, without which the data could not be read back (fdatasync(2)).
	if err := syncData(s.fd); err != nil {
		return fmt.Errorf("fdatasync %s: %w", s.path, err)
	}
	if err := s.inPlace(s.length + int64(len(buf))); err != nil {
		return err
	}
	if s.length == 0 {
		s.began = time.Now()
	}
	s.length += int64(len(buf))
	return nil
}

// cut takes off what a short write left behind the last durable line.
func (s *segment) cut() error {
	if err := s.file.Truncate(s.length); err != nil {
		return err
	}
	return s.file.Sync()
}

// inPlace makes sure that what was made durable can be found: that the path still leads to the file that was written,
// and that nobody else wrote to it or cut it. A careless logrotate would otherwise go unnoticed until the next start.
func (s *segment) inPlace(length int64) error {
	now, err := identify(s.path)
	if err != nil {
		return fmt.Errorf("%s: moved or removed while it was written: %w", s.path, err)
	}
	if now.device != s.is.device || now.inode != s.is.inode {
		return fmt.Errorf("%s: replaced by another file while it was written", s.path)
	}
	if now.size != length {
		return fmt.Errorf("%s: %d bytes long where %d were written: something else changed it", s.path, now.size, length)
	}
	return nil
}

// syncDirectory makes the names in dir durable.
func syncDirectory(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// makeDirectory creates dir, and those that lead to it, where they are missing, and makes their names durable.
func makeDirectory(dir string) error {
	if _, err := os.Stat(dir); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	parent := filepath.Dir(dir)
	if err := makeDirectory(parent); err != nil {
		return err
	}
	if err := os.Mkdir(dir, 0o750); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	return syncDirectory(parent)
}
