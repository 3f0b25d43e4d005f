package main

import (
	"strings"
	"testing"
	"testing/iotest"
	"time"
)

func TestWhatGitAsksForIsRead(t *testing.T) {
	for _, test := range []struct{ in, want, scope, problem string }{
		{in: "protocol=https\nhost=github.com\npath=acme/app.git\n\n", want: "https github.com acme/app.git", scope: "acme/app"},
		{in: "protocol=https\nhost=github.com:8443", want: "https github.com:8443 ", scope: ""},
		{in: "", want: "  "},
		{in: "\nprotocol=https\n", want: "  "},
		{in: "host=a\nhost=b\n\n", want: " b "},
		{in: "path=acme/app.git/info/lfs\n", want: "  acme/app.git/info/lfs", scope: "acme/app"},
		{in: "path=acme/app.wiki.git\n", want: "  acme/app.wiki.git", scope: "acme/app"},
		{in: "path=/acme/app\n", want: "  /acme/app", scope: "acme/app"},
		{in: "path=acme\n", want: "  acme"},
		{in: "path=a=b/c\n", want: "  a=b/c", scope: "a=b/c"},
		{in: "capability[]=authtype\nwwwauth[]=Basic realm=\"GitHub\"\nlater=\x01\n", want: "  "},

		{in: "host\n", problem: "not name=value"},
		{in: "=x\n", problem: "not name=value"},
		{in: "host=github.com\rprotocol=https\n", problem: "the host of git's input has a control character"},
		{in: "host=github.com\x00\n", problem: "control character"},
		{in: "x=" + strings.Repeat("a", maxGitInput), problem: "longer than"},
		{in: strings.Repeat("x=a\n", maxGitInput/4+1), problem: "longer than"},
	} {
		q, err := readGitRequest(iotest.OneByteReader(strings.NewReader(test.in)))
		got := q.protocol + " " + q.host + " " + q.path
		switch {
		case test.problem != "" && (err == nil || !strings.Contains(err.Error(), test.problem)):
			t.Errorf("%.50q: %v, want %q", test.in, err, test.problem)
		case test.problem == "" && (err != nil || got != test.want || q.scope() != test.scope):
			t.Errorf("%.50q: %q, %q, %v", test.in, got, q.scope(), err)
		}
	}
}

// FuzzReadGitRequest: whatever comes in, no value has a line's end or a NUL in it, so
// nothing that is decided by one field can be said by another; and a scope has the form
// owner/repository.
func FuzzReadGitRequest(f *testing.F) {
	f.Add("protocol=https\nhost=github.com\npath=acme/app.git\n\n")
	f.Add("capability[]=authtype\nusername=x-access-token\npassword=ghs_1\r\n")
	f.Add("path=/..//\n")
	f.Fuzz(func(t *testing.T, in string) {
		q, err := readGitRequest(strings.NewReader(in))
		if err != nil {
			return
		}
		for _, value := range []string{q.protocol, q.host, q.path, q.username, q.password} {
			if strings.ContainsAny(value, "\n\r\x00") || !strings.Contains(in, value) {
				t.Errorf("%q of %q", value, in)
			}
		}
		if s := q.scope(); s != "" && (strings.Count(s, "/") != 1 || strings.HasPrefix(s, "/") || strings.HasSuffix(s, "/")) {
			t.Errorf("the scope of %q is %q", q.path, s)
		}
	})
}

// A token that could speak to git for us is not given to it.
func TestAnOddTokenIsNotWritten(t *testing.T) {
	var out strings.Builder
	if err := writeGitAnswer(&out, "ghs_1\nquit=1", time.Now()); err == nil || out.Len() > 0 || strings.Contains(err.Error(), "ghs_1") {
		t.Errorf("%q, %v", &out, err)
	}
}
