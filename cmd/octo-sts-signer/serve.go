package main

import (
	"context"
	"io"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"
	"github.com/spf13/cobra"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"github.com/octo-sts/appliance/signer"
	"github.com/octo-sts/appliance/signer/hsm"
)

// closeWait is how long a stopping signer waits for the module to log out before it leaves anyway.
const closeWait = 3 * time.Second

func newServeCommand() *cobra.Command {
	var path string
	cmd := &cobra.Command{
		Use:   "serve",
		Short: "Serve App JWTs on the unix socket until SIGTERM or SIGINT",
		Long: `Serve App JWTs on the unix socket until SIGTERM or SIGINT.

The signer starts even where the HSM is away or a key is missing: it says so in
its log and in its status, signs nothing, and goes on trying. A PIN that the HSM
refuses is the exception: it is tried once, and not again while this process
runs, because tokens lock for good after a few wrong PINs. Correct the credential
and restart the signer; each restart spends one attempt.`,
		Args: noArguments,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return serve(cmd.Context(), path, cmd.ErrOrStderr())
		},
	}
	addConfigFlag(cmd, &path)
	return cmd
}

// serve makes everything that can fail for the operator's mistake fail before the PIN is tried.
func serve(ctx context.Context, path string, logs io.Writer) error {
	config, err := loadConfig(path)
	if err != nil {
		return err
	}
	uids, err := signer.ResolveUsers(config.AllowUsers)
	if err != nil {
		return usageError{err}
	}
	token, err := tokenConfig(config)
	if err != nil {
		return err
	}
	listener, err := signer.Listen(config.Socket)
	if err != nil {
		return err
	}
	defer listener.Close()

	log := newLogger(logs)
	keyring, err := hsm.New(ctx, hsm.Config{Token: token, Labels: config.KeyLabels(), Logger: log})
	if err != nil {
		return err
	}
	service, err := signer.NewService(signer.ServiceConfig{
		Apps:       config.Apps,
		Key:        keyring.Key,
		HSMs:       func() []signer.HSMStatus { return []signer.HSMStatus{signer.HSMStatus(keyring.Status())} },
		Concurrent: config.HSMs[0].ConcurrentSignatures(),
		Version:    buildVersion(),
		Logger:     log,
	})
	if err != nil {
		return err
	}
	server, err := signer.NewServer(signer.ServerConfig{Service: service, AllowUIDs: uids, Logger: log})
	if err != nil {
		return err
	}
	log.Info("signer is serving", zap.String("socket", listener.Addr().String()), zap.Uint32s("allow_uids", uids), zap.String("version", buildVersion()))
	_, _ = daemon.SdNotify(false, daemon.SdNotifyReady) // no service manager is no error
	if err := server.Serve(ctx, listener); err != nil {
		return err
	}
	_, _ = daemon.SdNotify(false, daemon.SdNotifyStopping)
	waitClosed(keyring, log)
	log.Info("signer has stopped")
	return nil
}

func waitClosed(keyring *hsm.Keyring, log *zap.Logger) {
	closed := make(chan struct{})
	go func() {
		keyring.Wait()
		close(closed)
	}()
	select {
	case <-closed:
	case <-time.After(closeWait):
		log.Warn("the HSM module did not let go in time, leaving without it", zap.Duration("waited", closeWait))
	}
}

// newLogger writes JSON lines for journald: no sampling, since a line left out may be the one that is needed, and no
// stack traces.
func newLogger(w io.Writer) *zap.Logger {
	encoder := zap.NewProductionEncoderConfig()
	encoder.TimeKey = "time"
	encoder.EncodeTime = zapcore.RFC3339NanoTimeEncoder
	encoder.EncodeDuration = zapcore.StringDurationEncoder
	core := zapcore.NewCore(zapcore.NewJSONEncoder(encoder), zapcore.Lock(zapcore.AddSync(w)), zap.InfoLevel)
	return zap.New(core, zap.ErrorOutput(zapcore.Lock(zapcore.AddSync(w)))).With(zap.String("program", "octo-sts-signer"))
}
