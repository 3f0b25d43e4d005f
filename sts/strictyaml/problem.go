package strictyaml

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"
)

// Problem is one fault at one place.
type Problem struct {
	File    string // "" for input that is no file
	Line    int    // counted from 1; 0 where it is unknown
	Message string // what is wrong and what to do, without file and line; printable, and one line

	// more: the problem stands for so many others that are not reported.
	more int
}

// MaxProblems is how many problems of one file are reported; one more then says how many others there are. A longer
// report would help nobody who reads it, and somebody who wants it to cost something.
const MaxProblems = 50

// String returns "file:line: message", without the parts that are unknown.
func (p Problem) String() string {
	switch {
	case p.File == "" && p.Line == 0:
		return p.Message
	case p.File == "":
		return fmt.Sprintf("line %d: %s", p.Line, p.Message)
	case p.Line == 0:
		return fmt.Sprintf("%s: %s", p.File, p.Message)
	}
	return fmt.Sprintf("%s:%d: %s", p.File, p.Line, p.Message)
}

// Problems is the error that Decode and its callers return: the faults that were
// found, at most MaxProblems and one that counts the others, in the order of the file.
type Problems []Problem

// Error returns one problem a line.
func (ps Problems) Error() string {
	lines := make([]string, len(ps))
	for i, p := range ps {
		lines[i] = p.String()
	}
	return strings.Join(lines, "\n")
}

// Join adds what a caller found to the error that Decode returned (which may be
// nil), sorts by line, and leaves out what is over MaxProblems. The result is nil
// where there is no problem at all, and Problems otherwise.
func Join(err error, more Problems) error {
	var ps Problems
	if err != nil && !errors.As(err, &ps) {
		ps = Problems{{Message: err.Error()}}
	}
	ps = slices.Concat(ps, more) // a copy, to be sorted
	if len(ps) == 0 {
		return nil
	}
	leftOut := 0
	ps = slices.DeleteFunc(ps, func(p Problem) bool {
		leftOut += p.more
		return p.more > 0
	})
	slices.SortStableFunc(ps, func(a, b Problem) int {
		return cmp.Or(cmp.Compare(a.File, b.File), cmp.Compare(a.Line, b.Line))
	})
	leftOut += max(0, len(ps)-MaxProblems)
	ps = ps[:min(len(ps), MaxProblems)]
	if leftOut > 0 {
		last := ps[len(ps)-1] // its line keeps the count at the end wherever the report is sorted again
		ps = append(ps, Problem{File: last.File, Line: last.Line, Message: fmt.Sprintf("and %d more problems", leftOut), more: leftOut})
	}
	return ps
}

// Nearest returns the one of known that name was probably meant to be, or ""
// where none comes near: at most one edit for every three characters, dashes and
// underscores and case counting as equal.
func Nearest(name string, known []string) string {
	const longest = 100 // a longer name is no slip of the pen
	if len(name) > longest {
		return ""
	}
	best, bestDistance := "", len(name)/3+1
	folded := fold(name)
	for _, k := range known {
		candidate := fold(k)
		if n := len(folded) - len(candidate); n >= bestDistance || -n >= bestDistance {
			continue // so many edits at least
		}
		if d := distance(folded, candidate); d < bestDistance {
			best, bestDistance = k, d
		}
	}
	return best
}

func fold(s string) string { return strings.ReplaceAll(strings.ToLower(s), "-", "_") }

// distance is the Levenshtein distance in bytes.
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			substitute := diagonal
			if a[i] != b[j] {
				substitute++
			}
			diagonal = row[j+1]
			row[j+1] = min(substitute, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}
