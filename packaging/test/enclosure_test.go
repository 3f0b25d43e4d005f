//go:build packages

package packaging_test

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
)

// runEnclosed makes the roots, for which a network is needed, and then runs this
// program again in namespaces of its own. It is the exit status of that.
func runEnclosed(ctx context.Context) (status int, err error) {
	if os.Getuid() != 0 {
		return 1, errors.New("these tests boot containers: run them as root")
	}
	for _, suite := range append(suites(), "rpm") {
		if err := makeRoot(ctx, suite); err != nil {
			return 1, err
		}
	}
	group := fmt.Sprintf("octo-sts-packages-%d", os.Getpid())
	removeCgroups("octo-sts-packages-*") // of runs that were killed; those in use stay
	for _, hierarchy := range cgroupHierarchies() {
		if err := os.MkdirAll(filepath.Join(hierarchy, group, "tests"), 0o755); err != nil {
			return 1, fmt.Errorf("making a cgroup: %w", err)
		}
	}
	defer removeCgroups(group)

	runtime.LockOSThread() // Pdeathsig is about the thread that starts the child
	self, err := os.Executable()
	if err != nil {
		return 1, err
	}
	// The shell moves itself into the cgroups, so that nothing is ever started elsewhere.
	script := `for d in ` + strings.Join(cgroupHierarchies(), " ") + `; do echo $$ > $d/` + group + `/tests/cgroup.procs || exit 1; done; exec "$@"`
	cmd := exec.CommandContext(ctx, "/bin/sh", append([]string{"-c", script, "sh", self}, os.Args[1:]...)...)
	cmd.Env = append(os.Environ(), insideVariable+"="+group)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = nil, os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: syscall.CLONE_NEWNS | syscall.CLONE_NEWPID | syscall.CLONE_NEWNET,
		Pdeathsig:  syscall.SIGKILL,
		Setpgid:    true, // Ctrl-C is for the outer one, which ends all of it
	}
	err = cmd.Run()
	if exit := (*exec.ExitError)(nil); errors.As(err, &exit) {
		return max(exit.ExitCode(), 1), ctx.Err()
	}
	return 0, err
}

// furnish makes the namespaces fit to live in: /proc shows the processes in them,
// mounts do not leave them, and /run/systemd is not the machine's.
func furnish() error {
	for _, m := range []struct {
		source, target, kind string
		flags                uintptr
		data                 string
	}{
		{"none", "/", "", syscall.MS_REC | syscall.MS_PRIVATE, ""},
		{"proc", "/proc", "proc", 0, ""},
		{"tmpfs", "/run", "tmpfs", 0, "mode=755"},
		{"tmpfs", "/mnt", "tmpfs", 0, "mode=755"},
	} {
		if err := syscall.Mount(m.source, m.target, m.kind, m.flags, m.data); err != nil {
			return fmt.Errorf("mounting %s: %w", m.target, err)
		}
	}
	if err := furnishNetwork(); err != nil {
		return err
	}
	return furnishAuthorities()
}

// cgroupHierarchies are those that systemd uses to keep track of processes, on a machine
// with version 2, version 1 or both.
func cgroupHierarchies() []string {
	return slices.DeleteFunc([]string{"/sys/fs/cgroup", "/sys/fs/cgroup/unified", "/sys/fs/cgroup/systemd"}, func(dir string) bool {
		_, err := os.Stat(filepath.Join(dir, "cgroup.procs"))
		return err != nil
	})
}

// removeCgroups removes the cgroups of finished runs; one that has processes refuses.
func removeCgroups(pattern string) {
	for _, hierarchy := range cgroupHierarchies() {
		found, _ := filepath.Glob(filepath.Join(hierarchy, pattern))
		for _, top := range found {
			var all []string
			_ = filepath.WalkDir(top, func(path string, d fs.DirEntry, err error) error {
				if err == nil && d.IsDir() {
					all = append(all, path)
				}
				return nil
			})
			for _, dir := range slices.Backward(all) {
				_ = os.Remove(dir)
			}
		}
	}
}

// childOf is the process whose parent is pid; 0 while there is none.
func childOf(pid int) int {
	all, _ := filepath.Glob("/proc/[0-9]*/stat")
	for _, file := range all {
		stat, err := os.ReadFile(file)
		if err != nil {
			continue // it has ended
		}
		fields := strings.Fields(string(stat[strings.LastIndexByte(string(stat), ')')+1:]))
		if parent, _ := strconv.Atoi(fields[1]); parent == pid {
			child, _ := strconv.Atoi(filepath.Base(filepath.Dir(file)))
			return child
		}
	}
	return 0
}
