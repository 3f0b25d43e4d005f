package githubapp

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
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
// is that limit, and no other App is used. Where it is not installed on the
// repository, it is the first one of the configuration that is, and the owner's
// other repositories keep theirs. Where it is in owner's pool no more, another
// one is chosen and remembered.
//
// Errors: those of Installation; ErrUnavailable also where Config.State cannot be
// read or written.
func (c *Client) StickyInstallation(ctx context.Context, owner, repo string) (Installation, error) {
	pool, err := c.checkedPool(owner, repo)
	if err != nil {
		return Installation{}, err
	}
	current, err := c.routes.get(owner)
	if err != nil {
		return Installation{}, &apiError{kind: ErrUnavailable, doing: finding(owner, repo), cause: err}
	}
	if !c.Serves(current, owner) {
		best, err := c.choose(ctx, pool, owner, repo)
		if err != nil {
			return Installation{}, err
		}
		// Others may choose at the same time: what the first one chose counts.
		if current, err = c.routes.change(owner, current, best.AppID); err != nil {
			return Installation{}, &apiError{kind: ErrUnavailable, doing: finding(owner, repo), cause: err}
		}
	}
	others := slices.DeleteFunc(slices.Clone(pool), func(a *app) bool { return a.id == current })
	var absent []error
	for _, a := range append([]*app{c.apps[current]}, others...) {
		inst, err := c.usable(ctx, a, owner, repo)
		if !errors.Is(err, ErrNotInstalled) {
			return inst, err
		}
		absent = append(absent, err)
	}
	return Installation{}, errors.Join(absent...)
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
// thought to be at, and returns the App that it sticks to then.
func (r *routes) change(owner string, from, to int64) (appID int64, err error) {
	owner = strings.ToLower(owner)
	r.mu.Lock()
	defer r.mu.Unlock()
	current, err := r.read(owner)
	if err != nil || current != from {
		return current, err
	}
	if r.db != nil {
		err := r.db.Update(func(tx *bbolt.Tx) error {
			bucket, err := tx.CreateBucketIfNotExists(routesBucket)
			if err != nil {
				return err
			}
			return bucket.Put([]byte(owner), binary.BigEndian.AppendUint64(nil, uint64(to)))
		})
		if err != nil {
			return 0, fmt.Errorf("remembering that %s sticks to App %d: %w", owner, to, err)
		}
	}
	r.known.Add(owner, to)
	return to, nil
}
