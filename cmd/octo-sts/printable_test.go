package main

import "testing"

func TestPrintableLines(t *testing.T) {
	tests := map[string]string{
		"open a/b.jsonl: no such file":             "open a/b.jsonl: no such file",
		"two lines\n\tand a tab":                   "two lines\n\tand a tab",
		`what is escaped "\x1b" stays so`:          `what is escaped "\x1b" stays so`,
		"a/\x1b]0;title\ax.jsonl: not the name of": `a/\x1b]0;title\ax.jsonl: not the name of`,
		"a/\u202egnp.jsonl\r":                      `a/\u202egnp.jsonl\r`,
		"":                                         "",
	}
	for text, want := range tests {
		if got := printableLines(text); got != want {
			t.Errorf("printableLines(%q) = %q, want %q", text, got, want)
		}
	}
}
