package main

import (
	"errors"
	"fmt"

	"github.com/spf13/cobra"
)

func newCommand() *cobra.Command {
	root := &cobra.Command{
		Use:               "octo-sts-signer",
		Short:             "Sign GitHub App JWTs with keys that stay in an HSM",
		SilenceErrors:     true, // main prints them
		SilenceUsage:      true,
		CompletionOptions: cobra.CompletionOptions{HiddenDefaultCmd: true},
		Args:              noArguments,
		RunE: func(*cobra.Command, []string) error {
			return usageError{errors.New("a command is missing; see octo-sts-signer --help")}
		},
	}
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return usageError{err} })
	root.AddCommand(newServeCommand(), newWorkerCommand(), newCheckConfigCommand(), newKeyCommand(), newCheckpointCommand(), newSetupCommand(), newVersionCommand())
	return root
}

// usageError is the caller's mistake: exit status 2.
type usageError struct{ error }

func (e usageError) Unwrap() error { return e.error }

func exitStatus(err error) int {
	var usage usageError
	switch {
	case err == nil:
		return 0
	case errors.As(err, &usage):
		return 2
	}
	return 1
}

// noArguments is cobra.NoArgs with the exit status of wrong usage.
func noArguments(cmd *cobra.Command, args []string) error {
	if len(args) > 0 {
		return usageError{fmt.Errorf("unexpected argument %q; see %s --help", args[0], cmd.CommandPath())}
	}
	return nil
}
