// Package manual writes the manual pages of the programs, from their commands, and of the configuration files, from the
// documentation of the structs that they are read into. So a page says what the program does, or there is none.
package manual

import (
	"bytes"
	"fmt"
	"regexp"
	"strings"
	"time"
)

// Page is what the head and the foot of a page say.
type Page struct {
	Name     string    // octo-stsd.yaml
	Section  int       // of the manual: 1, 5 or 8
	Summary  string    // for whatis(1), without a full stop
	Date     time.Time // of the last change
	Version  string
	Files    [][2]string // path, and what it is; may be empty
	SeeAlso  []string    // octo-sts(1)
	Exit     [][2]string // status, and what it means; may be empty
	Synopsis string      // one line for each form; may be empty
}

// roff is a page that is being written, in the macros of man(7).
type roff struct{ bytes.Buffer }

func newPage(p Page) *roff {
	r := &roff{}
	r.line(`.\" Made from the program's source. Do not edit.`)
	r.line(".nr HY 0") // no hyphenation: a key or a path that is broken cannot be copied
	// UTC, so that a page is the same wherever it is made.
	r.line(`.TH %s %d %s "octo-sts %s" "octo-sts appliance"`, strings.ToUpper(p.Name), p.Section, p.Date.UTC().Format(time.DateOnly), p.Version)
	r.line(".ad l")
	r.section("NAME")
	r.line(`%s \- %s`, escape(p.Name), escape(p.Summary))
	if p.Synopsis != "" {
		r.section("SYNOPSIS")
		for i, form := range strings.Split(strings.TrimSpace(p.Synopsis), "\n") {
			if i > 0 {
				r.line(".br")
			}
			r.line("%s", escape(form))
		}
	}
	return r
}

// end writes what every page ends with.
func (r *roff) end(p Page) []byte {
	if len(p.Exit) > 0 {
		r.section("EXIT STATUS")
		for _, status := range p.Exit {
			r.item(status[0], status[1])
		}
	}
	if len(p.Files) > 0 {
		r.section("FILES")
		for _, file := range p.Files {
			r.item(file[0], file[1])
		}
	}
	if len(p.SeeAlso) > 0 {
		r.section("SEE ALSO")
		var pages []string
		for _, page := range p.SeeAlso {
			name, section, _ := strings.Cut(page, "(")
			pages = append(pages, fmt.Sprintf(`\fB%s\fR(%s`, escape(name), section))
		}
		r.line("%s", strings.Join(pages, ",\n"))
		r.line(".PP")
		r.line(`The guides in \fI/usr/share/doc/octo\-sts\fR.`)
	}
	return r.Bytes()
}

func (r *roff) line(format string, args ...any) { fmt.Fprintf(r, format+"\n", args...) }

func (r *roff) section(title string)    { r.line(".SH %s", escape(title)) }
func (r *roff) subsection(title string) { r.line(".SS %s", escape(title)) }

// item is a term in bold, and what it means, indented under it.
func (r *roff) item(term, text string) {
	r.line(".TP")
	r.line(`\fB%s\fR`, escape(term))
	r.paragraphs(text, ".IP")
}

// paragraphs writes text as cobra's commands and doc comments have it: a blank line parts paragraphs, and lines that are
// indented stay as they are. between is the macro that begins a further paragraph.
func (r *roff) paragraphs(text, between string) {
	verbatim := false
	leave := func() {
		if verbatim {
			r.line(".EE")
			verbatim = false
			r.line("%s", between)
		}
	}
	blank := false
	for i, line := range strings.Split(strings.Trim(text, "\n"), "\n") {
		indented := strings.HasPrefix(line, "  ") || strings.HasPrefix(line, "\t")
		switch {
		case strings.TrimSpace(line) == "":
			blank = i > 0
			continue
		case indented && !verbatim:
			if i > 0 {
				r.line("%s", between)
			}
			r.line(".EX")
			verbatim = true
		case indented && blank:
			r.line("")
		case !indented && verbatim:
			leave()
		case blank:
			r.line("%s", between)
		}
		blank = false
		if indented {
			r.line("%s", escape(strings.ReplaceAll(line, "\t", "  ")))
		} else {
			r.line("%s", marked(line))
		}
	}
	if verbatim {
		r.line(".EE")
	}
}

var quoted = regexp.MustCompile("`[^`]+`")

// marked escapes text, and sets in bold what stands in backquotes.
func marked(text string) string {
	var b strings.Builder
	for text != "" {
		at := quoted.FindStringIndex(text)
		if at == nil {
			break
		}
		b.WriteString(escapeInLine(text[:at[0]]) + `\fB` + escapeInLine(text[at[0]+1:at[1]-1]) + `\fR`)
		text = text[at[1]:]
	}
	b.WriteString(escapeInLine(text))
	return protect(b.String())
}

func escape(text string) string { return protect(escapeInLine(text)) }

// protect keeps a line from being read as a request (groff(7), "Control characters").
func protect(line string) string {
	if strings.HasPrefix(line, ".") || strings.HasPrefix(line, "'") {
		return `\&` + line
	}
	return line
}

// replacer writes what roff would make something else of: a hyphen that is a minus in a command, an apostrophe, and
// those that are typographical in its fonts (groff_char(7)).
var replacer = strings.NewReplacer(`\`, `\e`, "-", `\-`, "'", `\(aq`, "`", `\(ga`, "^", `\(ha`, "~", `\(ti`, "…", `\&...`)

func escapeInLine(text string) string { return replacer.Replace(text) }
