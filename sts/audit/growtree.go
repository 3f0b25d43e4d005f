package audit

import (
	"context"
	"slices"

	"golang.org/x/mod/sumdb/tlog"
)

// growingTree is the Merkle tree of a log that is being written. It keeps the right edge in memory, at most 255 hashes a
// level, and each tile on the disk as soon as it is full. It belongs to one goroutine.
type growingTree struct {
	tiles *tileStore
	size  uint64 // number of entries
	// edge has for each level the hashes of the tile that is not full yet. There are 256 where that tile is full, but could
	// not be written so far.
	edge [][]tlog.Hash
}

// loadTree loads as much of the tree of a log of size entries as can be had without reading many: up to the last full tile
// of level 0, or else to the oldest entry whose segment is in the directory, which is first.
func loadTree(ctx context.Context, tiles *tileStore, first, size uint64) (*growingTree, error) {
	full := tilesIn(size, 0)
	for full*tileWidth > first && !tiles.has(0, full-1) {
		full--
	}
	t := &growingTree{tiles: tiles, size: max(full*tileWidth, first)}
	var err error
	t.edge, err = newDiskTree(ctx, []string{tiles.dir}, t.size).readEdge()
	return t, err
}

// add puts the next leaf into the tree. It is there also where the error says that a full tile could not be written; no
// other may be added then until flush wrote it.
func (t *growingTree) add(leaf tlog.Hash) error {
	if len(t.edge) == 0 {
		t.edge = append(t.edge, nil)
	}
	t.edge[0] = append(t.edge[0], leaf)
	t.size++
	return t.flush()
}

// flush writes every tile that is full. A tile is on the disk before its hash is in the one above it.
func (t *growingTree) flush() error {
	for level := 0; level < len(t.edge); level++ {
		full := t.edge[level]
		if len(full) < tileWidth {
			continue
		}
		n := tilesIn(t.size, level) - 1
		if err := t.tiles.write(level, n, full); err != nil {
			return err
		}
		if level+1 == len(t.edge) {
			t.edge = append(t.edge, nil)
		}
		t.edge[level+1] = append(t.edge[level+1], subtreeRoot(full))
		t.edge[level] = full[:0]
	}
	return nil
}

// savePartial makes the last hashes durable as a partial tile: their segment ends here and may be moved away then. It stays
// when the tile is full: it is what says later that a segment ended here, and was not cut off.
func (t *growingTree) savePartial() error {
	if t.size == 0 {
		return nil
	}
	level, n, width := endTile(t.size)
	if there, err := t.tiles.read(level, n, width); err == nil && slices.Equal(there, t.edge[level]) {
		return nil
	}
	return t.tiles.write(level, n, t.edge[level])
}

// reader returns the hashes of the tree, as it is now: before the next leaf is added.
func (t *growingTree) reader(ctx context.Context) tlog.HashReader {
	disk := newDiskTree(ctx, []string{t.tiles.dir}, t.size)
	disk.edge = t.edge
	return disk
}
