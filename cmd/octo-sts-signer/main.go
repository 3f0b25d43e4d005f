// Command octo-sts-signer holds the private keys of GitHub Apps in a PKCS#11 token and signs App JWTs for the daemon over
// a unix socket. It is also the tool of the key ceremony (setup, which makes an App, and the key commands).
//
// It is the only program of the appliance that links cgo and loads a vendor's module. Secrets reach it through files in
// $CREDENTIALS_DIRECTORY, and in the ceremony through the terminal or standard input, but never
// through arguments or the environment. Exit status: 0 yes, 1 the answer is no or something failed, 2 wrong usage or
// configuration.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"
)

func main() {
	// PINs and Apps' private keys pass through the memory of this process, and a module may crash it: its memory stays out
	// of core dumps and away from other processes of the same user. Nothing depends on it, so a kernel that refuses is
	// no error.
	_ = unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0)
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	err := newCommand().ExecuteContext(ctx)
	stop()
	if err != nil {
		fmt.Fprintf(os.Stderr, "octo-sts-signer: %v\n", err)
	}
	os.Exit(exitStatus(err))
}

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
