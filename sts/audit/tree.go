package audit

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"

	"golang.org/x/mod/sumdb/tlog"
)

// diskTree reads the hashes of a log's Merkle tree from its directories: from the full tiles of the first one and, where
// those lack, from the lines of them all, or from a partial tile where a tile's first lines were moved away. It changes
// nothing, and believes the tiles. It belongs to one goroutine.
type diskTree struct {
	ctx   context.Context // ends the reading of many lines early, for which tlog.HashReader has no parameter
	dirs  []string        // of segments
	tiles *tileStore      // of the first of them
	size  uint64          // number of entries
	// edge is what readEdge returned, which every root and proof needs some of; nil: it is looked for on the disk each time.
	edge [][]tlog.Hash

	cache map[tlog.Tile][]tlog.Hash // full tiles as read, at most maxCachedTiles
	lines *segmentReader            // where the last line was read, during one call; nil: nowhere yet
}

// maxCachedTiles bounds the cache to half a mebibyte, which holds the tiles for proofs of neighbouring entries.
const maxCachedTiles = 64

// newDiskTree reads nothing yet. The log's segments are in dirs, its tiles in the first, and it has size entries.
func newDiskTree(ctx context.Context, dirs []string, size uint64) *diskTree {
	return &diskTree{ctx: ctx, dirs: dirs, tiles: &tileStore{dir: dirs[0]}, size: size, cache: make(map[tlog.Tile][]tlog.Hash)}
}

// ReadHashes implements tlog.HashReader for the tree of any size up to t.size. An error that errors.As a *MissingError
// names entries that are needed and are in neither tiles nor segments.
func (t *diskTree) ReadHashes(indexes []int64) ([]tlog.Hash, error) {
	defer t.closeLines()
	hashes := make([]tlog.Hash, len(indexes))
	for i, index := range indexes {
		level, n, from, to := tileSpan(index)
		if t.edge != nil && n == tilesIn(t.size, level) {
			hashes[i] = subtreeRoot(t.edge[level][from:to])
			continue
		}
		span, err := t.span(level, n, from, to)
		if err != nil {
			return nil, err
		}
		hashes[i] = subtreeRoot(span)
	}
	return hashes, nil
}

// readEdge returns, for each level, the hashes that are in no full tile. That may mean reading a whole segment.
func (t *diskTree) readEdge() ([][]tlog.Hash, error) {
	defer t.closeLines()
	var edge [][]tlog.Hash
	for level := 0; t.size>>(tileHeight*level) > 0; level++ {
		hashes, err := t.compute(level, tilesIn(t.size, level), 0, int(t.size>>(tileHeight*level)%tileWidth))
		if err != nil {
			return nil, fmt.Errorf("reading the tree's right edge at size %d: %w", t.size, err)
		}
		edge = append(edge, hashes)
	}
	return edge, nil
}

// tileSpan says where the hash with a stored hash index is: it is that over the hashes in the positions from from to
// before to in tile n of a level.
func tileSpan(index int64) (level int, n uint64, from, to int) {
	tile := tlog.TileForIndex(tileHeight, index) // its width ends with what index needs
	at, _ := tlog.SplitStoredHashIndex(index)
	return tile.L, uint64(tile.N), tile.W - 1<<(at-tile.L*tileHeight), tile.W
}

// span returns the hashes in the positions from from to before to of the tile n of a level.
func (t *diskTree) span(level int, n uint64, from, to int) ([]tlog.Hash, error) {
	hashes, tileErr := t.readTile(level, n)
	if tileErr == nil {
		return hashes[from:to], nil
	}
	hashes, err := t.compute(level, n, from, to)
	if err != nil && !errors.Is(tileErr, fs.ErrNotExist) {
		err = fmt.Errorf("%w; and %w", tileErr, err)
	}
	return hashes, err
}

// readTile returns a full tile as it is on the disk.
func (t *diskTree) readTile(level int, n uint64) ([]tlog.Hash, error) {
	tile := tlog.Tile{H: tileHeight, L: level, N: int64(n), W: tileWidth}
	if hashes := t.cache[tile]; hashes != nil {
		return hashes, nil
	}
	hashes, err := t.tiles.read(level, n, tileWidth)
	if err != nil {
		return nil, err
	}
	if len(t.cache) >= maxCachedTiles {
		clear(t.cache)
	}
	t.cache[tile] = hashes
	return hashes, nil
}

// compute is span without the tile itself.
func (t *diskTree) compute(level int, n uint64, from, to int) ([]tlog.Hash, error) {
	if level == 0 {
		return t.leaves(n, from, to)
	}
	hashes := make([]tlog.Hash, 0, to-from)
	for i := from; i < to; i++ {
		below, err := t.span(level-1, n*tileWidth+uint64(i), 0, tileWidth)
		if err != nil {
			return nil, err
		}
		hashes = append(hashes, subtreeRoot(below))
	}
	return hashes, nil
}

// leaves is span for level 0, from lines and, for those that were moved away, from a partial tile.
func (t *diskTree) leaves(n uint64, from, to int) ([]tlog.Hash, error) {
	start := n * tileWidth
	hashes, err := t.hashLines(start+uint64(from), start+uint64(to))
	if missing := (*MissingError)(nil); !errors.As(err, &missing) {
		return hashes, err
	}
	partial, partialErr := t.tiles.readPartial(n)
	if partialErr != nil {
		return nil, fmt.Errorf("%w; and %w", err, partialErr)
	}
	if len(partial) <= from {
		return nil, err
	}
	end := min(to, len(partial))
	rest, err := t.hashLines(start+uint64(end), start+uint64(to))
	return append(partial[from:end], rest...), err
}

// hashLines returns the leaf hashes of the entries from from to before to.
func (t *diskTree) hashLines(from, to uint64) ([]tlog.Hash, error) {
	hashes := make([]tlog.Hash, 0, to-from)
	for i := from; i < to; i++ {
		line, err := t.line(i)
		if err != nil {
			return nil, err
		}
		hashes = append(hashes, tlog.RecordHash(line))
	}
	return hashes, t.ctx.Err()
}

// line returns the line of an entry. It is quick where entries are asked for in order.
func (t *diskTree) line(index uint64) (line []byte, err error) {
	if t.lines != nil && t.lines.next <= index && index < t.lines.end {
		err = t.lines.skipTo(index)
	} else {
		t.closeLines()
		t.lines, err = openSegmentAt(t.dirs, index)
	}
	if err == nil {
		if line, err = t.lines.line(); errors.Is(err, io.EOF) {
			err = &MissingError{index, t.lines.end}
		}
	}
	if missing := (*MissingError)(nil); errors.As(err, &missing) {
		missing.To = min(missing.To, t.size) // a last segment has no end of its own
	}
	return line, err
}

// closeLines ends a row of calls of line: what a reader has buffered of a segment's end may change.
func (t *diskTree) closeLines() {
	if t.lines != nil {
		t.lines.file.Close() // it was only read from
		t.lines = nil
	}
}
