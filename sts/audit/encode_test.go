package audit

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func line(e Entry) string { return string(e.appendLine(nil)) }

var when = time.Date(2026, 8, 1, 12, 30, 0, 123_456_789, time.FixedZone("CEST", 2*3600))

func TestLineIsCanonical(t *testing.T) {
	e := Entry{
		Time: when, Kind: Outcome, RequestID: "r1", Scope: "octo/cat", Identity: "deploy",
		Issuer: "https://issuer.example", Subject: "repo:octo/cat:environment:<prod> & ${x}",
		Claims: map[string]any{"ref": "refs/heads/main", "run": json.Number("42"), "flag": true, "none": nil, "list": []any{"b", "a"}},
		JTI:    "j", IDTokenExpiry: when.Add(time.Hour), ClientAddress: "192.0.2.1", UserAgent: "curl/8",
		PolicyRepository: "octo/cat", PolicyPath: ".github/chainguard/deploy.sts.yaml", PolicySHA: "abc", PolicyAge: 3,
		AppID: 1234, InstallationID: 99, Permissions: map[string]string{"issues": "write", "contents": "read"},
		Repositories: []string{"cat", "ant"}, AllRepositories: true,
		TokenSHA256: "00ff", TokenSHA256Base64: "AP8=", TokenExpiry: when.Add(2 * time.Hour),
		Decision: DecisionGranted, Reason: "ok", DurationMS: 12,
	}
	want := `{"all_repositories":true,"app_id":1234,` +
		`"claims":{"flag":true,"list":["b","a"],"none":null,"ref":"refs/heads/main","run":42},` +
		`"client_address":"192.0.2.1","decision":"granted","duration_ms":12,"id_token_expiry":"2026-08-01T11:30:00.123456Z",` +
		`"identity":"deploy","installation_id":99,"issuer":"https://issuer.example","jti":"j","kind":"outcome",` +
		`"permissions":{"contents":"read","issues":"write"},"policy_age_seconds":3,` +
		`"policy_path":".github/chainguard/deploy.sts.yaml","policy_repository":"octo/cat","policy_sha":"abc","reason":"ok",` +
		`"repositories":["cat","ant"],"request_id":"r1","scope":"octo/cat","subject":"repo:octo/cat:environment:<prod> & ${x}",` +
		`"time":"2026-08-01T10:30:00.123456Z","token_expiry":"2026-08-01T12:30:00.123456Z","token_sha256":"00ff",` +
		`"token_sha256_base64":"AP8=","user_agent":"curl/8"}`
	if diff := cmp.Diff(want, line(e)); diff != "" {
		t.Fatalf("line (-want +got):\n%s", diff)
	}

	back, err := ParseEntry([]byte(want))
	if err != nil {
		t.Fatal(err)
	}
	for _, at := range []*time.Time{&e.Time, &e.IDTokenExpiry, &e.TokenExpiry} {
		*at = at.UTC().Truncate(time.Microsecond)
	}
	if diff := cmp.Diff(e, back); diff != "" {
		t.Fatalf("what was read back (-want +got):\n%s", diff)
	}
}

func TestZeroFieldsAreLeftOut(t *testing.T) {
	got := line(Entry{Time: when, Kind: Admin})
	if want := `{"kind":"admin","time":"2026-08-01T10:30:00.123456Z"}`; got != want {
		t.Fatalf("got %s\nwant %s", got, want)
	}
}

// Every field of Entry must be written: a field that was added and forgotten would be lost without a sound.
func TestEveryFieldIsWritten(t *testing.T) {
	var members map[string]any
	if err := json.Unmarshal([]byte(line(fullEntry(1))), &members); err != nil {
		t.Fatal(err)
	}
	fields := reflect.TypeFor[Entry]()
	for i := range fields.NumField() {
		name, _, _ := strings.Cut(fields.Field(i).Tag.Get("json"), ",")
		if _, ok := members[name]; !ok && name != "truncated" {
			t.Errorf("field %s (%s) is not in the line", fields.Field(i).Name, name)
		}
	}
}

func TestStrings(t *testing.T) {
	for _, test := range []struct{ in, want string }{
		{"", `""`},
		{"\u20ac$\x0f\nA'B\"\\\\\"/", "\"\u20ac$\\u000f\\nA'B\\\"\\\\\\\\\\\"/\""}, // RFC 8785 section 3.2.2
		{"<&>\u2028\u2029", "\"<&>\u2028\u2029\""},
		{"\x00\x08\x09\x0a\x0b\x0c\x0d\x1f\x7f", "\"\\u0000\\b\\t\\n\\u000b\\f\\r\\u001f\x7f\""},
		{"a\xff\xfeb\xc3", "\"a\uFFFD\uFFFDb\uFFFD\""},
		{"😀\uFFFD", "\"😀\uFFFD\""},
	} {
		got := string(appendString(nil, test.in))
		if got != test.want {
			t.Errorf("%q: got %s, want %s", test.in, got, test.want)
		}
		if n := encodedLen(test.in); n != len(got)-2 {
			t.Errorf("%q: encodedLen %d, but %d bytes were written", test.in, n, len(got)-2)
		}
	}
}

// The samples of RFC 8785 appendix B, given as IEEE 754 bits.
func TestNumbers(t *testing.T) {
	for bits, want := range map[uint64]string{
		0x0000000000000000: "0", 0x8000000000000000: "0",
		0x0000000000000001: "5e-324", 0x8000000000000001: "-5e-324",
		0x7fefffffffffffff: "1.7976931348623157e+308", 0xffefffffffffffff: "-1.7976931348623157e+308",
		0x4340000000000000: "9007199254740992", 0xc340000000000000: "-9007199254740992",
		0x4430000000000000: "295147905179352830000",
		0x44b52d02c7e14af5: "9.999999999999997e+22", 0x44b52d02c7e14af6: "1e+23", 0x44b52d02c7e14af7: "1.0000000000000001e+23",
		0x444b1ae4d6e2ef4e: "999999999999999700000", 0x444b1ae4d6e2ef4f: "999999999999999900000", 0x444b1ae4d6e2ef50: "1e+21",
		0x3eb0c6f7a0b5ed8c: "9.999999999999997e-7", 0x3eb0c6f7a0b5ed8d: "0.000001",
		0x41b3de4355555553: "333333333.3333332", 0x41b3de4355555557: "333333333.33333343",
		0xbecbf647612f3696: "-0.0000033333333333333333", 0x43143ff3c1cb0959: "1424953923781206.2",
		0x7fffffffffffffff: `"NaN"`, 0x7ff0000000000000: `"+Inf"`,
	} {
		if got := string(appendFloat(nil, math.Float64frombits(bits))); got != want {
			t.Errorf("%016x: got %s, want %s", bits, got, want)
		}
	}
	for in, want := range map[string]string{
		"7": "7", "-0": "0", "1.50": "1.5", "1E3": "1000", "9007199254740991": "9007199254740991",
		"9007199254740993": `"9007199254740993"`, "123456789012345678901234567890": `"123456789012345678901234567890"`,
		"1e999": `"1e999"`, "": `""`, "nonsense": `"nonsense"`,
	} {
		if got := string(appendNumber(nil, in)); got != want {
			t.Errorf("json.Number %q: got %s, want %s", in, got, want)
		}
	}
}

// The sample of RFC 8785 section 3.2.3.
func TestKeysAreSortedByUTF16(t *testing.T) {
	claims := map[string]any{"\u20ac": "Euro Sign", "\r": "Carriage Return", "\ufb33": "Hebrew Letter Dalet With Dagesh",
		"1": "One", "\U0001f600": "Emoji: Grinning Face", "\u0080": "Control", "\u00f6": "Latin Small Letter O With Diaeresis"}
	want := []string{"\r", "1", "\u0080", "\u00f6", "\u20ac", "\U0001f600", "\ufb33"}
	if diff := cmp.Diff(want, sortedNames(claims)); diff != "" {
		t.Fatal(diff)
	}
}

// fullEntry fills every field with about n bytes that take six in JSON.
func fullEntry(n int) Entry {
	long := strings.Repeat("\x01", n)
	e := Entry{Time: when, Kind: Kind(strings.Repeat("k", 32)), Claims: map[string]any{}, Permissions: map[string]string{},
		IDTokenExpiry: when.AddDate(1e6, 0, 0), TokenExpiry: when, AllRepositories: true,
		AppID: math.MinInt64, InstallationID: math.MinInt64, PolicyAge: math.MinInt64, DurationMS: math.MinInt64}
	for _, s := range []*string{&e.RequestID, &e.Scope, &e.Identity, &e.Issuer, &e.Subject, &e.Sender, &e.JTI, &e.ClientAddress, &e.UserAgent,
		&e.PolicyRepository, &e.PolicyPath, &e.PolicySHA, &e.TokenSHA256, &e.TokenSHA256Base64, &e.Decision, &e.Reason} {
		*s = long
	}
	for i := range 500 {
		e.Claims[fmt.Sprint("claim", i)] = long[:min(n, 200)]
		e.Permissions[fmt.Sprint("permission", i)] = "write"
		e.Repositories = append(e.Repositories, long[:min(n, 10)])
	}
	return e
}

func TestTheLongestEntryFits(t *testing.T) {
	got := line(fullEntry(10_000))
	if len(got) > MaxLine || len(got) < MaxLine*8/10 {
		t.Fatalf("%d bytes, want a little less than %d", len(got), MaxLine)
	}
	e, err := ParseEntry([]byte(got))
	if err != nil {
		t.Fatal(err)
	}
	want := []string{"claims", "client_address", "decision", "identity", "issuer", "jti", "permissions", "policy_path",
		"policy_repository", "policy_sha", "reason", "repositories", "request_id", "scope", "sender", "subject", "token_sha256",
		"token_sha256_base64", "user_agent"}
	if diff := cmp.Diff(want, e.Truncated); diff != "" {
		t.Fatalf("truncated (-want +got):\n%s", diff)
	}
	if len(e.Claims) < 5 || len(e.Permissions) < 100 || len(e.Repositories) < 150 {
		t.Fatalf("too much was cut: %d claims, %d permissions, %d repositories", len(e.Claims), len(e.Permissions), len(e.Repositories))
	}
}

func TestTruncation(t *testing.T) {
	deep := any("bottom")
	for range 10_000 {
		deep = []any{deep}
	}
	for _, test := range []struct {
		name string
		in   Entry
		want Entry
	}{
		{"nothing at the bound", Entry{Scope: strings.Repeat("s", 256)}, Entry{Scope: strings.Repeat("s", 256)}},
		{"one beyond", Entry{Scope: strings.Repeat("s", 257)}, Entry{Scope: strings.Repeat("s", 256), Truncated: []string{"scope"}}},
		{"whole characters", Entry{Decision: strings.Repeat("€", 11)}, Entry{Decision: strings.Repeat("€", 10), Truncated: []string{"decision"}}},
		{"whole escapes", Entry{Decision: strings.Repeat("\n", 40)}, Entry{Decision: strings.Repeat("\n", 16), Truncated: []string{"decision"}}},
		{"a long claim is cut, the others stay",
			Entry{Claims: map[string]any{"a": strings.Repeat("x", 5000), "b": "y"}},
			Entry{Claims: map[string]any{"a": strings.Repeat("x", 2046), "b": "y"}, Truncated: []string{"claims"}}},
		{"a long array is left out",
			Entry{Claims: map[string]any{"a": []any{strings.Repeat("x", 5000)}, "b": "y"}},
			Entry{Claims: map[string]any{"b": "y"}, Truncated: []string{"claims"}}},
		{"a deep claim is left out",
			Entry{Claims: map[string]any{"a": deep, "b": "y"}},
			Entry{Claims: map[string]any{"b": "y"}, Truncated: []string{"claims"}}},
		{"a name that is not UTF-8 is left out",
			Entry{Claims: map[string]any{"a\xff": 1, "a\xfe": 2, "b": map[string]any{"\xff": 1}}},
			Entry{Claims: map[string]any{}, Truncated: []string{"claims"}}},
		{"what a caller says of truncation is not written", Entry{Truncated: []string{"x"}}, Entry{}},
	} {
		t.Run(test.name, func(t *testing.T) {
			test.in.Time, test.in.Kind = when, Denied
			test.want.Time, test.want.Kind = when.UTC().Truncate(time.Microsecond), Denied
			got, err := ParseEntry([]byte(line(test.in)))
			if err != nil {
				t.Fatalf("%v: %s", err, line(test.in))
			}
			if diff := cmp.Diff(test.want, got); diff != "" {
				t.Fatalf("(-want +got):\n%s", diff)
			}
		})
	}
}

func TestTimesThatRFC3339CannotWrite(t *testing.T) {
	for _, test := range []struct {
		in   time.Time
		want string
	}{
		{time.Unix(1<<50, 0), "9999-12-31T23:59:59.999999Z"},
		{time.Unix(-1<<50, 0), "0001-01-01T00:00:00.000001Z"},
	} {
		if got := line(Entry{Time: when, Kind: Denied, IDTokenExpiry: test.in}); !strings.Contains(got, `"id_token_expiry":"`+test.want+`"`) {
			t.Errorf("%v: %s", test.in, got)
		}
	}
}

func TestParseLineRefuses(t *testing.T) {
	const good = `{"kind":"admin","time":"2026-08-01T10:30:00.123456Z"}`
	if _, err := ParseEntry([]byte(good)); err != nil {
		t.Fatal(err)
	}
	for name, in := range map[string]string{
		"nothing":       "",
		"no object":     `["kind"]`,
		"half a line":   good[:len(good)-1],
		"two objects":   good + good,
		"text after it": good + "x}",
		"no kind":       `{"time":"2026-08-01T10:30:00Z"}`,
		"no time":       `{"kind":"admin"}`,
		"a wrong type":  `{"kind":"admin","time":5}`,
		"an odd kind":   `{"kind":"Ad min","time":"2026-08-01T10:30:00Z"}`,
		"not UTF-8":     `{"kind":"admin","time":"2026-08-01T10:30:00Z","reason":"` + "\xff" + `"}`,
		"zeros":         "\x00\x00\x00",
		"too long":      `{"kind":"admin","time":"2026-08-01T10:30:00Z","reason":"` + strings.Repeat("x", MaxLine) + `"}`,
	} {
		if e, err := ParseEntry([]byte(in)); err == nil {
			t.Errorf("%s: accepted as %+v", name, e)
		}
	}
	if _, err := ParseEntry([]byte(`{"kind":"admin","time":"2026-08-01T10:30:00Z","of_a_later_version":{"x":1}}`)); err != nil {
		t.Errorf("an unknown field: %v", err)
	}
}

// FuzzReadLine: whatever a line says, reading it does not panic; and what was read, written again, is canonical: reading
// and writing once more changes nothing.
func FuzzReadLine(f *testing.F) {
	f.Add([]byte(line(Entry{Time: when, Kind: Intent, Scope: "octo/cat", Claims: map[string]any{"a": []any{1, true, nil}}, TokenExpiry: when})))
	f.Add([]byte(`{"kind":"admin","time":"2026-08-01T10:30:00.123456Z","claims":{"a":1e400,"b":[{"c":-0.0}],"\ud800":"\udfff"}}`))
	f.Add([]byte(`{"kind":"admin","KIND":"intent","time":"0000-01-01T00:00:00+23:59","permissions":{"\ufffd":"x"}}`))
	f.Fuzz(func(t *testing.T, in []byte) {
		e, err := ParseEntry(in)
		if err != nil {
			return
		}
		once := e.appendLine(nil)
		if len(once) > MaxLine || bytes.ContainsAny(once, "\n\x00") {
			t.Fatalf("%d bytes: %q", len(once), once)
		}
		again, err := ParseEntry(once)
		if err != nil {
			t.Fatalf("%q was written as %q: %v", in, once, err)
		}
		truncated := again.Truncated
		if twice := again.appendLine(nil); truncated == nil && !bytes.Equal(once, twice) {
			t.Fatalf("not canonical:\n%s\n%s", once, twice)
		}
	})
}
