package githubapp_test

import (
	"path/filepath"
	"sync"
	"testing"
	"time"

	"go.etcd.io/bbolt"

	"github.com/octo-sts/appliance/sts/githubapp"
	"github.com/octo-sts/appliance/sts/ststest"
)

func openState(t *testing.T) *bbolt.DB {
	t.Helper()
	db, err := bbolt.Open(filepath.Join(t.TempDir(), "state.db"), 0o600, &bbolt.Options{Timeout: 10 * time.Second, NoSync: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	return db
}

// restart replaces the client by one that knows nothing, of the same configuration
// but for the Apps.
func (w *world) restart(apps ...int64) {
	w.Helper()
	config := w.config
	config.Apps = nil
	for _, id := range apps {
		config.Apps = append(config.Apps, githubapp.App{ID: id, Organizations: []string{"*"}})
	}
	var err error
	if w.client, err = githubapp.New(w.ctx, config); err != nil {
		w.Fatal(err)
	}
}

// sticksTo checks which App serves what must always be the same one's.
func (w *world) sticksTo(app int64) githubapp.Installation {
	w.Helper()
	inst, err := w.client.StickyInstallation(w.ctx, "Acme", "app")
	w.wants(err, "ok")
	if inst.AppID != app {
		w.Errorf("acme sticks to App %d, want %d", inst.AppID, app)
	}
	return inst
}

// TestStickyInstallation: chosen once, kept through better choices, limits and
// restarts, until the App cannot serve the owner any more.
func TestStickyInstallation(t *testing.T) {
	t.Parallel()
	db := openState(t)
	w, second := newPool(t, func(o *options) { o.config.State = db })
	first := w.picks(appID)
	w.use(first, 100, 50*time.Minute)
	w.picks(secondID)
	w.sticksTo(secondID) // the best one at the time
	w.use(w.picks(secondID), 50, 50*time.Minute)
	w.use(first, 5000, 50*time.Minute)
	w.picks(appID)
	w.sticksTo(secondID)

	w.limitMint(w.sticksTo(secondID), 10*time.Minute)
	_, err := w.client.StickyInstallation(w.ctx, "acme", "app")
	w.wants(err, "rate limited")
	w.clock.advance(11 * time.Minute)
	w.sticksTo(secondID)

	w.restart(appID, secondID)
	w.picks(appID)
	w.sticksTo(secondID)
	w.restart(appID) // the other one left the pool
	w.sticksTo(appID)
	w.restart(secondID, appID)
	w.sticksTo(appID)
	for n := range w.config.Apps {
		w.config.Apps[n].Organizations = []string{map[int64]string{appID: "globex", secondID: "acme"}[w.config.Apps[n].ID]}
	}
	if w.client, err = githubapp.New(w.ctx, w.config); err != nil {
		t.Fatal(err)
	}
	w.sticksTo(secondID) // the other one serves somebody else now
	w.restart(appID)
	w.sticksTo(appID)
	w.restart(secondID, appID)
	w.sticksTo(appID)

	w.github.SelectRepositories(w.acme, []string{".github"})
	w.clock.advance(2 * time.Minute)
	if inst := w.sticksTo(secondID); inst.ID != second {
		t.Errorf("got installation %d, want %d", inst.ID, second)
	}
	// The owner still sticks to the first one, which one repository lacked.
	w.restart(appID, secondID)
	w.github.SelectRepositories(w.acme, []string{"app"})
	w.sticksTo(appID)
}

// TestStickyInstallationIsChosenOnce, also where many need it at once.
func TestStickyInstallationIsChosenOnce(t *testing.T) {
	t.Parallel()
	for _, db := range []*bbolt.DB{nil, openState(t)} {
		w, _ := newPool(t, func(o *options) { o.config.State = db })
		first := w.picks(appID)
		var group sync.WaitGroup
		var chosen sync.Map
		for n := range 40 {
			group.Go(func() {
				if n == 20 {
					w.use(first, 100, 50*time.Minute) // changes which one is the best
				}
				inst, err := w.client.StickyInstallation(w.ctx, "acme", "app")
				w.wants(err, "ok")
				chosen.Store(inst.AppID, true)
			})
		}
		group.Wait()
		n := 0
		chosen.Range(func(any, any) bool { n++; return true })
		if n != 1 {
			t.Errorf("%d Apps were chosen, want 1", n)
		}
	}
}

// TestStickyInstallationIsRememberedFirst: what cannot be remembered is not used.
func TestStickyInstallationIsRememberedFirst(t *testing.T) {
	t.Parallel()
	db := openState(t)
	w, _ := newPool(t, func(o *options) { o.config.State = db })
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	_, err := w.client.StickyInstallation(w.ctx, "acme", "app")
	w.wants(err, "unavailable", "acme sticks to")
	_, err = w.client.StickyInstallation(w.ctx, "nobody", "app")
	w.wants(err, "unavailable")
}

func TestStickyInstallationOfNobody(t *testing.T) {
	t.Parallel()
	w := newWorld(t, func(o *options) { o.config.Apps[0].Organizations = []string{"acme"} })
	_, err := w.client.StickyInstallation(w.ctx, "globex", "app")
	w.wants(err, "not installed", "no configured App serves globex")
	_, err = w.client.StickyInstallation(w.ctx, "acme", "..")
	w.wants(err, "refused")
	w.calls()
	_, err = w.client.StickyInstallation(w.ctx, "acme", "nothing")
	w.wants(err, "not installed")
	w.calls(ststest.RepoInstallRoute)
}
