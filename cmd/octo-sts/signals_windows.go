package main

import (
	"os"
	"syscall"
)

// caughtSignals: Go has the events of a console as these two (os/signal): Ctrl-C and
// Ctrl-Break as os.Interrupt; a closed window, a logoff and a shutdown as SIGTERM.
// Every process of the console gets them.
func caughtSignals() []os.Signal { return []os.Signal{os.Interrupt, syscall.SIGTERM} }

// passedOn: the command has had the event itself.
func passedOn(s os.Signal) bool { return false }

func asksToEnd(s os.Signal) bool { return s == syscall.SIGTERM }

func exitStatus(state *os.ProcessState) int { return state.ExitCode() }
