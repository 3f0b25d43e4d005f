package appliance

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"runtime/debug"
	"time"

	"go.etcd.io/bbolt"
	bbolterrors "go.etcd.io/bbolt/errors"
)

// stateLockWait is how long a daemon that is just ending may still hold the file.
const stateLockWait = 5 * time.Second

// openState opens the one file that small things are kept in which must outlive
// the daemon. Each package that is handed it has buckets of its own. It is locked:
// one daemon has one directory.
func openState(directory string) (*bbolt.DB, error) {
	file := filepath.Join(directory, "state.db")
	db, err := openDB(file)
	var path *fs.PathError
	switch {
	case err == nil:
		return db, nil
	case errors.Is(err, bbolterrors.ErrTimeout):
		return nil, fmt.Errorf("state_directory: opening %s: another process has it open: is another octo-stsd running with this state_directory?", file)
	case errors.As(err, &path):
		return nil, fmt.Errorf("state_directory: %w", explainOwner(err, directory))
	}
	return nil, fmt.Errorf("state_directory: %s is damaged: %w. Move the file away to go on. What waited in it is then lost: have GitHub redeliver the webhook deliveries of the time before (the App's settings, Advanced); those that never arrived are asked for", file, err)
}

// openDB also reads everything once. bbolt maps the file into memory, and panics
// or is sent a signal where it is shorter than it says or its pages are not pages:
// better now, with words, than in the middle of a delivery.
func openDB(file string) (db *bbolt.DB, err error) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if fault := recover(); fault != nil {
			db, err = nil, fmt.Errorf("%v", fault) // the lock is held until the process ends, which is now
		}
	}()
	if db, err = bbolt.Open(file, 0o600, &bbolt.Options{Timeout: stateLockWait, FreelistType: bbolt.FreelistMapType}); err != nil {
		return nil, err
	}
	err = db.View(func(tx *bbolt.Tx) error {
		return tx.ForEach(func(_ []byte, bucket *bbolt.Bucket) error {
			return bucket.ForEach(func(key, value []byte) error {
				_, _ = bytes.Clone(key), bytes.Clone(value)
				return nil
			})
		})
	})
	return db, err
}
