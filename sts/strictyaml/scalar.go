package strictyaml

import (
	"encoding"
	"encoding/json"
	"reflect"
	"regexp"
	"strconv"
	"strings"
	"time"
	"unicode"

	nodes "go.yaml.in/yaml/v3"
)

// scalar checks a single value against a basic type.
func (w *walker) scalar(n *nodes.Node, t reflect.Type, path string) *nodes.Node {
	if n.Kind != nodes.ScalarNode {
		w.mismatch(n, path, basicName(t))
		return nil
	}
	quoted := n.Style&(nodes.SingleQuotedStyle|nodes.DoubleQuotedStyle|nodes.LiteralStyle|nodes.FoldedStyle) != 0
	switch t.Kind() {
	case reflect.String:
		return text(n.Value)
	case reflect.Bool:
		if !quoted && (n.Value == "true" || n.Value == "false") {
			return plain("!!bool", n.Value)
		}
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64,
		reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		// Decimal only: YAML 1.1 and 1.2 disagree about 0123, and 1_000 is a typo as often as not.
		if !quoted && decimal(n.Value) {
			if err := fits(n.Value, t); err != nil {
				w.add(n.Line, "%s: %s is out of range", name(path), clip(n.Value))
				return nil
			}
			return plain("!!int", n.Value)
		}
	case reflect.Float32, reflect.Float64:
		if f, err := strconv.ParseFloat(n.Value, t.Bits()); !quoted && err == nil && jsonNumber.MatchString(n.Value) {
			return plain("!!float", strconv.FormatFloat(f, 'f', -1, 64))
		}
	}
	w.mismatch(n, path, basicName(t))
	return nil
}

var jsonNumber = regexp.MustCompile(`^-?[0-9]+(\.[0-9]+)?([eE][-+]?[0-9]+)?$`)

func decimal(s string) bool {
	digits := strings.TrimPrefix(s, "-")
	return digits != "" && strings.Trim(digits, "0123456789") == "" && (digits == "0" || digits[0] != '0')
}

func fits(s string, t reflect.Type) error {
	if t.Kind() >= reflect.Uint {
		_, err := strconv.ParseUint(s, 10, t.Bits())
		return err
	}
	_, err := strconv.ParseInt(s, 10, t.Bits())
	return err
}

// duration turns "90s" into the nanoseconds that a time.Duration has in JSON.
func (w *walker) duration(n *nodes.Node, path string) *nodes.Node {
	if n.Kind != nodes.ScalarNode {
		w.mismatch(n, path, "a duration such as 90s or 24h")
		return nil
	}
	d, err := time.ParseDuration(n.Value)
	if err != nil || decimal(n.Value) { // ParseDuration takes a bare 0
		w.add(n.Line, "%s must be a duration such as 90s or 24h, not %q", name(path), clip(n.Value))
		return nil
	}
	return plain("!!int", strconv.FormatInt(int64(d), 10))
}

// custom tries a value on a type that decodes itself, to learn the line of a
// fault: the decoder proper would say only that there is one.
func (w *walker) custom(n *nodes.Node, t reflect.Type, path string) *nodes.Node {
	target := reflect.New(t).Interface()
	if u, ok := target.(json.Unmarshaler); ok {
		sound := w.anything(n, reflect.TypeFor[any](), path, 0)
		if sound == nil {
			return nil
		}
		var generic any
		err := sound.Decode(&generic)
		if err == nil {
			var encoded []byte
			if encoded, err = json.Marshal(generic); err == nil {
				err = u.UnmarshalJSON(encoded)
			}
		}
		if err != nil {
			w.add(n.Line, "%s: %v", name(path), err)
			return nil
		}
		return sound
	}
	if n.Kind != nodes.ScalarNode {
		w.mismatch(n, path, "text")
		return nil
	}
	if err := target.(encoding.TextUnmarshaler).UnmarshalText([]byte(n.Value)); err != nil {
		w.add(n.Line, "%s: %v", name(path), err)
		return nil
	}
	return text(n.Value)
}

func text(s string) *nodes.Node {
	return &nodes.Node{Kind: nodes.ScalarNode, Style: nodes.DoubleQuotedStyle, Tag: "!!str", Value: s}
}

func plain(tag, s string) *nodes.Node {
	return &nodes.Node{Kind: nodes.ScalarNode, Tag: tag, Value: s}
}

func isNull(n *nodes.Node) bool {
	return n.Kind == nodes.ScalarNode && n.Style == 0 && n.ShortTag() == "!!null"
}

// name is how a message calls the value at path.
func name(path string) string {
	if path == "" {
		return "the file"
	}
	return clip(path)
}

func basicName(t reflect.Type) string {
	switch t.Kind() {
	case reflect.String:
		return "text"
	case reflect.Bool:
		return "true or false"
	case reflect.Float32, reflect.Float64:
		return "a number"
	}
	return "a whole number"
}

// describe names what stands in the file, for "must be …, not …".
func describe(n *nodes.Node) string {
	switch n.Kind {
	case nodes.MappingNode:
		return "keys and their values"
	case nodes.SequenceNode:
		return "a list"
	case nodes.AliasNode:
		return "an alias"
	}
	return strconv.Quote(clip(n.Value))
}

// clip keeps a message short when the file's author was not, and printable.
func clip(s string) string {
	const limit = 80
	if len(s) > limit {
		s = strings.ToValidUTF8(s[:limit], "") + "…"
	}
	return printable(s)
}

// printable replaces what could forge a line of a report or steer a terminal.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		switch {
		case strconv.IsPrint(r):
			return r
		case unicode.IsSpace(r):
			return ' '
		}
		return '�'
	}, s)
}
