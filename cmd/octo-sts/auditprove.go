package main

import (
	"errors"
	"fmt"
	"os"

	"github.com/spf13/cobra"

	"github.com/octo-sts/appliance/sts/audit"
)

func newAuditProveCommand() *cobra.Command {
	var index uint64
	var out string
	c := &cobra.Command{
		Use:   "prove --index N [DIR [ARCHIVE...]]",
		Short: "Prove that an entry is in the audit log",
		Long: `Write a proof (c2sp.org/tlog-proof) that the log has an entry, against the
newest checkpoint. It is at most 5 KB of text, does not hold the entry itself,
and can be checked by anybody who has the entry's line and the log's public key,
with "octo-sts audit check-proof" or another C2SP tool.

DIR is the log's directory, by default /var/log/octo-sts/audit; segments that were
moved elsewhere are found where their directories are named as well.

Exit status: 0 written, 1 no checkpoint covers the entry (yet), 2 wrong usage, or
a log that cannot be read.`,
		Example: `  octo-sts audit prove --index 73894 --out 73894.tlog-proof`,
		RunE: func(cmd *cobra.Command, args []string) error {
			proof, err := audit.Prove(cmd.Context(), auditDirectories(args), index)
			if uncovered := (*audit.UncoveredError)(nil); errors.As(err, &uncovered) {
				return &failedError{err}
			} else if err != nil {
				return err
			}
			if out == "" {
				_, err = cmd.OutOrStdout().Write(proof)
				return err
			}
			if err := os.WriteFile(out, proof, 0o644); err != nil {
				return fmt.Errorf("--out: %w", err)
			}
			return nil
		},
	}
	flags := c.Flags()
	flags.Uint64Var(&index, "index", 0, "the entry's index, counted from 0")
	flags.StringVar(&out, "out", "", "`FILE` to write the proof to, customarily *.tlog-proof (default standard output)")
	if err := c.MarkFlagRequired("index"); err != nil {
		panic(err) // there is no such flag
	}
	return c
}
