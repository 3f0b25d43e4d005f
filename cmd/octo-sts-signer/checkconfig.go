package main

import (
	"fmt"
	"os"

	"github.com/spf13/cobra"
)

func newCheckConfigCommand() *cobra.Command {
	var path string
	cmd := &cobra.Command{
		Use:   "check-config",
		Short: "Check the configuration without touching the HSM",
		Long: `Check the configuration without touching the HSM: every problem in the file, the
users, and, where $CREDENTIALS_DIRECTORY is set, the PINs' credentials. No PIN is
tried.`,
		Args: noArguments,
		RunE: func(cmd *cobra.Command, _ []string) error {
			config, err := loadConfig(path)
			if err != nil {
				return err
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
	return cmd
}
