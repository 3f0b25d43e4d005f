package appliance

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
)

// explainOwner says whose a file is that this daemon may not touch, and how to mend
// that, where err is about one in directory, which is the daemon's: as after a
// backup that root restored. It returns every other error as it is.
func explainOwner(err error, directory string) error {
	path := (*fs.PathError)(nil)
	if !errors.Is(err, fs.ErrPermission) || !errors.As(err, &path) {
		return err
	}
	directory = filepath.Clean(directory)
	for file := filepath.Clean(path.Path); file == directory || strings.HasPrefix(file, directory+"/"); file = filepath.Dir(file) {
		info, statErr := os.Stat(file)
		if statErr != nil {
			continue
		}
		if stat, ok := info.Sys().(*syscall.Stat_t); ok && int(stat.Uid) != os.Geteuid() {
			return fmt.Errorf("%w: %s belongs to user %d, and this daemon runs as user %d: chown -R %[4]d %[5]s", err, file, stat.Uid, os.Geteuid(), directory)
		}
	}
	return err
}
