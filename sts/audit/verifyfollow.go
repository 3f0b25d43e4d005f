package audit

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"slices"

	"golang.org/x/mod/sumdb/tlog"
)

// follow adds all entries to the tree, from segments and, where these were moved away, from tiles.
func (v *verification) follow(ctx context.Context) error {
	v.compare()
	lines := leafReader{}
	if n := len(v.anchors); n > 0 {
		lines.parseFrom = v.anchors[n-1].Size
	}
	for i := 0; i < len(v.segments) && !v.stopped; {
		err := v.addSegment(ctx, lines, i)
		switch {
		case errors.Is(err, fs.ErrNotExist):
			// It was moved away since it was listed: into another of the directories, or it is for tiles to stand in for it.
			if v.segments, err = segmentsOf(v.config.Directories); err != nil {
				return err
			}
			i, _ = slices.BinarySearchFunc(v.segments, v.tree.size, func(s segmentFile, size uint64) int { return cmp.Compare(s.first, size) })
		case err != nil:
			return err
		default:
			v.report.Segments++
			i++
		}
	}
	v.report.Entries = v.tree.size
	return v.compareRest()
}

// addSegment adds the entries up to the end of one segment. The error is fs.ErrNotExist where that is gone.
func (v *verification) addSegment(ctx context.Context, lines leafReader, i int) error {
	s, end := v.segments[i], uint64(math.MaxUint64)
	isLast := i == len(v.segments)-1
	if !isLast {
		end = v.segments[i+1].first
	}
	if s.first > v.tree.size {
		if err := v.standIn(s, i == 0); err != nil || v.stopped {
			return err
		}
	}
	err := lines.read(ctx, s, func(b leafBlock) (bool, error) {
		v.read += b.bytes
		if v.config.Progress != nil {
			v.config.Progress(min(v.read, v.total), v.total)
		}
		return v.addBlock(b, s, end, isLast)
	})
	if err != nil || v.stopped {
		return err
	}
	return v.compareEnd()
}

// addBlock adds the lines of one block. It returns false where the rest of the segment is of no use.
func (v *verification) addBlock(b leafBlock, s segmentFile, end uint64, isLast bool) (more bool, err error) {
	overlap := fault{Overlap, end, end, s, "the segment goes on beyond the entry with which the next one begins"}
	for _, leaf := range b.hashes {
		if v.tree.size == end {
			v.blame(overlap)
			return false, nil
		}
		if err := v.add(leaf); err != nil {
			return false, err
		}
	}
	switch at := b.malformedAt; {
	case b.malformed == nil:
		return true, nil
	case at == end:
		v.blame(overlap)
	case isLast && (b.unfinished || b.hasNUL && v.isUncovered(at)):
		// A write that goes on, or that a crash cut short; after a loss of power, pages that never arrived read as zeros.
		v.report.Unfinished = fmt.Sprintf("%s:%d", s.path, at-s.first+1)
	default:
		v.blame(fault{Malformed, at, at, s, fmt.Sprintf("this line is no entry: %v", b.malformed)})
		v.stopped = true
	}
	return false, nil
}

// isUncovered says whether an entry lies beyond all checkpoints.
func (v *verification) isUncovered(index uint64) bool {
	return len(v.anchors) == 0 || index >= v.anchors[len(v.anchors)-1].Size
}

// blame notes the first fault.
func (v *verification) blame(f fault) {
	if v.fault == nil {
		v.fault = &f
	}
}

// add adds one leaf.
func (v *verification) add(leaf tlog.Hash) error {
	v.tree.add(leaf)
	v.compare()
	return v.collect(0, leaf)
}

// compare compares the tree with the checkpoints of its size.
func (v *verification) compare() {
	for ; v.compared < len(v.anchors) && v.anchors[v.compared].Size == v.tree.size; v.compared++ {
		a := v.anchors[v.compared]
		result := resultDisagrees
		if v.tree.root() == a.Root {
			result = resultAgrees
		}
		v.report.Checkpoints[a.result].Result = result
	}
}

// collect adds a hash to those of its level and compares them with their tile, if there is one, when they fill it.
func (v *verification) collect(level int, h tlog.Hash) error {
	if level == len(v.levels) {
		v.levels = append(v.levels, make([]tlog.Hash, 0, tileWidth))
	}
	v.levels[level] = append(v.levels[level], h)
	if len(v.levels[level]) < tileWidth {
		return nil
	}
	full := v.levels[level]
	n := tilesIn(v.tree.size, level) - 1
	tile, err := v.readTile(level, n, tileWidth)
	if err != nil {
		return err
	}
	v.compareTile(v.tiles.path(level, n, tileWidth), level, n, full, tile)
	v.levels[level] = full[:0]
	return v.collect(level+1, subtreeRoot(full))
}

// compareTile compares hashes, from the beginning of tile n, with as many as the tile has of them. What it finds at level 0
// is what tilesAgree vouches for, so that level 0 must be read in the same way there: the full tile, else the widest.
func (v *verification) compareTile(path string, level int, n uint64, hashes, tile []tlog.Hash) {
	if level == 0 && v.tiled >= n*tileWidth {
		v.tiled = max(v.tiled, n*tileWidth+uint64(min(len(hashes), len(tile))))
	}
	fault := &v.tileFault
	if level == 0 {
		fault = &v.leafFault
	}
	if i := firstDifference(hashes, tile); i >= 0 && *fault == nil {
		*fault = &tileFault{path, (n*tileWidth + uint64(i)) << (tileHeight * level)}
	}
}

// firstDifference returns the first place at which both have something and not the same, -1 where there is none.
func firstDifference(a, b []tlog.Hash) int {
	for i := range min(len(a), len(b)) {
		if a[i] != b[i] {
			return i
		}
	}
	return -1
}

// compareEnd compares the last hashes with the partial tile that was written when the segment, which ends here, was closed.
func (v *verification) compareEnd() error {
	if v.tree.size == 0 {
		return nil
	}
	level, n, width := endTile(v.tree.size)
	tile, err := v.readTile(level, n, width)
	if i := firstDifference(v.levels[level], tile); i >= 0 && v.tileFault == nil {
		v.tileFault = &tileFault{v.tiles.path(level, n, width), (n*tileWidth + uint64(i)) << (tileHeight * level)}
	}
	return err
}

// compareRest compares the log's last entries with what tiles know of them.
func (v *verification) compareRest() error {
	n := tilesIn(v.tree.size, 0)
	if v.tree.size == n*tileWidth {
		return nil
	}
	tile, path, err := v.widestTile(n)
	if err == nil {
		v.compareTile(path, 0, n, v.levels[0], tile)
	}
	return err
}

// standIn adds what tiles know of the entries before the next segment, which are in none. Only the oldest segments may have
// been moved away, those before the first that is here. A partial tile was written where the last of them ended; where
// there is none, the first that is here has lost its beginning.
func (v *verification) standIn(next segmentFile, isFirst bool) error {
	from, to := v.tree.size, next.first
	if !isFirst {
		v.blame(fault{Missing, from, from, v.segmentOf(from), fmt.Sprintf(
			"entries %d to %d are in no segment here, and older ones are: only the oldest segments may be elsewhere. Put back what was there, or name the directory to which it was moved",
			from, to-1)})
	}
	for v.tree.size < to {
		tile, _, err := v.widestTile(tilesIn(v.tree.size, 0))
		if err != nil {
			return err
		}
		known := tile[min(v.tree.size%tileWidth, uint64(len(tile))):]
		if len(known) == 0 {
			v.blame(fault{Missing, v.tree.size, v.tree.size, v.segmentOf(v.tree.size), fmt.Sprintf(
				"entries %d to %d are in no segment here, and not in the tiles either: name the directory to which they were moved", v.tree.size, to-1)})
			v.stopped = true
			break
		}
		for _, leaf := range known[:min(uint64(len(known)), to-v.tree.size)] {
			if err := v.add(leaf); err != nil {
				return err
			}
		}
	}
	if v.tree.size > from {
		v.noteUnseen(from, v.tree.size-1)
	}
	if !v.stopped && isFirst && !v.isSegmentEnd(to) {
		v.blame(fault{Missing, from, to - 1, next, fmt.Sprintf(
			"entries among %d to %d are missing: by the tiles no segment began with entry %d, so lines were cut out", from, to-1, to)})
	}
	return nil
}

// noteUnseen adds a range to the report's, or to the last of them.
func (v *verification) noteUnseen(from, to uint64) {
	if n := len(v.report.Unseen); n > 0 && v.report.Unseen[n-1].To+1 == from {
		v.report.Unseen[n-1].To = to
		return
	}
	v.report.Unseen = append(v.report.Unseen, EntryRange{from, to})
}

// isSegmentEnd says whether, as far as tiles tell, a segment ended before entry index, which is not the first.
func (v *verification) isSegmentEnd(index uint64) bool {
	info, err := os.Lstat(v.tiles.path(endTile(index)))
	return err == nil && info.Mode().IsRegular()
}

// readTile reads a tile, by itself or, of level 0, as a partial one; no hashes where there is none. Those of a file that
// is too short or too long are zero: no hash is, so that they differ from everything.
func (v *verification) readTile(level int, n uint64, width int) ([]tlog.Hash, error) {
	hashes, err := v.tiles.read(level, n, width)
	if pathError := (*fs.PathError)(nil); errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	} else if errors.As(err, &pathError) {
		return nil, err
	} else if err != nil {
		return make([]tlog.Hash, width), nil
	}
	return hashes, nil
}

// widestTile returns what there is of level-0 tile n: all of it, else the widest partial tile, else nothing.
func (v *verification) widestTile(n uint64) (hashes []tlog.Hash, path string, err error) {
	if hashes, err = v.readTile(0, n, tileWidth); hashes != nil || err != nil {
		return hashes, v.tiles.path(0, n, tileWidth), err
	}
	width, err := v.tiles.widestPartial(n)
	if err != nil || width == 0 {
		return nil, "", err
	}
	hashes, err = v.readTile(0, n, width)
	return hashes, v.tiles.path(0, n, width), err
}
