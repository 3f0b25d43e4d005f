package audit

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"runtime"

	"golang.org/x/mod/sumdb/tlog"
)

// leafBlockSize is how many bytes of lines one goroutine hashes at a time.
const leafBlockSize = 1 << 20

// leafBlock is the leaf hashes of consecutive lines of one segment.
type leafBlock struct {
	first  uint64 // the index of the first line, counted from the segment's name
	number int    // its line number, from 1
	bytes  int64
	hashes []tlog.Hash
	// malformed is why the line with index malformedAt is no entry, nil where all are that were looked at. The hashes end
	// before it.
	malformed   error
	malformedAt uint64
	hasNUL      bool // the malformed line has a zero byte
	// unfinished: the malformed line is the last one and has no end.
	unfinished bool
}

// leafReader hashes the lines of segments on several processors, in bounded memory.
type leafReader struct {
	// parseFrom: from this index on a line must be an entry. Of others only the hash matters, and parsing costs ten times as
	// much.
	parseFrom uint64
}

// read calls each with the blocks of one segment in order, until it returns an error or false.
func (r leafReader) read(ctx context.Context, s segmentFile, each func(leafBlock) (more bool, err error)) error {
	f, err := openRegular(s.path)
	if err != nil {
		return err
	}
	defer f.Close()
	size, err := f.Seek(0, io.SeekEnd)
	if err == nil {
		_, err = f.Seek(0, io.SeekStart)
	}
	if err != nil {
		return err
	}
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	// A block is a channel from the moment that it was read until it was hashed; their order is the file's.
	blocks := make(chan chan leafBlock, runtime.GOMAXPROCS(0)+1)
	readErr := make(chan error, 1)
	go func() {
		defer close(blocks)
		readErr <- r.split(ctx, f, s.first, min(size, leafBlockSize), blocks)
	}()
	more := true
	for block := range blocks {
		// Those that come after the end are awaited, too: no goroutine is left behind.
		b := <-block
		if more && err == nil {
			more, err = each(b)
		}
		if !more || err != nil {
			stop()
		}
	}
	if e := <-readErr; e != nil && more && err == nil {
		return fmt.Errorf("reading %s: %w", s.path, e)
	}
	return err
}

// split reads lines in blocks and has each block hashed by a goroutine of its own, as many at once as blocks has room for.
func (r leafReader) split(ctx context.Context, f io.Reader, first uint64, blockSize int64, blocks chan<- chan leafBlock) error {
	number := 1
	var rest []byte // the beginning of a line whose end is yet to be read
	for {
		// One byte stays free before the first line, see hash.
		buf := make([]byte, 1+len(rest), 1+max(blockSize, 2*int64(len(rest)), 4096))
		copy(buf[1:], rest)
		n, err := io.ReadFull(f, buf[len(buf):cap(buf)])
		buf = buf[:len(buf)+n]
		atEnd := errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF)
		if err != nil && !atEnd {
			return err
		}
		end := bytes.LastIndexByte(buf[1:], '\n') + 2 // after the newline; 1 without any
		if atEnd {
			end = len(buf)
		}
		rest = buf[end:]
		if !atEnd && end == 1 && len(rest) <= MaxLine {
			continue
		}
		if end == 1 {
			// What has no newline so far is longer than any entry: nothing after it has an index.
			end, atEnd = len(buf), true
		}
		count := bytes.Count(buf[1:end], []byte{'\n'})
		if end > 1 {
			result := make(chan leafBlock, 1)
			select {
			case blocks <- result:
			case <-ctx.Done():
				return ctx.Err()
			}
			b := leafBlock{first: first, number: number, bytes: int64(end - 1)}
			go func() { result <- r.hash(b, buf[:end]) }()
		}
		if atEnd {
			return nil
		}
		first += uint64(count)
		number += count
	}
}

// hash computes the hashes of b, whose lines begin at buf[1].
func (r leafReader) hash(b leafBlock, buf []byte) leafBlock {
	b.hashes = make([]tlog.Hash, 0, len(buf)/512+1)
	for i := 1; i < len(buf); {
		index := b.first + uint64(len(b.hashes))
		n := bytes.IndexByte(buf[i:], '\n')
		line := buf[i:]
		if n >= 0 {
			line = buf[i : i+n]
		}
		var err error
		switch {
		case len(line) > MaxLine:
			err = fmt.Errorf("longer than %d bytes", MaxLine)
		case n < 0:
			err = errors.New("the line has no end")
			b.unfinished = true
		case index >= r.parseFrom:
			_, err = ParseEntry(line)
		}
		if err != nil {
			b.malformed, b.malformedAt = err, index
			b.hasNUL = bytes.IndexByte(line, 0) >= 0
			return b
		}
		// The leaf hash is SHA-256(0x00 || line) (RFC 6962, section 2.1). The byte before the line, the newline of the one
		// before it, is not needed any more: with the zero there, one call hashes without copying.
		buf[i-1] = 0
		b.hashes = append(b.hashes, sha256.Sum256(buf[i-1:i+n]))
		i += n + 1
	}
	return b
}
