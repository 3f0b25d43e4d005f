//go:build packages

// Package packaging_test installs what `make packages` and `make repo` made, on
// real systems, and holds it to its documentation: each test boots a systemd of
// its own in a container with systemd-nspawn. It needs root, debootstrap and
// systemd-container; `make test-packages` runs it, `make test` does not.
//
// Nothing of it outlives it. The tests run in namespaces of their own (mounts,
// processes, network): when their first process ends, however that happens, the
// kernel ends the containers and takes away mounts and interfaces. What a container
// writes is in memory. Only the systems' untouched roots stay, in a cache.
package packaging_test

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"testing"
)

// insideVariable tells the process in the namespaces that it is there. Its value is the
// directory of cgroups that is its own to use, relative to each hierarchy.
const insideVariable = "OCTO_STS_PACKAGES_CGROUP"

func TestMain(m *testing.M) {
	flag.Parse()
	syscall.Umask(0o022) // what is made here is a system's, and its users are to get at it
	if os.Getenv(insideVariable) != "" {
		if err := furnish(); err != nil {
			fmt.Fprintln(os.Stderr, "preparing the namespaces:", err)
			os.Exit(1)
		}
		os.Exit(m.Run())
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	defer stop()
	status, err := runEnclosed(ctx)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		status = 1
	}
	stop()
	os.Exit(status)
}

// suites are the systems to test on: the variable SUITES, by default bookworm.
func suites() []string {
	if named := strings.Fields(os.Getenv("SUITES")); len(named) > 0 {
		return named
	}
	return []string{"bookworm"}
}
