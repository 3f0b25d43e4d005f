package trustpolicy

import "strings"

// ValidIdentity reports whether s can name a policy, as Directory + s + Suffix:
// one file-name segment of letters, digits and `._-@+`, at most 200 bytes, not
// beginning with a dot. The exchange takes no other.
func ValidIdentity(s string) bool {
	if s == "" || len(s) > 200 || s[0] == '.' {
		return false
	}
	for i := range len(s) {
		c := s[i]
		letterOrDigit := 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9'
		if !letterOrDigit && strings.IndexByte("._-@+", c) < 0 {
			return false
		}
	}
	return true
}
