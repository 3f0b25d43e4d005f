package setup

import (
	"bytes"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"go.yaml.in/yaml/v3"
)

// errEditByHand is for files that are written in a way that only a person should change.
var errEditByHand = errors.New("this file is written in a way that is not changed automatically")

// plainLabel are labels that YAML needs no quotes around, whatever they look like to it.
var plainLabel = regexp.MustCompile(`^[a-z]+-[A-Za-z0-9_.-]*[A-Za-z0-9]$`)

// PutKeyFirst returns signer.yaml with label as the first key of an App, the one that signs; where it is among the keys
// already, it moves. Everything else in the file, comments and line breaks too, stays as it is.
func PutKeyFirst(file []byte, appID int64, label string) ([]byte, error) {
	keys, err := findKeys(file, appID)
	if err != nil {
		return nil, err
	}
	want := append([]string{label}, without(keys.labels, label)...)
	edited := file
	if slices.Contains(keys.labels, label) {
		if edited, err = keys.remove(label); err != nil {
			return nil, err
		}
		if keys, err = findKeys(edited, appID); err != nil {
			return nil, err
		}
	}
	if edited, err = keys.insertFirst(label); err != nil {
		return nil, err
	}
	return verified(edited, appID, want)
}

// RemoveKey returns signer.yaml without label among the keys of an App. The last key of an App cannot be removed.
func RemoveKey(file []byte, appID int64, label string) ([]byte, error) {
	keys, err := findKeys(file, appID)
	if err != nil {
		return nil, err
	}
	switch {
	case !slices.Contains(keys.labels, label):
		return nil, fmt.Errorf("App %d has no key %q", appID, label)
	case len(keys.labels) == 1:
		return nil, fmt.Errorf("%q is the only key of App %d", label, appID)
	}
	edited, err := keys.remove(label)
	if err != nil {
		return nil, err
	}
	return verified(edited, appID, without(keys.labels, label))
}

func without(labels []string, label string) []string {
	return slices.DeleteFunc(slices.Clone(labels), func(l string) bool { return l == label })
}

// verified reads the result again: the text was cut by positions, so its meaning is proven and not presumed.
func verified(edited []byte, appID int64, want []string) ([]byte, error) {
	keys, err := findKeys(edited, appID)
	if err != nil || !slices.Equal(keys.labels, want) {
		return nil, errEditByHand
	}
	return edited, nil
}

// keyList is the list of an App's keys in the text of a file.
type keyList struct {
	file   []byte
	labels []string
	starts []int // offset of each label in file, of its opening quote where it has one
	flow   bool  // [a, b], not a line for each
}

// findKeys finds apps[].keys of the App.
func findKeys(file []byte, appID int64) (*keyList, error) {
	var document yaml.Node
	if err := yaml.Unmarshal(file, &document); err != nil || len(document.Content) != 1 {
		return nil, fmt.Errorf("reading it as YAML: %w", errors.Join(err, errEditByHand))
	}
	apps := value(document.Content[0], "apps")
	if apps == nil || apps.Kind != yaml.SequenceNode {
		return nil, errEditByHand
	}
	for _, app := range apps.Content {
		id := value(app, "id")
		if id == nil || id.Value != strconv.FormatInt(appID, 10) {
			continue
		}
		keys := value(app, "keys")
		if keys == nil || keys.Kind != yaml.SequenceNode || len(keys.Content) == 0 {
			return nil, errEditByHand
		}
		list := &keyList{file: file, flow: keys.Style&yaml.FlowStyle != 0}
		for _, label := range keys.Content {
			start, ok := offset(file, label.Line, label.Column)
			if !ok || label.Kind != yaml.ScalarNode || label.Anchor != "" {
				return nil, errEditByHand
			}
			list.labels, list.starts = append(list.labels, label.Value), append(list.starts, start)
		}
		return list, nil
	}
	return nil, fmt.Errorf("it lists no App %d", appID)
}

// value is that of a key in a mapping, nil where there is none.
func value(mapping *yaml.Node, key string) *yaml.Node {
	if mapping.Kind != yaml.MappingNode {
		return nil
	}
	for i := 0; i+1 < len(mapping.Content); i += 2 {
		if mapping.Content[i].Value == key {
			return mapping.Content[i+1]
		}
	}
	return nil
}

// offset is where a line and a column, both from 1, and columns in characters, begin.
func offset(file []byte, line, column int) (int, bool) {
	at := 0
	for ; line > 1; line-- {
		n := bytes.IndexByte(file[at:], '\n')
		if n < 0 {
			return 0, false
		}
		at += n + 1
	}
	for ; column > 1 && at < len(file); column-- {
		_, size := utf8.DecodeRune(file[at:])
		at += size
	}
	return at, at < len(file)
}

func (k *keyList) insertFirst(label string) ([]byte, error) {
	text := label
	if !plainLabel.MatchString(label) {
		var err error
		if text, err = quote(label); err != nil {
			return nil, err
		}
	}
	first := k.starts[0]
	if k.flow {
		return splice(k.file, first, first, text+", "), nil
	}
	line := bytes.LastIndexByte(k.file[:first], '\n') + 1
	lead := string(k.file[line:first]) // the indentation and the dash
	if strings.Trim(lead, " ") != "-" {
		return nil, errEditByHand
	}
	return splice(k.file, line, line, lead+text+"\n"), nil
}

func (k *keyList) remove(label string) ([]byte, error) {
	i := slices.Index(k.labels, label)
	start := k.starts[i]
	if !k.flow { // its whole line, with a comment at its end
		line := bytes.LastIndexByte(k.file[:start], '\n') + 1
		end := bytes.IndexByte(k.file[start:], '\n')
		if strings.Trim(string(k.file[line:start]), " ") != "-" {
			return nil, errEditByHand
		}
		if end < 0 {
			return splice(k.file, line, len(k.file), ""), nil
		}
		return splice(k.file, line, start+end+1, ""), nil
	}
	if i+1 < len(k.starts) {
		return splice(k.file, start, k.starts[i+1], ""), nil
	}
	end, ok := scalarEnd(k.file, start, label)
	if !ok || i == 0 {
		return nil, errEditByHand
	}
	before, ok := scalarEnd(k.file, k.starts[i-1], k.labels[i-1])
	if !ok {
		return nil, errEditByHand
	}
	return splice(k.file, before, end, ""), nil
}

// scalarEnd is where the label that begins at start ends.
func scalarEnd(file []byte, start int, label string) (int, bool) {
	rest := string(file[start:])
	for _, form := range []string{label, `"` + label + `"`, `'` + label + `'`} {
		if strings.HasPrefix(rest, form) {
			return start + len(form), true
		}
	}
	return 0, false
}

func splice(file []byte, from, to int, text string) []byte {
	return slices.Concat(file[:from], []byte(text), file[to:])
}
