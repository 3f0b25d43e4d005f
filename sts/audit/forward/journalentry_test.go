package forward

import (
	"encoding/json"
	"testing"
	"unicode"

	"github.com/octo-sts/appliance/sts/audit"
)

func TestDescribe(t *testing.T) {
	for want, e := range map[string]audit.Entry{
		"intent: o/r deploy, for repo:o/r:ref:refs/heads/main of https://i.example": {Kind: audit.Intent, Scope: "o/r", Identity: "deploy",
			Subject: "repo:o/r:ref:refs/heads/main", Issuer: "https://i.example"},
		`denied: o/r x, for "a, for root of \"b\"" of https://i.example: no such policy`: {Kind: audit.Denied, Decision: "denied", Scope: "o/r", Identity: "x",
			Subject: `a, for root of "b"`, Issuer: "https://i.example", Reason: "no such policy"},
		"trust_change: o/r: push by x changed it": {Kind: audit.TrustChange, Scope: "o/r", Reason: "push by x changed it"},
		`admin: a "b" \\ \x1b[2J\n\u202e größe`:   {Kind: audit.Admin, Reason: "a \"b\" \\ \x1b[2J\n\u202e größe"},
		"later": {Kind: "later"},
		`outcome failed: o, for "größe": \ufeffx`: {Kind: audit.Outcome, Decision: "failed", Scope: "o", Subject: "größe", Reason: "\ufeffx"},
	} {
		if got := describe(e); got != want {
			t.Errorf("%s\nwant %s", got, want)
		}
	}
}

// The message is one line that a terminal shows and does not obey, whatever is in the entry; the fields have it all.
func FuzzEntryFields(f *testing.F) {
	f.Add("subject", "reason", "scope")
	f.Add(hostile, hostile, hostile)
	f.Fuzz(func(t *testing.T, subject, reason, scope string) {
		line, err := json.Marshal(map[string]any{"kind": "denied", "time": "2026-11-23T07:30:00Z", "subject": subject, "reason": reason, "scope": scope})
		if err != nil {
			t.Fatal(err)
		}
		for _, field := range entryFields(audit.Line{Index: 7, Bytes: line}) {
			if field.Name == "OCTO_STS_ENTRY" && field.Value != string(line) {
				t.Errorf("the line became %q", field.Value)
			}
			if field.Name != "MESSAGE" {
				continue
			}
			for _, r := range field.Value {
				if !unicode.IsPrint(r) {
					t.Errorf("%q has %q", field.Value, r)
				}
			}
		}
	})
}

// A line that is no entry is copied nonetheless, and loudly.
func TestDamagedLine(t *testing.T) {
	fields := entryFields(audit.Line{Index: 7, Bytes: []byte("{\x1b")})
	got := map[string]string{}
	for _, f := range fields {
		got[f.Name] = f.Value
	}
	if got["PRIORITY"] != "3" || got["MESSAGE_ID"] != MessageOther || got["OCTO_STS_ENTRY"] != "{\x1b" || got["OCTO_STS_INDEX"] != "7" {
		t.Errorf("%q", got)
	}
}
