package githubapp

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"strings"
	"sync"

	lru "github.com/hashicorp/golang-lru/v2"
	"go.etcd.io/bbolt"
)

// routesBucket holds owner, in lower case → App ID, 8 bytes, big-endian.
var routesBucket = []byte("routes")

// routes remembers which App each owner sticks to.
type routes struct {
	db *bbolt.DB // nil: in memory only

	mu    sync.Mutex // serializes changes
	known *lru.Cache[string, int64]
}

// StickyInstallation is like Installation, but always the same App's for one
// owner: only the App that made a check run may update it. The App is the best
// one when it is first asked for, is remembered in Config.State before it is
// used, and so is the same one after a restart. Where GitHub limits it, the error
// is that limit, and no other App is used. Where it is in owner's pool no more,
// or not installed on the repository, another one is chosen and remembered.
//
// Errors: those of Installation; ErrUnavailable also where Config.State cannot be
// read or written.
func (c *Client) StickyInstallation(ctx context.Context, owner, repo string) (Installation, error) {
	pool, err := c.checkedPool(owner, repo)
	if err != nil {
		return Installation{}, err
	}
	for range len(pool) + 1 { // others may choose at the same time, but not for ever
		current, err := c.routes.get(owner)
		if err != nil {
			return Installation{}, &apiError{kind: ErrUnavailable, doing: finding(owner, repo), cause: err}
		}
		if a := c.apps[current]; a != nil && c.Serves(current, owner) {
			inst, err := c.usable(ctx, a, owner, repo)
			if !errors.Is(err, ErrNotInstalled) {
				return inst, err
			}
		}
		best, err := c.choose(ctx, pool, owner, repo)
		if err != nil {
			return Installation{}, err
		}
		changed, err := c.routes.change(owner, current, best.AppID)
		if err != nil {
			return Installation{}, &apiError{kind: ErrUnavailable, doing: finding(owner, repo), cause: err}
		}
		if changed {
			return best, nil
		}
	}
	return Installation{}, &apiError{kind: ErrUnavailable, doing: finding(owner, repo), detail: "the owner's App changes all the time"}
}

// get returns 0 where the owner has no App yet.
func (r *routes) get(owner string) (appID int64, err error) {
	owner = strings.ToLower(owner)
	if appID, ok := r.known.Get(owner); ok || r.db == nil {
		return appID, nil
	}
	r.mu.Lock() // so that no change comes in between
	defer r.mu.Unlock()
	if appID, err = r.read(owner); err == nil && appID != 0 {
		r.known.Add(owner, appID)
	}
	return appID, err
}

// read needs r.mu.
func (r *routes) read(owner string) (appID int64, err error) {
	if r.db == nil {
		appID, _ = r.known.Get(owner)
		return appID, nil
	}
	err = r.db.View(func(tx *bbolt.Tx) error {
		bucket := tx.Bucket(routesBucket)
		if bucket == nil {
			return nil
		}
		if value := bucket.Get([]byte(owner)); len(value) == 8 {
			appID = int64(binary.BigEndian.Uint64(value))
		}
		return nil
	})
	if err != nil {
		return 0, fmt.Errorf("reading which App %s sticks to: %w", owner, err)
	}
	return appID, nil
}

// change makes owner stick to another App, if it is still at the one that it was
// thought to be at, and reports whether it now sticks to that other App.
func (r *routes) change(owner string, from, to int64) (bool, error) {
	owner = strings.ToLower(owner)
	r.mu.Lock()
	defer r.mu.Unlock()
	current, err := r.read(owner)
	if err != nil || current != from {
		return false, err
	}
	if r.db != nil && from != to {
		err := r.db.Update(func(tx *bbolt.Tx) error {
			bucket, err := tx.CreateBucketIfNotExists(routesBucket)
			if err != nil {
				return err
			}
			return bucket.Put([]byte(owner), binary.BigEndian.AppendUint64(nil, uint64(to)))
		})
		if err != nil {
			return false, fmt.Errorf("remembering that %s sticks to App %d: %w", owner, to, err)
		}
	}
	r.known.Add(owner, to)
	return true, nil
}
