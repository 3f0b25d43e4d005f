package appliance

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"go.etcd.io/bbolt"
)

func TestOpenState(t *testing.T) {
	dir := t.TempDir()
	db, err := openState(dir)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := openState(dir); err == nil || !strings.Contains(err.Error(), "another octo-stsd") {
		t.Errorf("a second daemon: %v", err)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(filepath.Join(dir, "state.db")); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", info, err)
	}
	if err := os.WriteFile(filepath.Join(dir, "state.db"), []byte(strings.Repeat("not a database\n", 1000)), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := openState(dir); err == nil || !strings.Contains(err.Error(), "Move the file away") {
		t.Errorf("a file that is no database: %v", err)
	}
	if _, err := openState(filepath.Join(dir, "absent")); err == nil || !strings.Contains(err.Error(), "state_directory: ") {
		t.Errorf("no directory: %v", err)
	}
}

// A file that was cut short, or whose pages were overwritten, ends a start with
// words and not with a panic.
func TestOpenDamagedState(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "state.db")
	db, err := openState(dir)
	if err != nil {
		t.Fatal(err)
	}
	if err := db.Update(func(tx *bbolt.Tx) error {
		bucket, err := tx.CreateBucket([]byte("bucket"))
		if err != nil {
			return err
		}
		for i := range 2000 {
			if err := bucket.Put(fmt.Appendf(nil, "key %d", i), make([]byte, 100)); err != nil {
				return err
			}
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	good, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	overwritten := bytes.Clone(good)
	for i := 2 * os.Getpagesize(); i < len(overwritten); i++ {
		overwritten[i] ^= 0xa5
	}
	for name, damaged := range map[string][]byte{
		"100 bytes": good[:100], "a page": good[:os.Getpagesize()], "two pages": good[:2*os.Getpagesize()],
		"half": good[:len(good)/2], "all but one byte": good[:len(good)-1], "overwritten": overwritten,
	} {
		dir := t.TempDir() // a file that bbolt panicked over stays locked
		if err := os.WriteFile(filepath.Join(dir, "state.db"), damaged, 0o600); err != nil {
			t.Fatal(err)
		}
		if db, err := openState(dir); err == nil {
			if name != "all but one byte" && name != "half" { // the end may be unused
				t.Errorf("%s: opened", name)
			}
			db.Close()
		} else if !strings.Contains(err.Error(), "Move the file away") {
			t.Errorf("%s: %v", name, err)
		}
	}
}
