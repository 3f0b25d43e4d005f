package audit

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
)

// lineReader reads a segment line by line in bounded memory.
type lineReader struct {
	r *bufio.Reader
	// offset is where the next line begins, number the 1-based number of the line read last.
	offset int64
	number int
}

func newLineReader(r io.Reader) *lineReader {
	return &lineReader{r: bufio.NewReaderSize(r, 2*MaxLine)}
}

// rawLine is one line as it is in the file. text has no newline and is valid until the next read; of a line that is
// far too long it holds the beginning.
type rawLine struct {
	text     []byte
	complete bool // ended by a newline
	offset   int64
	hasNUL   bool
}

// next returns io.EOF after the last byte.
func (l *lineReader) next() (rawLine, error) {
	line := rawLine{offset: l.offset}
	text, err := l.r.ReadSlice('\n')
	l.offset += int64(len(text))
	line.hasNUL = bytes.IndexByte(text, 0) >= 0
	if errors.Is(err, bufio.ErrBufferFull) {
		// Nobody may look at more than the beginning, but where it ends matters. A file with a hole in it can have any size.
		text = bytes.Clone(text)
		for errors.Is(err, bufio.ErrBufferFull) {
			if l.offset-line.offset > 2*maxBatch {
				return line, fmt.Errorf("what begins at byte %d is no entry: it has more than %d bytes", line.offset, 2*maxBatch)
			}
			var more []byte
			more, err = l.r.ReadSlice('\n')
			l.offset += int64(len(more))
			line.hasNUL = line.hasNUL || bytes.IndexByte(more, 0) >= 0
			line.complete = bytes.HasSuffix(more, []byte{'\n'})
		}
	} else if n := len(text); n > 0 && text[n-1] == '\n' {
		text, line.complete = text[:n-1], true
	}
	if err != nil && !errors.Is(err, io.EOF) {
		return line, err
	}
	if l.offset == line.offset {
		return line, io.EOF
	}
	l.number++
	line.text = text
	return line, nil
}

// scanResult is what a segment holds.
type scanResult struct {
	lines uint64 // well-formed lines from the beginning
	good  int64  // their bytes
	size  int64  // all bytes
	torn  error  // why the bytes from good to size are no entries; nil where there are none
}

// scanSegment reads a segment that a process may have died over. A tail that a crash can explain is reported as torn;
// what no crash can have done is an error that names the line.
//
// A crash leaves at most one write unfinished, of at most maxBatch bytes: some lines of it, then part of one. After a
// loss of power the file system may also have stored its pages out of order, and a page that never arrived reads as
// zeros, a byte that no line of ours contains. So a malformed line with well-formed ones after it is torn where there
// are zeros, and otherwise damage, which is not ours to cut away.
func scanSegment(path string, r io.Reader) (scanResult, error) {
	var (
		result  scanResult
		lines   = newLineReader(r)
		badLine int
		hasNUL  bool
		after   bool // a well-formed line follows the malformed one
	)
	for {
		line, err := lines.next()
		if errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			return result, err
		}
		_, err = ParseEntry(line.text)
		if err == nil && !line.complete {
			err = errors.New("the line has no end")
		}
		switch {
		case err == nil && result.torn == nil:
			result.lines++
			result.good = lines.offset
		case err == nil:
			after = true
		default:
			if result.torn == nil {
				result.torn, badLine = err, lines.number
			}
			hasNUL = hasNUL || line.hasNUL
		}
	}
	result.size = lines.offset
	if tail := result.size - result.good; tail > maxBatch || after && !hasNUL {
		return result, fmt.Errorf("%s:%d: not an entry: %w (nor an end that a crash leaves: %d bytes follow from there on)",
			path, badLine, result.torn, tail)
	}
	return result, nil
}

// countLines counts the lines of a segment that is complete.
func countLines(path string, r io.Reader) (lines uint64, err error) {
	buf := make([]byte, 128<<10)
	ends := true
	for {
		n, err := r.Read(buf)
		if n > 0 {
			lines += uint64(bytes.Count(buf[:n], []byte{'\n'}))
			ends = buf[n-1] == '\n'
		}
		switch {
		case errors.Is(err, io.EOF) && !ends:
			return lines, fmt.Errorf("%s:%d: the line has no end, and this is not the last segment", path, lines+1)
		case errors.Is(err, io.EOF):
			return lines, nil
		case err != nil:
			return lines, err
		}
	}
}
