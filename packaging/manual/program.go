package manual

import (
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// Program is the page of a program: every command that is not hidden, with its flags and examples. description stands
// before them.
func Program(p Page, description string, root *cobra.Command) []byte {
	root.InitDefaultCompletionCmd()
	p.Name = root.Name()
	var synopsis []string
	eachCommand(root, func(c *cobra.Command) { synopsis = append(synopsis, strings.TrimSuffix(c.UseLine(), " [flags]")) })
	p.Synopsis = strings.Join(synopsis, "\n")
	if p.Summary == "" {
		p.Summary = lowerFirst(root.Short)
	}
	p.Exit = append(p.Exit,
		[2]string{"0", "Yes: what was asked for was done, or holds."},
		[2]string{"1", "No: it does not hold, or something failed."},
		[2]string{"2", "Wrong usage or configuration."})

	r := newPage(p)
	r.section("DESCRIPTION")
	r.paragraphs(description, ".PP")
	r.section("COMMANDS")
	eachCommand(root, r.command)
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
	r.flags(c.LocalFlags())
	for parent := c.Parent(); parent.HasParent(); parent = parent.Parent() {
		r.flags(parent.PersistentFlags())
	}
	if c.Example != "" {
		r.line(".PP")
		r.line("For example:")
		r.line(".PP")
		r.paragraphs(c.Example, ".PP")
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
		r.item(term, strings.ToUpper(usage[:1])+usage[1:]+".")
	})
}

func lowerFirst(s string) string { return strings.ToLower(s[:1]) + s[1:] }
