package audit

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/mod/sumdb/tlog"
)

// readLeaves collects what a leafReader finds in a file of the given content.
func readLeaves(t testing.TB, content []byte, parseFrom uint64) (hashes []tlog.Hash, end leafBlock) {
	t.Helper()
	path := filepath.Join(t.TempDir(), segmentName(5))
	if err := os.WriteFile(path, content, 0o644); err != nil {
		t.Fatal(err)
	}
	number := 1
	err := leafReader{parseFrom}.read(context.Background(), segmentFile{path, 5}, func(b leafBlock) (bool, error) {
		if b.first != 5+uint64(len(hashes)) || b.number != number {
			t.Errorf("a block begins with entry %d, line %d, after %d lines", b.first, b.number, len(hashes))
		}
		hashes, end = append(hashes, b.hashes...), b
		number += len(b.hashes)
		return b.malformed == nil, nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return hashes, end
}

// checkLeaves compares a leafReader with the definition: the hash of each line, up to the first that is no entry or has no
// end.
func checkLeaves(t testing.TB, content []byte, parseFrom uint64) {
	t.Helper()
	got, end := readLeaves(t, content, parseFrom)
	n := 0
	for line := range bytes.Lines(content) {
		text, isWhole := bytes.CutSuffix(line, []byte{'\n'})
		_, err := ParseEntry(text)
		if len(text) > MaxLine || !isWhole || uint64(5+n) >= parseFrom && err != nil {
			if end.malformed == nil || end.malformedAt != uint64(5+n) || end.hasNUL != bytes.Contains(text, []byte{0}) && len(text) <= MaxLine {
				t.Errorf("line %d is malformed, and was reported as %+v", n, end)
			}
			if !isWhole && len(text) <= MaxLine != end.unfinished {
				t.Errorf("line %d is unfinished, and was reported as %+v", n, end)
			}
			break
		}
		if n >= len(got) || got[n] != tlog.RecordHash(text) {
			t.Fatalf("line %d of %q is missing, or has another hash", n, content[:min(len(content), 200)])
		}
		n++
	}
	if n != len(got) {
		t.Errorf("%d hashes of %d lines", len(got), n)
	}
}

func TestLeaves(t *testing.T) {
	e := typicalEntry()
	line := string(e.appendLine(nil)) + "\n"
	for name, content := range map[string]string{
		"nothing":                    "",
		"one line":                   line,
		"many blocks":                strings.Repeat(line, 5000),
		"no end":                     strings.Repeat(line, 3000) + "{",
		"no end in one block":        strings.Repeat(line, 3) + "{",
		"the longest lines":          strings.Repeat(strings.Repeat("x", MaxLine)+"\n", 100),
		"a line too long":            line + strings.Repeat("x", MaxLine+1) + "\n" + line,
		"a line as long as a block":  line + strings.Repeat("x", leafBlockSize) + "\n" + line,
		"nothing but a line":         strings.Repeat("x", 3*leafBlockSize),
		"empty lines":                strings.Repeat("\n", 10_000),
		"zeros":                      line + "\x00\x00\n" + line,
		"as many bytes as one block": strings.Repeat("x\n", leafBlockSize/2),
	} {
		t.Run(name, func(t *testing.T) {
			for _, parseFrom := range []uint64{0, 7, 1 << 40} {
				checkLeaves(t, []byte(content), parseFrom)
			}
		})
	}
}

func FuzzLeaves(f *testing.F) {
	e := typicalEntry()
	line := e.appendLine(nil)
	f.Add(fmt.Appendf(nil, "%s\n%s\n", line, line), uint64(0), uint16(1))
	f.Add([]byte("a\n\nb"), uint64(100), uint16(3000))
	f.Fuzz(func(t *testing.T, content []byte, parseFrom uint64, times uint16) {
		checkLeaves(t, bytes.Repeat(content, int(times)%5000*min(1, 4<<20/max(1, 5000*len(content)))+1), parseFrom)
	})
}
