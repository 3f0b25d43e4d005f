// Command octo-sts is the command line: for operators (policy, audit) and for
// CI jobs (exchange). It holds no secrets of the appliance and needs none.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"

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

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	context.AfterFunc(ctx, stop) // where a command does not end on the first signal, the second one ends it
	err := newCommand().ExecuteContext(ctx)
	var failed *failedError
	switch {
	case err == nil:
	case errors.Is(err, errNo):
		os.Exit(exitNo)
	case errors.As(err, &failed):
		fmt.Fprintf(os.Stderr, "octo-sts: %s\n", printableLines(err.Error()))
		os.Exit(exitNo)
	default:
		fmt.Fprintf(os.Stderr, "octo-sts: %s\n", printableLines(err.Error()))
		os.Exit(exitUsage)
	}
}

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
	root.AddCommand(newExchangeCommand(), newPolicyCommand(), newAuditCommand(), &cobra.Command{
		Use: "version", Short: "Print the version", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			_, err := fmt.Fprintln(cmd.OutOrStdout(), "octo-sts", version)
			return err
		},
	})
	return root
}
