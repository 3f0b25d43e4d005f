package audit

import (
	"bytes"
	"crypto/ed25519"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"golang.org/x/mod/sumdb/tlog"
)

// TestTampers changes a log at random in every way that its owner could, and verifies it against a checkpoint that was
// retained. Each change to what that covers must be found, and where Verify says that it is, it must be. Among them are
// logs that nobody tampered with: they must verify. OCTO_STS_TAMPERS=100000 makes it a long run.
func TestTampers(t *testing.T) {
	n := tamperCount(t)
	c := newCampaign(t)
	var next atomic.Int64
	var workers sync.WaitGroup
	for range 2 {
		workers.Go(func() {
			for i := int(next.Add(1)) - 1; i < n && !t.Failed(); i = int(next.Add(1)) - 1 {
				c.one(t, i)
			}
		})
	}
	workers.Wait()
	for _, name := range slices.Sorted(maps.Keys(c.counts)) {
		count := c.counts[name]
		t.Logf("%-34s %6d tampers, %6d of them located exactly", name, count[0], count[1])
	}
}

func tamperCount(t *testing.T) int {
	t.Helper()
	s := os.Getenv("OCTO_STS_TAMPERS")
	if s == "" {
		return 1000
	}
	n, err := strconv.Atoi(s)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// campaign is what all tampers start from.
type campaign struct {
	*retainedLog
	work     string
	segments map[string][]byte
	leaves   []tlog.Hash
	// ends are the indices before which a segment ended.
	ends     map[uint64]bool
	stranger ed25519.PrivateKey
	sizes    []uint64

	mu     sync.Mutex
	counts map[string][2]int // guarded by mu: tampers of a kind, and those that were located exactly
}

// newCampaign makes a log of three full tiles and a part of one, in some 20 segments. The last checkpoint covers all but
// seven entries.
func newCampaign(t *testing.T) *campaign {
	c := &campaign{
		work: shm(t), sizes: []uint64{1, 100, 256, 700, 850}, segments: make(map[string][]byte),
		ends: make(map[uint64]bool), counts: make(map[string][2]int),
	}
	c.retainedLog = newRetainedLog(t, filepath.Join(c.work, "log"), 7, c.sizes...)
	_, c.stranger, _ = ed25519.GenerateKey(nil)
	for _, name := range segmentNames(t, c.dir) {
		data, err := os.ReadFile(filepath.Join(c.dir, name))
		if err != nil {
			t.Fatal(err)
		}
		c.segments[name] = data
		c.ends[uint64(len(c.leaves))] = true
		for line := range bytes.Lines(data) {
			c.leaves = append(c.leaves, tlog.RecordHash(line[:len(line)-1]))
		}
	}
	return c
}

// shm returns a directory in memory, where there is such.
func shm(t testing.TB) string {
	dir, err := os.MkdirTemp("/dev/shm", "octo-sts-test-")
	if err != nil {
		return t.TempDir()
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

// one does one tamper.
func (c *campaign) one(t *testing.T, number int) {
	r := rand.New(rand.NewPCG(20260801, uint64(number)))
	dir := filepath.Join(c.work, strconv.Itoa(number))
	defer os.RemoveAll(dir)
	if err := linkDirectory(c.dir, dir); err != nil {
		t.Error(err)
		return
	}
	retained := c.sizes[r.IntN(len(c.sizes))]
	state := &tampered{
		campaign: c, r: r, dir: dir, segments: maps.Clone(c.segments), ends: maps.Clone(c.ends),
		covered: retained, checkpointSize: c.sizes[len(c.sizes)-1],
	}
	i := r.IntN(len(tampers))
	name := tampers[i].name
	state.innocent = i < innocents
	err := tampers[i].do(state)
	if err == nil {
		err = state.write()
	}
	if err != nil {
		t.Errorf("tamper %d, %s: %v", number, name, err)
		return
	}
	config := c.config(dir, retained)
	config.Directories = append(config.Directories, state.archives...)
	report, err := Verify(t.Context(), config)
	if err != nil {
		t.Errorf("tamper %d, %s: %v", number, name, err)
		return
	}
	exact, wrong := state.judge(report)
	if wrong != "" {
		t.Errorf("tamper %d, %s, against a checkpoint of size %d: %s\n%+v", number, name, retained, wrong, report)
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	count := c.counts[name]
	count[0]++
	if exact {
		count[1]++
	}
	c.counts[name] = count
}

// judge compares a report with what was done.
func (s *tampered) judge(r *Report) (exact bool, wrong string) {
	// What the retained checkpoint covers counts; what lies beyond, only as far as the log's own checkpoint was left alone.
	covered := max(s.covered, s.checkpointSize)
	truth, isLie, unseen := s.truth(covered)
	located := slices.IndexFunc(r.Findings, func(f Finding) bool { return f.Entries != nil })
	switch {
	case s.mustFail && r.OK:
		return false, "not found"
	case s.mustFail && (!isLie || located < 0):
		return false, "" // what was found is no entry
	case !isLie && !r.OK && (s.innocent || !s.beyond(r, covered)):
		return false, "a false alarm"
	case !isLie && !unseen.covers(r.Unseen):
		return false, fmt.Sprintf("%v should be unseen", unseen)
	case !isLie:
		return false, ""
	case r.OK:
		return false, fmt.Sprintf("not found: the first lie is at entry %d", truth)
	case located < 0:
		return false, fmt.Sprintf("found, but not the entry %d", truth)
	}
	f := r.Findings[located]
	if truth < f.Entries.From || truth > f.Entries.To {
		return false, fmt.Sprintf("entry %d is not where the lie is said to be", truth)
	}
	exact = f.Entries.From == f.Entries.To
	if s.mustBeExact(truth) && !exact {
		return false, fmt.Sprintf("entry %d is not located exactly", truth)
	}
	return exact, ""
}

// mustBeExact: the tiles are as they were, and they hold all that some checkpoint covers, with the entry among it.
func (s *tampered) mustBeExact(truth uint64) bool {
	tiled := uint64(len(s.leaves)) / tileWidth * tileWidth
	return !s.tilesChanged && !s.isVague && truth < s.covered && s.covered <= tiled
}

// beyond says whether what was found lies in what no checkpoint covers.
func (s *tampered) beyond(r *Report, covered uint64) bool {
	return len(r.Findings) == 1 && r.Findings[0].Entries != nil && r.Findings[0].Entries.To >= covered
}

// ranges are entries that lie in no segment.
type ranges []EntryRange

// covers says whether a report names them all.
func (want ranges) covers(got []EntryRange) bool { return len(want) == 0 || slices.Equal(want, got) }

// truth returns the first entry of those that are covered that is not where and what it was. Where the oldest segments are
// missing as a whole, their entries are unseen.
func (s *tampered) truth(covered uint64) (first uint64, isLie bool, unseen ranges) {
	first = covered
	blame := func(index uint64) { first = min(first, index) }
	names := slices.Sorted(maps.Keys(s.segments))
	names = slices.DeleteFunc(names, func(name string) bool { return !strings.HasSuffix(name, segmentSuffix) })
	var next uint64
	for i, name := range names {
		from, _ := strconv.ParseUint(strings.TrimSuffix(name, segmentSuffix), 10, 64)
		if from > next {
			if i == 0 && s.ends[from] {
				unseen = append(unseen, EntryRange{next, from - 1})
			} else {
				blame(next)
			}
		}
		end := uint64(len(s.leaves))
		if i+1 < len(names) {
			end, _ = strconv.ParseUint(strings.TrimSuffix(names[i+1], segmentSuffix), 10, 64)
		}
		next = from
		for line := range bytes.Lines(s.segments[name]) {
			text, isWhole := bytes.CutSuffix(line, []byte{'\n'})
			if next >= end || next >= uint64(len(s.leaves)) || !isWhole || tlog.RecordHash(text) != s.leaves[next] {
				blame(next)
				break
			}
			next++
		}
	}
	if next < covered {
		blame(next) // truncated
	}
	if first < covered {
		return first, true, nil
	}
	return 0, false, unseen
}

// linkDirectory makes a copy of a log whose files are hard links: none may be written to.
func linkDirectory(from, to string) error {
	return filepath.WalkDir(from, func(path string, d os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		target := filepath.Join(to, strings.TrimPrefix(path, from))
		if d.IsDir() {
			return os.MkdirAll(target, 0o755)
		}
		return os.Link(path, target)
	})
}

// replace writes a file anew, whatever other names it has.
func replace(path string, data []byte) error {
	if err := os.Remove(path); err != nil && !os.IsNotExist(err) {
		return err
	}
	return os.WriteFile(path, data, 0o644)
}
