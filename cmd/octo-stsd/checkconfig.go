package main

import (
	"encoding/json"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/octo-sts/appliance/appliance"
)

// newCheckConfigCommand returns the command that checks the file that *config names.
func newCheckConfigCommand(config *string) *cobra.Command {
	var output string
	cmd := &cobra.Command{
		Use: "check-config", Short: "Check the configuration and report every problem", Args: cobra.NoArgs,
		Long: `Check the configuration and report every problem.

With --output json, a configuration without problems is printed as it is in force:
each key under its name, with the defaults filled in, and time spans in nanoseconds.`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if output != "text" && output != "json" {
				return fmt.Errorf("--output %q: want text or json", output)
			}
			c, err := appliance.Load(*config)
			if err != nil {
				return err
			}
			if output == "json" {
				return json.NewEncoder(cmd.OutOrStdout()).Encode(c)
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "%s: no problems%s\n", *config, c.Unchecked())
			return err
		},
	}
	cmd.Flags().StringVar(&output, "output", "text", "text or json")
	return cmd
}
