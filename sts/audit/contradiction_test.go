package audit

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/mod/sumdb/tlog"

	"github.com/octo-sts/appliance/sts/audit/checkpoint"
)

// A log that is not the one that was signed is said to be so, whoever knows of it, and goes on taking entries.
func TestContradiction(t *testing.T) {
	rewrite := func(t *testing.T, dir string) {
		path := filepath.Join(dir, segmentName(0))
		content, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(strings.Replace(string(content), "a17", "x17", 1)), 0o640); err != nil {
			t.Fatal(err)
		}
	}
	for name, test := range map[string]struct {
		change func(t *testing.T, dir string)
		words  string
	}{
		"rewritten, with its tiles": {func(t *testing.T, dir string) {
			rewrite(t, dir)
			removeAll(t, filepath.Join(dir, "tile"))
		}, "was rewritten: %s has a checkpoint of size 600 with root"},
		"rewritten, beside its tiles": {func(t *testing.T, dir string) {
			path := filepath.Join(dir, segmentName(0))
			content, _ := os.ReadFile(path)
			if err := os.WriteFile(path, []byte(strings.Replace(string(content), "a590", "x590", 1)), 0o640); err != nil {
				t.Fatal(err)
			}
		}, "was rewritten: %s has a checkpoint of size 600 with root"},
		"rolled back": {func(t *testing.T, dir string) {
			path := filepath.Join(dir, segmentName(0))
			content, _ := os.ReadFile(path)
			lines := strings.SplitAfter(string(content), "\n")
			if err := os.WriteFile(path, []byte(strings.Join(lines[:500], "")), 0o640); err != nil {
				t.Fatal(err)
			}
			removeAll(t, filepath.Join(dir, segmentName(600)))
		}, "was rolled back: %s has a checkpoint of size 600, and the log has fewer entries"},
		"begun anew": {func(t *testing.T, dir string) {
			removeAll(t, filepath.Join(dir, segmentName(0)), filepath.Join(dir, segmentName(600)), filepath.Join(dir, "tile"))
		}, "was rolled back: %s has a checkpoint of size 600, and the log has fewer entries"},
	} {
		for _, knows := range []string{"the directory", "the signer"} {
			t.Run(name+", known to "+knows, func(t *testing.T) {
				dir := t.TempDir()
				path := filepath.Join(dir, checkpointName)
				l, c, s := openSigned(t, dir)
				appendIDs(t, l, numbered("a", 600)...)
				run(t, c)
				l.Close()
				openTest(t, Config{Directory: dir}).Close() // makes the segment that begins with entry 600
				test.change(t, dir)
				whose := path
				if strings.Contains(test.words, "rolled back") {
					if _, err := Open(t.Context(), Config{Directory: dir}); err == nil || !strings.Contains(err.Error(), "covers 600 entries, and the segments end after ") {
						t.Fatalf("opened, with segments missing that the checkpoint beside them covers: %v", err)
					}
					if knows == "the directory" {
						return
					}
				}
				if knows == "the signer" {
					removeAll(t, path)
					whose = knows
				}
				l = openTest(t, Config{Directory: dir})
				if knows == "the signer" && l.Size() == 0 {
					appendIDs(t, l, "first")
					test.words = strings.Replace(test.words, "0 entries", "1 entries", 1)
				}
				c = checkpointerOf(t, l, s)
				stop := start(t, c)
				status := await(t, c, "contradictory", func(s CheckpointStatus) bool { return s.Contradiction })
				if want := fmt.Sprintf(test.words, whose); !strings.Contains(status.Err.Error(), want) {
					t.Errorf("%v, want %q", status.Err, want)
				}
				appendIDs(t, l, numbered("c", 300)...)
				time.Sleep(20 * time.Millisecond)
				if !c.Status().Contradiction || l.Err() != nil {
					t.Errorf("with more entries: %+v, %v", c.Status(), l.Err())
				}
				stop()
				if content, err := os.ReadFile(path); err == nil {
					if kept, err := checkpoint.Open(content, s.verify); err != nil || kept.Size != 600 {
						t.Errorf("the evidence was overwritten: %+v, %v", kept, err)
					}
				}
			})
		}
	}
}

// Two daemons with a copy each, and one signer: the one whose entries were signed goes on, the other contradicts it.
func TestFork(t *testing.T) {
	dir, fork := t.TempDir(), t.TempDir()
	l, c, s := openSigned(t, dir)
	appendIDs(t, l, numbered("a", 300)...)
	run(t, c)
	if err := os.CopyFS(fork, os.DirFS(dir)); err != nil {
		t.Fatal(err)
	}
	appendIDs(t, l, "b")
	run(t, checkpointerOf(t, l, s))
	other := openTest(t, Config{Directory: fork})
	appendIDs(t, other, "x", "y")
	c = checkpointerOf(t, other, s)
	start(t, c)
	status := await(t, c, "contradictory", func(s CheckpointStatus) bool { return s.Contradiction })
	if !strings.Contains(status.Err.Error(), "was rewritten: the signer has a checkpoint of size 301") {
		t.Error(status.Err)
	}
	appendIDs(t, l, "c")
	run(t, checkpointerOf(t, l, s))
	checkSigned(t, dir, s)
}

// Whatever is done to tiles, a log with its lines is not called rewritten, and its tiles are whole again in the end.
func TestTilesAreMended(t *testing.T) {
	for name, change := range map[string]func(t *testing.T, dir string){
		"all removed":  func(t *testing.T, dir string) { removeAll(t, filepath.Join(dir, "tile")) },
		"some removed": func(t *testing.T, dir string) { removeAll(t, allTiles(t, dir)[:2]...) },
		"the last one removed": func(t *testing.T, dir string) {
			removeAll(t, (&tileStore{dir: dir}).path(0, 4, tileWidth))
		},
		"one damaged": func(t *testing.T, dir string) {
			path := allTiles(t, dir)[0]
			if err := os.WriteFile(path, make([]byte, 8192), 0o640); err != nil {
				t.Fatal(err)
			}
		},
		"one cut short": func(t *testing.T, dir string) {
			if err := os.Truncate(allTiles(t, dir)[0], 100); err != nil {
				t.Fatal(err)
			}
		},
		"a partial one damaged": func(t *testing.T, dir string) {
			path := (&tileStore{dir: dir}).path(0, 5, 20)
			if _, err := os.Stat(path); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(path, make([]byte, 20*tlog.HashSize), 0o640); err != nil {
				t.Fatal(err)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			writeSegment(t, dir, 0, entries(numbered("a", 1300)...))
			l, c, s := openSigned(t, dir)
			run(t, c)
			l.Close()
			change(t, dir)
			l = openTest(t, Config{Directory: dir})
			appendIDs(t, l, "b")
			c = checkpointerOf(t, l, s)
			stop := start(t, c)
			for c.Status().Uncovered > 0 {
				if c.Status().Contradiction {
					t.Fatalf("a false alarm: %v", c.Status().Err)
				}
				time.Sleep(time.Millisecond)
			}
			// Missing tiles are looked for in the background.
			for n := range tilesIn(1301, 0) {
				for deadline := time.Now().Add(30 * time.Second); !c.tiles.has(0, n) && time.Now().Before(deadline); {
					time.Sleep(time.Millisecond)
				}
			}
			if err := stop(); err != nil {
				t.Fatal(err)
			}
			checkSigned(t, dir, s)
		})
	}
}
