package main

import (
	"context"
	"crypto"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"go.uber.org/zap"

	"github.com/octo-sts/appliance/signer"
	"github.com/octo-sts/appliance/signer/hsm"
)

const (
	// closeWait is how long a stopping worker waits for the module to log out before it leaves anyway. The parent, who kills
	// it, waits longer.
	closeWait = 2 * time.Second
	// pinPoll is how often a worker whose PIN was refused looks for another one. It reads two small files.
	pinPoll = 2 * time.Second
)

// newWorkerCommand is for `serve` alone, which runs one for each HSM: whatever the vendor's code does, it does it here.
func newWorkerCommand() *cobra.Command {
	var index int
	cmd := &cobra.Command{
		Use:    "worker",
		Short:  "Hold one HSM for octo-sts-signer serve",
		Hidden: true,
		Args:   noArguments,
		RunE: func(cmd *cobra.Command, _ []string) error {
			// Not with cmd's context: a service manager sends SIGTERM to every process of the unit, and the parent needs its
			// workers for the requests that it finishes. A worker stops when the parent closes the socket.
			return work(context.WithoutCancel(cmd.Context()), index, cmd.InOrStdin())
		},
	}
	cmd.Flags().IntVar(&index, "hsm", 0, "`INDEX` of the HSM in the configuration")
	return cmd
}

func work(ctx context.Context, index int, stdin io.Reader) error {
	signal.Ignore(syscall.SIGHUP) // it may be sent to the whole unit, and is for the parent
	var setup signer.WorkerSetup
	if err := json.NewDecoder(stdin).Decode(&setup); err != nil {
		return usageError{fmt.Errorf("reading what this worker is for: %w (octo-sts-signer serve runs it, nobody else)", err)}
	}
	parent, err := parentConn()
	if err != nil {
		return usageError{err}
	}
	defer parent.Close()
	log := newLogger().With(zap.Int("hsm", index))
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()

	token := newWorkerToken(ctx, setup, log)
	server, err := signer.NewWorkerServer(signer.WorkerServerConfig{
		Key:       token.key,
		Token:     token.status,
		SetLabels: token.setLabels,
		Labels:    setup.Labels,
	})
	if err != nil {
		return err
	}
	go func() {
		token.awaitOtherPIN(ctx)
		cancel() // the parent starts another worker, with the other PIN
	}()
	err = server.Serve(ctx, parent)
	cancel()
	token.close(log)
	return err
}

// parentConn is the socket that the parent left open for this process.
func parentConn() (net.Conn, error) {
	file := os.NewFile(signer.WorkerFD, "parent")
	conn, err := net.FileConn(file)
	if err := errors.Join(err, file.Close()); err != nil {
		return nil, fmt.Errorf("taking over the socket to the parent: %w (octo-sts-signer serve runs this, nobody else)", err)
	}
	return conn, nil
}

// workerToken is the token of a worker. Where the PIN cannot be read there is no keyring, and the failure stands for it.
type workerToken struct {
	setup   signer.WorkerSetup
	latch   *signer.PINLatch
	pin     string
	keyring *hsm.Keyring
	failure error
}

func newWorkerToken(ctx context.Context, setup signer.WorkerSetup, log *zap.Logger) *workerToken {
	t := &workerToken{setup: setup, latch: signer.NewPINLatch(setup.StateDirectory, setup.HSM.LatchName())}
	var config hsm.TokenConfig
	if config, t.failure = tokenConfig(setup.HSM, setup.StateDirectory); t.failure == nil {
		t.pin = config.PIN
		t.keyring, t.failure = hsm.New(ctx, hsm.Config{Token: config, Labels: setup.Labels, Suits: setup.Suits, Logger: log})
	}
	if t.failure != nil {
		log.Error("HSM is not available", zap.String("module", setup.HSM.Module), zap.Error(t.failure))
	}
	return t
}

func (t *workerToken) key(label string) (crypto.MessageSigner, error) {
	if t.failure != nil {
		return nil, t.failure
	}
	return t.keyring.Key(label)
}

func (t *workerToken) status() (signer.TokenStatus, time.Time) {
	if t.failure != nil {
		return signer.TokenStatus{Module: t.setup.HSM.Module, Error: t.failure.Error()}, time.Time{}
	}
	s := t.keyring.Status()
	return signer.TokenStatus{
		Module:       s.Module,
		Manufacturer: s.Manufacturer,
		Model:        s.Model,
		TokenLabel:   s.TokenLabel,
		TokenSerial:  s.TokenSerial,
		Open:         s.Open,
		Sessions:     s.Sessions,
		MaxSessions:  s.MaxSessions,
		Error:        s.Error,
	}, s.CallSince
}

func (t *workerToken) setLabels(labels []string) {
	if t.keyring != nil {
		t.keyring.SetLabels(labels)
	}
}

// awaitOtherPIN returns when the token may be opened where it could not be: the credential has another content than this
// worker began with, or the file that remembers the refusal was removed. Else it returns when ctx ends. The token is not
// touched.
func (t *workerToken) awaitOtherPIN(ctx context.Context) {
	ticker := time.NewTicker(pinPoll)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		refused := t.pinRefused()
		if !refused && t.failure == nil {
			continue
		}
		pin, err := signer.ReadCredential(os.Getenv("CREDENTIALS_DIRECTORY"), t.setup.HSM.PINCredential)
		if err == nil && pin != t.pin {
			return
		}
		if _, err := os.Lstat(t.latch.Path()); refused && errors.Is(err, os.ErrNotExist) {
			return
		}
	}
}

// pinRefused says whether the PIN is why the token is not open.
func (t *workerToken) pinRefused() bool {
	if t.failure != nil || len(t.setup.Labels) == 0 {
		return false
	}
	_, err := t.keyring.Key(t.setup.Labels[0])
	return errors.Is(err, hsm.ErrPINRefused) || errors.Is(err, signer.ErrPINLatched)
}

// close waits until the keyring has let go of the token, within limits.
func (t *workerToken) close(log *zap.Logger) {
	if t.keyring == nil {
		return
	}
	closed := make(chan struct{})
	go func() {
		t.keyring.Wait()
		close(closed)
	}()
	select {
	case <-closed:
	case <-time.After(closeWait):
		log.Warn("the HSM module did not let go in time, leaving without it", zap.Duration("waited", closeWait))
	}
}
