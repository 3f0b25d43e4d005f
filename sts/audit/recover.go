package audit

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"go.uber.org/zap"

	"github.com/octo-sts/appliance/sts/audit/checkpoint"
)

// joinCheckBytes is how much of the segments before the last one Open reads to see that they join; the time that a
// start takes must not grow with the age of the log. The last joint is always checked. Read checks them all.
const joinCheckBytes = 256 << 20

// recoverDirectory makes sure that the log ends with a whole, durable line, and returns the index of the next entry.
// The lock must be held.
func recoverDirectory(ctx context.Context, dir string, logger *zap.Logger) (next uint64, err error) {
	segments, err := listSegments(dir)
	if err != nil {
		return 0, err
	}
	if len(segments) > 0 {
		last := segments[len(segments)-1]
		lines, err := recoverSegment(last.path, logger)
		if err != nil {
			return 0, err
		}
		next = last.first + lines
	}
	if err := checkCovered(dir, next); err != nil {
		return 0, err
	}
	return next, checkJoints(ctx, segments)
}

// checkCovered makes sure that no entry is missing that the directory's own checkpoint covers: none is signed before its
// entries are durable, so somebody moved the last segment away, or put an older one in its place. To go on would give the
// indices of the missing entries to others. A checkpoint that cannot be read proves nothing here.
func checkCovered(dir string, next uint64) error {
	path := filepath.Join(dir, checkpointName)
	note, err := readBounded(path, checkpoint.MaxNote)
	if err != nil {
		return nil
	}
	signed, err := checkpoint.Parse(note)
	if err != nil || signed.Size <= next {
		return nil
	}
	return fmt.Errorf("%s covers %d entries, and the segments end after %d: put back the segments from entry %d on; "+
		"if they are lost, keep that file as evidence elsewhere and remove it here: the log then starts, and the signer, which knows what it signed, signs no more for it",
		path, signed.Size, next, next)
}

// recoverSegment cuts the torn tail of the last segment, if there is one, and counts the lines that stay.
func recoverSegment(path string, logger *zap.Logger) (lines uint64, err error) {
	f, err := os.OpenFile(path, os.O_RDWR|noFollow, 0)
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()

	// What is counted must be on the disk, or else a loss of power after this start would tear a hole: new entries would
	// be durable, with indices after those that vanished. The process that wrote these lines may have died before its
	// sync, so sync; and its sync may have failed, after which the kernel holds pages that it believes to be clean but
	// that never reached the disk, so drop those and read from the disk itself.
	if err := f.Sync(); err != nil {
		return 0, fmt.Errorf("syncing what an earlier process wrote: %w", err)
	}
	if err := dropPages(f); err != nil {
		return 0, fmt.Errorf("fadvise %s: %w", path, err)
	}
	found, err := scanSegment(path, f)
	if err != nil {
		return 0, err
	}
	if found.torn == nil {
		return found.lines, nil
	}
	if err := logTornTail(path, f, found, logger); err != nil {
		return 0, err
	}
	if err := f.Truncate(found.good); err != nil {
		return 0, err
	}
	return found.lines, f.Sync()
}

// logTornTail tells the operator what is about to be cut, whole where it is short: nothing that was acknowledged, unless
// somebody tampered with the end of the log, and then this is what is left of it.
func logTornTail(path string, f io.ReaderAt, found scanResult, logger *zap.Logger) error {
	tail := make([]byte, found.size-found.good)
	if _, err := f.ReadAt(tail, found.good); err != nil {
		return fmt.Errorf("reading a torn tail: %w", err)
	}
	sum := sha256.Sum256(tail)
	logger.Warn("audit log: cutting off an unfinished write at its end",
		zap.String("segment", path),
		zap.Int64("offset", found.good),
		zap.Int("bytes", len(tail)),
		zap.String("sha256", hex.EncodeToString(sum[:])),
		zap.NamedError("cause", found.torn),
		zap.ByteString("content", tail[:min(len(tail), 4096)]))
	return nil
}

// checkJoints makes sure that each segment begins where the one before it ends, from the last joint backwards.
func checkJoints(ctx context.Context, segments []segmentFile) error {
	budget := int64(joinCheckBytes)
	for i := len(segments) - 2; i >= 0 && budget > 0; i-- {
		if err := ctx.Err(); err != nil {
			return err
		}
		f, err := openRegular(segments[i].path)
		if err != nil {
			return err
		}
		lines, err := countLines(segments[i].path, f)
		read, _ := f.Seek(0, io.SeekCurrent)
		if err := errors.Join(err, f.Close()); err != nil {
			return err
		}
		if err := checkJoint(segments[i], lines, segments[i+1]); err != nil {
			return err
		}
		budget -= read
	}
	return nil
}

// checkJoint compares the end of one segment, which has so many lines, with the name of the next.
func checkJoint(segment segmentFile, lines uint64, next segmentFile) error {
	switch end := segment.first + lines; {
	case end < next.first:
		return fmt.Errorf("gap: %s ends before entry %d, but %s begins with entry %d: lines or a segment between them are missing; put them back, or move what comes before the gap elsewhere",
			segment.path, end, next.path, next.first)
	case end > next.first:
		return fmt.Errorf("overlap: %s ends before entry %d, but %s begins with entry %d: a segment was copied, renamed or written to by something else",
			segment.path, end, next.path, next.first)
	}
	return nil
}
