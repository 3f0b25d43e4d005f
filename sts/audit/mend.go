package audit

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"golang.org/x/mod/sumdb/tlog"
)

// mendTiles writes the tiles that are missing from the tree of a log of size entries, as far as lines or other tiles tell
// what they held: the full ones, and the partial ones at the ends of segments. Thoroughly, it also reads all lines that are
// in the directory and puts right the tiles that say something else. It goes on behind what cannot be had; the error is
// about the first of those.
func mendTiles(ctx context.Context, tiles *tileStore, size uint64, thorough bool) error {
	m := &mender{tiles: tiles, disk: newDiskTree(ctx, []string{tiles.dir}, size), thorough: thorough}
	defer m.disk.closeLines()
	for level := 0; tilesIn(size, level) > 0; level++ {
		for n := range tilesIn(size, level) {
			if err := ctx.Err(); err != nil {
				return err
			}
			if err := m.tile(level, n); err != nil {
				return fmt.Errorf("mending the tiles of the audit log: %w", err)
			}
		}
	}
	if err := m.ends(size); err != nil {
		return fmt.Errorf("mending the tiles of the audit log: %w", err)
	}
	return m.lasting
}

type mender struct {
	tiles    *tileStore
	disk     *diskTree
	thorough bool
	// believed is the number of the first tile of level 0 from which on all are known to be what the lines say.
	believed uint64
	// lasting is the first fault that only an operator can mend.
	lasting error
}

// tile mends one tile, those below it being mended.
func (m *mender) tile(level int, n uint64) error {
	isThere := m.tiles.has(level, n)
	if isThere && !m.thorough {
		return nil
	}
	var want []tlog.Hash
	var err error
	if level == 0 && isThere {
		want, err = m.disk.hashLines(n*tileWidth, (n+1)*tileWidth) // no partial tile is better than a full one
	} else {
		want, err = m.disk.compute(level, n, 0, tileWidth)
	}
	if missing := (*MissingError)(nil); errors.As(err, &missing) {
		if level == 0 {
			m.believed = n + 1
		}
		if !isThere {
			m.note(fmt.Errorf("the tile %s is missing, and so are the lines to make it from: %w", m.tiles.path(level, n, tileWidth), missing))
		}
		return nil
	} else if err != nil {
		return err
	}
	if there, err := m.tiles.read(level, n, tileWidth); err == nil && slices.Equal(there, want) {
		return nil
	}
	if isThere && n<<(tileHeight*level) < m.believed {
		m.note(fmt.Errorf("the tile %s and those below it do not belong together, and some of their lines are not here to tell which is wrong: put the segments back, or tiles from a copy",
			m.tiles.path(level, n, tileWidth)))
		return nil
	}
	return m.tiles.write(level, n, want)
}

// ends mends the partial tiles at the ends of the segments whose lines are here. Of a segment whose lines are not, it is not
// known that it ended where the next begins.
func (m *mender) ends(size uint64) error {
	segments, err := segmentsOf(m.disk.dirs)
	if err != nil {
		return err
	}
	for _, s := range segments {
		if s.first == 0 || s.first > size {
			continue
		}
		level, n, width := endTile(s.first)
		there, err := m.tiles.read(level, n, width)
		if err == nil && !m.thorough {
			continue
		}
		_, err = m.disk.line(s.first - 1)
		var want []tlog.Hash
		if err == nil {
			want, err = m.disk.span(level, n, 0, width)
		}
		if missing := (*MissingError)(nil); errors.As(err, &missing) {
			continue
		} else if err != nil {
			return err
		}
		if slices.Equal(there, want) {
			continue
		}
		if err := m.tiles.write(level, n, want); err != nil {
			return err
		}
	}
	return nil
}

func (m *mender) note(err error) {
	if m.lasting == nil {
		m.lasting = err
	}
}
