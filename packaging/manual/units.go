package manual

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// Units is the page that tells of the units in a directory, and of the examples of drop-ins below it, in their own words:
// a unit's Description=, and the comment that a drop-in begins with.
func Units(p Page, introduction, dir string) ([]byte, error) {
	r := newPage(p)
	r.section("DESCRIPTION")
	r.paragraphs(introduction, ".PP")
	r.section("UNITS")
	var units []string
	for _, kind := range []string{"target", "service", "socket", "timer"} {
		found, err := filepath.Glob(filepath.Join(dir, "*."+kind))
		if err != nil {
			return nil, err
		}
		units = append(units, found...)
	}
	for _, unit := range units {
		text, err := os.ReadFile(unit)
		if err != nil {
			return nil, fmt.Errorf("reading a unit: %w", err)
		}
		r.item(filepath.Base(unit), descriptionOf(string(text)))
	}
	dropIns, err := filepath.Glob(filepath.Join(dir, "drop-ins", "*.d", "*.conf"))
	if err != nil {
		return nil, err
	}
	slices.Sort(dropIns)
	r.section("DROP-INS")
	for _, dropIn := range dropIns {
		text, err := os.ReadFile(dropIn)
		if err != nil {
			return nil, fmt.Errorf("reading a drop-in: %w", err)
		}
		r.item(filepath.Base(filepath.Dir(dropIn))+"/"+filepath.Base(dropIn), leadingComment(string(text)))
	}
	return r.end(p), nil
}

// descriptionOf is what stands in a unit's Description=.
func descriptionOf(unit string) string {
	for line := range strings.Lines(unit) {
		if description, ok := strings.CutPrefix(line, "Description="); ok {
			description = strings.TrimSpace(description)
			return description + "."
		}
	}
	return ""
}

// leadingComment is the first paragraph of the comment that a file begins with.
func leadingComment(text string) string {
	var lines []string
	for line := range strings.Lines(text) {
		comment, ok := strings.CutPrefix(strings.TrimSpace(line), "#")
		if comment = strings.TrimSpace(comment); !ok || comment == "" {
			break
		}
		lines = append(lines, comment)
	}
	return strings.Join(lines, "\n")
}
