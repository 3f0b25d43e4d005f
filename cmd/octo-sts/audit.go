package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/spf13/cobra"

	"github.com/octo-sts/appliance/sts/audit"
)

// defaultAuditDirectory is where the packages put the log.
const defaultAuditDirectory = "/var/log/octo-sts/audit"

func newAuditCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "audit",
		Short: "Read, verify and prove the audit log",
		Long: `Read, verify and prove the audit log.

These commands read the log's directory and need no daemon: they work beside a
running one, and on a copy.`,
		Args: subcommandAlone, RunE: showHelp,
	}
	c.AddCommand(newAuditShowCommand(), newAuditVerifyCommand(), newAuditProveCommand(), newAuditCheckProofCommand(), newAuditExportCommand())
	return c
}

// auditFilterFlags are the flags that pick entries, as they were given.
type auditFilterFlags struct {
	kind, since, until string
	filter             audit.Filter
}

func newAuditShowCommand() *cobra.Command {
	var f auditFilterFlags
	var output string
	c := &cobra.Command{
		Use:   "show [DIR]",
		Short: "Show entries of the audit log, oldest first",
		Long: `Show entries of the audit log, oldest first. All given conditions must hold.

DIR is the log's directory, by default /var/log/octo-sts/audit. As text there is
a line for each entry, in UTC; a dash stands for what an entry does not have.
An entry that came of a webhook has the policy's file in the place of the
identity, and GitHub's sender, as @login, in that of the subject.
As JSON each line is the log's own line, byte for byte.

Exit status: 0 something matched, 1 nothing did, 2 wrong usage, or a log that
cannot be read; entries before the damage have then been shown.`,
		Example: `  octo-sts audit show --since 2h --decision denied
  octo-sts audit show --request-id 0198f2 --output json | jq .claims
  octo-sts audit show --scope octo-org/octo-repo /mnt/archive/audit`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			directory := defaultAuditDirectory
			if len(args) == 1 {
				directory = args[0]
			}
			filter, err := f.parse(time.Now())
			if err != nil {
				return err
			}
			if output != "text" && output != "json" {
				return fmt.Errorf("--output %q: want text or json", output)
			}
			return auditShow(cmd.Context(), cmd.OutOrStdout(), directory, filter, output)
		},
	}
	f.add(c)
	c.Flags().StringVar(&output, "output", "text", "text or json")
	return c
}

// add defines the flags.
func (f *auditFilterFlags) add(c *cobra.Command) {
	flags := c.Flags()
	flags.StringVar(&f.filter.Scope, "scope", "", "requests for this `OWNER/REPO` or OWNER, in any case")
	flags.StringVar(&f.filter.Identity, "identity", "", "requests for this identity")
	flags.StringVar(&f.filter.Issuer, "issuer", "", "ID tokens of this issuer (`URL`)")
	flags.StringVar(&f.filter.Subject, "subject", "", "ID tokens with exactly this subject")
	flags.StringVar(&f.filter.RequestID, "request-id", "", "the request with this `ID`, which each answer to a caller carries")
	flags.StringVar(&f.filter.Decision, "decision", "", "granted, denied or failed")
	flags.StringVar(&f.kind, "kind", "", "intent, outcome, denied, revocation, trust_change, policy_check or admin")
	flags.StringVar(&f.since, "since", "", "not before this `TIME` (RFC 3339), or this long ago (90m, 2h, 7d)")
	flags.StringVar(&f.until, "until", "", "before this `TIME` (RFC 3339), or this long ago")
}

// parse checks the flags and returns the filter that they describe.
func (f auditFilterFlags) parse(now time.Time) (audit.Filter, error) {
	var err error
	filter := f.filter
	filter.Kind = audit.Kind(f.kind)
	if filter.Since, err = parseWhen(f.since, now); err != nil {
		return filter, fmt.Errorf("--since: %w", err)
	}
	if filter.Until, err = parseWhen(f.until, now); err != nil {
		return filter, fmt.Errorf("--until: %w", err)
	}
	if !filter.Since.IsZero() && !filter.Until.IsZero() && !filter.Since.Before(filter.Until) {
		return filter, fmt.Errorf("--since %s is not before --until %s", f.since, f.until)
	}
	return filter, nil
}

// parseWhen reads a point in time, or how long ago it was. Nothing is the zero time.
func parseWhen(s string, now time.Time) (time.Time, error) {
	if s == "" {
		return time.Time{}, nil
	}
	if t, err := time.Parse(time.RFC3339, s); err == nil {
		return t, nil
	}
	ago, err := time.ParseDuration(s)
	if days, isDays := strings.CutSuffix(s, "d"); isDays {
		var n uint64
		n, err = strconv.ParseUint(days, 10, 16)
		ago = time.Duration(n) * 24 * time.Hour
	}
	if err != nil || ago < 0 {
		return time.Time{}, fmt.Errorf("%q: want a time such as 2026-08-01T12:00:00Z, or how long ago, such as 90m, 2h or 7d", s)
	}
	return now.Add(-ago), nil
}

func auditShow(ctx context.Context, out io.Writer, dir string, filter audit.Filter, output string) error {
	w := bufio.NewWriter(out)
	defer w.Flush()
	table := auditTable{w: w, rows: [][]string{auditColumns}}
	matched := false
	for r, err := range audit.ReadSince(dir, filter.Since) {
		if err == nil {
			err = ctx.Err()
		}
		if err != nil && matched && output == "text" {
			err = errors.Join(table.flush(), err)
		}
		if err != nil {
			return errors.Join(w.Flush(), err)
		}
		if !filter.Match(r.Entry) {
			continue
		}
		matched = true
		if output == "json" {
			_, err = w.Write(append(r.Line, '\n'))
		} else {
			err = table.add(r.Entry)
		}
		if err != nil {
			return err
		}
	}
	if !matched {
		fmt.Fprintln(os.Stderr, "octo-sts: no entry matches")
		return errNo
	}
	if output == "json" {
		return w.Flush()
	}
	return errors.Join(table.flush(), w.Flush())
}

// auditColumns is the first row of the table.
var auditColumns = []string{"TIME", "DECISION", "KIND", "REQUEST", "SCOPE", "IDENTITY", "SUBJECT", "REASON"}

// auditTable aligns rows without holding a whole log: it looks at some rows before it prints them, and columns only
// ever become wider.
type auditTable struct {
	w      io.Writer
	rows   [][]string
	widths []int
}

// add takes one entry and prints, when enough rows have come together.
func (t *auditTable) add(e audit.Entry) error {
	// What came of a delivery has a sender and perhaps a policy's path.
	policy, who := e.Identity, e.Subject
	if policy == "" && e.PolicyPath != "" {
		policy = path.Base(e.PolicyPath)
	}
	if who == "" && e.Sender != "" {
		who = "@" + e.Sender
	}
	row := []string{e.Time.UTC().Format("2006-01-02T15:04:05.000000Z"), e.Decision, string(e.Kind), e.RequestID, e.Scope, policy, who, e.Reason}
	for i, cell := range row {
		row[i] = printable(cell)
	}
	t.rows = append(t.rows, row)
	if len(t.rows) < 500 {
		return nil
	}
	return t.flush()
}

// flush prints the rows that were added since the last one.
func (t *auditTable) flush() error {
	for _, row := range t.rows {
		for i, cell := range row {
			if i == len(t.widths) {
				t.widths = append(t.widths, 0)
			}
			t.widths[i] = max(t.widths[i], utf8.RuneCountInString(cell))
		}
	}
	for _, row := range t.rows {
		var line strings.Builder
		for i, cell := range row {
			line.WriteString(cell)
			if i < len(row)-1 {
				line.WriteString(strings.Repeat(" ", t.widths[i]-utf8.RuneCountInString(cell)+2))
			}
		}
		if _, err := fmt.Fprintln(t.w, line.String()); err != nil {
			return err
		}
	}
	t.rows = t.rows[:0]
	return nil
}

// printable makes s safe for a terminal: what is no visible character (escape sequences, line breaks, characters that
// change the direction of writing) is shown as an escape, and nothing as a dash.
func printable(s string) string {
	if s == "" {
		return "-"
	}
	if strings.IndexFunc(s, func(r rune) bool { return !unicode.IsPrint(r) || r == '\\' }) < 0 {
		return s
	}
	var b strings.Builder
	for _, r := range s {
		if unicode.IsPrint(r) && r != '\\' {
			b.WriteRune(r)
			continue
		}
		quoted := strconv.QuoteRuneToASCII(r)
		b.WriteString(quoted[1 : len(quoted)-1])
	}
	return b.String()
}

// printableLines is printable for a text of several lines: errors name files and quote lines that others may have made.
// What is a backslash in an error stays one, since most of those are escapes already.
func printableLines(s string) string {
	var b strings.Builder
	for _, r := range s {
		if r == '\n' || r == '\t' || r == '\\' {
			b.WriteRune(r)
		} else {
			b.WriteString(printable(string(r)))
		}
	}
	return b.String()
}
