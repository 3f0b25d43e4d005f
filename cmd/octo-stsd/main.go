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
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	var status int
	if err := newCommand(&status).ExecuteContext(ctx); err != nil {
		fmt.Fprintf(os.Stderr, "octo-stsd: %v\n", err)
		os.Exit(status)
	}
}
