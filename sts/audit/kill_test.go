package audit

import (
	"bufio"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"
)

// Every entry that was acknowledged before kill -9 is there afterwards, once, at its index; and no start after a kill
// finds anything that it cannot read.
func TestKillUnderLoad(t *testing.T) {
	lives := 60
	if testing.Short() {
		lives = 10
	}
	dir := t.TempDir()
	acknowledged := map[string]uint64{}
	for life := range lives {
		for id, index := range runUntilKilled(t, dir, life) {
			acknowledged[id] = index
		}
	}
	l := openTest(t, Config{Directory: dir})
	seen := map[string]bool{}
	for r, err := range Read(dir) {
		if err != nil {
			t.Fatal(err)
		}
		id := r.Entry.RequestID
		if seen[id] {
			t.Errorf("%s is there twice", id)
		}
		seen[id] = true
		if index, ok := acknowledged[id]; ok && index != r.Index {
			t.Errorf("%s was acknowledged as %d, but is %d", id, index, r.Index)
		}
	}
	for id := range acknowledged {
		if !seen[id] {
			t.Errorf("%s was acknowledged and is lost", id)
		}
	}
	if uint64(len(seen)) != l.Size() {
		t.Errorf("%d entries, size %d", len(seen), l.Size())
	}
	if len(acknowledged) < lives*10 {
		t.Errorf("only %d entries in %d lives: this was no load", len(acknowledged), lives)
	}
	t.Logf("%d kills, %d entries acknowledged, %d written, %d segments", lives, len(acknowledged), len(seen), len(segmentNames(t, dir)))
}

// runUntilKilled starts a process that appends, kills it a little after its first acknowledgement, and returns what it had
// acknowledged until then.
func runUntilKilled(t *testing.T, dir string, life int) map[string]uint64 {
	t.Helper()
	cmd := childCommand(t, "load", dir)
	cmd.Env = append(cmd.Env, fmt.Sprint("AUDIT_TEST_LIFE=", life))
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	acknowledged := map[string]uint64{}
	lines := bufio.NewScanner(out)
	for lines.Scan() {
		if strings.HasPrefix(lines.Text(), "error") {
			t.Fatalf("life %d: %s", life, lines.Text())
		}
		var index uint64
		var id string
		if _, err := fmt.Sscan(lines.Text(), &index, &id); err != nil {
			t.Fatalf("life %d: %q: %v", life, lines.Text(), err)
		}
		acknowledged[id] = index
		if len(acknowledged) == 1 {
			time.AfterFunc(time.Duration(rand.IntN(30_000))*time.Microsecond, func() { cmd.Process.Kill() })
		}
	}
	cmd.Wait() // "signal: killed" is what was wanted
	return acknowledged
}
