package audit

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/mod/sumdb/note"

	"github.com/octo-sts/appliance/sts/audit/checkpoint"
)

func TestVerifySound(t *testing.T) {
	s := newRetainedLog(t, t.TempDir(), 7, 1, 100, 256, 700)
	r := verifyTest(t, s.config(s.dir, 1, 100, 256))
	if !r.OK || r.Origin != testOrigin || r.Entries != 707 || r.Covered != 700 || r.Uncovered != 7 || len(r.Checkpoints) != 4 || !r.SignaturesChecked {
		t.Errorf("%+v", r)
	}
	for i, want := range []uint64{1, 100, 256, 700} {
		if c := r.Checkpoints[i]; c.Size != want || c.Result != resultAgrees || len(c.Signers) != 1 {
			t.Errorf("checkpoint %d: %+v", i, c)
		}
	}
	c := s.config(s.dir)
	c.Keys = nil
	if r = verifyTest(t, c); !r.OK || r.SignaturesChecked || r.Covered != 700 {
		t.Errorf("without a key: %+v", r)
	}
	if r = verifyTest(t, VerifyConfig{Directories: []string{t.TempDir()}}); r.OK {
		t.Errorf("a directory without a log: %+v", r)
	}
}

// With the newest segment alone, the tiles stand for the others: what is wrong with the newest is found, and nothing else.
func TestVerifyNewest(t *testing.T) {
	s := newRetainedLog(t, t.TempDir(), 7, 700)
	names := segmentNames(t, s.dir)
	if len(names) < 2 {
		t.Fatalf("the log is in %d segments", len(names))
	}
	c := s.config(s.dir)
	c.Newest = true
	first := s.dir + "/" + names[0]
	if err := os.Rename(first, first+".away"); err != nil {
		t.Fatal(err)
	}
	if r := verifyTest(t, c); !r.OK || r.Segments != 1 || r.Covered != 700 {
		t.Errorf("%+v", r)
	}
	empty := s.dir + "/" + segmentName(707)
	if err := os.WriteFile(empty, nil, 0o640); err != nil {
		t.Fatal(err)
	}
	edit(t, s.dir, names[len(names)-1], swapText(`"request 699"`, `"request xxx"`))
	if r := verifyTest(t, c); r.OK {
		t.Errorf("a changed entry of the newest segment is not found: %+v", r)
	}
}

// edit applies a change to a segment's bytes.
func edit(t *testing.T, dir, name string, change func([]byte) []byte) {
	t.Helper()
	path := filepath.Join(dir, name)
	data, err := os.ReadFile(path)
	if err == nil {
		err = os.WriteFile(path, change(data), 0o644)
	}
	if err != nil {
		t.Fatal(err)
	}
}

func swapText(old, new string) func([]byte) []byte {
	return func(data []byte) []byte { return bytes.Replace(data, []byte(old), []byte(new), 1) }
}

func withoutLine(n int) func([]byte) []byte {
	return func(data []byte) []byte {
		lines := bytes.SplitAfter(data, []byte{'\n'})
		return bytes.Join(append(lines[:n:n], lines[n+1:]...), nil)
	}
}

// Where the first lie is. Segments of the log have some 40 entries; the last checkpoint in the log is of size 500, and one
// of size 300 was kept.
func TestVerifyLocates(t *testing.T) {
	golden := newRetainedLog(t, filepath.Join(t.TempDir(), "log"), 5, 300, 500)
	names := segmentNames(t, golden.dir)
	second, last := names[1], names[len(names)-1]
	first := firstOf(second)
	noTiles := func(t *testing.T, dir string) {
		if err := os.RemoveAll(filepath.Join(dir, "tile")); err != nil {
			t.Fatal(err)
		}
	}
	for name, test := range map[string]struct {
		change func(t *testing.T, dir string)
		want   Finding // but its text
	}{
		"a changed line": {
			func(t *testing.T, dir string) {
				edit(t, dir, second, swapText(fmt.Sprint("request ", first+3), "request x"))
			},
			Finding{Altered, &EntryRange{first + 3, first + 3}, second, 4, ""},
		},
		"a changed line, without tiles": {
			func(t *testing.T, dir string) {
				noTiles(t, dir)
				edit(t, dir, second, swapText(fmt.Sprint("request ", first+3), "request x"))
			},
			Finding{Altered, &EntryRange{0, 299}, "", 0, ""},
		},
		"a changed line between the checkpoints, without tiles": {
			func(t *testing.T, dir string) {
				noTiles(t, dir)
				edit(t, dir, segmentOf(names, 400), swapText("request 400", "request x"))
			},
			Finding{Altered, &EntryRange{300, 499}, "", 0, ""},
		},
		"a line that is no entry, without tiles": {
			func(t *testing.T, dir string) {
				noTiles(t, dir)
				edit(t, dir, second, swapText(fmt.Sprint(`"request `, first+3), "request x"))
			},
			Finding{Malformed, &EntryRange{0, first + 3}, second, 4, ""},
		},
		"a line removed": {
			func(t *testing.T, dir string) { edit(t, dir, second, withoutLine(5)) },
			Finding{Altered, &EntryRange{first + 5, first + 5}, second, 6, ""},
		},
		"a line removed from the last segment": {
			func(t *testing.T, dir string) { edit(t, dir, last, withoutLine(0)) },
			Finding{Altered, &EntryRange{300, 499}, "", 0, ""},
		},
		"the last line of a segment removed": {
			func(t *testing.T, dir string) { edit(t, dir, names[0], withoutLine(int(first)-1)) },
			Finding{Missing, &EntryRange{first - 1, first - 1}, names[0], int(first), ""},
		},
		"a line added at a segment's end": {
			func(t *testing.T, dir string) {
				edit(t, dir, names[0], func(data []byte) []byte { return append(data, data[:bytes.IndexByte(data, '\n')+1]...) })
			},
			Finding{Overlap, &EntryRange{first, first}, names[0], int(first) + 1, ""},
		},
		"no entry at a segment's end": {
			func(t *testing.T, dir string) {
				edit(t, dir, names[0], func(data []byte) []byte { return append(data, "x\n"...) })
			},
			Finding{Overlap, &EntryRange{first, first}, names[0], int(first) + 1, ""},
		},
		"a segment gone": {
			func(t *testing.T, dir string) { os.Remove(filepath.Join(dir, second)) },
			Finding{Missing, &EntryRange{first, first}, names[0], int(first) + 1, ""},
		},
		"a segment and its tiles gone": {
			func(t *testing.T, dir string) {
				noTiles(t, dir)
				os.Remove(filepath.Join(dir, second))
			},
			Finding{Missing, &EntryRange{0, first}, names[0], int(first) + 1, ""},
		},
		"all gone after the second segment": {
			func(t *testing.T, dir string) {
				for _, name := range names[2:] {
					os.Remove(filepath.Join(dir, name))
				}
			},
			Finding{Truncated, &EntryRange{firstOf(names[2]), firstOf(names[2])}, second, int(firstOf(names[2])-first) + 1, ""},
		},
		"a bad line that nothing covers": {
			func(t *testing.T, dir string) { edit(t, dir, last, swapText(`"request 502"`, `"request 502`)) },
			Finding{Malformed, &EntryRange{500, 502}, last, int(502-firstOf(last)) + 1, ""},
		},
	} {
		t.Run(name, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "log")
			if err := os.CopyFS(dir, os.DirFS(golden.dir)); err != nil {
				t.Fatal(err)
			}
			test.change(t, dir)
			r := verifyTest(t, golden.config(dir, 300))
			if r.OK || len(r.Findings) != 1 {
				t.Fatalf("%+v", r)
			}
			got := r.Findings[0]
			t.Log(got)
			got.Text, got.File = "", strings.TrimPrefix(got.File, dir+"/")
			if test.want.File == "" { // the end of a bracket, where the file says little
				got.File, got.Line = "", 0
			}
			if diff := cmp.Diff(test.want, got); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// segmentOf returns the name of the segment that has an entry.
func segmentOf(names []string, index uint64) string {
	name := names[0]
	for _, n := range names {
		if firstOf(n) <= index {
			name = n
		}
	}
	return name
}

// A checkpoint that cannot be relied on is a finding by itself, and never one that the log is held against.
func TestVerifyCheckpoints(t *testing.T) {
	s := newRetainedLog(t, t.TempDir(), 0, 300)
	stranger := newTestSigner(t)
	p256, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	good, err := checkpoint.Parse(s.retained[300])
	if err != nil {
		t.Fatal(err)
	}
	sign := func(c checkpoint.Checkpoint) []byte {
		signed, err := checkpoint.Sign(c, s.signer.key)
		if err != nil {
			t.Fatal(err)
		}
		return signed
	}
	other := good
	other.Origin = "sts.example.org/audit"
	strangers, err := checkpoint.Sign(good, stranger.key)
	if err != nil {
		t.Fatal(err)
	}
	second, err := checkpoint.Sign(good, p256)
	if err != nil {
		t.Fatal(err)
	}
	vkey, err := checkpoint.EncodeKey(testOrigin, p256.Public())
	if err != nil {
		t.Fatal(err)
	}
	secondKey, err := checkpoint.ParseKey(vkey)
	if err != nil {
		t.Fatal(err)
	}
	flipped := bytes.Replace(s.retained[300], []byte("\n300\n"), []byte("\n200\n"), 1)
	for name, test := range map[string]struct {
		retained []byte
		keys     []note.Verifier
		want     string // in the finding; empty: none
	}{
		"a good one":              {s.retained[300], []note.Verifier{s.signer.verify}, ""},
		"good, with a key more":   {s.retained[300], []note.Verifier{stranger.verify, s.signer.verify}, ""},
		"the second HSM's":        {second, []note.Verifier{s.signer.verify, secondKey}, ""},
		"a stranger's":            {strangers, []note.Verifier{s.signer.verify}, "signed by none of the 1 keys"},
		"changed":                 {flipped, []note.Verifier{s.signer.verify}, "invalid signature"},
		"changed, without a key":  {flipped, nil, "does not agree with the checkpoint of size 200"},
		"of another log":          {sign(other), []note.Verifier{s.signer.verify}, "it is a checkpoint of sts.example.org/audit"},
		"of another, without key": {sign(other), nil, "it is a checkpoint of sts.example.org/audit"},
		"none":                    {[]byte("hello\n"), nil, "malformed note"},
		"signed, and a fork":      {sign(checkpoint.Checkpoint{Origin: testOrigin, Size: 7, Root: good.Root}), []note.Verifier{s.signer.verify}, "checkpoint of size 7"},
	} {
		t.Run(name, func(t *testing.T) {
			r := verifyTest(t, VerifyConfig{
				Directories: []string{s.dir}, Keys: test.keys, Retained: []RetainedCheckpoint{{"kept", test.retained}},
			})
			switch {
			case test.want == "" && !r.OK:
				t.Errorf("%+v", r)
			case test.want != "" && (r.OK || !strings.Contains(fmt.Sprint(r.Findings), test.want)):
				t.Errorf("%+v", r)
			}
		})
	}
	if _, err := Verify(t.Context(), VerifyConfig{Directories: []string{s.dir}, Keys: []note.Verifier{s.signer.verify, newVerifier(t, "other")}}); err == nil {
		t.Error("keys of two logs were accepted")
	}
}

// Lines that were removed from or added to the segment that is being written move those after them, also those that are in
// no tile yet. The tiles tell where it happened nonetheless.
func TestVerifyLocatesInOneSegment(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "log")
	l, c, s := openSigned(t, dir)
	appendIDs(t, l, numbered("id", 300)...)
	run(t, c)
	l.Close()
	name := segmentName(0)
	whole, err := os.ReadFile(filepath.Join(dir, name))
	if err != nil {
		t.Fatal(err)
	}
	line := whole[:bytes.IndexByte(whole, '\n')+1]
	for what, change := range map[string]func([]byte) []byte{
		"removed": withoutLine(100),
		"five removed": func(data []byte) []byte {
			return bytes.Replace(data, bytes.Join(bytes.SplitAfter(data, []byte{'\n'})[100:105], nil), nil, 1)
		},
		"one added":     func(data []byte) []byte { return insertAt(data, 100, line) },
		"fifty added":   func(data []byte) []byte { return insertAt(data, 100, bytes.Repeat(line, 50)) },
		"one rewritten": swapText("id100\"", "id9\""),
	} {
		if err := os.WriteFile(filepath.Join(dir, name), change(whole), 0o644); err != nil {
			t.Fatal(err)
		}
		r := verifyTest(t, VerifyConfig{Directories: []string{dir}, Keys: []note.Verifier{s.verify}})
		if r.OK || r.Findings[0].Kind != Altered || *r.Findings[0].Entries != (EntryRange{100, 100}) || r.Findings[0].Line != 101 {
			t.Errorf("%s: %+v", what, r)
		}
	}
}

func insertAt(data []byte, n int, lines []byte) []byte {
	all := bytes.SplitAfter(data, []byte{'\n'})
	return bytes.Join([][]byte{bytes.Join(all[:n], nil), lines, bytes.Join(all[n:], nil)}, nil)
}

// Two signed checkpoints that cannot both be of one log: what the log agrees with beyond the first that it does not agree
// with settles nothing.
func TestVerifyFork(t *testing.T) {
	s := newRetainedLog(t, t.TempDir(), 0, 300)
	fork, err := checkpoint.Sign(checkpoint.Checkpoint{Origin: testOrigin, Size: 7}, s.signer.key)
	if err != nil {
		t.Fatal(err)
	}
	c := s.config(s.dir)
	c.Retained = []RetainedCheckpoint{{"fork", fork}}
	for _, change := range []func([]byte) []byte{bytes.Clone, swapText("request 20", "request x")} {
		edit(t, s.dir, segmentNames(t, s.dir)[0], change)
		r := verifyTest(t, c)
		if r.OK || r.Covered != 0 || *r.Findings[0].Entries != (EntryRange{0, 6}) {
			t.Errorf("%+v", r)
		}
	}
}

// newVerifier makes a key with the given name.
func newVerifier(t testing.TB, name string) note.Verifier {
	t.Helper()
	_, vkey, err := note.GenerateKey(rand.Reader, name)
	if err != nil {
		t.Fatal(err)
	}
	v, err := checkpoint.ParseKey(vkey)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func TestEndTile(t *testing.T) {
	type tile struct {
		level int
		n     uint64
		width int
	}
	for size, want := range map[uint64]tile{
		1: {0, 0, 1}, 255: {0, 0, 255}, 256: {1, 0, 1}, 300: {0, 1, 44}, 512: {1, 0, 2},
		1 << 16: {2, 0, 1}, 1<<16 + 256: {1, 1, 1}, 1<<16 + 257: {0, 257, 1}, 1 << 24: {3, 0, 1},
	} {
		if level, n, width := endTile(size); (tile{level, n, width}) != want {
			t.Errorf("size %d: level %d, tile %d, width %d, want %+v", size, level, n, width, want)
		}
	}
}
