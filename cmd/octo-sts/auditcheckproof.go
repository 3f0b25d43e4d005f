package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/octo-sts/appliance/sts/audit"
)

func newAuditCheckProofCommand() *cobra.Command {
	var keys []string
	var output string
	c := &cobra.Command{
		Use:   "check-proof --key VKEY PROOF [ENTRY|-]",
		Short: "Check the proof of an entry of the audit log",
		Long: `Check a proof (c2sp.org/tlog-proof) of an entry, made by "octo-sts audit prove" or
by another tool. ENTRY is a file with the entry's line exactly as the log has it,
with or without its newline; - or nothing means standard input.

Exit status: 0 the entry is in the log that the key signs for, 1 the proof does
not show that, 2 wrong usage.`,
		Example: `  sed -n 40p 00000000000000073855.jsonl | octo-sts audit check-proof --key audit.vkey 73894.tlog-proof`,
		Args:    cobra.RangeArgs(1, 2),
		RunE: func(cmd *cobra.Command, args []string) error {
			verifiers, err := readKeys(keys)
			if err != nil {
				return err
			}
			if len(verifiers) == 0 {
				return errors.New("--key: what the proof shows depends on it; give the log's verifier key")
			}
			if output != "text" && output != "json" {
				return fmt.Errorf("--output %q: want text or json", output)
			}
			proof, err := readBounded(args[0])
			if err != nil {
				return err
			}
			line, err := readEntry(args[1:], cmd.InOrStdin())
			if err != nil {
				return err
			}
			index, c, err := audit.CheckProof(proof, line, verifiers...)
			if err != nil {
				return &failedError{err}
			}
			if output == "json" {
				return json.NewEncoder(cmd.OutOrStdout()).Encode(map[string]any{
					"origin": c.Origin, "index": index, "size": c.Size, "root": c.Root.String(),
				})
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "yes: this line is entry %d of %s, by its signed checkpoint of size %d\n", index, printable(c.Origin), c.Size)
			return err
		},
	}
	flags := c.Flags()
	flags.StringArrayVar(&keys, "key", nil, "verifier key (`VKEY`, or a file with one a line) of an HSM that signs; may be repeated")
	flags.StringVar(&output, "output", "text", "text or json")
	return c
}

// readEntry reads the one line that there may be.
func readEntry(args []string, stdin io.Reader) (line []byte, err error) {
	if len(args) == 0 || args[0] == "-" {
		line, err = io.ReadAll(io.LimitReader(stdin, maxInput))
	} else {
		line, err = readBounded(args[0])
	}
	switch {
	case err != nil:
		return nil, err
	case len(line) == 0:
		return nil, errors.New("there is no entry to check the proof against")
	case bytes.Count(bytes.TrimSuffix(line, []byte{'\n'}), []byte{'\n'}) > 0:
		return nil, errors.New("a proof is about one entry, and more than one line was given")
	}
	return line, nil
}
