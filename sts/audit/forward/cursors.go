package forward

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"

	"go.etcd.io/bbolt"
)

// bucketCursors has one key for each copy's name. A value is 40 bytes: the index of the first entry that is not yet
// copied, big-endian, and the SHA-256 of where the copies go.
var bucketCursors = []byte("cursors")

const cursorSize = 8 + sha256.Size

// Cursors keeps on disk how far each copy has come. Its methods may be called by many goroutines at once.
type Cursors struct{ db *bbolt.DB }

// NewCursors makes the bucket "cursors" in db where it is missing.
func NewCursors(db *bbolt.DB) (*Cursors, error) {
	err := db.Update(func(tx *bbolt.Tx) error {
		_, err := tx.CreateBucketIfNotExists(bucketCursors)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("opening the cursors of the audit log's copies in %s: %w", db.Path(), err)
	}
	return &Cursors{db}, nil
}

// load returns the index of the first entry that is not yet copied to target. known is false where nothing ever was.
// One copy has one cursor: a new target takes the place of the old one.
func (c *Cursors) load(name, target string) (next uint64, known bool, err error) {
	err = c.db.View(func(tx *bbolt.Tx) error {
		value := tx.Bucket(bucketCursors).Get([]byte(name))
		if value == nil {
			return nil
		}
		if len(value) != cursorSize {
			return fmt.Errorf("it has %d bytes and not %d", len(value), cursorSize)
		}
		sum := sha256.Sum256([]byte(target))
		next, known = binary.BigEndian.Uint64(value), string(value[8:]) == string(sum[:])
		return nil
	})
	if err != nil {
		return 0, false, fmt.Errorf("reading the cursor %q in %s: %w", name, c.db.Path(), err)
	}
	return next, known, nil
}

// save returns once the cursor is on the disk.
func (c *Cursors) save(name, target string, next uint64) error {
	sum := sha256.Sum256([]byte(target))
	value := append(binary.BigEndian.AppendUint64(nil, next), sum[:]...)
	err := c.db.Update(func(tx *bbolt.Tx) error {
		return tx.Bucket(bucketCursors).Put([]byte(name), value)
	})
	if err != nil {
		return fmt.Errorf("writing the cursor %q in %s: %w", name, c.db.Path(), err)
	}
	return nil
}
