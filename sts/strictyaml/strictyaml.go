// Package strictyaml decodes YAML that people write by hand and machines obey:
// configuration files and trust policies. It refuses what YAML would guess at
// and reports every fault at once, each with its line.
//
// It knows nothing of what a file means: which keys are required and which
// values make sense is the caller's matter, and [Document] gives the caller the
// lines to report that with. It writes no YAML and opens no file.
//
// Refused, beyond what YAML itself refuses: keys that the target does not have
// (compared case-sensitively), duplicate keys, anchors, aliases, merge keys,
// tags, a second document, keys without a value, encodings other than UTF-8 and
// files over [MaxSize].
package strictyaml

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"reflect"
	"regexp"
	"strconv"
	"strings"
	"unicode/utf8"

	nodes "go.yaml.in/yaml/v3"
	"sigs.k8s.io/yaml"
)

// MaxSize is the size in bytes of the largest file that Decode reads: 64 KiB. A
// parser makes far more of a file than its size, and some files are strangers'.
const MaxSize = 64 << 10

// Document says where in a file its parts stand. Its methods may be called on a
// nil Document, which knows no part.
//
// A path is keys joined by dots, with list indices in brackets and counted from
// zero: "issuers[1].url".
type Document struct {
	file  string
	lines map[string]int // by path; "" is the whole document
}

// Decode decodes the one YAML document in data into v, a pointer to a struct
// whose fields have json tags. file is only for messages.
//
// Supported fields are structs, pointers, slices, maps with string keys, strings,
// booleans, numbers, [time.Duration] (written "90s" or "24h"; a bare number is
// refused), any, and types that implement [encoding.TextUnmarshaler] or
// [encoding/json.Unmarshaler]. A string field takes any plain scalar as it is
// written: neither yes nor 0123 turns into something else.
//
// The error is [Problems]. Where the file could be read as YAML but has faults,
// the Document is returned as well and v holds those parts that are sound, so
// that the caller can look for further problems and report all of them with
// [Join]; v must then be used for nothing else.
func Decode(file string, data []byte, v any) (*Document, error) {
	if len(data) > MaxSize {
		return nil, Problems{{File: file, Message: fmt.Sprintf("the file has %d bytes, over the limit of %d", len(data), MaxSize)}}
	}
	if i := invalidUTF8(data); i >= 0 {
		line := 1 + bytes.Count(data[:i], []byte("\n"))
		return nil, Problems{{File: file, Line: line, Message: "the file is not valid UTF-8"}}
	}
	root, problem := parse(data)
	if problem != nil {
		problem.File, problem.Message = file, printable(problem.Message)
		return nil, Problems{*problem}
	}
	w := &walker{file: file, lines: map[string]int{"": root.Line}}
	if !w.structure(root) {
		return nil, Problems{{File: file, Message: fmt.Sprintf("the file has more than %d keys and values", maxNodes)}}
	}
	if root.Kind != nodes.MappingNode {
		w.add(root.Line, "the file holds %s where keys and their values were expected", describe(root))
		return nil, w.all()
	}
	doc := &Document{file: file, lines: w.lines}
	sound := w.value(root, reflect.TypeOf(v).Elem(), "", 0)
	if sound != nil {
		if err := unmarshal(sound, v); err != nil {
			w.add(0, "%v", err)
		}
	}
	if len(w.problems) > 0 {
		return doc, w.all()
	}
	return doc, nil
}

// unmarshal decodes a normalised tree. It goes through text so that one library,
// sigs.k8s.io/yaml, fills every struct in this project, by its json tags and
// strictly: should the walk ever let an unknown key pass, this does not.
func unmarshal(sound *nodes.Node, v any) error {
	text, err := nodes.Marshal(sound)
	if err != nil {
		return fmt.Errorf("normalising the document: %w", err)
	}
	return yaml.UnmarshalStrict(text, v)
}

// parse reads exactly one document and returns its root.
func parse(data []byte) (*nodes.Node, *Problem) {
	decoder := nodes.NewDecoder(bytes.NewReader(data))
	var document, second nodes.Node
	err := decoder.Decode(&document)
	switch {
	case errors.Is(err, io.EOF):
		return nil, &Problem{Line: 1, Message: "the file is empty"}
	case err != nil:
		return nil, syntaxProblem(data, err)
	case document.Kind != nodes.DocumentNode || len(document.Content) != 1:
		return nil, &Problem{Line: 1, Message: "the file is not a YAML document"}
	}
	root := document.Content[0]
	switch err := decoder.Decode(&second); {
	case err == nil:
		return nil, &Problem{Line: second.Line, Message: "a second document begins here: a file holds one, so remove the --- line or what follows it"}
	case !errors.Is(err, io.EOF):
		return nil, syntaxProblem(data, err)
	}
	if root.Kind == nodes.ScalarNode && isNull(root) {
		return nil, &Problem{Line: 1, Message: "the file is empty"}
	}
	return root, nil
}

// syntaxProblem turns the parser's error, "yaml: line 3: did not find …", into a
// Problem, and names the usual culprit, a tab, where there is one.
func syntaxProblem(data []byte, err error) *Problem {
	message := strings.TrimPrefix(err.Error(), "yaml: ")
	line := 0
	if m := regexp.MustCompile(`^line (\d+): `).FindStringSubmatch(message); m != nil {
		line, _ = strconv.Atoi(m[1])
		message = message[len(m[0]):]
	}
	for i, text := range bytes.Split(data, []byte("\n")) {
		indent := text[:len(text)-len(bytes.TrimLeft(text, " \t"))]
		// The parser's own line may be the one before or after.
		if bytes.ContainsRune(indent, '\t') && i+1 >= line-1 && i+1 <= line+1 {
			return &Problem{Line: i + 1, Message: "the line is indented with a tab: YAML allows only spaces there"}
		}
	}
	return &Problem{Line: line, Message: "not valid YAML: " + message}
}

func invalidUTF8(data []byte) int {
	for i := 0; i < len(data); {
		r, size := utf8.DecodeRune(data[i:])
		if r == utf8.RuneError && size == 1 {
			return i
		}
		i += size
	}
	return -1
}

// Has reports whether the file has the path at all, whatever its value: that is
// how an absent key is told from an empty or faulty one.
func (d *Document) Has(path string) bool {
	if d == nil {
		return false
	}
	_, ok := d.lines[path]
	return ok
}

// Line returns the line, counted from 1, at which path stands. For a path that
// the file does not have it is the line of the nearest part that encloses it, so
// that a missing key is reported where it should have been.
func (d *Document) Line(path string) int {
	if d == nil {
		return 0
	}
	for {
		if line, ok := d.lines[path]; ok {
			return line
		}
		path = path[:max(0, strings.LastIndexAny(path, ".["))]
	}
}

// Problemf makes a Problem at path. Characters of the message that cannot be printed,
// line breaks among them, are replaced: it may quote the file.
func (d *Document) Problemf(path, format string, args ...any) Problem {
	p := Problem{Line: d.Line(path), Message: printable(fmt.Sprintf(format, args...))}
	if d != nil {
		p.File = d.file
	}
	return p
}
