package strictyaml

import (
	"encoding"
	"encoding/json"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"

	nodes "go.yaml.in/yaml/v3"
)

const (
	maxKey   = 256 // bytes
	maxDepth = 32  // below it only fields of type any can lead
	maxNodes = 20_000
)

// walker compares a document with the type that it is to fill, notes lines and
// problems, and builds a copy that holds only what is sound.
type walker struct {
	file     string
	lines    map[string]int
	problems Problems
	dropped  int // problems beyond MaxProblems
	nodes    int // seen by structure
}

func (w *walker) add(line int, format string, args ...any) {
	if w.full() {
		w.dropped++
		return
	}
	w.problems = append(w.problems, Problem{File: w.file, Line: line, Message: printable(fmt.Sprintf(format, args...))})
}

// full reports whether further problems are only counted, so that they are not worth any work.
func (w *walker) full() bool { return len(w.problems) == MaxProblems }

func (w *walker) all() error {
	if w.dropped > 0 {
		w.problems = append(w.problems, Problem{File: w.file, more: w.dropped})
		w.dropped = 0
	}
	return Join(nil, w.problems)
}

// structure reports what is refused whatever the target: it visits each node of
// the file, also below unknown keys, and follows no alias. It returns false, and
// says nothing more, for a file of more nodes than any honest one has.
func (w *walker) structure(n *nodes.Node) bool {
	if w.nodes++; w.nodes > maxNodes {
		return false
	}
	switch {
	case n.Kind == nodes.AliasNode:
		w.add(n.Line, "alias *%s: aliases are not supported, write the value out", clip(n.Value))
		return true
	case n.Anchor != "":
		w.add(n.Line, "anchor &%s: anchors are not supported", clip(n.Anchor))
	case n.Style&nodes.TaggedStyle != 0:
		w.add(n.Line, "tag %s: tags are not supported", clip(n.Tag))
	}
	if n.Kind == nodes.MappingNode {
		w.keys(n)
	}
	for _, child := range n.Content {
		if !w.structure(child) {
			return false
		}
	}
	return true
}

// keys reports the faulty and duplicate keys of one mapping.
func (w *walker) keys(mapping *nodes.Node) {
	first := make(map[string]int)
	for i := 0; i+1 < len(mapping.Content); i += 2 {
		key := mapping.Content[i]
		if fault := keyFault(key); fault != "" {
			w.add(key.Line, "%s", fault)
			continue
		}
		if line, dup := first[key.Value]; dup {
			w.add(key.Line, "duplicate key %q: it is on line %d already", key.Value, line)
			continue
		}
		first[key.Value] = key.Line
	}
}

func keyFault(key *nodes.Node) string {
	switch {
	case key.Kind == nodes.AliasNode:
		return "an alias cannot be a key"
	case key.Kind != nodes.ScalarNode:
		return "a key must be plain text"
	case key.Value == "<<":
		return "merge keys (<<) are not supported, write the keys out"
	case isNull(key) || key.Value == "":
		return "a key is empty"
	case len(key.Value) > maxKey:
		return fmt.Sprintf("a key has %d bytes, over the limit of %d", len(key.Value), maxKey)
	}
	return ""
}

// value checks n against t and returns what is sound of it, nil for nothing.
func (w *walker) value(n *nodes.Node, t reflect.Type, path string, depth int) *nodes.Node {
	if _, noted := w.lines[path]; !noted {
		w.lines[path] = n.Line
	}
	for t.Kind() == reflect.Pointer && !custom(t) {
		t = t.Elem()
	}
	switch {
	case n.Kind == nodes.AliasNode:
		return nil // reported by structure
	case depth > maxDepth:
		w.add(n.Line, "nested more than %d levels deep", maxDepth)
		return nil
	case isNull(n):
		w.add(n.Line, "%s has no value: give it one or remove the key", name(path))
		return nil
	case t == reflect.TypeFor[time.Duration]():
		return w.duration(n, path)
	case custom(t):
		return w.custom(n, t, path)
	}
	switch t.Kind() {
	case reflect.Struct:
		return w.mapping(n, fieldsOf(t), nil, path, depth)
	case reflect.Map:
		return w.mapping(n, nil, t.Elem(), path, depth)
	case reflect.Slice:
		return w.sequence(n, t.Elem(), path, depth)
	case reflect.Interface:
		return w.anything(n, t, path, depth)
	}
	return w.scalar(n, t, path)
}

// mapping checks the entries of n. fields holds the type of each known key; where
// it is nil, any key may stand there and elem is the type of its value.
func (w *walker) mapping(n *nodes.Node, fields map[string]reflect.Type, elem reflect.Type, path string, depth int) *nodes.Node {
	if n.Kind != nodes.MappingNode {
		w.mismatch(n, path, "keys and their values")
		return nil
	}
	sound := &nodes.Node{Kind: nodes.MappingNode}
	seen := make(map[string]bool)
	for i := 0; i+1 < len(n.Content); i += 2 {
		key := n.Content[i]
		if keyFault(key) != "" || seen[key.Value] {
			continue // reported by structure
		}
		seen[key.Value] = true
		t := elem
		if fields != nil {
			t = fields[key.Value]
		}
		if t == nil {
			w.unknown(key, fields, path)
			continue
		}
		child := key.Value
		if path != "" {
			child = path + "." + key.Value
		}
		w.lines[child] = key.Line
		if v := w.value(n.Content[i+1], t, child, depth+1); v != nil {
			sound.Content = append(sound.Content, text(key.Value), v)
		}
	}
	return sound
}

func (w *walker) unknown(key *nodes.Node, fields map[string]reflect.Type, path string) {
	if w.full() {
		w.dropped++
		return
	}
	where := ""
	if path != "" {
		where = " in " + clip(path)
	}
	known := slices.Sorted(maps.Keys(fields))
	if near := Nearest(key.Value, known); near != "" {
		w.add(key.Line, "unknown key %q%s: did you mean %s?", clip(key.Value), where, near)
		return
	}
	w.add(key.Line, "unknown key %q%s: known are %s", clip(key.Value), where, strings.Join(known, ", "))
}

func (w *walker) sequence(n *nodes.Node, elem reflect.Type, path string, depth int) *nodes.Node {
	if n.Kind != nodes.SequenceNode {
		w.mismatch(n, path, "a list")
		return nil
	}
	sound := &nodes.Node{Kind: nodes.SequenceNode}
	for i, item := range n.Content {
		// A faulty element keeps its place, so that paths into v stay right.
		v := w.value(item, elem, path+"["+strconv.Itoa(i)+"]", depth+1)
		if v == nil {
			v = &nodes.Node{Kind: nodes.ScalarNode, Tag: "!!null", Value: "null"}
		}
		sound.Content = append(sound.Content, v)
	}
	return sound
}

// anything checks a value whose target has no type of its own.
func (w *walker) anything(n *nodes.Node, t reflect.Type, path string, depth int) *nodes.Node {
	switch n.Kind {
	case nodes.MappingNode:
		return w.mapping(n, nil, t, path, depth)
	case nodes.SequenceNode:
		return w.sequence(n, t, path, depth)
	}
	switch n.ShortTag() {
	case "!!bool":
		return w.scalar(n, reflect.TypeFor[bool](), path)
	case "!!int":
		return w.scalar(n, reflect.TypeFor[int64](), path)
	case "!!float":
		return w.scalar(n, reflect.TypeFor[float64](), path)
	}
	return text(n.Value)
}

func (w *walker) mismatch(n *nodes.Node, path, want string) {
	w.add(n.Line, "%s must be %s, not %s", name(path), want, describe(n))
}

// custom reports whether t decodes itself.
func custom(t reflect.Type) bool {
	p := reflect.PointerTo(t)
	return p.Implements(reflect.TypeFor[json.Unmarshaler]()) || p.Implements(reflect.TypeFor[encoding.TextUnmarshaler]())
}

// fieldsOf maps the names that a struct has in JSON to the types of its fields.
func fieldsOf(t reflect.Type) map[string]reflect.Type {
	fields := make(map[string]reflect.Type)
	for i := range t.NumField() {
		f := t.Field(i)
		tag, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		switch {
		case tag == "-":
		case f.Anonymous && tag == "" && f.Type.Kind() == reflect.Struct:
			for k, v := range fieldsOf(f.Type) {
				fields[k] = v
			}
		case f.IsExported():
			if tag == "" {
				tag = f.Name
			}
			fields[tag] = f.Type
		}
	}
	return fields
}
