package githubapp

import (
	"path/filepath"
	"testing"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"
	"go.etcd.io/bbolt"
)

// TestRoutes: of two who choose at once, the one who comes second is told; and
// what memory does not hold any more is read again.
func TestRoutes(t *testing.T) {
	db, err := bbolt.Open(filepath.Join(t.TempDir(), "state.db"), 0o600, &bbolt.Options{Timeout: 10 * time.Second, NoSync: true})
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	for _, state := range []*bbolt.DB{nil, db} {
		known, err := lru.New[string, int64](1)
		if err != nil {
			t.Fatal(err)
		}
		r := routes{db: state, known: known}
		for _, c := range []struct {
			from, to, then int64
		}{{0, 1, 1}, {0, 2, 1}, {2, 3, 1}, {1, 2, 2}, {2, 2, 2}} {
			told, err := r.change("Acme", c.from, c.to)
			then, getErr := r.get("aCME")
			if err != nil || getErr != nil || told != c.then || then != c.then {
				t.Errorf("from %d to %d: told %d, then %d (%v, %v), want %d", c.from, c.to, told, then, err, getErr, c.then)
			}
		}
		if _, err := r.change("globex", 0, 7); err != nil {
			t.Fatal(err)
		}
		want := int64(2)
		if state == nil {
			want = 0 // it fell out, and is chosen anew
		}
		if got, err := r.get("acme"); err != nil || got != want {
			t.Errorf("got %d (%v), want %d", got, err, want)
		}
	}
}
