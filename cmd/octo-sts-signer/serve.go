package main

import (
	"context"
	"crypto"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"runtime/debug"
	"sync"
	"syscall"

	"github.com/spf13/cobra"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"github.com/octo-sts/appliance/signer"
	"github.com/octo-sts/appliance/sts/journald"
)

func newServeCommand() *cobra.Command {
	var path string
	cmd := &cobra.Command{
		Use:   "serve",
		Short: "Serve App JWTs and checkpoints on the unix socket until SIGTERM or SIGINT",
		Long: `Serve App JWTs and checkpoints on the unix socket until SIGTERM or SIGINT.

The signer starts even where an HSM is away or a key is missing: it says so in its
log and in its status, and goes on trying. Each HSM is held by a process of its own,
which is replaced when the module crashes or hangs; the next HSM of the list signs
meanwhile. A PIN that an HSM refuses is the exception: it is tried once, and not
again, over restarts too, until the credential changes.

SIGHUP reads the apps and allow_users of the configuration again, without losing a
request. A file with a mistake in it changes nothing, and neither does one that would
have an App's key, which signs, make way for one that no HSM can sign with.`,
		Args: noArguments,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return serve(cmd.Context(), path)
		},
	}
	addConfigFlag(cmd, &path)
	return cmd
}

// serve makes everything that can fail for the operator's mistake fail before any PIN is tried.
func serve(ctx context.Context, path string) error {
	// A panic, or the service manager's SIGABRT, would end the process with status 2, which says that the configuration is
	// wrong and no restart will help. Not by GOTRACEBACK: workers inherit that, and their registers may hold a piece of the PIN.
	debug.SetTraceback("crash")
	hangups := make(chan os.Signal, 1)
	signal.Notify(hangups, syscall.SIGHUP) // from now on it does not end the process
	defer signal.Stop(hangups)
	config, uids, err := loadServeConfig(path)
	if err != nil {
		return err
	}
	program, err := os.Executable()
	if err != nil {
		return fmt.Errorf("finding the program's own file, to run HSM workers: %w", err)
	}
	listener, err := signer.Listen(config.Socket)
	if err != nil {
		return err
	}
	defer listener.Close()

	log := newLogger()
	var hsms *signer.HSMs
	checkpoints, err := signer.NewCountersigner(signer.CountersignerConfig{
		Origin:    config.Checkpoint.Origin,
		Directory: config.Checkpoint.StateDirectory,
		UseKey: func(ctx context.Context, use func(crypto.Signer) error) error {
			return hsms.UseKey(ctx, config.Checkpoint.Key, use)
		},
		Logger: log,
	})
	if err != nil {
		return err
	}
	defer checkpoints.Close()
	// The workers outlive ctx, for the requests that are under way when it ends.
	working, stopWorkers := context.WithCancel(context.WithoutCancel(ctx))
	defer stopWorkers()
	hsms, err = signer.NewHSMs(working, signer.HSMsConfig{Config: config, Command: []string{program, "worker"}, Logger: log})
	if err != nil {
		return err
	}
	service, err := signer.NewService(signer.ServiceConfig{Apps: config.Apps, HSMs: hsms, Version: buildVersion(), Logger: log})
	if err != nil {
		return err
	}
	server, err := signer.NewServer(signer.ServerConfig{Service: service, Checkpoints: checkpoints, Probe: signer.NewProbeIssuer(config.Probe, hsms), AllowUIDs: uids, Logger: log})
	if err != nil {
		return err
	}
	log.Info("signer is serving", zap.String("socket", listener.Addr().String()), zap.Uint32s("allow_uids", uids), zap.String("version", buildVersion()))
	manager := newManager(log)
	var told sync.WaitGroup
	told.Go(func() { manager.run(ctx, service.Status) })
	reloader := &reloader{path: path, config: config, hsms: hsms, service: service, server: server, manager: manager, log: log}
	go reloader.run(ctx, hangups)
	if err := server.Serve(ctx, listener); err != nil {
		return err
	}
	told.Wait()
	stopWorkers()
	hsms.Wait()
	log.Info("signer has stopped")
	return nil
}

// loadServeConfig reads the configuration and all that it names, but the HSMs.
func loadServeConfig(path string) (*signer.Config, []uint32, error) {
	config, err := loadConfig(path)
	if err != nil {
		return nil, nil, err
	}
	uids, err := signer.ResolveUsers(config.AllowUsers)
	if err != nil {
		return nil, nil, usageError{err}
	}
	return config, uids, checkCredentials(config)
}

// checkCredentials makes sure that each HSM's PIN can be read.
func checkCredentials(config *signer.Config) error {
	var errs []error
	for i, h := range config.HSMs {
		if _, err := signer.ReadCredential(os.Getenv("CREDENTIALS_DIRECTORY"), h.PINCredential); err != nil {
			errs = append(errs, fmt.Errorf("hsms[%d]: %w", i, err))
		}
	}
	if err := errors.Join(errs...); err != nil {
		return usageError{err}
	}
	return nil
}

// newLogger writes to journald, or else JSON lines: no sampling, since a line left out may be the one that is needed, and
// no stack traces.
func newLogger() *zap.Logger {
	encoder := zap.NewProductionEncoderConfig()
	encoder.TimeKey = "time"
	encoder.EncodeTime = zapcore.RFC3339NanoTimeEncoder
	encoder.EncodeDuration = zapcore.StringDurationEncoder
	return zap.New(journald.LogCore("octo-sts-signer", func(to zapcore.WriteSyncer) zapcore.Core {
		return zapcore.NewCore(zapcore.NewJSONEncoder(encoder), to, zap.InfoLevel).With([]zapcore.Field{zap.String("program", "octo-sts-signer")})
	}))
}
