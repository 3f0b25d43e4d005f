package manual

import (
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// Command is the page of a command of a program, of which root has to be the parent. What the program's page has of files, it has not.
func Command(p Page, c *cobra.Command) []byte {
	page := Page{
		Name: strings.ReplaceAll(c.CommandPath(), " ", "-"), Section: p.Section, Summary: lowerFirst(c.Short), Date: p.Date, Version: p.Version,
		SeeAlso: append([]string{fmt.Sprintf("%s(%d)", c.Root().Name(), p.Section)}, p.SeeAlso...), Synopsis: synopsis(c), Exit: exitStatuses(),
	}
	if strings.Contains(c.Long, "Exit status:") {
		page.Exit = nil
	}
	r := newPage(page)
	r.section("DESCRIPTION")
	if c.HasSubCommands() {
		r.paragraphs(c.Long, ".PP")
		r.section("COMMANDS")
		eachCommand(c, r.command)
		return r.end(page)
	}
	r.paragraphs(c.Long, ".PP")
	r.section("OPTIONS")
	r.options(c)
	if c.Example != "" {
		r.section("EXAMPLES")
		r.paragraphs(c.Example, ".PP")
	}
	return r.end(page)
}

// commandsWithPages are those of a program that have enough to say for pages of their own.
func commandsWithPages(root *cobra.Command) []*cobra.Command {
	var found []*cobra.Command
	for _, c := range root.Commands() {
		if !c.Hidden && c.Long != "" && c.Name() != "help" && c.Name() != "completion" {
			found = append(found, c)
		}
	}
	return found
}

// synopsis has a line for each command, below c or c itself, that does something.
func synopsis(c *cobra.Command) string {
	var lines []string
	eachCommand(c, func(c *cobra.Command) { lines = append(lines, strings.TrimSuffix(c.UseLine(), " [flags]")) })
	return strings.Join(lines, "\n")
}

func exitStatuses() [][2]string {
	return [][2]string{
		{"0", "Yes: what was asked for was done, or holds."},
		{"1", "No: it does not hold, or something failed."},
		{"2", "Wrong usage or configuration."},
	}
}

// Program is the page of a program: description, and every command that is not hidden, with its flags and examples, or with
// its own page where it has one.
func Program(p Page, description string, root *cobra.Command) []byte {
	root.InitDefaultCompletionCmd()
	p.Name = root.Name()
	p.Synopsis = synopsis(root)
	if p.Summary == "" {
		p.Summary = lowerFirst(root.Short)
	}
	p.Exit = append(p.Exit, exitStatuses()...)
	for _, c := range commandsWithPages(root) {
		p.SeeAlso = append(p.SeeAlso, fmt.Sprintf("%s-%s(%d)", root.Name(), c.Name(), p.Section))
	}

	r := newPage(p)
	r.section("DESCRIPTION")
	r.paragraphs(description, ".PP")
	r.section("COMMANDS")
	own := commandsWithPages(root)
	for _, c := range root.Commands() {
		if slices.Contains(own, c) {
			r.subsection(c.CommandPath())
			r.paragraphs(fmt.Sprintf("%s: %s-%s(%d).", c.Short, root.Name(), c.Name(), p.Section), ".PP")
		} else {
			eachCommand(c, r.command)
		}
	}
	if root.HasPersistentFlags() {
		r.section("OPTIONS OF EVERY COMMAND")
		r.flags(root.PersistentFlags())
	}
	return r.end(p)
}

// eachCommand calls f for each command that does something, in order, and leaves out those that are hidden or cobra's own.
func eachCommand(c *cobra.Command, f func(*cobra.Command)) {
	if c.Hidden || c.Name() == "help" || c.Name() == "completion" {
		return
	}
	if c.Runnable() && c.HasParent() && !c.HasSubCommands() {
		f(c)
	}
	for _, sub := range c.Commands() {
		eachCommand(sub, f)
	}
}

func (r *roff) command(c *cobra.Command) {
	r.subsection(strings.TrimSuffix(c.UseLine(), " [flags]"))
	text := c.Long
	if text == "" {
		text = c.Short + "."
	}
	r.paragraphs(text, ".PP")
	r.options(c)
	if c.Example != "" {
		r.line(".PP")
		r.line("For example:")
		r.line(".PP")
		r.paragraphs(c.Example, ".PP")
	}
}

// options are the command's own, and those that it has from commands above it, but for the program's.
func (r *roff) options(c *cobra.Command) {
	r.flags(c.LocalFlags())
	for parent := c.Parent(); parent != nil && parent.HasParent(); parent = parent.Parent() {
		r.flags(parent.PersistentFlags())
	}
}

func (r *roff) flags(set *pflag.FlagSet) {
	set.VisitAll(func(f *pflag.Flag) {
		if f.Hidden || f.Name == "help" {
			return
		}
		value, usage := pflag.UnquoteUsage(f)
		term := strings.TrimSpace("--" + f.Name + " " + value)
		if f.DefValue != "" && f.DefValue != "false" && f.DefValue != "[]" && f.DefValue != "0" {
			usage += " (default " + f.DefValue + ")"
		}
		usage = strings.Join(strings.Fields(usage), " ")
		r.item(term, usage) // as --help has it: the first word may be a value
	})
}

func lowerFirst(s string) string { return strings.ToLower(s[:1]) + s[1:] }
