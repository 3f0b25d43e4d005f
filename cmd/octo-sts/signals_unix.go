//go:build unix

package main

import (
	"os"
	"os/signal"
	"syscall"
)

// caughtSignals are those that would end octo-sts exec before it revoked. One that
// whoever started it has it ignore (nohup) stays ignored, in the command too.
func caughtSignals() []os.Signal {
	var caught []os.Signal
	for _, s := range []os.Signal{syscall.SIGTERM, syscall.SIGHUP, syscall.SIGINT, syscall.SIGQUIT, syscall.SIGUSR1, syscall.SIGUSR2, syscall.SIGPIPE} {
		if !signal.Ignored(s) {
			caught = append(caught, s)
		}
	}
	return caught
}

// passedOn: a terminal sends SIGINT and SIGQUIT to the whole process group, the
// command included, and many programs take a second one for more than the first.
// SIGPIPE says that nobody reads what exec itself writes.
func passedOn(s os.Signal) bool {
	return s != syscall.SIGINT && s != syscall.SIGQUIT && s != syscall.SIGPIPE
}

func asksToEnd(s os.Signal) bool { return s == syscall.SIGTERM || s == syscall.SIGHUP }

// exitStatus is what a shell says of a process that ended.
func exitStatus(state *os.ProcessState) int {
	if w, ok := state.Sys().(syscall.WaitStatus); ok && w.Signaled() {
		return 128 + int(w.Signal())
	}
	return state.ExitCode()
}
