package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os/exec"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/octo-sts/appliance/signer"
)

const (
	// reloadWait bounds the wait for the running signer to take up its configuration.
	reloadWait = 15 * time.Second
	reloadPoll = 50 * time.Millisecond
)

// errNoSigner means that nobody listens at the signer's socket.
var errNoSigner = errors.New("no signer is running: the configuration counts from its next start")

// signerUnit is the unit whose socket the service manager makes.
const signerUnit = "octo-sts-signer.service"

// errActivated means that the service manager made the socket, so that the socket does not tell which process serves it,
// and that it does not have the unit reload for this user.
var errActivated = errors.New("have the signer reload: systemctl reload " + signerUnit)

// errCannotTell means that the running signer was told to reload and does not say to this user whether it has.
var errCannotTell = errors.New("the running signer was told to reload; whether it has, this user may not ask it, since it is not among its allow_users: look for \"configuration taken up\" in its log")

// onlySaid reports whether an error of the two functions below is one to tell the operator, and not a failure.
func onlySaid(err error) bool {
	return errors.Is(err, errNoSigner) || errors.Is(err, errActivated) || errors.Is(err, errCannotTell)
}

// signalSigner has whoever listens at the socket reload. The kernel says who that is (SO_PEERCRED), so there is no file
// with a process ID that could be out of date; where it is the service manager, that knows.
func signalSigner(ctx context.Context, socket string) error {
	connection, err := net.Dial("unix", socket)
	if err != nil {
		return fmt.Errorf("%w (%w)", errNoSigner, err)
	}
	defer connection.Close()
	raw, err := connection.(*net.UnixConn).SyscallConn()
	if err != nil {
		return fmt.Errorf("finding the running signer: %w", err)
	}
	var peer *unix.Ucred
	var credErr error
	err = raw.Control(func(fd uintptr) { peer, credErr = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED) })
	if err := errors.Join(err, credErr); err != nil {
		return fmt.Errorf("finding the running signer: %w", err)
	}
	if peer.Pid <= 1 {
		return reloadUnit(ctx)
	}
	if err := unix.Kill(int(peer.Pid), unix.SIGHUP); err != nil {
		return fmt.Errorf("telling the running signer (process %d) to reload: %w; do it yourself: kill -HUP %[1]d", peer.Pid, err)
	}
	return nil
}

func reloadUnit(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, reloadWait)
	defer cancel()
	if out, err := exec.CommandContext(ctx, "systemctl", "--no-ask-password", "reload", signerUnit).CombinedOutput(); err != nil {
		return fmt.Errorf("%w (%w: %s)", errActivated, err, strings.TrimSpace(string(out)))
	}
	return nil
}

// awaitSigner asks the running signer until its status is as done says.
func awaitSigner(ctx context.Context, socket string, done func(signer.Status) bool) error {
	ctx, cancel := context.WithTimeout(ctx, reloadWait)
	defer cancel()
	client := signer.NewClient(socket)
	defer client.Close()
	for {
		status, err := client.Status(ctx)
		switch {
		case err == nil && done(status):
			return nil
		case errors.Is(err, signer.ErrRefused):
			return errCannotTell
		}
		select {
		case <-ctx.Done():
			return errors.Join(fmt.Errorf("the running signer did not take up the configuration within %s; its log says why", reloadWait), err)
		case <-time.After(reloadPoll):
		}
	}
}
