package journald

import (
	"strconv"
	"strings"
)

// Word is s where it can be told from what surrounds it in a line, and otherwise s in quotation marks, as Go writes
// strings: a subject with a space or a comma must not read like something that we say. (And of a MESSAGE with characters
// that a terminal would obey, journalctl prints nothing but its length.)
func Word(s string) string {
	for _, r := range s {
		isPlain := r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("-_.:/@+~*=#|", r)
		if !isPlain {
			return strconv.Quote(s)
		}
	}
	return s
}
