package main

import (
	"io"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/octo-sts/appliance/sts/audit"
)

// reportAll reports cells that were run, each as a test of its own, and accounts
// for all tokens that there ever were.
func (r *rig) reportAll(t *testing.T, cells []*cell) {
	t.Helper()
	lines := map[string][]audit.Entry{}
	for _, e := range r.audited(audit.Filter{}) {
		lines[e.RequestID] = append(lines[e.RequestID], e)
	}
	slowest := time.Duration(0)
	for _, c := range cells {
		t.Run(c.oddity.name+"/"+c.step.name, func(t *testing.T) { c.report(t, lines) })
		slowest = max(slowest, c.recovered)
	}
	t.Logf("%d cells; the slowest recovery took %s", len(cells), slowest)
	r.checkTokens(t, lines)
}

// checkTokens: each token that GitHub minted for a caller is in a grant's outcome,
// or revoked, or lost on its way and one of the outcomes that say so.
func (r *rig) checkTokens(t *testing.T, lines map[string][]audit.Entry) {
	t.Helper()
	granted, lost := map[string]bool{}, map[string]int{}
	for id, entries := range lines {
		for i, e := range entries {
			if e.Kind != audit.Outcome {
				continue
			}
			if i == 0 || entries[i-1].Kind != audit.Intent {
				t.Errorf("request %s has an outcome without its intent: %+v", id, entries)
			}
			if e.Decision == audit.DecisionGranted {
				granted[e.TokenSHA256] = true
			} else {
				lost[strings.ToLower(e.Scope)]++
			}
		}
	}
	for _, m := range r.GitHub.Mints() {
		scope := m.Owner + "/" + strings.Join(m.Repositories, ",")
		if m.AllRepositories || granted[m.TokenSHA256] || !m.Revoked.IsZero() {
			continue // the daemon's own, handed out, or taken back
		}
		if lost[scope]--; lost[scope] < 0 {
			t.Errorf("nothing accounts for %+v", m)
		}
	}
}

// gauge reads one of the daemon's metrics, by its name and labels.
func (r *rig) gauge(t *testing.T, name string) float64 {
	t.Helper()
	resp, err := r.Client().Get(r.AdminURL() + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		if value, ok := strings.CutPrefix(line, name+" "); ok {
			v, err := strconv.ParseFloat(strings.TrimSpace(value), 64)
			if err != nil {
				t.Fatal(err)
			}
			return v
		}
	}
	return 0
}

// held is what a daemon has in hand: goroutines and descriptors, without those
// that serve our own idle connections.
type held struct{ goroutines, descriptors float64 }

func (r *rig) held(t *testing.T) held {
	t.Helper()
	r.Client().CloseIdleConnections()
	return held{r.gauge(t, "go_goroutines"), r.gauge(t, "process_open_fds")}
}

// checkHeld waits until the daemon has let go of all that it took up since.
func (r *rig) checkHeld(t *testing.T, before held) {
	t.Helper()
	const some = 10 // connections to GitHub and to the issuer come and go
	var now held
	r.eventually("goroutines and descriptors as before", func() bool {
		now = r.held(t)
		return now.goroutines <= before.goroutines+some && now.descriptors <= before.descriptors+some
	})
	t.Logf("before: %+v; after: %+v", before, now)
}
