package main

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/spf13/cobra"

	"github.com/octo-sts/appliance/sts/audit"
)

func newAuditExportCommand() *cobra.Command {
	var f auditFilterFlags
	c := &cobra.Command{
		Use:   "export [DIR [ARCHIVE...]]",
		Short: "Export entries of the audit log, each with its proof",
		Long: `Write entries as JSON lines, oldest first, each with a proof that it is in the
log: {"index": N, "entry": "the log's line, as a string", "proof": "..."}.
All given conditions must hold. Whoever has the log's public key can check each
line with "octo-sts audit check-proof", or without any tool of ours.

DIR is the log's directory, by default /var/log/octo-sts/audit; segments that were
moved elsewhere are found where their directories are named as well.

Exit status: 0 all that matches was written, 1 nothing matches, or something is
missing: entries that no checkpoint covers yet (end the period with --until 10s),
or older ones that were moved away; 2 wrong usage, or a log that cannot be read.`,
		Example: `  octo-sts audit export --since 2026-07-01T00:00:00Z --until 2026-08-01T00:00:00Z > july.jsonl
  octo-sts audit export --since 7d --until 10s --scope octo-org/octo-repo --kind outcome`,
		RunE: func(cmd *cobra.Command, args []string) error {
			filter, err := f.parse(time.Now())
			if err != nil {
				return err
			}
			w := bufio.NewWriter(cmd.OutOrStdout())
			result, err := audit.Export(cmd.Context(), w, auditDirectories(args), filter)
			if err = errors.Join(err, w.Flush()); err != nil {
				return err
			}
			return judgeExport(result)
		},
	}
	f.add(c)
	return c
}

// judgeExport says what an export lacks.
func judgeExport(r audit.ExportResult) error {
	if r.Absent > 0 {
		fmt.Fprintf(os.Stderr, "octo-sts: the entries 0 to %d are in no segment here, and some may belong to the period: name the directory that they were moved to\n", r.Absent-1)
	}
	if r.Uncovered > 0 {
		fmt.Fprintf(os.Stderr, "octo-sts: %d entries that match are not covered by a checkpoint, and were left out\n", r.Uncovered)
	}
	switch {
	case r.Absent > 0 || r.Uncovered > 0:
		return errNo
	case r.Exported == 0:
		fmt.Fprintln(os.Stderr, "octo-sts: no entry matches")
		return errNo
	}
	return nil
}
