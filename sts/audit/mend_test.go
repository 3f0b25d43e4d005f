package audit

import (
	"context"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/mod/sumdb/tlog"
)

// Missing tiles are written again, and thoroughly also damaged ones put right, as far as there are lines to tell.
func TestMendTiles(t *testing.T) {
	const n = 66_000 // one full tile on level 1
	whole := t.TempDir()
	writeSegment(t, whole, 0, entries(numbered("a", 30_000)...))
	writeSegment(t, whole, 30_000, entries(numbered("b", n-30_000)...))
	if err := mendTiles(t.Context(), &tileStore{dir: whole}, n, false); err != nil {
		t.Fatal(err)
	}
	want := referenceOf(t, whole)
	checkTiles(t, whole, want)

	partial := func(dir string) string { return (&tileStore{dir: dir}).path(0, 117, 48) }
	tile := func(dir string, level int, n uint64) string { return (&tileStore{dir: dir}).path(level, n, tileWidth) }
	flip := func(t *testing.T, path string) {
		content, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		content[rand.IntN(len(content))] ^= 1
		if err := os.WriteFile(path, content, 0o640); err != nil {
			t.Fatal(err)
		}
	}
	for name, test := range map[string]struct {
		damage   func(t *testing.T, dir string)
		thorough bool
		err      string
		// badPartial: the partial tile stays as it is, there being no lines to tell.
		badPartial bool
	}{
		"missing tiles": {damage: func(t *testing.T, dir string) { removeAll(t, tile(dir, 0, 0), tile(dir, 0, 200), tile(dir, 1, 0)) }},
		"the partial tile at a segment's end, missing": {damage: func(t *testing.T, dir string) { removeAll(t, partial(dir)) }},
		"the partial tile at a segment's end, damaged": {damage: func(t *testing.T, dir string) { flip(t, partial(dir)) }, thorough: true},
		"a missing tile whose lines are gone": {
			damage: func(t *testing.T, dir string) { removeAll(t, tile(dir, 0, 7), filepath.Join(dir, segmentName(0))) },
			err:    "tile/0/007 is missing, and so are the lines to make it from: entries 1792 to 29999"},
		"a missing tile of level 1 over lines that are gone": {
			damage: func(t *testing.T, dir string) { removeAll(t, tile(dir, 1, 0), filepath.Join(dir, segmentName(0))) }},
		"a damaged tile":            {damage: func(t *testing.T, dir string) { flip(t, tile(dir, 0, 9)) }, thorough: true},
		"a damaged tile of level 1": {damage: func(t *testing.T, dir string) { flip(t, tile(dir, 1, 0)) }, thorough: true},
		"a damaged tile whose lines are gone": {
			damage: func(t *testing.T, dir string) {
				flip(t, tile(dir, 0, 9))
				removeAll(t, filepath.Join(dir, segmentName(0)))
			},
			thorough: true, err: "tile/1/000 and those below it do not belong together"},
		"a whole tile, beside lines that are gone and a damaged partial one": {
			damage: func(t *testing.T, dir string) {
				if err := (&tileStore{dir: dir}).write(0, 117, make([]tlog.Hash, 48)); err != nil {
					t.Fatal(err)
				}
				removeAll(t, filepath.Join(dir, segmentName(0)))
			},
			thorough: true, badPartial: true},
		"a damaged tile beside lines that are gone": {
			damage: func(t *testing.T, dir string) {
				flip(t, tile(dir, 0, 200))
				removeAll(t, filepath.Join(dir, segmentName(0)))
			},
			thorough: true},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			if err := os.CopyFS(dir, os.DirFS(whole)); err != nil {
				t.Fatal(err)
			}
			test.damage(t, dir)
			err := mendTiles(context.Background(), &tileStore{dir: dir}, n, test.thorough)
			if test.err == "" && err != nil || test.err != "" && (err == nil || !strings.Contains(err.Error(), test.err)) {
				t.Fatalf("%v, want %q", err, test.err)
			}
			if test.badPartial {
				removeAll(t, partial(dir))
			} else if _, err := os.Stat(partial(dir)); err != nil {
				t.Error(err)
			}
			if test.err == "" {
				checkTiles(t, dir, want)
			}
		})
	}
}
