package audit

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// follow reads with c until it has n lines, waiting for them, and returns their request IDs. Indices must run on from the
// first one.
func follow(t testing.TB, c *Cursor, n int) []string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	var ids []string
	for index := c.next; len(ids) < n; {
		line, ok, err := c.Next()
		if err != nil {
			t.Error(err)
			return ids
		}
		if !ok {
			if err := c.Wait(ctx); err != nil {
				t.Errorf("after %d of %d lines: %v", len(ids), n, err)
				return ids
			}
			continue
		}
		if line.Index != index {
			t.Errorf("line %d comes as %d", index, line.Index)
			return ids
		}
		index++
		e, err := ParseEntry(line.Bytes)
		if err != nil {
			t.Error(err)
			return ids
		}
		ids = append(ids, e.RequestID)
	}
	return ids
}

func numbered(prefix string, n int) []string {
	ids := make([]string, n)
	for i := range ids {
		ids[i] = fmt.Sprint(prefix, i)
	}
	return ids
}

// A cursor sees every durable line once, in order, over rotations, from wherever it begins, and no line before it is
// durable.
func TestCursor(t *testing.T) {
	dir := t.TempDir()
	ids := numbered("id", 60)
	l := openTest(t, Config{Directory: dir, SegmentSize: 200})
	appendIDs(t, l, ids[:20]...)
	l.Close()
	l = openTest(t, Config{Directory: dir, SegmentSize: 200})
	appendIDs(t, l, ids[20:40]...)
	if len(segmentNames(t, dir)) < 10 {
		t.Fatalf("too few segments for a test: %v", segmentNames(t, dir))
	}
	for from := range uint64(41) {
		c := l.Cursor(from)
		if diff := cmp.Diff(ids[from:40], follow(t, c, 40-int(from)), equateEmpty()); diff != "" {
			t.Fatalf("from %d: %s", from, diff)
		}
		if line, ok, err := c.Next(); ok || err != nil {
			t.Fatalf("from %d, after the last line: %v, %v, %v", from, line, ok, err)
		}
		c.Close()
	}
	late := l.Cursor(45) // not there yet
	defer late.Close()
	early := l.Cursor(38)
	defer early.Close()
	follow(t, early, 2)
	appendIDs(t, l, ids[40:]...)
	for from, c := range map[int]*Cursor{40: early, 45: late} {
		if diff := cmp.Diff(ids[from:], follow(t, c, 60-from)); diff != "" {
			t.Errorf("from %d: %s", from, diff)
		}
	}
}

func equateEmpty() cmp.Option {
	return cmp.Transformer("empty", func(s []string) []string { return append([]string{}, s...) })
}

// Many cursors follow while many goroutines append, and all see the same.
func TestManyCursors(t *testing.T) {
	const writers, each, cursors = 8, 100, 16
	l := openTest(t, Config{Directory: t.TempDir(), SegmentSize: 10_000})
	var wg sync.WaitGroup
	seen := make([][]string, cursors)
	for i := range cursors {
		wg.Go(func() {
			c := l.Cursor(0)
			defer c.Close()
			seen[i] = follow(t, c, writers*each)
		})
	}
	for w := range writers {
		wg.Go(func() {
			for i := range each {
				if _, err := l.Append(t.Context(), Entry{Kind: Intent, RequestID: fmt.Sprintf("%d-%d", w, i)}); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
	want := readIDs(t, Read(l.config.Directory), 0)
	for i := range seen {
		if diff := cmp.Diff(want, seen[i]); diff != "" {
			t.Errorf("cursor %d: %s", i, diff)
		}
	}
}

// What is written and cut off again, for want of room, never comes out of a cursor: not even where its reader could have
// had it in its buffer.
func TestCursorSeesNothingThatIsCutOff(t *testing.T) {
	dir := smallDisk(t, 1<<20)
	l := openTest(t, Config{Directory: dir})
	c := l.Cursor(0)
	defer c.Close()
	want := 0
	for round := range 3 {
		free := fill(t, dir)
		for i := 0; ; i++ {
			_, err := l.Append(t.Context(), Entry{Kind: Intent, RequestID: fmt.Sprint(round, "-", i), Reason: strings.Repeat("r", 700)})
			if errors.Is(err, ErrFull) {
				break
			} else if err != nil {
				t.Fatal(err)
			}
			want++
			if i%3 == 0 { // so that the last of them are still to be read when the disk is full
				follow(t, c, 1)
			}
		}
		free()
		awaitErr(t, l, nil)
	}
	appendIDs(t, l, "last")
	ids := follow(t, c, want+1-int(c.next))
	if all := readIDs(t, Read(dir), 0); cmp.Diff(all[len(all)-len(ids):], ids) != "" {
		t.Errorf("the cursor saw %v of %v", ids, all)
	}
}

// A durable line is all that a cursor reads, also where the file has more: a write that is still under way.
func TestCursorStopsAtWhatIsDurable(t *testing.T) {
	dir := t.TempDir()
	l := openTest(t, Config{Directory: dir})
	appendIDs(t, l, "a", "b")
	c := l.Cursor(0)
	defer c.Close()
	// As the writer's write(2) before its fdatasync(2), and a later cut and another line in its place.
	path := filepath.Join(dir, segmentName(0))
	before, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, append(before, strings.ReplaceAll(entries("half-written"), "intent", "denied")...), 0o640); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"a", "b"}, follow(t, c, 2)); diff != "" {
		t.Fatal(diff)
	}
	if line, ok, err := c.Next(); ok || err != nil {
		t.Fatalf("%q, %v, %v", line.Bytes, ok, err)
	}
	if err := os.WriteFile(path, before, 0o640); err != nil {
		t.Fatal(err)
	}
	appendIDs(t, l, "c")
	if diff := cmp.Diff([]string{"c"}, follow(t, c, 1)); diff != "" {
		t.Fatal(diff)
	}
}

func TestCursorOverMissingSegments(t *testing.T) {
	dir, away := t.TempDir(), t.TempDir()
	writeSegment(t, dir, 0, entries("a", "b"))
	writeSegment(t, dir, 2, entries("c"))
	writeSegment(t, dir, 3, entries("d", "e"))
	l := openTest(t, Config{Directory: dir})
	appendIDs(t, l, "f")
	c := l.Cursor(1)
	defer c.Close()
	follow(t, c, 1)
	move := func(from, to string, first uint64) {
		if err := os.Rename(filepath.Join(from, segmentName(first)), filepath.Join(to, segmentName(first))); err != nil {
			t.Fatal(err)
		}
	}
	move(dir, away, 0)
	move(dir, away, 2)
	for range 2 { // the cursor stays where it is
		_, ok, err := c.Next()
		if diff := cmp.Diff(&MissingError{2, 3}, asMissing(err)); ok || diff != "" {
			t.Fatalf("%v, %v: %s", ok, err, diff)
		}
	}
	if first, err := l.First(); first != 3 || err != nil {
		t.Errorf("first is %d, %v", first, err)
	}
	after := l.Cursor(3)
	defer after.Close()
	if diff := cmp.Diff([]string{"d", "e", "f"}, follow(t, after, 3)); diff != "" {
		t.Error(diff)
	}
	move(away, dir, 2)
	if diff := cmp.Diff([]string{"c", "d", "e", "f"}, follow(t, c, 4)); diff != "" {
		t.Error(diff)
	}
	if _, _, err := l.Cursor(0).Next(); asMissing(err) == nil || *asMissing(err) != (MissingError{0, 2}) {
		t.Errorf("from 0: %v", err)
	}
	// A segment that was cut short by somebody.
	if err := os.WriteFile(filepath.Join(dir, segmentName(3)), []byte(entries("d")), 0o640); err != nil {
		t.Fatal(err)
	}
	short := l.Cursor(3)
	defer short.Close()
	follow(t, short, 1)
	if _, _, err := short.Next(); asMissing(err) == nil || *asMissing(err) != (MissingError{4, 5}) {
		t.Errorf("behind the cut: %v", err)
	}
}

func asMissing(err error) *MissingError {
	var missing *MissingError
	errors.As(err, &missing)
	return missing
}

func TestCursorWait(t *testing.T) {
	l := openTest(t, Config{Directory: t.TempDir()})
	c := l.Cursor(0)
	defer c.Close()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := c.Wait(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("an ended context: %v", err)
	}
	appendIDs(t, l, "a")
	if err := c.Wait(ctx); err != nil {
		t.Errorf("a line is there: %v", err)
	}
	waiting := make(chan error)
	go func() { waiting <- l.Cursor(1).Wait(t.Context()) }()
	l.Close()
	if err := <-waiting; !errors.Is(err, ErrClosed) {
		t.Errorf("closed while waiting: %v", err)
	}
	if err := c.Wait(t.Context()); err != nil {
		t.Errorf("closed, but there is a line to read: %v", err)
	}
	follow(t, c, 1)
	if err := c.Wait(t.Context()); !errors.Is(err, ErrClosed) {
		t.Errorf("closed, and all was read: %v", err)
	}
}

// A segment is followed by another with the first entry that comes a day, or what is configured, after its own first.
func TestSegmentAge(t *testing.T) {
	dir := t.TempDir()
	l := openTest(t, Config{Directory: dir, SegmentAge: 50 * time.Millisecond})
	time.Sleep(60 * time.Millisecond)
	appendIDs(t, l, "first") // what is empty has no age
	if n := len(segmentNames(t, dir)); n != 1 {
		t.Fatalf("%d segments", n)
	}
	time.Sleep(60 * time.Millisecond)
	appendIDs(t, l, "second")
	if diff := cmp.Diff([]string{segmentName(0), segmentName(1)}, segmentNames(t, dir)); diff != "" {
		t.Error(diff)
	}
	young := openTest(t, Config{Directory: t.TempDir()})
	appendIDs(t, young, numbered("id", 10)...)
	if n := len(segmentNames(t, young.config.Directory)); n != 1 {
		t.Errorf("%d segments within a day", n)
	}
}
