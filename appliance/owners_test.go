package appliance

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// Whoever restores a backup as root learns whose the files are, and how to give them back to the daemon.
func TestExplainOwner(t *testing.T) {
	directory, file := "/etc", "/etc/passwd" // root's, on every machine
	if os.Geteuid() == 0 {
		directory = t.TempDir()
		file = filepath.Join(directory, "state.db")
		if err := os.WriteFile(file, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Chown(file, 4711, 4711); err != nil {
			t.Fatal(err)
		}
	}
	denied := func(path string) error { return &fs.PathError{Op: "open", Path: path, Err: fs.ErrPermission} }
	advice := fmt.Sprintf("chown -R %d %s", os.Geteuid(), directory)

	for _, err := range []error{denied(file), denied(filepath.Join(file, "below"))} {
		explained := explainOwner(fmt.Errorf("opening it: %w", err), directory+"/")
		if !strings.HasSuffix(explained.Error(), advice) || !errors.Is(explained, fs.ErrPermission) {
			t.Errorf("%v: no advice, or another error", explained)
		}
	}
	for _, err := range []error{
		errors.New("another error"),
		&fs.PathError{Op: "open", Path: file, Err: fs.ErrNotExist},
		denied("/proc/1/mem"), // outside of the directory
	} {
		if explained := explainOwner(err, directory); explained != err {
			t.Errorf("%v became %v", err, explained)
		}
	}
}
