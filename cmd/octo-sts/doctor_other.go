//go:build !linux

package main

import "github.com/spf13/cobra"

// addDoctorCommand does nothing: an appliance is on Linux.
func addDoctorCommand(*cobra.Command) {}
