package audit

import (
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/mod/sumdb/tlog"
)

// referenceTree is a tree in memory, as tlog itself makes one.
type referenceTree struct {
	hashes []tlog.Hash
	size   uint64
}

func (r *referenceTree) ReadHashes(indexes []int64) ([]tlog.Hash, error) {
	var hashes []tlog.Hash
	for _, i := range indexes {
		hashes = append(hashes, r.hashes[i])
	}
	return hashes, nil
}

func (r *referenceTree) add(t testing.TB, leaf tlog.Hash) {
	t.Helper()
	hashes, err := tlog.StoredHashesForRecordHash(int64(r.size), leaf, r)
	if err != nil {
		t.Fatal(err)
	}
	r.hashes = append(r.hashes, hashes...)
	r.size++
}

// referenceOf reads a directory's lines, which begin with entry 0.
func referenceOf(t testing.TB, dirs ...string) *referenceTree {
	t.Helper()
	r := new(referenceTree)
	segments, err := segmentsOf(dirs)
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range segments {
		content, err := os.ReadFile(s.path)
		if err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(string(content)) {
			r.add(t, tlog.RecordHash([]byte(strings.TrimSuffix(line, "\n"))))
		}
	}
	return r
}

func rootOf(t testing.TB, size uint64, hashes tlog.HashReader) tlog.Hash {
	t.Helper()
	root, err := tlog.TreeHash(int64(size), hashes)
	if err != nil {
		t.Fatalf("size %d: %v", size, err)
	}
	return root
}

// sameProofs compares the proofs for some entries and earlier sizes, in a tree of the reference's size.
func sameProofs(t testing.TB, want *referenceTree, got tlog.HashReader) {
	t.Helper()
	n := int64(want.size)
	for range 50 {
		i, old := rand.Int64N(n), 1+rand.Int64N(n)
		wantRecord, err1 := tlog.ProveRecord(n, i, want)
		gotRecord, err2 := tlog.ProveRecord(n, i, got)
		if err := errors.Join(err1, err2); err != nil || !slices.Equal(wantRecord, gotRecord) {
			t.Fatalf("inclusion of %d in %d: %v", i, n, err)
		}
		wantTree, err1 := tlog.ProveTree(n, old, want)
		gotTree, err2 := tlog.ProveTree(n, old, got)
		if err := errors.Join(err1, err2); err != nil || !slices.Equal(wantTree, gotTree) {
			t.Fatalf("consistency of %d with %d: %v", old, n, err)
		}
	}
}

// The tree that grows has at every size the root that tlog computes, and from time to time is loaded anew.
func TestGrowingTree(t *testing.T) {
	tiles := &tileStore{dir: t.TempDir()}
	want := new(referenceTree)
	tree, err := loadTree(t.Context(), tiles, 0, 0)
	if err != nil {
		t.Fatal(err)
	}
	for i := range uint64(67_000) {
		leaf := tlog.RecordHash(fmt.Append(nil, i))
		want.add(t, leaf)
		if err := tree.add(leaf); err != nil {
			t.Fatal(err)
		}
		if i < 1100 || rand.IntN(200) == 0 || i >= 65_500 && i < 65_600 {
			if rootOf(t, tree.size, tree.reader(t.Context())) != rootOf(t, want.size, want) {
				t.Fatalf("another root at size %d", tree.size)
			}
		}
		if rand.IntN(2000) == 0 {
			if err := tree.savePartial(); err != nil { // as at a segment's end, so that there are no lines to read
				t.Fatal(err)
			}
			if tree, err = loadTree(t.Context(), tiles, tree.size, tree.size); err != nil || tree.size != i+1 {
				t.Fatalf("loaded with size %d at size %d: %v", tree.size, i+1, err)
			}
		}
	}
	reader := tree.reader(t.Context())
	for range 1000 {
		if size := rand.Uint64N(want.size + 1); rootOf(t, size, reader) != rootOf(t, size, want) {
			t.Fatalf("another root at the earlier size %d", size)
		}
	}
	sameProofs(t, want, reader)
	checkTiles(t, tiles.dir, want)
}

// checkTiles compares all tiles in a directory with the specification: the full ones are there, each hash is that of the
// entries that it stands for, and nothing else is there but partial tiles.
func checkTiles(t testing.TB, dir string, want *referenceTree) {
	t.Helper()
	missing := map[string]bool{}
	for level := 0; tilesIn(want.size, level) > 0; level++ {
		for n := range tilesIn(want.size, level) {
			missing[strings.TrimPrefix(tlog.Tile{H: 8, L: level, N: int64(n), W: 256}.Path(), "tile/8/")] = true
		}
	}
	root := filepath.Join(dir, "tile")
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		name, err := filepath.Rel(root, path)
		if err != nil {
			return err
		}
		tile, err := tlog.ParseTilePath("tile/8/" + name)
		if err != nil {
			return err
		}
		content, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		hashes, err := tlog.ReadTileData(tile, want)
		if err != nil || string(hashes) != string(content) {
			t.Errorf("%s has other hashes than it should (%v)", path, err)
		}
		delete(missing, name)
		return nil
	})
	if err != nil && !(errors.Is(err, fs.ErrNotExist) && want.size < tileWidth) {
		t.Error(err)
	}
	if len(missing) > 0 {
		t.Errorf("%d full tiles are missing, one of them %s", len(missing), sortedNames(missing)[0])
	}
}

// writeLog makes a closed log of n entries in segments of random lengths, with its tiles, and returns its tree.
func writeLog(t testing.TB, dir string, n int) *referenceTree {
	t.Helper()
	for first := 0; first < n; {
		lines := min(n-first, 1+rand.IntN(n/6))
		writeSegment(t, dir, uint64(first), entries(numbered(fmt.Sprint(first, "-"), lines)...))
		first += lines
	}
	l, c, _ := openSigned(t, dir)
	run(t, c)
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	return referenceOf(t, dir)
}

func moveSegments(t testing.TB, from, to string, names ...string) {
	t.Helper()
	for _, name := range names {
		if err := os.Rename(filepath.Join(from, name), filepath.Join(to, name)); err != nil {
			t.Fatal(err)
		}
	}
}

// allTiles returns the paths of the full tiles of level 0 and up, in no order.
func allTiles(t testing.TB, dir string) []string {
	t.Helper()
	var paths []string
	err := filepath.WalkDir(filepath.Join(dir, "tile"), func(path string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() && !strings.Contains(path, ".p/") {
			paths = append(paths, path)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	rand.Shuffle(len(paths), func(i, j int) { paths[i], paths[j] = paths[j], paths[i] })
	return paths
}

func removeAll(t testing.TB, paths ...string) {
	t.Helper()
	for _, path := range paths {
		if err := os.RemoveAll(path); err != nil {
			t.Fatal(err)
		}
	}
}

// The tree on the disk has every root that tlog computes, whether its hashes come from tiles or from lines, and wherever
// the closed segments are.
func TestDiskTree(t *testing.T) {
	for name, change := range map[string]func(t *testing.T, dir, away string) (dirs []string){
		"all is there": func(t *testing.T, dir, away string) []string { return []string{dir} },
		"no tiles": func(t *testing.T, dir, away string) []string {
			removeAll(t, filepath.Join(dir, "tile"))
			return []string{dir}
		},
		"some tiles": func(t *testing.T, dir, away string) []string {
			tiles := allTiles(t, dir)
			removeAll(t, tiles[:len(tiles)/2]...)
			return []string{dir}
		},
		"a tile of the wrong length": func(t *testing.T, dir, away string) []string {
			if err := os.Truncate(allTiles(t, dir)[0], 8191); err != nil {
				t.Fatal(err)
			}
			return []string{dir}
		},
		"closed segments elsewhere": func(t *testing.T, dir, away string) []string {
			names := segmentNames(t, dir)
			moveSegments(t, dir, away, names[:len(names)-1]...)
			return []string{dir, away}
		},
		"closed segments elsewhere, no tiles": func(t *testing.T, dir, away string) []string {
			names := segmentNames(t, dir)
			moveSegments(t, dir, away, names[:len(names)-1]...)
			removeAll(t, filepath.Join(dir, "tile"))
			return []string{dir, away}
		},
		"closed segments lost": func(t *testing.T, dir, away string) []string {
			names := segmentNames(t, dir)
			moveSegments(t, dir, away, names[:len(names)-1]...)
			return []string{dir}
		},
	} {
		t.Run(name, func(t *testing.T) {
			dir, away := t.TempDir(), t.TempDir()
			n := 600 + rand.IntN(900)
			want := writeLog(t, dir, n)
			tree := openTree(t, want.size, change(t, dir, away)...)
			for range 100 {
				if size := rand.Uint64N(want.size + 1); rootOf(t, size, tree) != rootOf(t, size, want) {
					t.Fatalf("another root at size %d of %d", size, n)
				}
			}
			sameProofs(t, want, tree)
		})
	}
}

// openTree opens the tree of a log as Prove does.
func openTree(t testing.TB, size uint64, dirs ...string) *diskTree {
	t.Helper()
	tree := newDiskTree(t.Context(), dirs, size)
	var err error
	if tree.edge, err = tree.readEdge(); err != nil {
		t.Fatal(err)
	}
	return tree
}

// What is in neither tiles nor segments is named.
func TestDiskTreeNamesWhatIsMissing(t *testing.T) {
	dir, away := t.TempDir(), t.TempDir()
	for first := 0; first < 1000; first += 100 {
		writeSegment(t, dir, uint64(first), entries(numbered("id", 100)...))
	}
	moveSegments(t, dir, away, segmentName(300), segmentName(400))
	tree := newDiskTree(t.Context(), []string{dir}, 1000)
	_, err := tlog.TreeHash(1000, tree)
	if diff := cmp.Diff(&MissingError{300, 500}, asMissing(err)); diff != "" {
		t.Errorf("%v: %s", err, diff)
	}
	if _, err := tlog.TreeHash(256, tree); err != nil {
		t.Errorf("before what is missing: %v", err)
	}
	// Of a segment that is there twice, such as one that is being copied, that in the first directory counts.
	want := referenceOf(t, dir, away)
	writeSegment(t, away, 0, entries("id"))
	if got := rootOf(t, 1000, openTree(t, 1000, dir, away)); got != rootOf(t, 1000, want) {
		t.Errorf("a segment twice: root %s", got)
	}
}
