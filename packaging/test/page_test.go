//go:build packages

package packaging_test

import (
	"os"
	"regexp"
	"strings"
	"testing"
)

// page is a page of the documentation, whose commands are run as they stand there.
type page struct {
	t      *testing.T
	name   string
	blocks map[string]string // what stands in the fence below <!-- run: NAME --> or <!-- file: NAME -->
	unused map[string]bool
}

var (
	markedFence = regexp.MustCompile("(?ms)^<!-- (?:run|file): (\\w[\\w-]*) -->\n```\\w+\n(.*?)^```$")
	anyShell    = regexp.MustCompile("(?m)^```sh$")
)

// openPage reads the parts of a page below headings, each to the next one of its level. In them every
// shell command has to be marked. What a later part has under a name stands for what an earlier one has, and at the end
// of the test everything in the last part has to have been run.
func openPage(t *testing.T, name string, headings ...string) *page {
	t.Helper()
	data, err := os.ReadFile("../../docs/" + name)
	if err != nil {
		t.Fatal(err)
	}
	p := &page{t: t, name: name, blocks: map[string]string{}}
	for _, heading := range headings {
		_, part, found := strings.Cut(string(data), "\n## "+heading+"\n")
		if !found {
			t.Fatalf("%s has no part %q", name, heading)
		}
		part, _, _ = strings.Cut(part, "\n## ")
		p.unused = map[string]bool{}
		shell := 0
		for _, found := range markedFence.FindAllStringSubmatch(part, -1) {
			p.blocks[found[1]], p.unused[found[1]] = found[2], true
			if strings.Contains(found[0], "<!-- run: ") {
				shell++
			}
		}
		if all := len(anyShell.FindAllString(part, -1)); all != shell {
			t.Fatalf("%s: %d blocks of commands below %q, and %d of them are marked to be run", name, all, heading, shell)
		}
	}
	t.Cleanup(func() {
		for name := range p.unused {
			if !t.Failed() {
				t.Errorf("%s: nothing has run the block %q", p.name, name)
			}
		}
	})
	return p
}

// block is the text of a block.
func (p *page) block(name string) string {
	p.t.Helper()
	text, found := p.blocks[name]
	if !found {
		p.t.Fatalf("%s has no block %q", p.name, name)
	}
	delete(p.unused, name)
	return text
}

// run runs the commands of a block, each of which has to succeed, with variables of the shell set as the page says.
func (p *page) run(m *machine, name string, variables ...string) string {
	p.t.Helper()
	script := "set -e\n"
	for _, v := range variables {
		key, value, _ := strings.Cut(v, "=")
		script += "export " + key + "='" + value + "'\n"
	}
	out, status := m.tryWith(strings.Repeat("y\n", 5), script+p.block(name)) // to whoever asks whether to go on
	if status != 0 {
		p.t.Fatalf("%s, block %q: exit status %d\n%s", p.name, name, status, out)
	}
	return out
}

// useAll says that another test has run what is left of the page.
func (p *page) useAll() { clear(p.unused) }
