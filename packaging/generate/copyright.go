package main

import (
	"crypto/sha256"
	"fmt"
	"io"
	"regexp"
	"slices"
	"strings"
)

// writeCopyright writes the licences of a package's programs in Debian's form (copyright-format 1.0): the project's own, and those
// of each module that is linked into one of them, which stand under their module's name. Where debian is set, the
// Apache licence is named by its place in Debian instead of printed.
func writeCopyright(out io.Writer, debian bool, programs []string) error {
	modules, err := linkedModules(programs)
	if err != nil {
		return err
	}
	var b strings.Builder
	b.WriteString(`Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/
Upstream-Name: octo-sts appliance
Source: https://github.com/octo-sts/appliance
Comment:
 The programs are linked statically. A paragraph whose files begin with a module's
 path and version is about that Go module, and the one of stdlib@ about Go's own
 library and runtime. The source of each is at https://proxy.golang.org, for
 instance https://proxy.golang.org/golang.org/x/net/@v/v0.62.0.zip.

Files: *
Copyright: The octo-sts appliance's authors
License: Apache-2.0
`)
	texts := map[string]string{} // by the name of a License paragraph
	var order []string
	for _, m := range modules {
		var names []string
		for _, text := range m.texts {
			name := licenseName(text, strings.Join(identify(text), "-and-"))
			if _, ok := texts[name]; !ok {
				order = append(order, name)
			}
			texts[name] = text
			names = append(names, name)
		}
		fmt.Fprintf(&b, "\nFiles: %s@%s/*\n", m.path, m.version)
		holders := m.copyrights
		if len(holders) == 0 {
			holders = []string{"The authors of " + m.path}
		}
		fmt.Fprintf(&b, "Copyright: %s\n", strings.Join(holders, "\n "))
		fmt.Fprintf(&b, "License: %s\n", strings.Join(names, " and "))
		if m.notice != "" {
			fmt.Fprintf(&b, "Comment:\n Its NOTICE says:\n .\n%s", indented(m.notice))
		}
	}
	if texts["Apache-2.0"] == "" {
		order = append(order, "Apache-2.0")
	}
	for _, name := range order {
		fmt.Fprintf(&b, "\nLicense: %s\n", name)
		switch {
		case name != "Apache-2.0" && debian:
			b.WriteString(indented(apacheText.ReplaceAllString(texts[name], "(the Apache License, Version 2.0: /usr/share/common-licenses/Apache-2.0)")))
		case name != "Apache-2.0":
			b.WriteString(indented(texts[name]))
		case debian:
			b.WriteString(" On Debian systems the text of the Apache License, Version 2.0, is in\n /usr/share/common-licenses/Apache-2.0.\n")
		default:
			b.WriteString(" The text of the Apache License, Version 2.0, is in the file LICENSE beside this\n one.\n")
		}
	}
	_, err = io.WriteString(out, b.String())
	return err
}

// writeExpression writes the SPDX identifiers of all licences of a package's programs, joined with AND.
func writeExpression(out io.Writer, programs []string) error {
	modules, err := linkedModules(programs)
	if err != nil {
		return err
	}
	names := []string{"Apache-2.0"}
	for _, m := range modules {
		names = append(names, strings.Split(m.license, " AND ")...)
	}
	slices.Sort(names)
	_, err = fmt.Fprintln(out, strings.Join(slices.Compact(names), " AND "))
	return err
}

// apacheText is the whole of the Apache License where a file holds others beside it.
var apacheText = regexp.MustCompile(`(?s)[ \t]*Apache License\s+Version 2\.0, January 2004.*?END OF TERMS AND CONDITIONS(.*?limitations under the License\.)?`)

// licenseName names a License paragraph: by its SPDX identifier where that says all, and otherwise, as the text differs from
// one holder to the next, by its hash, too.
func licenseName(text, license string) string {
	if license == "Apache-2.0" {
		return license
	}
	return fmt.Sprintf("%s-%.4x", license, sha256.Sum256([]byte(text)))
}

// indented writes a text as the continuation of a field.
func indented(text string) string {
	var b strings.Builder
	for _, line := range strings.Split(text, "\n") {
		if line = strings.TrimRight(line, " \t"); line == "" {
			line = "."
		}
		b.WriteString(" " + line + "\n")
	}
	return b.String()
}
