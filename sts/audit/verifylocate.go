package audit

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"

	"golang.org/x/mod/sumdb/tlog"
)

// conclude says what the comparisons mean.
func (v *verification) conclude(ctx context.Context) error {
	agreed, disagreed := v.brackets()
	if agreed != nil {
		v.report.Covered = agreed.Size
	}
	v.report.Uncovered = v.report.Entries
	if n := len(v.anchors); n > 0 {
		v.report.Uncovered -= min(v.report.Entries, v.anchors[n-1].Size)
	}
	found := v.firstLie(agreed, disagreed)
	if found == nil {
		v.judgeTiles()
		return nil
	}
	limit := found.to
	if disagreed != nil {
		limit = disagreed.Size - 1
	}
	if found.from < limit {
		if err := v.narrow(ctx, found, limit); err != nil {
			return err
		}
	}
	v.find(v.describe(found, agreed, disagreed))
	return nil
}

// brackets returns the largest checkpoint that the log agrees with before the first that it disagrees with, and that one.
// nil: there is none. Checkpoints beyond the end are marked as such.
func (v *verification) brackets() (agreed, disagreed *anchor) {
	for i := range v.anchors {
		a := &v.anchors[i]
		result := &v.report.Checkpoints[a.result].Result
		switch {
		case *result == resultNotCompared && !v.stopped:
			*result = resultBeyond
		case *result == resultAgrees && disagreed == nil:
			agreed = a
		case *result == resultDisagrees && disagreed == nil:
			disagreed = a
		}
	}
	return agreed, disagreed
}

// firstLie says between which entries the first lie is as far as the checkpoints and the segments' joints tell; nil where
// there is none.
func (v *verification) firstLie(agreed, disagreed *anchor) *fault {
	var from uint64
	if agreed != nil {
		from = agreed.Size
	}
	f := v.fault
	switch {
	case disagreed != nil && (f == nil || f.to >= disagreed.Size):
		return v.newFault(Altered, from, disagreed.Size-1, "")
	case f != nil && f.to < from:
		// The log agrees with a checkpoint beyond the fault, so the entries around it are right.
		return f
	case f != nil:
		return &fault{f.kind, min(from, f.from), f.to, f.segment, f.text}
	case !v.isUncovered(v.tree.size):
		return v.newFault(Truncated, from, v.tree.size, "")
	}
	return nil
}

// narrow makes found exact where tiles can be relied on, and else closes in on it by looking at the lines. The first
// checkpoint that the log disagrees with covers entry limit.
func (v *verification) narrow(ctx context.Context, found *fault, limit uint64) error {
	exact := *found
	exact.from = found.to
	if found.kind == Altered {
		exact.from = limit + 1 // only a difference from the tiles can tell
	}
	if v.fault != nil {
		exact = *v.fault
	}
	if v.leafFault != nil && v.leafFault.index < exact.from {
		exact = *v.newFault(Altered, v.leafFault.index, v.leafFault.index, "")
	}
	if first := exact.from; found.from <= first && first <= limit && first <= v.tiled {
		ok, err := v.tilesAgree(ctx, first+1)
		if err != nil {
			return err
		}
		if ok {
			*found = exact
			found.to = first
			return nil
		}
	}
	at, err := v.firstMalformed(ctx, found.from, found.to)
	if err != nil || at == nil {
		return err
	}
	*found = *v.newFault(Malformed, found.from, at.malformedAt, fmt.Sprintf("this line is no entry: %v", at.malformed))
	return nil
}

// tilesAgree says whether tiles, by themselves, agree with a checkpoint of at least minSize entries: then each leaf hash in
// them is one that was signed. The leaves after the last tile are taken from lines, wherever they stand: lines that were
// added or removed before them have moved them.
func (v *verification) tilesAgree(ctx context.Context, minSize uint64) (bool, error) {
	var (
		full frontier // of full tiles
		tail []tailLeaf
	)
	for _, a := range v.anchors {
		if v.report.Checkpoints[a.result].Result == resultAgrees {
			continue // it says nothing about what the log disagrees in
		}
		for full.size+tileWidth <= a.Size {
			tile, err := v.readTile(0, tilesIn(full.size, 0), tileWidth)
			if err != nil {
				return false, err
			}
			if tile == nil {
				break
			}
			for _, leaf := range tile {
				full.add(leaf)
			}
			if err := ctx.Err(); err != nil {
				return false, err
			}
		}
		left := a.Size - full.size
		if left >= tileWidth {
			return false, nil
		}
		tile, _, err := v.widestTile(tilesIn(full.size, 0))
		if err != nil {
			return false, err
		}
		known := tile[:min(uint64(len(tile)), left)]
		if a.Size < minSize || uint64(len(known)) < left && full.size+uint64(len(known)) < minSize-1 {
			continue
		}
		if tail == nil && uint64(len(known)) < left {
			if tail, err = v.readTail(ctx, full.size); err != nil {
				return false, err
			}
		}
		if tailFits(full, known, tail, left, a.Root) {
			return true, nil
		}
	}
	return false, nil
}

// tailLeaf is a leaf hash of a line; known is false where there is no such line.
type tailLeaf struct {
	hash  tlog.Hash
	known bool
}

// readTail returns the leaf hashes of the lines that stand within a tile's width before base, and two after it.
func (v *verification) readTail(ctx context.Context, base uint64) ([]tailLeaf, error) {
	tail := make([]tailLeaf, 3*tileWidth)
	err := v.readLines(ctx, leafReader{parseFrom: base + 3*tileWidth}, max(base, tileWidth)-tileWidth, base+2*tileWidth, func(b leafBlock) bool {
		for i, h := range b.hashes {
			// Before entry 0 there is room for nothing.
			if at := b.first + uint64(i) + tileWidth - base; at < uint64(len(tail)) {
				tail[at] = tailLeaf{h, true}
			}
		}
		return true
	})
	return tail, err
}

// tailFits says whether full and known, and then lines of tail up to left leaves after full, have the given root. The leaf at
// full's end, if no line had been added or removed, is at tileWidth in tail.
func tailFits(full frontier, known []tlog.Hash, tail []tailLeaf, left uint64, root tlog.Hash) bool {
	tree := full.clone()
	for _, leaf := range known {
		tree.add(leaf)
	}
	if uint64(len(known)) == left {
		return tree.root() == root
	}
	wanted := int(left) - len(known)
	begin := tileWidth + len(known)
	for shift := range 2 * tileWidth {
		// 0, -1, 1, -2, 2 …: the likely ones first.
		at := begin + (shift+1)/2*(1-2*(shift%2))
		if at < 0 || at+wanted > len(tail) {
			continue
		}
		candidate := tree.clone()
		for _, leaf := range tail[at : at+wanted] {
			if !leaf.known {
				break
			}
			candidate.add(leaf.hash)
		}
		if candidate.size == tree.size+uint64(wanted) && candidate.root() == root {
			return true
		}
	}
	return false
}

// firstMalformed returns the block with the first line from from to to that is no entry; nil where all are.
func (v *verification) firstMalformed(ctx context.Context, from, to uint64) (found *leafBlock, err error) {
	err = v.readLines(ctx, leafReader{parseFrom: from}, from, to+1, func(b leafBlock) bool {
		if b.malformed != nil && !b.unfinished && b.malformedAt >= from && b.malformedAt <= to {
			found = &b
		}
		return found == nil
	})
	return found, err
}

// readLines reads the segments with the entries from from to before to, as their names have it, until each returns false.
func (v *verification) readLines(ctx context.Context, r leafReader, from, to uint64, each func(leafBlock) bool) error {
	more := true
	for i, s := range v.segments {
		if s.first >= to || i+1 < len(v.segments) && v.segments[i+1].first <= from {
			continue
		}
		err := r.read(ctx, s, func(b leafBlock) (bool, error) {
			more = b.first < to && each(b)
			return more, nil
		})
		if err != nil && !errors.Is(err, fs.ErrNotExist) { // moved away meanwhile
			return err
		}
		if !more {
			break
		}
	}
	return nil
}

// judgeTiles looks at tiles that differ from a log in which nothing else is wrong.
func (v *verification) judgeTiles() {
	fault := v.leafFault
	if fault == nil {
		fault = v.tileFault
	}
	if fault == nil {
		return
	}
	text := fmt.Sprintf("this tile does not fit the entries from entry %d on, which agree with a checkpoint: the tile was damaged or changed. Restore it from a copy, or remove it while the daemon is stopped: the next start writes each full tile that is missing", fault.index)
	if fault.index >= v.report.Covered {
		text = fmt.Sprintf("this tile does not fit the entries from entry %d on, which no checkpoint covers: either of them was damaged or changed", fault.index)
	}
	v.find(Finding{Kind: BadTile, File: fault.path, Text: text})
}

// newFault makes a fault that shows in the segment of entry to.
func (v *verification) newFault(kind FindingKind, from, to uint64, text string) *fault {
	return &fault{kind, from, to, v.segmentOf(to), text}
}

// segmentOf returns the segment that an entry is in, or would be; none where there is none before it.
func (v *verification) segmentOf(index uint64) segmentFile {
	for _, s := range slices.Backward(v.segments) {
		if s.first <= index {
			return s
		}
	}
	return segmentFile{}
}
