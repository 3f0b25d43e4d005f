//go:build !manual

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
	"fmt"
	"os"
	"os/signal"
	"syscall"

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
