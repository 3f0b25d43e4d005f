package audit

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"

	"golang.org/x/mod/sumdb/tlog"
)

// A tile holds tileWidth consecutive hashes of one level of the tree: of the leaves at level 0, of full tiles of the level
// below at any other (c2sp.org/tlog-tiles, "Merkle Tree").
const (
	tileHeight = 8
	tileWidth  = 1 << tileHeight
)

// tilesIn is the number of full tiles that a tree of size entries has on a level.
func tilesIn(size uint64, level int) uint64 {
	return size >> (tileHeight * (level + 1))
}

// endTile is the partial tile that says that a segment ended when the log had size entries, more than none: of those that a
// tree of that size has, the one of the lowest level. At level 0 there is none where the last tile is full.
func endTile(size uint64) (level int, n uint64, width int) {
	for width == 0 {
		width = int(size >> (tileHeight * level) % tileWidth)
		level++
	}
	level--
	return level, tilesIn(size, level), width
}

// tileStore reads and writes the tiles of one directory. It may be used by many goroutines at once.
type tileStore struct {
	dir string
	// writing is held while a tile is written: two writers of one tile would share its temporary file.
	writing sync.Mutex
}

// path is where a tile is: tile/<level>/<number>[.p/<width>]. tlog's own paths also have the height.
func (s *tileStore) path(level int, n uint64, width int) string {
	tile := tlog.Tile{H: tileHeight, L: level, N: int64(n), W: width}.Path()
	return filepath.Join(s.dir, "tile", strings.TrimPrefix(tile, fmt.Sprintf("tile/%d/", tileHeight)))
}

// has says whether a full tile is there, and of the right length. What it says is not looked at.
func (s *tileStore) has(level int, n uint64) bool {
	info, err := os.Lstat(s.path(level, n, tileWidth))
	return err == nil && info.Mode().IsRegular() && info.Size() == tileWidth*tlog.HashSize
}

// read returns the hashes of a tile. The error is fs.ErrNotExist where there is none such.
func (s *tileStore) read(level int, n uint64, width int) ([]tlog.Hash, error) {
	path := s.path(level, n, width)
	data, err := readBounded(path, width*tlog.HashSize)
	if err != nil {
		return nil, err
	}
	if len(data) != width*tlog.HashSize {
		return nil, fmt.Errorf("tile %s does not have %d bytes", path, width*tlog.HashSize)
	}
	hashes := make([]tlog.Hash, width)
	for i := range hashes {
		hashes[i] = tlog.Hash(data[i*tlog.HashSize:])
	}
	return hashes, nil
}

// readPartial returns the hashes of the widest partial tile of level 0 with that number, none where there is none.
func (s *tileStore) readPartial(n uint64) ([]tlog.Hash, error) {
	width, err := s.widestPartial(n)
	if err != nil || width == 0 {
		return nil, err
	}
	return s.read(0, n, width)
}

// widestPartial returns the width of the widest partial tile of level 0 with that number, 0 where there is none.
func (s *tileStore) widestPartial(n uint64) (widest int, err error) {
	files, err := os.ReadDir(filepath.Dir(s.path(0, n, 1)))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return 0, err
	}
	for _, f := range files {
		width, err := strconv.Atoi(f.Name())
		if err == nil && strconv.Itoa(width) == f.Name() && width > widest && width < tileWidth {
			widest = width
		}
	}
	return widest, nil
}

// write makes a tile durable: a full one, or a partial one where there are fewer hashes.
func (s *tileStore) write(level int, n uint64, hashes []tlog.Hash) error {
	data := make([]byte, 0, len(hashes)*tlog.HashSize)
	for _, h := range hashes {
		data = append(data, h[:]...)
	}
	s.writing.Lock()
	defer s.writing.Unlock()
	if err := replaceFile(s.path(level, n, len(hashes)), data); err != nil {
		return fmt.Errorf("writing a tile: %w", err)
	}
	return nil
}

// replaceFile makes path hold data, durably, and making its directories. Whoever reads it, also after a crash, finds what
// was there before or all of data.
func replaceFile(path string, data []byte) error {
	if err := makeDirectory(filepath.Dir(path)); err != nil {
		return err
	}
	temporary := path + ".tmp" // one left by a crash is written over
	err := writeSynced(temporary, data)
	if err == nil {
		err = os.Rename(temporary, path)
	}
	if err != nil {
		return errors.Join(err, removeIfThere(temporary)) // a full disk needs the room
	}
	return syncDirectory(filepath.Dir(path))
}

// writeSynced makes a file that holds data and waits until the disk has it.
func writeSynced(path string, data []byte) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_TRUNC|noFollow, 0o640)
	if err != nil {
		return err
	}
	if _, err = f.Write(data); err == nil {
		err = f.Sync()
	}
	return errors.Join(err, f.Close())
}

// readBounded reads a regular file of at most limit bytes, and of a longer one a byte more than that. It does not wait, as
// opening a FIFO would, which whoever can write the directory can put in a file's place.
func readBounded(path string, limit int) ([]byte, error) {
	f, err := openRegular(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(io.LimitReader(f, int64(limit)+1))
}

func removeIfThere(path string) error {
	if err := os.Remove(path); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// subtreeRoot is the RFC 6962 hash over hashes, of which there are 1, 2, 4 and so on.
func subtreeRoot(hashes []tlog.Hash) tlog.Hash {
	if len(hashes) == 1 {
		return hashes[0]
	}
	half := len(hashes) / 2
	return tlog.NodeHash(subtreeRoot(hashes[:half]), subtreeRoot(hashes[half:]))
}
