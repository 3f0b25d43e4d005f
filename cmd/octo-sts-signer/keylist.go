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
		Short: "List the private keys in the HSM and the Apps that use them",
		Args:  noArguments,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return listKeys(cmd.Context(), flags, cmd.OutOrStdout())
		},
	}
}

func listKeys(ctx context.Context, flags *keyFlags, stdout io.Writer) error {
	config, err := loadConfig(flags.config)
	if err != nil {
		return err
	}
	var token hsm.Info
	reports := []keyReport{}
	err = withToken(ctx, config, func(t *hsm.Token) error {
		token = t.Info()
		keys, err := t.Keys()
		for _, key := range keys {
			reports = append(reports, reportKey(config, key))
		}
		return err
	})
	if err != nil {
		return err
	}
	missing := missingLabels(config, reports)
	if flags.output == "json" {
		return writeJSON(stdout, map[string]any{"keys": reports, "missing": missing})
	}
	return writeKeyTable(stdout, token, reports, missing)
}

// missingLabels are configured labels that no key in the token carries.
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

func writeKeyTable(w io.Writer, token hsm.Info, reports []keyReport, missing []string) error {
	fmt.Fprintln(w, token)
	table := tabwriter.NewWriter(w, 0, 8, 2, ' ', 0)
	fmt.Fprintln(table, "LABEL\tID\tTYPE\tBITS\tSENSITIVE\tEXTRACTABLE\tSIGN\tAPP\tFINGERPRINT")
	for _, r := range reports {
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
	for _, r := range reports {
		if r.Weakness != "" && r.AppID != 0 {
			fmt.Fprintf(w, "key %q of App %d is refused: %s\n", r.Label, r.AppID, r.Weakness)
		}
	}
	for _, label := range missing {
		fmt.Fprintf(w, "key %q is configured and not in the token\n", label)
	}
	return nil
}
