// Command octo-stsd is the daemon that faces the network: it exchanges OIDC ID
// tokens for GitHub installation tokens. This file only wires; the work is in
// package appliance.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"github.com/octo-sts/appliance/appliance"
)

// version is set by the build.
var version = "devel"

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	config := ""
	status := 2 // wrong usage or configuration, until something runs
	root := &cobra.Command{Use: "octo-stsd", Short: "Exchange OIDC ID tokens for GitHub installation tokens", SilenceUsage: true, SilenceErrors: true}
	root.PersistentFlags().StringVar(&config, "config", "/etc/octo-sts/octo-stsd.yaml", "configuration file")
	root.AddCommand(&cobra.Command{
		Use: "serve", Short: "Serve exchanges until SIGTERM or SIGINT", Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			c, err := appliance.Load(config)
			if err == nil {
				status = 1
				err = serve(ctx, c)
			}
			return err
		},
	}, &cobra.Command{
		Use: "check-config", Short: "Check the configuration and report every problem", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := appliance.Load(config)
			if err != nil {
				return err
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "%s: no problems%s\n", config, c.Unchecked())
			return err
		},
	}, &cobra.Command{
		Use: "version", Short: "Print the version", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			_, err := fmt.Fprintln(cmd.OutOrStdout(), "octo-stsd", version)
			return err
		},
	})
	if err := root.Execute(); err != nil {
		fmt.Fprintf(os.Stderr, "octo-stsd: %v\n", err)
		os.Exit(status)
	}
}

func serve(ctx context.Context, c *appliance.Config) error {
	config := zap.NewProductionConfig()
	config.Sampling = nil // every exchange has its line
	config.DisableCaller, config.DisableStacktrace = true, true
	config.EncoderConfig.EncodeTime = zapcore.RFC3339NanoTimeEncoder
	logger, err := config.Build()
	if err != nil {
		return fmt.Errorf("opening the log: %w", err)
	}
	appliance.CollectLess()
	daemon, err := appliance.New(ctx, c, version, logger)
	if err == nil {
		err = daemon.Run(ctx)
	}
	return err
}
