package webhook

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"time"

	"go.etcd.io/bbolt"
)

const (
	// commitDelay is how long a delivery waits for others to share its commit to
	// the disk with: two syncs, some milliseconds.
	commitDelay = 20 * time.Millisecond
	// keepDone is how long a delivery is known that was done. GitHub sends
	// deliveries again for 3 days.
	keepDone = 4 * 24 * time.Hour
	// maxKnown bounds how many are known: some 20 MiB. Beyond it the oldest are
	// forgotten, and would be done again if GitHub sent them again.
	maxKnown = 200_000
)

// The states of a delivery. Failed ones are done again where GitHub sends them
// again; of failedRecorded ones the audit log has its entries.
const (
	stateQueued         = 'q'
	stateDone           = 'd'
	stateFailed         = 'f'
	stateFailedRecorded = 'F'
)

// store is what is kept on disk: the items that wait, at most maxQueued and
// maxQueuedBytes of them, and maxKnown deliveries that ended. bbolt's file keeps
// the largest size that it had. The buckets, numbers big-endian:
//
//	webhook-queue       sequence → item in JSON
//	webhook-deliveries  deliveryKey → state (1 byte), nanoseconds since 1970
//	webhook-ended       nanoseconds since 1970, deliveryKey → nothing; of those that are not queued
//	webhook-recovery    App ID → nanoseconds since 1970
type store struct {
	db       *bbolt.DB
	maxKnown uint64
}

// The buckets' names. How many keys webhook-ended has is kept as its sequence
// number, which bbolt stores with the bucket.
var (
	bucketQueue      = []byte("webhook-queue")
	bucketDeliveries = []byte("webhook-deliveries")
	bucketEnded      = []byte("webhook-ended")
	bucketRecovery   = []byte("webhook-recovery")
)

// settlement is how an item ended.
type settlement struct {
	entry *entry
	state byte
}

func newStore(db *bbolt.DB) (*store, error) {
	db.MaxBatchDelay = commitDelay
	err := db.Update(func(tx *bbolt.Tx) error {
		for _, name := range [][]byte{bucketQueue, bucketDeliveries, bucketEnded, bucketRecovery} {
			if _, err := tx.CreateBucketIfNotExists(name); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("opening the delivery queue in %s: %w", db.Path(), err)
	}
	return &store{db: db, maxKnown: maxKnown}, nil
}

// load calls each for every item of the queue, in order.
func (s *store) load(ctx context.Context, each func(seq uint64, i item, size int)) error {
	err := s.db.View(func(tx *bbolt.Tx) error {
		return tx.Bucket(bucketQueue).ForEach(func(key, value []byte) error {
			var i item
			if err := json.Unmarshal(value, &i); err != nil {
				return fmt.Errorf("item %x is damaged: move the file away, and have GitHub redeliver what it held: %w", key, err)
			}
			each(binary.BigEndian.Uint64(key), i, len(value))
			return ctx.Err()
		})
	})
	if err != nil {
		return fmt.Errorf("reading the delivery queue in %s: %w", s.db.Path(), err)
	}
	return nil
}

// enqueue appends i and returns its place, from 1, and its size in bytes, once
// both are on the disk; place 0 where the delivery is queued or done already.
// What the audit log has of a delivery that failed is taken out of i.
func (s *store) enqueue(i *item) (seq uint64, size int, err error) {
	err = s.db.Batch(func(tx *bbolt.Tx) error { // which may call this twice
		seq = 0
		deliveries, queue, key := tx.Bucket(bucketDeliveries), tx.Bucket(bucketQueue), i.key().bytes()
		if known := deliveries.Get(key); known != nil {
			switch known[0] {
			case stateQueued, stateDone:
				return nil
			case stateFailedRecorded:
				i.Change = nil
			}
			if err := forgetEnded(tx, known, key); err != nil {
				return err
			}
		}
		value, err := json.Marshal(i)
		if err != nil {
			return err
		}
		next, err := queue.NextSequence()
		if err != nil {
			return err
		}
		if err := queue.Put(number(next), value); err != nil {
			return err
		}
		if err := deliveries.Put(key, stateValue(stateQueued, i.Received)); err != nil {
			return err
		}
		seq, size = next, len(value)
		return nil
	})
	if err != nil {
		return 0, 0, fmt.Errorf("writing to the delivery queue: %w", err)
	}
	return seq, size, nil
}

// items returns the items of the entries, in their order.
func (s *store) items(entries []*entry) ([]*item, error) {
	items := make([]*item, len(entries))
	err := s.db.View(func(tx *bbolt.Tx) error {
		queue := tx.Bucket(bucketQueue)
		for n, e := range entries {
			items[n] = new(item)
			if err := json.Unmarshal(queue.Get(number(e.seq)), items[n]); err != nil {
				return fmt.Errorf("reading the delivery queue: item %d: %w", e.seq, err)
			}
		}
		return nil
	})
	return items, err
}

// settle takes items out of the queue and keeps how their deliveries ended.
func (s *store) settle(all []settlement, now time.Time) error {
	err := s.db.Update(func(tx *bbolt.Tx) error {
		queue, deliveries, ended := tx.Bucket(bucketQueue), tx.Bucket(bucketDeliveries), tx.Bucket(bucketEnded)
		for _, one := range all {
			key := one.entry.key.bytes()
			if err := queue.Delete(number(one.entry.seq)); err != nil {
				return err
			}
			if err := deliveries.Put(key, stateValue(one.state, now)); err != nil {
				return err
			}
			if err := ended.Put(append(number(uint64(now.UnixNano())), key...), nil); err != nil {
				return err
			}
		}
		if err := ended.SetSequence(ended.Sequence() + uint64(len(all))); err != nil {
			return err
		}
		return s.dropOldest(tx, now)
	})
	if err != nil {
		return fmt.Errorf("marking deliveries as done: %w", err)
	}
	return nil
}

// sweep forgets deliveries that ended long ago.
func (s *store) sweep(now time.Time) error {
	err := s.db.Update(func(tx *bbolt.Tx) error { return s.dropOldest(tx, now) })
	if err != nil {
		return fmt.Errorf("forgetting old deliveries: %w", err)
	}
	return nil
}

// dropOldest forgets what ended more than keepDone ago, and what is too much.
func (s *store) dropOldest(tx *bbolt.Tx, now time.Time) error {
	const most = 10_000 // in one transaction; the next goes on
	deliveries, ended := tx.Bucket(bucketDeliveries), tx.Bucket(bucketEnded)
	cutoff := uint64(now.Add(-keepDone).UnixNano())
	var old [][]byte
	cursor := ended.Cursor()
	for key, _ := cursor.First(); key != nil && len(old) < most; key, _ = cursor.Next() {
		if binary.BigEndian.Uint64(key) >= cutoff && ended.Sequence()-uint64(len(old)) <= s.maxKnown {
			break
		}
		old = append(old, bytes.Clone(key))
	}
	for _, key := range old {
		if err := deliveries.Delete(key[8:]); err != nil {
			return err
		}
		if err := ended.Delete(key); err != nil {
			return err
		}
	}
	return ended.SetSequence(ended.Sequence() - uint64(len(old)))
}

// forgetEnded takes a delivery that failed out of webhook-ended.
func forgetEnded(tx *bbolt.Tx, known, key []byte) error {
	ended := tx.Bucket(bucketEnded)
	if err := ended.Delete(append(bytes.Clone(known[1:]), key...)); err != nil {
		return err
	}
	return ended.SetSequence(ended.Sequence() - 1)
}

// knows says whether the delivery is queued or done.
func (s *store) knows(key deliveryKey) (known bool, err error) {
	err = s.db.View(func(tx *bbolt.Tx) error {
		v := tx.Bucket(bucketDeliveries).Get(key.bytes())
		known = v != nil && (v[0] == stateQueued || v[0] == stateDone)
		return nil
	})
	return known, err
}

// recovered returns up to when an App's deliveries are known to be complete: since
// when any may be missed. Zero: nothing is known.
func (s *store) recovered(appID int64) (at time.Time, err error) {
	err = s.db.View(func(tx *bbolt.Tx) error {
		if v := tx.Bucket(bucketRecovery).Get(number(uint64(appID))); v != nil {
			at = time.Unix(0, int64(binary.BigEndian.Uint64(v)))
		}
		return nil
	})
	return at, err
}

func (s *store) setRecovered(appID int64, at time.Time) error {
	return s.db.Update(func(tx *bbolt.Tx) error {
		return tx.Bucket(bucketRecovery).Put(number(uint64(appID)), number(uint64(at.UnixNano())))
	})
}

func number(n uint64) []byte { return binary.BigEndian.AppendUint64(nil, n) }

func stateValue(s byte, at time.Time) []byte {
	return binary.BigEndian.AppendUint64([]byte{s}, uint64(at.UnixNano()))
}
