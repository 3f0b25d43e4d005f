package audit

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf16"
	"unicode/utf8"
)

// Bounds on collections in bytes of JSON text. With those in appendLine they add up to less than MaxLine;
// a test fills every field to prove it.
const (
	maxClaims       = 8 << 10
	maxClaim        = 2 << 10
	maxClaimName    = 256
	maxClaimDepth   = 16
	maxPermissions  = 4 << 10
	maxRepositories = 10 << 10
)

// timeFormat is RFC 3339 with a fixed width, so that lines sort and columns align.
const timeFormat = "2006-01-02T15:04:05.000000Z"

// lastTime is the latest time that RFC 3339 can write.
var lastTime = time.Date(9999, 12, 31, 23, 59, 59, 999_999_000, time.UTC)

// appendLine appends the entry's line, without a newline, to dst. Fields come in the order of RFC 8785 section 3.2.3,
// which for these ASCII names is that of their bytes.
func (e *Entry) appendLine(dst []byte) []byte {
	o := objectWriter{buf: append(dst, '{')}
	// "truncated" sorts before "user_agent", so that its fate has to be known beforehand.
	userAgent, cutAgent := clip(e.UserAgent, 512)

	o.bool("all_repositories", e.AllRepositories)
	o.int("app_id", e.AppID)
	o.claims("claims", e.Claims)
	o.string("client_address", e.ClientAddress, 128)
	o.string("decision", e.Decision, 32)
	o.int("duration_ms", e.DurationMS)
	o.time("id_token_expiry", e.IDTokenExpiry)
	o.string("identity", e.Identity, 256)
	o.int("installation_id", e.InstallationID)
	o.string("issuer", e.Issuer, 512)
	o.string("jti", e.JTI, 1024)
	o.string("kind", string(e.Kind), 32)
	o.permissions("permissions", e.Permissions)
	o.int("policy_age_seconds", e.PolicyAge)
	o.string("policy_path", e.PolicyPath, 512)
	o.string("policy_repository", e.PolicyRepository, 256)
	o.string("policy_sha", e.PolicySHA, 128)
	o.string("reason", e.Reason, 1024)
	o.repositories("repositories", e.Repositories)
	o.string("request_id", e.RequestID, 128)
	o.string("scope", e.Scope, 256)
	o.string("sender", e.Sender, 128)
	o.string("subject", e.Subject, 2048)
	o.time("time", e.Time)
	o.time("token_expiry", e.TokenExpiry)
	o.string("token_sha256", e.TokenSHA256, 128)
	o.string("token_sha256_base64", e.TokenSHA256Base64, 128)
	if cutAgent {
		o.cut = append(o.cut, "user_agent")
	}
	o.truncated("truncated")
	o.string("user_agent", userAgent, 512)
	return append(o.buf, '}')
}

// objectWriter writes the members of one JSON object, leaving out zero values, and remembers which it had to cut.
type objectWriter struct {
	buf []byte
	cut []string
}

func (o *objectWriter) key(name string) {
	if o.buf[len(o.buf)-1] != '{' {
		o.buf = append(o.buf, ',')
	}
	o.buf = append(o.buf, '"')
	o.buf = append(o.buf, name...)
	o.buf = append(o.buf, '"', ':')
}

func (o *objectWriter) bool(name string, v bool) {
	if v {
		o.key(name)
		o.buf = append(o.buf, "true"...)
	}
}

func (o *objectWriter) int(name string, v int64) {
	if v != 0 {
		o.key(name)
		o.buf = strconv.AppendInt(o.buf, v, 10)
	}
}

func (o *objectWriter) time(name string, t time.Time) {
	if t.IsZero() {
		return
	}
	// An expiry may be any number that an issuer chose to sign; RFC 3339 has four digits for the year.
	if t = t.UTC(); t.After(lastTime) {
		t = lastTime
	} else if t.Year() < 1 {
		t = time.Date(1, 1, 1, 0, 0, 0, 1000, time.UTC)
	}
	o.key(name)
	o.buf = append(o.buf, '"')
	o.buf = t.AppendFormat(o.buf, timeFormat)
	o.buf = append(o.buf, '"')
}

func (o *objectWriter) string(name, s string, limit int) {
	if s == "" {
		return
	}
	s, cut := clip(s, limit)
	if cut {
		o.cut = append(o.cut, name)
	}
	o.key(name)
	o.buf = appendString(o.buf, s)
}

func (o *objectWriter) claims(name string, claims map[string]any) {
	if len(claims) == 0 {
		return
	}
	o.key(name)
	o.buf = append(o.buf, '{')
	start, cut := len(o.buf), false
	for _, claim := range sortedNames(claims) {
		// Two names that differ only in invalid bytes would become one, and RFC 7493 forbids duplicates.
		if encodedLen(claim) > maxClaimName || !utf8.ValidString(claim) {
			cut = true
			continue
		}
		mark := len(o.buf)
		if mark > start {
			o.buf = append(o.buf, ',')
		}
		o.buf = appendString(o.buf, claim)
		o.buf = append(o.buf, ':')
		room := min(maxClaim, maxClaims-(len(o.buf)-start))
		from := len(o.buf)
		whole, ok := appendValue(o.buf, claims[claim], maxClaimDepth)
		if ok && len(whole)-from <= room {
			o.buf = whole
			continue
		}
		cut = true
		if s, isString := claims[claim].(string); isString && room >= 64 {
			s, _ = clip(s, room-2)
			o.buf = appendString(o.buf, s)
			continue
		}
		o.buf = o.buf[:mark]
	}
	o.buf = append(o.buf, '}')
	if cut {
		o.cut = append(o.cut, name)
	}
}

func (o *objectWriter) permissions(name string, permissions map[string]string) {
	if len(permissions) == 0 {
		return
	}
	o.key(name)
	o.buf = append(o.buf, '{')
	start, cut := len(o.buf), false
	for _, p := range sortedNames(permissions) {
		if len(o.buf)-start+encodedLen(p)+encodedLen(permissions[p])+6 > maxPermissions || !utf8.ValidString(p) {
			cut = true
			continue
		}
		if len(o.buf) > start {
			o.buf = append(o.buf, ',')
		}
		o.buf = appendString(o.buf, p)
		o.buf = append(o.buf, ':')
		o.buf = appendString(o.buf, permissions[p])
	}
	o.buf = append(o.buf, '}')
	if cut {
		o.cut = append(o.cut, name)
	}
}

func (o *objectWriter) repositories(name string, repositories []string) {
	if len(repositories) == 0 {
		return
	}
	o.key(name)
	o.buf = append(o.buf, '[')
	start := len(o.buf)
	for _, r := range repositories {
		if len(o.buf)-start+encodedLen(r)+3 > maxRepositories {
			o.cut = append(o.cut, name)
			break
		}
		if len(o.buf) > start {
			o.buf = append(o.buf, ',')
		}
		o.buf = appendString(o.buf, r)
	}
	o.buf = append(o.buf, ']')
}

func (o *objectWriter) truncated(name string) {
	if len(o.cut) == 0 {
		return
	}
	o.key(name)
	for i, field := range o.cut {
		o.buf = append(o.buf, "[,"[min(i, 1)], '"')
		o.buf = append(o.buf, field...)
		o.buf = append(o.buf, '"')
	}
	o.buf = append(o.buf, ']')
}

// appendValue appends a claim's value. ok is false where it is nested deeper than depth.
func appendValue(dst []byte, v any, depth int) (_ []byte, ok bool) {
	if depth == 0 {
		return dst, false
	}
	switch v := v.(type) {
	case nil:
		return append(dst, "null"...), true
	case bool:
		return strconv.AppendBool(dst, v), true
	case string:
		return appendString(dst, v), true
	case json.Number:
		return appendNumber(dst, string(v)), true
	case float64:
		return appendFloat(dst, v), true
	case int:
		return appendNumber(dst, strconv.Itoa(v)), true
	case int64:
		return appendNumber(dst, strconv.FormatInt(v, 10)), true
	case []any:
		return appendArray(dst, v, depth)
	case []string:
		return appendArray(dst, v, depth)
	case map[string]any:
		return appendObject(dst, v, depth)
	default:
		return appendString(dst, fmt.Sprint(v)), true
	}
}

func appendArray[T any](dst []byte, values []T, depth int) (_ []byte, ok bool) {
	dst = append(dst, '[')
	for i, v := range values {
		if i > 0 {
			dst = append(dst, ',')
		}
		if dst, ok = appendValue(dst, v, depth-1); !ok {
			return dst, false
		}
	}
	return append(dst, ']'), true
}

func appendObject(dst []byte, members map[string]any, depth int) (_ []byte, ok bool) {
	dst = append(dst, '{')
	for i, name := range sortedNames(members) {
		if !utf8.ValidString(name) {
			return dst, false // replaced, it might equal another name
		}
		if i > 0 {
			dst = append(dst, ',')
		}
		dst = append(appendString(dst, name), ':')
		if dst, ok = appendValue(dst, members[name], depth-1); !ok {
			return dst, false
		}
	}
	return append(dst, '}'), true
}

// sortedNames returns the keys in the order of RFC 8785 section 3.2.3.
func sortedNames[V any](m map[string]V) []string {
	return slices.SortedFunc(maps.Keys(m), compareUTF16)
}

// compareUTF16 orders by UTF-16 code units. That is the order of the bytes, save that what needs a surrogate pair
// comes before U+E000 to U+FFFF.
func compareUTF16(a, b string) int {
	for i := range min(len(a), len(b)) {
		if a[i] >= utf8.RuneSelf || b[i] >= utf8.RuneSelf {
			return slices.Compare(utf16.Encode([]rune(a)), utf16.Encode([]rune(b)))
		}
		if a[i] != b[i] {
			break
		}
	}
	return strings.Compare(a, b)
}

// appendNumber appends the JSON number s. An integer that a double cannot hold exactly, and anything that is no
// number, becomes a string (RFC 7493 section 2.2).
func appendNumber(dst []byte, s string) []byte {
	if i, err := strconv.ParseInt(s, 10, 64); err == nil && i >= -(1<<53-1) && i <= 1<<53-1 {
		return strconv.AppendInt(dst, i, 10)
	}
	f, err := strconv.ParseFloat(s, 64)
	isLong := math.Abs(f) > 1<<53-1 && math.Abs(f) < 1e21 // ECMAScript would write it as an integer, too
	if err != nil || isLong || !strings.ContainsAny(s, ".eE") {
		return appendString(dst, s)
	}
	return appendFloat(dst, f)
}

// appendFloat appends f as ECMAScript writes it, which is what RFC 8785 section 3.2.2.3 asks for.
func appendFloat(dst []byte, f float64) []byte {
	switch {
	case math.IsNaN(f) || math.IsInf(f, 0):
		return appendString(dst, strconv.FormatFloat(f, 'g', -1, 64))
	case f == 0:
		return append(dst, '0') // also negative zero
	case math.Abs(f) >= 1e-6 && math.Abs(f) < 1e21:
		return strconv.AppendFloat(dst, f, 'f', -1, 64)
	}
	text := strconv.AppendFloat(nil, f, 'e', -1, 64)
	// strconv pads the exponent to two digits, ECMAScript does not.
	if i := bytes.IndexByte(text, 'e'); len(text) > i+2 && text[i+2] == '0' {
		text = slices.Delete(text, i+2, i+3)
	}
	return append(dst, text...)
}
