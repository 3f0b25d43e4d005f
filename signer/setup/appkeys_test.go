package setup

import (
	"strings"
	"testing"
)

// Each case is a whole apps section; around it stand other Apps, comments and a key of the same label in other places.
func TestEditKeys(t *testing.T) {
	const before, after = "# top\nhsms: [{x: a}]   # a\napps:\n  - {id: 1, keys: [other]}\n", "  # the end\n  - id: 3\n    keys: [third]\ncheckpoint: {key: c}\n"
	for _, c := range []struct{ name, app, first, removed string }{
		{"flow", "  - id: 2\n    keys: [a, b]  # why\n", "  - id: 2\n    keys: [new-1, a, b]  # why\n", "  - id: 2\n    keys: [a]  # why\n"},
		{"flow, quoted", "  - {keys: ['a', \"b\"], id: 2}\n", "  - {keys: [new-1, 'a', \"b\"], id: 2}\n", "  - {keys: ['a'], id: 2}\n"},
		{"flow, three", "  - id: 2\n    keys: [a, b, c]\n", "  - id: 2\n    keys: [new-1, a, b, c]\n", "  - id: 2\n    keys: [a, c]\n"},
		{"flow, lines", "  - id: 2\n    keys: [\n      a,\n      b,\n    ]\n", "  - id: 2\n    keys: [\n      new-1, a,\n      b,\n    ]\n", "  - id: 2\n    keys: [\n      a,\n    ]\n"},
		{"lines", "  - id: 2\n    keys:\n      # signs\n      - a   # of 2025\n      - b   # of 2024\n", "  - id: 2\n    keys:\n      # signs\n      - new-1\n      - a   # of 2025\n      - b   # of 2024\n", "  - id: 2\n    keys:\n      # signs\n      - a   # of 2025\n"},
		{"lines, not indented", "  - id: 2\n    keys:\n    - \"ä\"\n    - b\n", "  - id: 2\n    keys:\n    - new-1\n    - \"ä\"\n    - b\n", "  - id: 2\n    keys:\n    - \"ä\"\n"},
		{"new-1 is there", "  - id: 2\n    keys: [a, new-1, b]\n", "  - id: 2\n    keys: [new-1, a, b]\n", "  - id: 2\n    keys: [a, new-1]\n"},
		{"it is first", "  - id: 2\n    keys:\n      - new-1\n      - b\n", "  - id: 2\n    keys:\n      - new-1\n      - b\n", "  - id: 2\n    keys:\n      - new-1\n"},
	} {
		first, err := PutKeyFirst([]byte(before+c.app+after), 2, "new-1")
		if want := before + c.first + after; err != nil || string(first) != want {
			t.Errorf("%s: put first: %v\n%s\nwant\n%s", c.name, err, first, want)
		}
		removed, err := RemoveKey([]byte(before+c.app+after), 2, "b")
		if want := before + c.removed + after; err != nil || string(removed) != want {
			t.Errorf("%s: remove: %v\n%s\nwant\n%s", c.name, err, removed, want)
		}
	}
}

// A label that YAML would read as something else is quoted.
func TestEditKeysQuotes(t *testing.T) {
	for label, want := range map[string]string{
		"app-2-20261123": "keys: [app-2-20261123, a]", "2026": `keys: ["2026", a]`, "true": `keys: ["true", a]`, `a: "b" #`: `keys: ["a: \"b\" #", a]`, "": `keys: ["", a]`,
	} {
		got, err := PutKeyFirst([]byte("apps: [{id: 2, keys: [a]}]"), 2, label)
		if err != nil || !strings.Contains(string(got), want) {
			t.Errorf("%q: %s, %v", label, got, err)
		}
	}
}

// What cannot be changed with certainty is left to a person, and nothing is returned.
func TestEditKeysRefuses(t *testing.T) {
	for name, c := range map[string]struct{ file, want string }{
		"no such App":     {"apps: [{id: 1, keys: [a, b]}]", "lists no App 2"},
		"no YAML":         {"apps: [", "reading it as YAML"},
		"empty":           {"", "reading it as YAML"},
		"an alias":        {"x: &k [a, b]\napps: [{id: 2, keys: *k}]", "not changed automatically"},
		"aliased labels":  {"x: [&a a, &b b]\napps: [{id: 2, keys: [*a, *b]}]", "not changed automatically"},
		"no list":         {"apps: {id: 2, keys: [a, b]}", "not changed automatically"},
		"dash on its own": {"apps:\n  - id: 2\n    keys:\n      -\n        a\n      -\n        b\n", "not changed automatically"},
	} {
		if got, err := PutKeyFirst([]byte(c.file), 2, "new-1"); err == nil || got != nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %s, %v", name, got, err)
		}
		if got, err := RemoveKey([]byte(c.file), 2, "b"); err == nil || got != nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %s, %v", name, got, err)
		}
	}
	for label, want := range map[string]string{"b": `"b" is the only key`, "x": `no key "x"`} {
		if got, err := RemoveKey([]byte("apps: [{id: 2, keys: [b]}]"), 2, label); err == nil || got != nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %s, %v", label, got, err)
		}
	}
}

// Whatever the file, an edit either is refused or has exactly the keys that were asked for.
func FuzzEditKeys(f *testing.F) {
	f.Add("apps:\n  - id: 2\n    keys: [a, b]\n", "b")
	f.Add("apps:\n  - id: 2\n    keys:\n    - a # x\n    - 'b'\n", "new")
	f.Add("apps: [{id: 2, keys: [\"a\", b, c]}, {id: 3}]", "c")
	f.Fuzz(func(t *testing.T, file, label string) {
		before, err := findKeys([]byte(file), 2)
		if err != nil {
			return
		}
		if put, err := PutKeyFirst([]byte(file), 2, label); err == nil {
			after, err := findKeys(put, 2)
			if err != nil || after.labels[0] != label || len(without(after.labels, label)) != len(without(before.labels, label)) {
				t.Errorf("put %q first in %q: %q, %v", label, file, put, err)
			}
		}
		if removed, err := RemoveKey([]byte(file), 2, label); err == nil {
			after, err := findKeys(removed, 2)
			if err != nil || strings.Join(after.labels, "\x00") != strings.Join(without(before.labels, label), "\x00") {
				t.Errorf("removed %q from %q: %q, %v", label, file, removed, err)
			}
		}
	})
}
