package audit

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"
)

// writeSegment puts raw bytes where a segment belongs.
func writeSegment(t testing.TB, dir string, first uint64, content string) string {
	t.Helper()
	path := filepath.Join(dir, segmentName(first))
	if err := os.WriteFile(path, []byte(content), 0o640); err != nil {
		t.Fatal(err)
	}
	return path
}

// entries returns the lines of entries whose request IDs are given.
func entries(ids ...string) string {
	var b strings.Builder
	for _, id := range ids {
		b.WriteString(line(Entry{Time: when, Kind: Intent, RequestID: id}))
		b.WriteByte('\n')
	}
	return b.String()
}

func TestOpenAfterACrash(t *testing.T) {
	c := entries("c")
	for _, test := range []struct {
		name, tail string
		keep       []string // of the tail
		cut        int      // bytes
		err        string
	}{
		{name: "nothing torn"},
		{name: "a whole line that nobody heard of", tail: c, keep: []string{"c"}},
		{name: "half a line", tail: c[:20], cut: 20},
		{name: "all but the newline", tail: c[:len(c)-1], cut: len(c) - 1},
		{name: "a line, then half of one", tail: c + c[:20], keep: []string{"c"}, cut: 20},
		{name: "a last line that is no object", tail: "garbage\n", cut: 8},
		{name: "an empty last line", tail: "\n", cut: 1},
		{name: "zeros", tail: strings.Repeat("\x00", 5000), cut: 5000},
		{name: "a page of zeros, later lines stored", tail: c[:10] + strings.Repeat("\x00", 4096) + c[10:] + c, cut: 4096 + 2*len(c)},
		{name: "more than a line without an end", tail: strings.Repeat("x", 200_000), cut: 200_000},

		{name: "damage before a good line", tail: "garbage\n" + c, err: "segment:3: "},
		{name: "an empty line before a good line", tail: "\n" + c, err: "segment:3: "},
		{name: "more than one write can leave", tail: strings.Repeat("\x00", maxBatch+1), err: "segment:3: "},
	} {
		t.Run(test.name, func(t *testing.T) {
			dir := t.TempDir()
			path := writeSegment(t, dir, 0, entries("a", "b")+test.tail)
			core, logged := observer.New(zap.WarnLevel)
			l, err := Open(t.Context(), Config{Directory: dir, Logger: zap.New(core)})
			if test.err != "" {
				if want := strings.Replace(test.err, "segment", path, 1); err == nil || !strings.Contains(err.Error(), want) {
					t.Fatalf("got %v, want an error with %q", err, want)
				}
				if got, _ := os.ReadFile(path); string(got) != entries("a", "b")+test.tail {
					t.Fatal("the file was changed nonetheless")
				}
				return
			} else if err != nil {
				t.Fatal(err)
			}
			defer l.Close()
			appendIDs(t, l, "new")
			want := append(append([]string{"a", "b"}, test.keep...), "new")
			if diff := cmp.Diff(want, readIDs(t, Read(dir), 0)); diff != "" {
				t.Fatal(diff)
			}
			if info, err := os.Stat(path); err != nil || info.Size() != int64(len(entries("a", "b")+test.tail)-test.cut) {
				t.Errorf("%d bytes were left (%v)", info.Size(), err)
			}
			cuts := logged.FilterMessageSnippet("cutting off").All()
			if test.cut == 0 && len(cuts) != 0 || test.cut > 0 && (len(cuts) != 1 || cuts[0].ContextMap()["bytes"] != int64(test.cut)) {
				t.Errorf("logged: %v", cuts)
			}
		})
	}
}

func TestOpenAfterACrashInTheFirstLine(t *testing.T) {
	dir := t.TempDir()
	writeSegment(t, dir, 7, `{"kind`)
	l := openTest(t, Config{Directory: dir})
	if l.Size() != 7 {
		t.Fatalf("size %d", l.Size())
	}
	appendIDs(t, l, "new")
	if diff := cmp.Diff([]string{"new"}, readIDs(t, Read(dir), 7)); diff != "" {
		t.Fatal(diff)
	}
}

func TestOpenRefusesADamagedDirectory(t *testing.T) {
	ab := entries("a", "b")
	for _, test := range []struct {
		name  string
		files map[uint64]string
		want  []string
	}{
		{"gap", map[uint64]string{0: ab, 3: ab}, []string{"gap", segmentName(0), "before entry 2,", segmentName(3), "entry 3:"}},
		{"gap further back", map[uint64]string{0: ab, 3: ab, 5: ab}, []string{"gap", segmentName(0), segmentName(3)}},
		{"overlap", map[uint64]string{0: ab, 1: ab}, []string{"overlap", segmentName(0), "before entry 2,", segmentName(1), "entry 1:"}},
		{"torn in the middle", map[uint64]string{0: ab + "{", 2: ab}, []string{segmentName(0), ".jsonl:3: ", "not the last"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			dir := t.TempDir()
			for first, content := range test.files {
				writeSegment(t, dir, first, content)
			}
			l, err := Open(t.Context(), Config{Directory: dir})
			if err == nil {
				l.Close()
				t.Fatal("opened")
			}
			var readErr error
			for _, e := range Read(dir) {
				readErr = e
			}
			if readErr == nil {
				t.Error("Read found nothing wrong")
			}
			for _, want := range test.want {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("%q does not say %q", err, want)
				}
			}
		})
	}
	t.Run("odd names", func(t *testing.T) {
		for _, name := range []string{"1.jsonl", "x.jsonl", "99999999999999999999.jsonl", "0000000000000000000a.jsonl", "+0000000000000000001.jsonl"} {
			dir := t.TempDir()
			if err := os.WriteFile(filepath.Join(dir, name), nil, 0o640); err != nil {
				t.Fatal(err)
			}
			if _, err := Open(t.Context(), Config{Directory: dir}); err == nil || !strings.Contains(err.Error(), name) {
				t.Errorf("%s: %v", name, err)
			}
		}
	})
	t.Run("symbolic link", func(t *testing.T) {
		dir := t.TempDir()
		target := filepath.Join(t.TempDir(), "elsewhere")
		if err := os.WriteFile(target, nil, 0o640); err != nil {
			t.Fatal(err)
		}
		if err := os.Symlink(target, filepath.Join(dir, segmentName(0))); err != nil {
			t.Fatal(err)
		}
		if _, err := Open(t.Context(), Config{Directory: dir}); err == nil || !strings.Contains(err.Error(), "not a regular file") {
			t.Error(err)
		}
	})
}

func TestReadOfATornTail(t *testing.T) {
	dir := t.TempDir()
	writeSegment(t, dir, 0, entries("a")+entries("b")[:30])
	if diff := cmp.Diff([]string{"a"}, readIDs(t, Read(dir), 0)); diff != "" {
		t.Fatal(diff)
	}
	path := writeSegment(t, dir, 0, entries("a")+"x\n")
	var last error
	for _, err := range Read(dir) {
		last = err
	}
	if last == nil || !strings.Contains(last.Error(), fmt.Sprintf("%s:2: not an entry", path)) {
		t.Fatalf("a whole line that is no entry: %v", last)
	}
}

// FuzzRecover: whatever follows the lines that were acknowledged, Open neither panics nor loses one of them; and where it
// succeeds, all of the log can be read and goes on.
func FuzzRecover(f *testing.F) {
	c := entries("c")
	for _, tail := range []string{"", c, c[:20], c + c[:20], "\x00\x00", "garbage\n", "\n", c[:9] + "\x00" + c[9:] + c, "garbage\n" + c} {
		f.Add([]byte(tail))
	}
	f.Fuzz(func(t *testing.T, tail []byte) {
		dir := t.TempDir()
		acknowledged := entries("a", "b")
		path := writeSegment(t, dir, 0, acknowledged+string(tail))
		l, err := Open(t.Context(), Config{Directory: dir})
		content, readErr := os.ReadFile(path)
		if readErr != nil || !bytes.HasPrefix(content, []byte(acknowledged)) {
			t.Fatalf("acknowledged lines are gone: %q (%v)", content, readErr)
		}
		if err != nil {
			if string(content) != acknowledged+string(tail) {
				t.Fatalf("refused (%v), but changed: %q", err, content)
			}
			return
		}
		defer l.Close()
		if !strings.HasPrefix(acknowledged+string(tail), string(content)) {
			t.Fatalf("not only cut: %q", content)
		}
		appendIDs(t, l, "new")
		ids := readIDs(t, Read(dir), 0)
		if len(ids) < 3 || ids[0] != "a" || ids[1] != "b" || ids[len(ids)-1] != "new" || l.Size() != uint64(len(ids)) {
			t.Fatalf("%q, size %d", ids, l.Size())
		}
	})
}
