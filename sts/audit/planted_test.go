package audit

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// What a taken-over daemon may put in the place of a file makes nobody wait, and is never followed: the answer is no, or an
// error.
func TestPlantedFiles(t *testing.T) {
	golden := newRetainedLog(t, filepath.Join(t.TempDir(), "log"), 3, 300)
	segment := segmentNames(t, golden.dir)[1]
	level, n, width := endTile(firstOf(segment))
	end, err := filepath.Rel(golden.dir, (&tileStore{dir: golden.dir}).path(level, n, width))
	if err != nil {
		t.Fatal(err)
	}
	kinds := map[string]func(path string) error{
		"pipe":      func(path string) error { return unix.Mkfifo(path, 0o644) },
		"device":    func(path string) error { return os.Symlink("/dev/zero", path) },
		"directory": func(path string) error { return os.Mkdir(path, 0o755) },
	}
	for _, name := range []string{checkpointName, segment, "tile/0/000", end} {
		for kind, plant := range kinds {
			t.Run(kind+" "+filepath.ToSlash(name), func(t *testing.T) {
				dir := filepath.Join(t.TempDir(), "log")
				if err := os.CopyFS(dir, os.DirFS(golden.dir)); err != nil {
					t.Fatal(err)
				}
				path := filepath.Join(dir, name)
				if err := os.Remove(path); err != nil {
					t.Fatal(err)
				}
				if err := plant(path); err != nil {
					t.Fatal(err)
				}
				ended := make(chan struct{})
				go func() {
					defer close(ended)
					if r, err := Verify(t.Context(), golden.config(dir, 300)); err == nil && r.OK {
						t.Errorf("verified: %+v", r)
					}
					_, _ = Prove(t.Context(), []string{dir}, 1)
				}()
				select {
				case <-ended:
				case <-time.After(30 * time.Second):
					t.Fatal("it waits")
				}
			})
		}
	}
}

// A name that no log can come to is no segment's: sizes are not to overflow.
func TestSegmentNameBeyondAllSizes(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, segmentName(1<<63)), []byte(`{"kind":"admin","time":"2026-08-01T00:00:00Z"}`+"\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if l, err := Open(t.Context(), Config{Directory: dir}); err == nil {
		l.Close()
		t.Error("opened")
	}
	if r := verifyTest(t, VerifyConfig{Directories: []string{dir}}); r.OK {
		t.Errorf("verified: %+v", r)
	}
}

// Only a number in the form that we write is a partial tile's width.
func TestWidestPartial(t *testing.T) {
	s := &tileStore{dir: t.TempDir()}
	for _, name := range []string{"7", "44", "045", "+99", "44.tmp", "256", "-1"} {
		if err := replaceFile(filepath.Join(s.dir, "tile/0/000.p", name), nil); err != nil {
			t.Fatal(err)
		}
	}
	if got, err := s.widestPartial(0); got != 44 || err != nil {
		t.Errorf("%d, %v", got, err)
	}
}
