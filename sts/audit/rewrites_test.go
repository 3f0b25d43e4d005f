package audit

import (
	"bytes"
	"crypto"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/mod/sumdb/tlog"

	"github.com/octo-sts/appliance/sts/audit/checkpoint"
)

// flipTile flips a bit of a tile, or cuts it.
func (s *tampered) flipTile() error {
	s.tilesChanged, s.mustFail = true, true
	var paths []string
	for _, pattern := range []string{"tile/0/00*", "tile/0/00*.p/*", "tile/1/000.p/*"} {
		found, err := filepath.Glob(filepath.Join(s.dir, pattern))
		if err != nil {
			return err
		}
		paths = append(paths, slices.DeleteFunc(found, func(path string) bool { return strings.HasSuffix(path, ".p") })...)
	}
	path := paths[s.r.IntN(len(paths))]
	data, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	if s.r.IntN(8) == 0 {
		return replace(path, data[:s.r.IntN(len(data))])
	}
	data[s.r.IntN(len(data))] ^= 1 << s.r.IntN(8)
	return replace(path, data)
}

// makeTiles makes all tiles anew, of the lines as they are now.
func (s *tampered) makeTiles() error {
	s.tilesChanged = true
	if err := os.RemoveAll(filepath.Join(s.dir, "tile")); err != nil {
		return err
	}
	var leaves []tlog.Hash
	for _, name := range s.names() {
		for line := range bytes.Lines(s.segments[name]) {
			leaves = append(leaves, tlog.RecordHash(bytes.TrimSuffix(line, []byte{'\n'})))
			if begin := len(leaves) - tileWidth; len(leaves)%tileWidth == 0 {
				if err := s.writeTile(0, uint64(begin/tileWidth), leaves[begin:]); err != nil {
					return err
				}
			}
		}
		if err := s.writeEnd(leaves); err != nil {
			return err
		}
	}
	return nil
}

// writeEnd writes the partial tile that says that a segment ended after these leaves.
func (s *tampered) writeEnd(leaves []tlog.Hash) error {
	if len(leaves) == 0 {
		return nil
	}
	level, n, width := endTile(uint64(len(leaves)))
	if level == 0 {
		return s.writeTile(0, n, leaves[len(leaves)-width:])
	}
	var roots []tlog.Hash // fewer than 256: the log is small
	for full := range slices.Chunk(leaves, tileWidth) {
		roots = append(roots, subtreeRoot(full))
	}
	return s.writeTile(1, 0, roots)
}

// writeTile writes tile n of a level.
func (s *tampered) writeTile(level int, n uint64, hashes []tlog.Hash) error {
	path := (&tileStore{dir: s.dir}).path(level, n, len(hashes))
	var data []byte
	for _, h := range hashes {
		data = append(data, h[:]...)
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	return replace(path, data)
}

// rewrite changes lines and makes segments' names and all tiles fit.
func (s *tampered) rewrite() error {
	if err := s.someLines(); err != nil {
		return err
	}
	var next uint64
	fitting := make(map[string][]byte)
	for _, name := range s.names() {
		fitting[segmentName(next)] = s.segments[name]
		next += uint64(bytes.Count(s.segments[name], []byte{'\n'}))
	}
	s.segments = fitting
	return s.makeTiles()
}

// resign rewrites the log and has another key sign it.
func (s *tampered) resign() error {
	if err := s.rewrite(); err != nil {
		return err
	}
	var tree frontier
	for _, name := range s.names() {
		for line := range bytes.Lines(s.segments[name]) {
			tree.add(tlog.RecordHash(bytes.TrimSuffix(line, []byte{'\n'})))
		}
	}
	s.checkpointSize, s.mustFail = 0, true
	return s.sign(checkpoint.Checkpoint{Origin: testOrigin, Size: tree.size, Root: tree.root()}, s.stranger)
}

func (s *tampered) sign(c checkpoint.Checkpoint, key crypto.Signer) error {
	signed, err := checkpoint.Sign(c, key)
	if err != nil {
		return err
	}
	return replace(filepath.Join(s.dir, checkpointName), signed)
}

// rollBack puts the whole directory back to what it was at some size before the retained checkpoint, with the checkpoint of
// that time.
func (s *tampered) rollBack() error {
	if err := s.truncate(); err != nil {
		return err
	}
	var size uint64
	for name, data := range s.segments {
		whole := data[:bytes.LastIndexByte(data, '\n')+1]
		s.segments[name] = whole
		size = max(size, firstOf(name)+uint64(bytes.Count(whole, []byte{'\n'})))
	}
	if err := s.makeTiles(); err != nil {
		return err
	}
	s.checkpointSize = 0
	path := filepath.Join(s.dir, checkpointName)
	for _, old := range slices.Backward(s.sizes) {
		if old <= size {
			s.checkpointSize = old
			return replace(path, s.retained[old])
		}
	}
	return os.Remove(path)
}

// write makes the directory's segments what they are here.
func (s *tampered) write() error {
	for name, data := range s.campaign.segments {
		now, isThere := s.segments[name]
		path := filepath.Join(s.dir, name)
		if !isThere {
			if err := os.Remove(path); err != nil {
				return err
			}
		} else if !bytes.Equal(now, data) {
			if err := replace(path, now); err != nil {
				return err
			}
		}
	}
	for name, data := range s.segments {
		if _, isOld := s.campaign.segments[name]; !isOld {
			if err := replace(filepath.Join(s.dir, name), data); err != nil {
				return fmt.Errorf("writing %s: %w", name, err)
			}
		}
	}
	return nil
}
