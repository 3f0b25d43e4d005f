package main

import (
	"fmt"
	"os"

	"github.com/spf13/cobra"

	"github.com/octo-sts/appliance/signer"
)

func newCheckConfigCommand() *cobra.Command {
	var path string
	cmd := &cobra.Command{
		Use:   "check-config",
		Short: "Check the configuration without touching the HSM",
		Long: `Check the configuration without touching the HSM: every problem in the file, the
users, and, where $CREDENTIALS_DIRECTORY is set, the PIN's credential. The PIN is
not tried.`,
		Args: noArguments,
		RunE: func(cmd *cobra.Command, _ []string) error {
			config, err := loadConfig(path)
			if err != nil {
				return err
			}
			directory, set := os.LookupEnv("CREDENTIALS_DIRECTORY")
			if !set {
				fmt.Fprintf(cmd.OutOrStdout(), "%s: no problems; $CREDENTIALS_DIRECTORY is not set, so the PIN's credential was not looked at\n", path)
				return nil
			}
			if _, err := signer.ReadCredential(directory, config.HSMs[0].PINCredential); err != nil {
				return usageError{err}
			}
			fmt.Fprintf(cmd.OutOrStdout(), "%s: no problems\n", path)
			return nil
		},
	}
	addConfigFlag(cmd, &path)
	return cmd
}
