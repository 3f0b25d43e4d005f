package main

import (
	"context"
	"fmt"
	"io"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/octo-sts/appliance/signer"
	"github.com/octo-sts/appliance/signer/hsm"
)

func newKeyListCommand(flags *keyFlags) *cobra.Command {
	return &cobra.Command{
		Use:   "list",
		Short: "List the private keys in the HSMs, and what uses them",
		Args:  noArguments,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return listKeys(cmd.Context(), flags, cmd.OutOrStdout())
		},
	}
}

// hsmKeys are the keys of one HSM.
type hsmKeys struct {
	Token   string      `json:"token"`
	Keys    []keyReport `json:"keys"`
	Missing []string    `json:"missing"` // configured labels that no key in the token carries
}

func listKeys(ctx context.Context, flags *keyFlags, stdout io.Writer) error {
	config, err := loadConfig(flags.config)
	if err != nil {
		return err
	}
	pins, err := readPINs(config)
	if err != nil {
		return err
	}
	var all []hsmKeys
	err = eachToken(ctx, config, pins, func(token *hsm.Token) error {
		keys, err := token.Keys()
		reports := []keyReport{}
		for _, key := range keys {
			reports = append(reports, reportKey(config, key))
		}
		all = append(all, hsmKeys{Token: token.Info().String(), Keys: reports, Missing: missingLabels(config, reports)})
		return err
	})
	if err != nil {
		return err
	}
	if flags.output == "json" {
		return writeJSON(stdout, map[string]any{"hsms": all})
	}
	for _, h := range all {
		if err := writeKeyTable(stdout, config, h); err != nil {
			return err
		}
	}
	return nil
}

func missingLabels(config *signer.Config, reports []keyReport) []string {
	there := map[string]bool{}
	for _, r := range reports {
		there[r.Label] = true
	}
	missing := []string{}
	for _, label := range config.KeyLabels() {
		if !there[label] {
			missing = append(missing, label)
		}
	}
	return missing
}

func writeKeyTable(w io.Writer, config *signer.Config, h hsmKeys) error {
	fmt.Fprintln(w, h.Token)
	table := tabwriter.NewWriter(w, 0, 8, 2, ' ', 0)
	fmt.Fprintln(table, "LABEL\tID\tTYPE\tBITS\tSENSITIVE\tEXTRACTABLE\tSIGN\tAPP\tFINGERPRINT")
	for _, r := range h.Keys {
		app := "-"
		if r.AppID != 0 {
			app = fmt.Sprint(r.AppID)
		}
		id := r.ID
		const shown = 16 // the whole ID is in the JSON
		if len(id) > shown {
			id = id[:shown] + "…"
		}
		fmt.Fprintf(table, "%q\t%s\t%s\t%d\t%t\t%t\t%t\t%s\t%s\n", r.Label, id, r.Type, r.Bits, r.Sensitive, r.Extractable, r.Sign, app, r.Fingerprint)
	}
	if err := table.Flush(); err != nil {
		return err
	}
	for _, r := range h.Keys {
		switch {
		case r.Weakness != "" && r.AppID != 0:
			fmt.Fprintf(w, "key %q of App %d is refused: %s\n", r.Label, r.AppID, r.Weakness)
		case r.Weakness != "" && r.Label == config.Checkpoint.Key:
			fmt.Fprintf(w, "the checkpoint key %q is refused: %s\n", r.Label, r.Weakness)
		case r.Weakness != "" && r.Label == config.Probe.Key && r.Label != "":
			fmt.Fprintf(w, "the probe's key %q is refused: %s\n", r.Label, r.Weakness)
		case r.VerifierKey != "":
			fmt.Fprintf(w, "the checkpoint key %q verifies as %s\n", r.Label, r.VerifierKey)
		}
	}
	for _, label := range h.Missing {
		hint := ""
		if label == config.Checkpoint.Key {
			hint = ": octo-sts-signer key generate makes it"
		} else if label == config.Probe.Key {
			hint = ": octo-sts-signer key generate --probe makes it"
		}
		fmt.Fprintf(w, "key %q is configured and not in the token%s\n", label, hint)
	}
	return nil
}
