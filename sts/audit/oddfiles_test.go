package audit

import (
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// Whoever can write the directory can put a FIFO where a file belongs, which would keep a reader waiting for ever.
func TestFIFOsAreNotWaitedFor(t *testing.T) {
	tests := map[string]struct {
		file string
		read func(dir string) error
	}{
		"verify, checkpoint": {checkpointName, func(dir string) error {
			_, err := Verify(t.Context(), VerifyConfig{Directories: []string{dir}})
			return err
		}},
		"verify, tile": {"tile/0/000", func(dir string) error {
			_, err := (&tileStore{dir: dir}).read(0, 0, tileWidth)
			return err
		}},
		"open": {checkpointName, func(dir string) error {
			log, err := Open(t.Context(), Config{Directory: dir})
			if err == nil {
				defer log.Close()
				_, err = NewCheckpointer(t.Context(), CheckpointerConfig{Log: log, Origin: "sts.example.com/audit"})
			}
			return err
		}},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), test.file)
			if err := os.MkdirAll(filepath.Dir(path), 0o750); err != nil {
				t.Fatal(err)
			}
			if err := unix.Mkfifo(path, 0o640); err != nil {
				t.Fatal(err)
			}
			done := make(chan error, 1)
			go func() { done <- test.read(strings.TrimSuffix(path, "/"+test.file)) }()
			select {
			case err := <-done:
				// A daemon passes over a checkpoint that it cannot read: the signer knows the last one.
				if refuses := name != "open"; refuses != (err != nil) || refuses && !strings.Contains(err.Error(), "not a regular file") {
					t.Errorf("error: %v", err)
				}
			case <-time.After(20 * time.Second):
				t.Error("it waits for the FIFO")
			}
		})
	}
}

// Files with holes can claim more bytes than there are numbers for.
func TestVerifyCountsFilesOfAnySize(t *testing.T) {
	v := verification{total: math.MaxInt64 - 10, report: &Report{}}
	v.config.Directories = []string{t.TempDir()}
	path := filepath.Join(v.config.Directories[0], segmentName(0))
	if err := os.WriteFile(path, make([]byte, 100), 0o640); err != nil {
		t.Fatal(err)
	}
	if ok, err := v.listSegments(); !ok || err != nil || v.total != math.MaxInt64 {
		t.Errorf("%d bytes, %v, %v", v.total, ok, err)
	}
}

// A file with a hole in it has any size that somebody likes, and no line in it ends.
func TestEndlessLineIsGivenUp(t *testing.T) {
	dir := t.TempDir()
	l := openTest(t, Config{Directory: dir})
	appendIDs(t, l, "a", "b")
	l.Close()
	if err := os.Truncate(filepath.Join(dir, segmentName(0)), 1<<40); err != nil {
		t.Skipf("no files with holes here: %v", err)
	}
	var last error
	for _, err := range Read(dir) {
		last = err
	}
	if last == nil || !strings.Contains(last.Error(), "is no entry: it has more than") {
		t.Errorf("reading it: %v", last)
	}
	if _, err := Open(t.Context(), Config{Directory: dir}); err == nil || !strings.Contains(err.Error(), "is no entry: it has more than") {
		t.Errorf("opening it: %v", err)
	}
}
