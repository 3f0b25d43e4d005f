package audit

import (
	"bytes"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// tampered is a copy of the campaign's log that is being changed.
type tampered struct {
	*campaign
	r        *rand.Rand
	dir      string
	archives []string
	segments map[string][]byte
	ends     map[uint64]bool
	// covered is the size of the retained checkpoint, checkpointSize that of the log's own, 0 where there is no good one.
	covered, checkpointSize uint64
	// innocent: nothing may be found. isVague: what is missing may have been moved away in part, so no entry is the first for
	// certain.
	innocent, isVague bool
	// tilesChanged: tiles are no longer what they were. mustFail: what is wrong need not be an entry, but has to be found.
	tilesChanged, mustFail bool
}

// innocents is how many of tampers come first that change nothing that was signed or could be.
const innocents = 5

// tampers are all kinds.
var tampers = []struct {
	name string
	do   func(*tampered) error
}{
	{"nothing", func(s *tampered) error { return nil }},
	{"moved to an archive", (*tampered).archive},
	{"moved away", (*tampered).moveAway},
	{"begins later, and the tiles agree", (*tampered).beheadAsIfMoved},
	{"an unfinished line", (*tampered).unfinished},
	{"a segment from the middle gone", (*tampered).removeSegment},
	{"cut off, and the tiles agree", (*tampered).cutAsIfMoved},
	{"a bit flipped", (*tampered).flipBit},
	{"a line edited", (*tampered).edit},
	{"a line not canonical", (*tampered).respell},
	{"lines deleted", (*tampered).deleteLines},
	{"lines reordered", (*tampered).swapLines},
	{"a line inserted", (*tampered).insertLine},
	{"a line duplicated", (*tampered).duplicateLine},
	{"a line moved to the next", (*tampered).moveOverJoint},
	{"the log truncated", (*tampered).truncate},
	{"a segment cut short", (*tampered).cutSegment},
	{"a segment's beginning cut", (*tampered).behead},
	{"segments swapped", (*tampered).swapSegments},
	{"a segment renamed", (*tampered).renameSegment},
	{"a segment copied", (*tampered).copySegment},
	{"several at once", (*tampered).several},
	{"a tile changed", (*tampered).flipTile},
	{"lines and a tile changed", func(s *tampered) error {
		return andThen(s.someLines(), s.flipTile)
	}},
	{"lines and all tiles", func(s *tampered) error {
		return andThen(s.someLines(), s.makeTiles)
	}},
	{"rewritten, no checkpoint", func(s *tampered) error {
		s.checkpointSize = 0
		return andThen(s.rewrite(), func() error { return os.Remove(filepath.Join(s.dir, checkpointName)) })
	}},
	{"rewritten and re-signed", (*tampered).resign},
	{"rolled back", (*tampered).rollBack},
}

// andThen does what comes next where nothing failed.
func andThen(err error, next func() error) error {
	if err != nil {
		return err
	}
	return next()
}

// names returns the segments in order.
func (s *tampered) names() []string { return slices.Sorted(maps.Keys(s.segments)) }

// closed returns the name of a segment that is not the last, and holds entries that are covered.
func (s *tampered) closed() string {
	names := s.names()
	n := 1
	for n < len(names)-1 && firstOf(names[n]) < s.covered {
		n++
	}
	return names[s.r.IntN(n)]
}

func firstOf(name string) uint64 {
	first, _ := strconv.ParseUint(strings.TrimSuffix(name, segmentSuffix), 10, 64)
	return first
}

// line picks a covered entry: the name of its segment, the lines of that, and its place among them.
func (s *tampered) line() (name string, lines [][]byte, at int) {
	index := s.r.Uint64N(s.covered)
	for _, name = range slices.Backward(s.names()) {
		if firstOf(name) <= index {
			break
		}
	}
	lines = slices.Collect(bytes.Lines(s.segments[name]))
	return name, lines, min(int(index-firstOf(name)), max(len(lines)-1, 0))
}

func (s *tampered) set(name string, lines [][]byte) error {
	s.segments[name] = bytes.Join(lines, nil)
	return nil
}

func (s *tampered) archive() error {
	archive := s.dir + ".archive"
	s.archives = append(s.archives, archive)
	if err := os.MkdirAll(archive, 0o755); err != nil {
		return err
	}
	for _, name := range s.names() {
		if name != s.names()[len(s.names())-1] && s.r.IntN(2) == 0 {
			if err := os.Rename(filepath.Join(s.dir, name), filepath.Join(archive, name)); err != nil {
				return err
			}
		}
	}
	return nil
}

// moveAway takes the oldest segments, and leaves at least the last.
func (s *tampered) moveAway() error {
	names := s.names()
	for _, name := range names[:1+s.r.IntN(len(names)-1)] {
		delete(s.segments, name)
	}
	return nil
}

// beheadAsIfMoved is what cannot be told from segments that were moved away: Verify says that the entries were not seen.
func (s *tampered) beheadAsIfMoved() error {
	name := s.names()[0]
	lines := slices.Collect(bytes.Lines(s.segments[name]))
	n := 1 + s.r.IntN(len(lines)-1) // one line stays: the name of the next segment is taken
	first := firstOf(name) + uint64(n)
	s.ends[first] = true
	if err := s.writeEnd(s.leaves[:first]); err != nil {
		return err
	}
	delete(s.segments, name)
	return s.set(segmentName(first), lines[n:])
}

// removeSegment takes a segment that is neither the first nor the last.
func (s *tampered) removeSegment() error {
	if name := s.closed(); name != s.names()[0] {
		delete(s.segments, name)
	}
	return nil
}

// cutAsIfMoved makes the gap after a segment look as if there had been another one.
func (s *tampered) cutAsIfMoved() error {
	name := s.closed()
	lines := slices.Collect(bytes.Lines(s.segments[name]))
	keep := 1 + s.r.IntN(len(lines))
	if err := s.writeEnd(s.leaves[:firstOf(name)+uint64(keep)]); err != nil {
		return err
	}
	return s.set(name, lines[:keep])
}

func (s *tampered) unfinished() error {
	name := s.names()[len(s.segments)-1]
	s.segments[name] = append(bytes.Clone(s.segments[name]), []string{`{"kind":"inte`, "x", "\x00\x00\x00\x00\n{}\n", "{}"}[s.r.IntN(4)]...)
	return nil
}

func (s *tampered) flipBit() error {
	name, lines, at := s.line()
	line := bytes.Clone(lines[at])
	line[s.r.IntN(len(line))] ^= 1 << s.r.IntN(8)
	lines[at] = line
	return s.set(name, lines)
}

func (s *tampered) edit() error {
	name, lines, at := s.line()
	lines[at] = bytes.Replace(lines[at], []byte("request "), []byte("request 1"), 1)
	return s.set(name, lines)
}

func (s *tampered) respell() error {
	name, lines, at := s.line()
	line := string(lines[at])
	lines[at] = []byte([]string{
		strings.Replace(line, ",", ", ", 1), strings.Replace(line, "\n", "\r\n", 1), strings.Replace(line, "\n", " \n", 1),
		strings.Replace(line, "request", `\u0072equest`, 1), strings.Repeat(" ", MaxLine) + line, "\n" + line,
	}[s.r.IntN(6)])
	return s.set(name, lines)
}

func (s *tampered) deleteLines() error {
	name, lines, at := s.line()
	return s.set(name, slices.Delete(lines, at, min(at+1+s.r.IntN(3), len(lines))))
}

func (s *tampered) swapLines() error {
	a, linesA, atA := s.line()
	b, linesB, atB := s.line()
	if a == b {
		linesA[atA], linesA[atB] = linesA[atB], linesA[atA]
		return s.set(a, linesA)
	}
	linesA[atA], linesB[atB] = linesB[atB], linesA[atA]
	return andThen(s.set(a, linesA), func() error { return s.set(b, linesB) })
}

func (s *tampered) insertLine() error {
	name, lines, at := s.line()
	line := bytes.Replace(lines[at], []byte("request "), []byte("invented "), 1)
	return s.set(name, slices.Insert(lines, at+s.r.IntN(2), line))
}

func (s *tampered) duplicateLine() error {
	_, from, at := s.line()
	name, lines, to := s.line()
	return s.set(name, slices.Insert(lines, to+s.r.IntN(2), from[at]))
}

// moveOverJoint moves the last line of a segment to the beginning of the next.
func (s *tampered) moveOverJoint() error {
	name := s.closed()
	next := s.names()[slices.Index(s.names(), name)+1]
	lines := slices.Collect(bytes.Lines(s.segments[name]))
	last := lines[len(lines)-1]
	s.segments[next] = append(bytes.Clone(last), s.segments[next]...)
	return s.set(name, lines[:len(lines)-1])
}

func (s *tampered) truncate() error {
	name, lines, at := s.line()
	for _, later := range s.names() {
		if later > name {
			delete(s.segments, later)
		}
	}
	kept := bytes.Join(lines[:at], nil)
	s.segments[name] = append(kept, lines[at][:s.r.IntN(len(lines[at]))]...)
	return nil
}

func (s *tampered) cutSegment() error {
	name := s.closed()
	data := s.segments[name]
	s.segments[name] = data[:s.r.IntN(len(data))]
	return nil
}

// behead cuts off a segment's first lines, and gives it the name that then fits.
func (s *tampered) behead() error {
	name := s.closed()
	lines := slices.Collect(bytes.Lines(s.segments[name]))
	n := 1 + s.r.IntN(len(lines)-1) // one line stays: the name of the next segment is taken
	delete(s.segments, name)
	s.isVague = true
	return s.set(segmentName(firstOf(name)+uint64(n)), lines[n:])
}

func (s *tampered) swapSegments() error {
	a, b := s.closed(), s.closed()
	s.segments[a], s.segments[b] = s.segments[b], s.segments[a]
	return nil
}

func (s *tampered) renameSegment() error {
	name := s.closed()
	data := s.segments[name]
	delete(s.segments, name)
	switch s.r.IntN(4) {
	case 0:
		s.segments[name+".bak"] = data
	case 1:
		s.segments["x"+name] = data
		s.mustFail = true
	default:
		s.segments[segmentName(s.r.Uint64N(1000))] = data
	}
	return nil
}

func (s *tampered) copySegment() error {
	data := s.segments[s.closed()]
	s.segments[segmentName(s.r.Uint64N(1000))] = data
	return nil
}

// someLines changes lines in one of the ways above.
func (s *tampered) someLines() error {
	ways := []func(*tampered) error{
		(*tampered).flipBit, (*tampered).edit, (*tampered).deleteLines, (*tampered).swapLines, (*tampered).insertLine, (*tampered).duplicateLine,
	}
	return ways[s.r.IntN(len(ways))](s)
}

func (s *tampered) several() error {
	for range 2 + s.r.IntN(3) {
		if err := s.someLines(); err != nil {
			return err
		}
	}
	return nil
}
