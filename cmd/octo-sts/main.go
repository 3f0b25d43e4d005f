//go:build !manual

// Command octo-sts is the command line: for operators (doctor, probe, policy, audit) and for
// CI jobs (exchange, exec, git-credential, revoke). It holds no secrets of the appliance and needs none.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	context.AfterFunc(ctx, stop) // where a command does not end on the first signal, the second one ends it
	err := newCommand().ExecuteContext(ctx)
	var failed *failedError
	var child *childError
	switch {
	case err == nil:
	case errors.As(err, &child):
		os.Exit(child.status)
	case errors.Is(err, errNo):
		os.Exit(exitNo)
	case errors.As(err, &failed):
		fmt.Fprintf(os.Stderr, "octo-sts: %s\n", printableLines(err.Error()))
		os.Exit(exitNo)
	default:
		fmt.Fprintf(os.Stderr, "octo-sts: %s\n", printableLines(err.Error()))
		os.Exit(exitUsage)
	}
}
