package main

import (
	"context"
	"crypto/fips140"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"github.com/octo-sts/appliance/appliance"
	"github.com/octo-sts/appliance/sts/journald"
)

// version is set by the build.
var version = "devel"

// Exit statuses.
const (
	exitFailed = 1
	exitUsage  = 2 // wrong usage or configuration
)

// newCommand returns the program's commands. They set status, which an error is to exit with, once something runs.
func newCommand(status *int) *cobra.Command {
	config := ""
	*status = exitUsage
	root := &cobra.Command{Use: "octo-stsd", Short: "Exchange OIDC ID tokens for GitHub installation tokens", SilenceUsage: true, SilenceErrors: true}
	root.PersistentFlags().StringVar(&config, "config", "/etc/octo-sts/octo-stsd.yaml", "configuration file")
	root.AddCommand(&cobra.Command{
		Use: "serve", Short: "Serve exchanges until SIGTERM or SIGINT; SIGHUP reads the configuration again", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			hangup := make(chan os.Signal, 1)
			signal.Notify(hangup, syscall.SIGHUP) // from now on it does not end the process
			c, err := appliance.Load(config)
			if err == nil {
				*status = exitFailed
				err = serve(cmd.Context(), c, hangup)
			}
			return err
		},
	}, newCheckConfigCommand(&config), &cobra.Command{
		Use: "version", Short: "Print the version", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			line := "octo-stsd " + version
			if fips140.Enabled() {
				line += " (FIPS 140-3 module " + fips140.Version() + ")"
			}
			_, err := fmt.Fprintln(cmd.OutOrStdout(), line)
			return err
		},
	})
	return root
}

func serve(ctx context.Context, c *appliance.Config, hangup <-chan os.Signal) error {
	encoder := zap.NewProductionEncoderConfig()
	encoder.EncodeTime = zapcore.RFC3339NanoTimeEncoder
	logger := zap.New(journald.LogCore("octo-stsd", func(to zapcore.WriteSyncer) zapcore.Core {
		return zapcore.NewCore(zapcore.NewJSONEncoder(encoder), to, zap.InfoLevel)
	}))
	appliance.CollectLess()
	daemon, err := appliance.New(ctx, c, version, hangup, logger)
	if err == nil {
		err = daemon.Run(ctx)
	}
	return err
}
