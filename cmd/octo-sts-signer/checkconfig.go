package main

import (
	"encoding/json"
	"fmt"
	"os"

	"github.com/spf13/cobra"
)

func newCheckConfigCommand() *cobra.Command {
	var path, output string
	cmd := &cobra.Command{
		Use:   "check-config",
		Short: "Check the configuration without touching the HSM",
		Long: `Check the configuration without touching the HSM: every problem in the file, the
users, and, where $CREDENTIALS_DIRECTORY is set, the PINs' credentials. No PIN is
tried.

With --output json, a configuration without problems is printed as it is in force:
each key under its name, with the defaults filled in.`,
		Args: noArguments,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if output != "text" && output != "json" {
				return usageError{fmt.Errorf("--output %q: want text or json", output)}
			}
			config, err := loadConfig(path)
			if err != nil {
				return err
			}
			if output == "json" {
				return json.NewEncoder(cmd.OutOrStdout()).Encode(config)
			}
			if _, set := os.LookupEnv("CREDENTIALS_DIRECTORY"); !set {
				fmt.Fprintf(cmd.OutOrStdout(), "%s: no problems; $CREDENTIALS_DIRECTORY is not set, so no PIN's credential was looked at\n", path)
				return nil
			}
			if err := checkCredentials(config); err != nil {
				return err
			}
			fmt.Fprintf(cmd.OutOrStdout(), "%s: no problems\n", path)
			return nil
		},
	}
	addConfigFlag(cmd, &path)
	cmd.Flags().StringVar(&output, "output", "text", "text or json")
	return cmd
}
