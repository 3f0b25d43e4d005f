package strictyaml_test

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/octo-sts/appliance/sts/strictyaml"
)

type base struct {
	Enabled bool `json:"enabled"`
}

type config struct {
	base
	Domain  string            `json:"domain"`
	Count   int               `json:"count"`
	Small   uint8             `json:"small"`
	Ratio   float64           `json:"ratio"`
	MaxAge  time.Duration     `json:"max_age"`
	Labels  map[string]string `json:"labels"`
	Issuers []issuer          `json:"issuers"`
	TLS     *tls              `json:"tls"`
	Free    any               `json:"free"`
	Hidden  string            `json:"-"`
}

type issuer struct {
	URL      string         `json:"url"`
	Networks []netip.Prefix `json:"networks"`
}

type tls struct {
	Mode string `json:"mode"`
}

func TestDecode(t *testing.T) {
	const file = `# a comment
domain: sts.example.com
enabled: true
count: -3
small: 255
ratio: 1.5
max_age: 24h
labels: {yes: no, "a.b/c": 0123, 12: 1.10, empty: ""}
issuers:
  - url: https://one.example
    networks: [10.0.0.0/8, "fd00::/8"]
  - url: |-
      https://two.example
tls:
  mode: "off"
free: {list: [1, true, x, 1.5, "2"]}
`
	var got config
	doc, err := strictyaml.Decode("c.yaml", []byte(file), &got)
	if err != nil {
		t.Fatal(err)
	}
	want := config{
		base: base{Enabled: true}, Domain: "sts.example.com", Count: -3, Small: 255, Ratio: 1.5, MaxAge: 24 * time.Hour,
		Labels: map[string]string{"yes": "no", "a.b/c": "0123", "12": "1.10", "empty": ""},
		Issuers: []issuer{
			{URL: "https://one.example", Networks: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("fd00::/8")}},
			{URL: "https://two.example"},
		},
		TLS:  &tls{Mode: "off"},
		Free: map[string]any{"list": []any{1.0, true, "x", 1.5, "2"}},
	}
	if diff := cmp.Diff(want, got, cmp.AllowUnexported(config{}), cmpopts.EquateComparable(netip.Prefix{})); diff != "" {
		t.Errorf("decoded (-want +got):\n%s", diff)
	}
	for path, line := range map[string]int{
		"": 2, "domain": 2, "labels.a.b/c": 8, "issuers": 9, "issuers[0]": 10, "issuers[0].url": 10, "issuers[0].networks[1]": 11,
		"issuers[1].url": 12, "tls.mode": 15,
		"issuers[1].networks": 12, "tls.roots": 14, "nowhere": 2, // absent: the line of what encloses it
	} {
		if got := doc.Line(path); got != line {
			t.Errorf("Line(%q) = %d, want %d", path, got, line)
		}
	}
	if !doc.Has("tls.mode") || doc.Has("tls.roots") || doc.Has("nowhere") {
		t.Error("Has confuses present and absent paths")
	}
}

// TestStringsAreVerbatim holds that no control, escape or YAML 1.1 word changes on
// its way through the two libraries.
func TestStringsAreVerbatim(t *testing.T) {
	for _, tc := range []struct{ yaml, want string }{
		{`yes`, "yes"}, {`on`, "on"}, {`y`, "y"}, {`true`, "true"}, {`0x10`, "0x10"}, {`1e3`, "1e3"}, {`2026-01-01`, "2026-01-01"}, {`1:30`, "1:30"},
		{`"a\u0085b\u2028c\x7f\0\ufeff"`, "a\u0085b\u2028c\x7f\x00\ufeff"}, {`"😀 \U0001F600"`, "😀 😀"}, {`' x '`, " x "}, {`"null"`, "null"},
		{`"` + strings.Repeat("long words ", 300) + `"`, strings.Repeat("long words ", 300)}, {`"{{ a }}: # b"`, "{{ a }}: # b"}, {`"<<"`, "<<"}, {`"tab\tnl\n"`, "tab\tnl\n"},
	} {
		var got config
		if _, err := strictyaml.Decode("", []byte("domain: "+tc.yaml+"\n"), &got); err != nil || got.Domain != tc.want {
			t.Errorf("%.40s: %q, %v; want %q", tc.yaml, got.Domain, err, tc.want)
		}
	}
}

func TestDecodeRefuses(t *testing.T) {
	for _, tc := range []struct{ name, yaml, want string }{
		{"nothing", "", "f:1: the file is empty"},
		{"comments only", "# nothing\n", "f:1: the file is empty"},
		{"null", "---\n", "f:1: the file is empty"},
		{"a list", "- a\n", "f:1: the file holds a list where keys"},
		{"text", "hello\n", `f:1: the file holds "hello" where keys`},
		{"unknown key", "domain: a\ndomian: b\n", `f:2: unknown key "domian": did you mean domain?`},
		{"key in another case", "Domain: a\n", `f:1: unknown key "Domain": did you mean domain?`},
		{"unknown key below", "tls:\n  mode: off\n  zzzzzzzz: 1\n", `f:3: unknown key "zzzzzzzz" in tls: known are mode`},
		{"field without a key", "Hidden: a\n", `unknown key "Hidden"`},
		{"duplicate key", "domain: a\nenabled: true\ndomain: b\n", `f:3: duplicate key "domain": it is on line 1 already`},
		{"duplicate key in a map", "labels:\n  1: a\n  \"1\": b\n", `f:3: duplicate key "1"`},
		{"duplicate below an unknown key", "what:\n  a: 1\n  a: 2\n", `f:3: duplicate key "a"`},
		{"anchor", "domain: &x a\n", "f:1: anchor &x: anchors are not supported"},
		{"alias", "labels: {a: &x b, c: *x}\n", "f:1: alias *x: aliases are not supported"},
		{"exploding aliases", bomb(), "aliases are not supported"},
		{"merge key", "tls:\n  <<: {mode: off}\n", "f:2: merge keys (<<) are not supported"},
		{"tag", "domain: !!str 1\n", "f:1: tag !!str: tags are not supported"},
		{"binary", "domain: !!binary aGk=\n", "f:1: tag !!binary"},
		{"two documents", "domain: a\n---\ndomain: b\n", "f:2: a second document begins here"},
		{"an empty second document", "domain: a\n---\n", "a second document begins here"},
		{"tab", "tls:\n\tmode: off\n", "f:2: the line is indented with a tab"},
		{"unclosed quote", "domain: \"a\n", "not valid YAML"},
		{"not UTF-8", "domain: a\n# \xff\n", "f:2: the file is not valid UTF-8"},
		{"UTF-16", "\xff\xfed\x00", "not valid UTF-8"},
		{"NUL", "domain: \x00\n", "not valid YAML"},
		{"no value", "domain:\ntls: {mode: ~}\n", "f:1: domain has no value: give it one or remove the key\nf:2: tls.mode has no value"},
		{"empty key", "labels: {\"\": a}\n", "a key is empty"},
		{"null key", "labels: {~: a}\n", "a key is empty"},
		{"list as key", "? [a]\n: b\n", "a key must be plain text"},
		{"long key", "labels: {" + strings.Repeat("k", 257) + ": a}\n", "a key has 257 bytes, over the limit of 256"},
		{"list for text", "domain: [a]\n", "f:1: domain must be text, not a list"},
		{"text for a list", "issuers: a\n", `f:1: issuers must be a list, not "a"`},
		{"text for a mapping", "tls: a\n", `f:1: tls must be keys and their values, not "a"`},
		{"yes for true", "enabled: yes\n", `f:1: enabled must be true or false, not "yes"`},
		{"quoted true", "enabled: \"true\"\n", `enabled must be true or false`},
		{"octal", "count: 010\n", `f:1: count must be a whole number, not "010"`},
		{"underscores", "count: 1_000\n", `count must be a whole number`},
		{"fraction", "count: 1.5\n", `count must be a whole number`},
		{"quoted number", "count: '1'\n", `count must be a whole number`},
		{"range", "small: 256\n", `f:1: small: 256 is out of range`},
		{"sign", "small: -1\n", `small: -1 is out of range`},
		{"not a number", "ratio: .nan\n", `ratio must be a number, not ".nan"`},
		{"duration without a unit", "max_age: 60\n", `f:1: max_age must be a duration such as 90s or 24h, not "60"`},
		{"zero without a unit", "max_age: 0\n", `max_age must be a duration`},
		{"text that a type refuses", "issuers:\n  - url: a\n    networks: [10.0.0.0/8, 10.0.0.0]\n", `f:3: issuers[0].networks[1]: netip.ParsePrefix("10.0.0.0"): no '/'`},
		{"deep", "free: " + strings.Repeat("[", 40) + strings.Repeat("]", 40) + "\n", "nested more than 32 levels deep"},
		{"very deep", "free: " + strings.Repeat("[", 50_000), "not valid YAML"},
		{"too many values", "free: [" + strings.Repeat("a,", 20_000) + "]\n", "the file has more than 20000 keys and values"},
		{"too large", "#" + strings.Repeat("x", strictyaml.MaxSize), "the file has 65537 bytes, over the limit of 65536"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			var got config
			_, err := strictyaml.Decode("f", []byte(tc.yaml), &got)
			var ps strictyaml.Problems
			if !errors.As(err, &ps) {
				t.Fatalf("error is %v (%T), want Problems", err, err)
			}
			if !strings.Contains(err.Error(), tc.want) {
				t.Errorf("error:\n%v\nwant it to contain:\n%s", err, tc.want)
			}
		})
	}
}

func bomb() string {
	var b strings.Builder
	b.WriteString("free:\n  a0: &a0 [x]\n")
	for i := range 30 {
		fmt.Fprintf(&b, "  a%d: &a%d [%s]\n", i+1, i+1, strings.TrimSuffix(strings.Repeat(fmt.Sprintf("*a%d,", i), 9), ","))
	}
	return b.String()
}

// TestEveryProblemAtOnce holds that one run reports all faults in the file's order
// and still hands over what is sound, for the caller's own checks.
func TestEveryProblemAtOnce(t *testing.T) {
	const file = "domain: [x]\ncount: many\nissuers:\n  - 7: x\n  - url: https://two.example\nzzz: 1\nsmall: 3\n"
	var got config
	doc, err := strictyaml.Decode("", []byte(file), &got)
	if doc == nil || got.Small != 3 || len(got.Issuers) != 2 || got.Issuers[1].URL != "https://two.example" {
		t.Errorf("sound parts were lost: %+v", got)
	}
	err = strictyaml.Join(err, strictyaml.Problems{doc.Problemf("issuers[1].url", "not reachable")})
	want := `line 1: domain must be text, not a list
line 2: count must be a whole number, not "many"
line 4: unknown key "7" in issuers[0]: known are networks, url
line 5: not reachable
line 6: unknown key "zzz": known are count, domain, enabled, free, issuers, labels, max_age, ratio, small, tls`
	if err.Error() != want {
		t.Errorf("got:\n%v\nwant:\n%s", err, want)
	}
}

func TestReportIsBounded(t *testing.T) {
	var file strings.Builder
	for i := range 5000 {
		fmt.Fprintf(&file, "key%d: x\n", i)
	}
	var got config
	_, err := strictyaml.Decode("", []byte(file.String()), &got)
	var ps strictyaml.Problems
	if !errors.As(err, &ps) || len(ps) != strictyaml.MaxProblems+1 || ps[strictyaml.MaxProblems].Message != "and 4950 more problems" {
		t.Errorf("got %d problems, the last %q", len(ps), ps[len(ps)-1])
	}
	// What the caller adds is cut as well, and the count stays one line, at the end.
	var more strictyaml.Problems
	for i := range 60 {
		more = append(more, strictyaml.Problem{Line: 10 + i, Message: "more"})
	}
	for _, tc := range []struct {
		err  error
		want string
	}{{err, "and 5010 more problems"}, {nil, "and 10 more problems"}} {
		if err := strictyaml.Join(tc.err, more); !errors.As(err, &ps) || len(ps) != 51 || ps[50].Message != tc.want || ps[50].Line < ps[49].Line {
			t.Errorf("joined: %d problems, the last %q, want %q", len(ps), ps[len(ps)-1], tc.want)
		}
	}
	if err := strictyaml.Join(nil, more[:50]); !errors.As(err, &ps) || len(ps) != 50 {
		t.Errorf("50 problems became %d", len(ps))
	}
}

// TestOneLineEach holds that no file can forge a line of the report, or steer the terminal that shows it.
func TestOneLineEach(t *testing.T) {
	var got config
	doc, err := strictyaml.Decode("f", []byte("\"a\\nf:9: forged\\e[2J\": x\nlabels: {\"b\\r\\n\\u202e\": [1]}\n"), &got)
	err = strictyaml.Join(err, strictyaml.Problems{doc.Problemf("labels", "labels.%s is bad", "b\n\x1b[2J")})
	if n := strings.Count(err.Error(), "\n"); n != 2 || strings.ContainsAny(err.Error(), "\x1b\r\u202e") {
		t.Errorf("%d line breaks, want 2, in %q", n, err)
	}
}

func TestJoin(t *testing.T) {
	if err := strictyaml.Join(nil, nil); err != nil {
		t.Errorf("Join(nil, nil) = %v", err)
	}
	err := strictyaml.Join(errors.New("other"), strictyaml.Problems{{File: "a", Line: 2, Message: "x"}})
	if err.Error() != "other\na:2: x" {
		t.Errorf("got %q", err)
	}
	var none *strictyaml.Document
	if p := none.Problemf("a.b", "%d", 1); p.String() != "1" || none.Has("") {
		t.Errorf("nil Document: %v", p)
	}
}

func TestNearest(t *testing.T) {
	known := []string{"contents", "pull_requests", "issues", "administration"}
	for name, want := range map[string]string{
		"content": "contents", "pull-request": "pull_requests", "Issues": "issues", "issue": "issues",
		"x": "", "": "", "workflows": "", strings.Repeat("contents", 50): "",
	} {
		if got := strictyaml.Nearest(name, known); got != want {
			t.Errorf("Nearest(%.20q) = %q, want %q", name, got, want)
		}
	}
}

// FuzzDecode holds that no input panics, that an error always says something, and
// that what is accepted reads the same a second time.
func FuzzDecode(f *testing.F) {
	for _, seed := range []string{
		"domain: a\n", "issuers: [{url: x, networks: [10.0.0.0/8]}]", "a: &b c\nd: *b", "<<: {}", "? [a]\n: b", "!!map {}", "\t", "---\n---",
		"labels: {a: |\n  x\n}", "domain: \"\\u0085\\U0001F600\"", "free: [[[1,{a: ~}]]]", "max_age: 1h\nratio: 1e3", "labels: {? \"x\" : \"\\0\"}", bomb(),
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		var a, b config
		doc, err := strictyaml.Decode("f", data, &a)
		if err != nil {
			if err.Error() == "" {
				t.Fatal("an error without a message")
			}
			return
		}
		if doc.Line("") < 1 {
			t.Fatal("a document without a line")
		}
		if _, err := strictyaml.Decode("f", data, &b); err != nil || !cmp.Equal(a, b, cmp.AllowUnexported(config{}), cmpopts.EquateComparable(netip.Prefix{})) {
			t.Fatalf("a second reading differs: %v", err)
		}
	})
}
