package main

import (
	"crypto/fips140"
	"errors"
	"fmt"

	"github.com/spf13/cobra"
)

// version is set by the build.
var version = "devel"

// errNo says that a command worked and that its answer is no. The command has
// already printed what there is to say.
var errNo = errors.New("the answer is no")

// Exit statuses.
const (
	exitNo    = 1 // the answer is no
	exitUsage = 2 // wrong usage or configuration
)

// failedError is an error that is an answer, not a misuse: it exits with 1.
type failedError struct{ error }

func (e *failedError) Unwrap() error { return e.error }

func newCommand() *cobra.Command {
	root := &cobra.Command{
		Use:           "octo-sts",
		Short:         "Exchange OIDC ID tokens for GitHub tokens, and look after the trust policies and the audit log behind it",
		SilenceUsage:  true,
		SilenceErrors: true,
	}
	root.AddCommand(newExchangeCommand(), newExecCommand(), newGitCredentialCommand(), newRevokeCommand(), newTokenSourcesCommand(), newPolicyCommand(), newAuditCommand(), newProbeCommand(), &cobra.Command{
		Use: "version", Short: "Print the version", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return printVersion(cmd)
		},
	})
	addDoctorCommand(root)
	return root
}

// subcommandAlone and showHelp are for a command that only has others below it. By itself cobra takes an unknown one of them
// for a question about help and exits with 0: a misspelt "audit verify" in a script would then be a yes.
func subcommandAlone(cmd *cobra.Command, args []string) error {
	if len(args) > 0 {
		return fmt.Errorf("unknown command %q; see %s --help", args[0], cmd.CommandPath())
	}
	return nil
}

func showHelp(cmd *cobra.Command, _ []string) error { return cmd.Help() }

func printVersion(cmd *cobra.Command) error {
	line := "octo-sts " + version
	if fips140.Enabled() {
		line += " (FIPS 140-3 module " + fips140.Version() + ")"
	}
	_, err := fmt.Fprintln(cmd.OutOrStdout(), line)
	return err
}
