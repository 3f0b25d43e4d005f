package audit

import "unicode/utf8"

// appendString appends s as a JSON string by RFC 8785 section 3.2.2.2: only the quotation mark, the reverse solidus
// and U+0000 to U+001F are escaped. Bytes that are not UTF-8 become U+FFFD, one for each.
func appendString(dst []byte, s string) []byte {
	dst = append(dst, '"')
	from := 0
	for i := 0; i < len(s); {
		c := s[i]
		if c < utf8.RuneSelf {
			if escapedLen(c) > 1 {
				dst = append(dst, s[from:i]...)
				dst = appendEscape(dst, c)
				from = i + 1
			}
			i++
			continue
		}
		r, size := utf8.DecodeRuneInString(s[i:])
		if r == utf8.RuneError && size == 1 {
			dst = append(dst, s[from:i]...)
			dst = append(dst, "\uFFFD"...)
			from = i + 1
		}
		i += size
	}
	dst = append(dst, s[from:]...)
	return append(dst, '"')
}

func appendEscape(dst []byte, c byte) []byte {
	switch c {
	case '"', '\\':
		return append(dst, '\\', c)
	case '\b':
		return append(dst, '\\', 'b')
	case '\t':
		return append(dst, '\\', 't')
	case '\n':
		return append(dst, '\\', 'n')
	case '\f':
		return append(dst, '\\', 'f')
	case '\r':
		return append(dst, '\\', 'r')
	}
	const hex = "0123456789abcdef"
	return append(dst, '\\', 'u', '0', '0', hex[c>>4], hex[c&15])
}

// escapedLen is how many bytes the ASCII character c takes within a JSON string.
func escapedLen(c byte) int {
	switch {
	case c == '"' || c == '\\' || c == '\b' || c == '\t' || c == '\n' || c == '\f' || c == '\r':
		return 2
	case c < 0x20:
		return 6
	}
	return 1
}

// encodedLen is how many bytes appendString would write for s, without the two quotation marks.
func encodedLen(s string) int {
	n := 0
	for i := 0; i < len(s); {
		width, size := runeLen(s[i:])
		n += width
		i += size
	}
	return n
}

// clip returns the longest prefix of s in whole characters whose JSON text, without quotation marks, has at most
// limit bytes, and whether anything had to go.
func clip(s string, limit int) (prefix string, cut bool) {
	if len(s)*6 <= limit { // the longest escape takes six bytes for one
		return s, false
	}
	n := 0
	for i := 0; i < len(s); {
		width, size := runeLen(s[i:])
		if n += width; n > limit {
			return s[:i], true
		}
		i += size
	}
	return s, false
}

// runeLen returns for the first character of s how many bytes it takes in JSON (width) and in s (size).
func runeLen(s string) (width, size int) {
	if s[0] < utf8.RuneSelf {
		return escapedLen(s[0]), 1
	}
	r, size := utf8.DecodeRuneInString(s)
	if r == utf8.RuneError && size == 1 {
		return len("\uFFFD"), 1
	}
	return size, size
}
