package idtoken

import (
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"unicode/utf16"
	"unicode/utf8"
)

const (
	maxJSONDepth    = 32 // objects and arrays inside each other, the outermost counted
	maxNumberLength = 64 // bytes; also keeps whoever computes with a claim from huge exponents written out
)

// parseJSONObject reads s, which must be exactly one JSON object (RFC 8259), into the types of encoding/json, with
// json.Number for numbers.
//
// encoding/json is not used because of what it lets pass: duplicate names (the last one wins, so two parsers may see two
// different tokens), invalid UTF-8 and lone surrogates (replaced, so two different subjects may become one), and deep
// nesting. Here each of these is an error. It is one pass, and strings without escapes share s's memory. members is how many
// the outermost object is expected to have; it only saves growing the map.
func parseJSONObject(s string, members int) (map[string]any, error) {
	if !utf8.ValidString(s) {
		return nil, errors.New("not valid UTF-8")
	}
	p := jsonParser{s: s}
	p.space()
	if p.peek() != '{' {
		return nil, errors.New("not a JSON object")
	}
	object, err := p.object(1, members)
	if err != nil {
		return nil, err
	}
	p.space()
	if p.i != len(p.s) {
		return nil, p.fault("data after the object")
	}
	return object, nil
}

// jsonParser is a position in a text of valid UTF-8.
type jsonParser struct {
	s string
	i int // the next byte
}

func (p *jsonParser) fault(what string) error {
	return fmt.Errorf("JSON: %s at byte %d", what, p.i)
}

// peek returns the next byte, and 0 (which begins nothing in JSON) at the end.
func (p *jsonParser) peek() byte {
	if p.i < len(p.s) {
		return p.s[p.i]
	}
	return 0
}

func (p *jsonParser) space() {
	for p.i < len(p.s) {
		switch p.s[p.i] {
		case ' ', '\t', '\n', '\r':
			p.i++
		default:
			return
		}
	}
}

func (p *jsonParser) value(depth int) (any, error) {
	switch c := p.peek(); {
	case c == '"':
		return p.string()
	case c == '{':
		return p.object(depth, 0)
	case c == '[':
		return p.array(depth)
	case c == '-' || '0' <= c && c <= '9':
		return p.number()
	case p.literal("true"):
		return true, nil
	case p.literal("false"):
		return false, nil
	case p.literal("null"):
		return nil, nil
	}
	return nil, p.fault("no value")
}

func (p *jsonParser) literal(word string) bool {
	if strings.HasPrefix(p.s[p.i:], word) {
		p.i += len(word)
		return true
	}
	return false
}

// object reads an object; the next byte is its '{'.
func (p *jsonParser) object(depth, members int) (map[string]any, error) {
	if depth > maxJSONDepth {
		return nil, p.fault("nested too deeply")
	}
	p.i++
	object := make(map[string]any, members)
	for p.space(); p.peek() != '}'; {
		if p.peek() != '"' {
			return nil, p.fault("no member name")
		}
		name, err := p.string()
		if err != nil {
			return nil, err
		}
		if _, twice := object[name]; twice {
			return nil, p.fault("duplicate member name")
		}
		p.space()
		if p.peek() != ':' {
			return nil, p.fault("no colon")
		}
		p.i++
		p.space()
		if object[name], err = p.value(depth + 1); err != nil {
			return nil, err
		}
		if err := p.next('}'); err != nil {
			return nil, err
		}
	}
	p.i++
	return object, nil
}

// array reads an array; the next byte is its '['.
func (p *jsonParser) array(depth int) ([]any, error) {
	if depth > maxJSONDepth {
		return nil, p.fault("nested too deeply")
	}
	p.i++
	array := []any{}
	for p.space(); p.peek() != ']'; {
		element, err := p.value(depth + 1)
		if err != nil {
			return nil, err
		}
		array = append(array, element)
		if err := p.next(']'); err != nil {
			return nil, err
		}
	}
	p.i++
	return array, nil
}

// next moves past the comma after an element, which another element must follow, or stops before the closing byte.
func (p *jsonParser) next(closing byte) error {
	p.space()
	if p.peek() == closing {
		return nil
	}
	if p.peek() != ',' {
		return p.fault("no comma or end")
	}
	p.i++
	p.space()
	if p.peek() == closing {
		return p.fault("comma before the end")
	}
	return nil
}

// string reads a string; the next byte is its opening quote.
func (p *jsonParser) string() (string, error) {
	p.i++
	start := p.i
	for ; p.i < len(p.s); p.i++ {
		switch c := p.s[p.i]; {
		case c == '"':
			text := p.s[start:p.i]
			p.i++
			return text, nil
		case c == '\\':
			return p.escaped(start)
		case c < ' ':
			return "", p.fault("control character in a string")
		}
	}
	return "", p.fault("unending string")
}

// escaped reads the rest of a string that began at start and has its first escape here.
func (p *jsonParser) escaped(start int) (string, error) {
	text := append(make([]byte, 0, p.i-start+32), p.s[start:p.i]...)
	for p.i < len(p.s) {
		c := p.s[p.i]
		p.i++
		switch {
		case c == '"':
			return string(text), nil
		case c < ' ':
			return "", p.fault("control character in a string")
		case c != '\\':
			text = append(text, c)
			continue
		}
		escape := p.peek()
		p.i++
		switch escape {
		case '"', '\\', '/':
			text = append(text, escape)
		case 'b':
			text = append(text, '\b')
		case 'f':
			text = append(text, '\f')
		case 'n':
			text = append(text, '\n')
		case 'r':
			text = append(text, '\r')
		case 't':
			text = append(text, '\t')
		case 'u':
			r, err := p.codePoint()
			if err != nil {
				return "", err
			}
			text = utf8.AppendRune(text, r)
		default:
			return "", p.fault("unknown escape")
		}
	}
	return "", p.fault("unending string")
}

// codePoint reads what follows \u: four hexadecimal digits, and a second escape where they are half of a pair.
func (p *jsonParser) codePoint() (rune, error) {
	r, err := p.hex4()
	if err != nil || !utf16.IsSurrogate(r) {
		return r, err
	}
	if !p.literal(`\u`) {
		return 0, p.fault("lone surrogate")
	}
	low, err := p.hex4()
	if err != nil {
		return 0, err
	}
	if r = utf16.DecodeRune(r, low); r == utf8.RuneError {
		return 0, p.fault("lone surrogate")
	}
	return r, nil
}

func (p *jsonParser) hex4() (rune, error) {
	if len(p.s)-p.i < 4 {
		return 0, p.fault("short escape")
	}
	n, err := strconv.ParseUint(p.s[p.i:p.i+4], 16, 16)
	if err != nil {
		return 0, p.fault("bad escape")
	}
	p.i += 4
	return rune(n), nil
}

// number reads a number; the next byte is '-' or a digit.
func (p *jsonParser) number() (json.Number, error) {
	start := p.i
	if p.peek() == '-' {
		p.i++
	}
	whole := p.i
	if p.digits() == 0 || p.s[whole] == '0' && p.i-whole > 1 {
		return "", p.fault("bad number")
	}
	if p.peek() == '.' {
		p.i++
		if p.digits() == 0 {
			return "", p.fault("bad number")
		}
	}
	if c := p.peek(); c == 'e' || c == 'E' {
		p.i++
		if c := p.peek(); c == '+' || c == '-' {
			p.i++
		}
		if p.digits() == 0 {
			return "", p.fault("bad number")
		}
	}
	if p.i-start > maxNumberLength {
		return "", p.fault("number too long")
	}
	return json.Number(p.s[start:p.i]), nil
}

func (p *jsonParser) digits() int {
	start := p.i
	for '0' <= p.peek() && p.peek() <= '9' {
		p.i++
	}
	return p.i - start
}
