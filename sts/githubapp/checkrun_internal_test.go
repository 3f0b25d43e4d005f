package githubapp

import (
	"net/url"
	"strings"
	"testing"
	"unicode/utf8"
)

// FuzzCheckRef: what passes is one segment of an address, and never two sides of
// a comparison or a fork's.
func FuzzCheckRef(f *testing.F) {
	for _, seed := range []string{"main", "feature/x", "a..b", "evil:main", "../x", "a?b", "a%2f..", "é", ".x", "x/.y", "-x", "\x00"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, ref string) {
		if checkRef(ref) != nil {
			return
		}
		address, err := url.Parse("https://h/repos/o/r/compare/" + refOf(ref) + "...head?per_page=1")
		if err != nil {
			t.Fatalf("%q makes no address: %v", ref, err)
		}
		before, after, _ := strings.Cut(strings.TrimPrefix(address.EscapedPath(), "/repos/o/r/compare/"), "...")
		if got, _ := url.PathUnescape(before); got != ref && got != "refs/heads/"+ref || after != "head" || address.RawQuery != "per_page=1" || strings.ContainsAny(before, "/:") {
			t.Errorf("%q becomes %q", ref, address)
		}
	})
}

// FuzzProgress: only what externalID wrote is taken for progress of this verdict.
func FuzzProgress(f *testing.F) {
	r := reporter{verdict: CheckRun{Name: "x"}.verdict(), run: CheckRun{Annotations: make([]Annotation, 120)}}
	for _, seed := range []string{"", r.verdict, r.verdict + "/50", r.verdict + "/0", r.verdict + "/120", r.verdict + "/-1", r.verdict + "/9999999999999999999", "x/50"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, external string) {
		sent, same := r.progress(external)
		if same && !strings.HasPrefix(external, r.verdict) {
			t.Errorf("%q passes for this verdict", external)
		}
		if same && (sent < 1 || sent > 120) {
			t.Errorf("%q has %d annotations", external, sent)
		}
	})
}

func FuzzClip(f *testing.F) {
	f.Add("aé€😀", 5)
	f.Fuzz(func(t *testing.T, text string, most int) {
		most = 3 + (most&0xff+0x100)%0x100
		got := clip(text, most)
		if len(got) > most || !utf8.ValidString(got) {
			t.Errorf("clip(%q, %d) = %q", text, most, got)
		}
	})
}
