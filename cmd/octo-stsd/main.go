//go:build !manual

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

	"golang.org/x/sys/unix"
)

func main() {
	// Tokens pass through the memory of this process, and secrets stay in it: it is kept out of core dumps, whatever the
	// machine does with those, and away from other processes of the same user. Nothing depends on it, so a kernel that
	// refuses is no error.
	_ = unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0)
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	var status int
	if err := newCommand(&status).ExecuteContext(ctx); err != nil {
		fmt.Fprintf(os.Stderr, "octo-stsd: %v\n", err)
		os.Exit(status)
	}
}
