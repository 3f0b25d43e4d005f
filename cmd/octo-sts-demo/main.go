// Command octo-sts-demo is the appliance in miniature: the real daemon and the
// real signer with a throw-away HSM token, against a stand-in for GitHub and an
// OIDC issuer, all on this machine. `make run` runs it, and `make bench` its
// benchmark. It is not packaged and proves nothing to anyone but its reader.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"

	"github.com/spf13/cobra"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	root := &cobra.Command{
		Use: "octo-sts-demo", Short: "The appliance in miniature: a demonstration, then up until Ctrl-C", Args: cobra.NoArgs,
		SilenceUsage: true, SilenceErrors: true,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return runTour(cmd.Context(), binDir(), os.Getenv("ONCE") != "")
		},
	}
	root.AddCommand(&cobra.Command{
		Use: "bench", Short: "Measure the exchange beside a bare floor", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return runBench(cmd.Context(), binDir()) },
	}, &cobra.Command{
		Use: "floor", Hidden: true, Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return runFloor(cmd.Context()) },
	})
	if err := root.ExecuteContext(ctx); err != nil && !errors.Is(err, context.Canceled) {
		fmt.Fprintf(os.Stderr, "octo-sts-demo: %v\n", err)
		os.Exit(1)
	}
}

// binDir is where the other programs are: beside this one.
func binDir() string {
	self, err := os.Executable()
	if err != nil {
		return "bin"
	}
	return filepath.Dir(self)
}
