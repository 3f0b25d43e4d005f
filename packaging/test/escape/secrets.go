//go:build packages && linux

package main

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"syscall"

	"golang.org/x/sys/unix"
)

// other is the other daemon's unit, and otherPID its main process; the test says which.
func other() string { return os.Getenv("ESCAPE_OTHER") }

func otherPID() int {
	var pid int
	_, _ = fmt.Sscan(os.Getenv("ESCAPE_OTHER_PID"), &pid)
	return pid
}

// secrets are what belongs to others. Those of the daemon's own sandbox are the PIN and the HSM's files.
func secrets() []attempt {
	list := []attempt{
		{"read the other daemon's credentials", func() error { return readAny("/run/credentials/" + other() + "/*") }},
		{"list the credentials of all units", func() error { return readDir("/run/credentials/" + other()) }},
		{"read the encrypted PIN", func() error { return read("/etc/credstore.encrypted/hsm-pin") }},
		{"read the key that credentials are encrypted with", func() error { return read("/var/lib/systemd/credential.secret") }},
		{"read the other daemon's memory file", func() error { return read(fmt.Sprintf("/proc/%d/mem", otherPID())) }},
		{"read the other daemon's environment", func() error { return read(fmt.Sprintf("/proc/%d/environ", otherPID())) }},
		{"read /etc/shadow", func() error { return read("/etc/shadow") }},
		{"read the journal", func() error { return readAny("/*/log/journal/*/system*.journal") }},
		{"read the kernel's log", func() error { return read("/dev/kmsg") }},
		{"connect to the system's message bus", func() error { return connectUnix("/run/dbus/system_bus_socket") }},
		{"connect to the service manager", func() error { return connectUnix("/run/systemd/private") }},
		{"ask for accounts by varlink", func() error { return connectUnix("/run/systemd/userdb/io.systemd.DynamicUser") }},
	}
	for _, dir := range []string{"/root", "/home/somebody", "/boot", "/srv"} {
		list = append(list, attempt{"list " + dir, func() error { return readDir(dir) }})
	}
	for _, dir := range filepath.SplitList(os.Getenv("ESCAPE_SECRET_DIRECTORIES")) {
		list = append(list, attempt{"list " + dir, func() error { return readDir(dir) }})
	}
	return list
}

func read(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	_, err = f.Read(make([]byte, 1))
	if errors.Is(err, syscall.EIO) { // of a process's memory file: the lowest page, which is not mapped
		return nil
	}
	return err
}

// readAny wants one file of the pattern that can be read.
func readAny(pattern string) error {
	paths, err := filepath.Glob(pattern)
	if err != nil {
		return err
	}
	problem := fmt.Errorf("nothing is to be seen at %s", pattern)
	for _, path := range paths {
		err := read(path)
		if err == nil {
			return nil
		}
		problem = err
	}
	return problem
}

func readDir(path string) error {
	_, err := os.ReadDir(path)
	return err
}

func connectUnix(path string) error {
	c, err := net.Dial("unix", path)
	if err != nil {
		return err
	}
	return c.Close()
}

// processes are what can be done to others.
func processes() []attempt {
	return []attempt{
		{"see another user's processes", seeProcesses},
		{"ptrace the other daemon", func() error { return ptraceAttach(otherPID()) }},
		{"ptrace process 1", func() error { return ptraceAttach(1) }},
		{"ptrace a process of its own", traceChild},
		{"read the other daemon's memory", func() error { return readMemory(otherPID()) }},
		{"read a process of its own as another does", func() error { return readMemory(os.Getpid()) }},
		{"signal the other daemon", func() error { return unix.Kill(otherPID(), 0) }},
		{"compare with another process (kcmp)", func() error {
			return errno(unix.SYS_KCMP, uintptr(os.Getpid()), uintptr(os.Getpid()), 0, 0, 0)
		}},
	}
}

func seeProcesses() error {
	all, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		return err
	}
	for _, dir := range all {
		var info unix.Stat_t
		if unix.Stat(dir, &info) != nil || dir == fmt.Sprintf("/proc/%d", os.Getpid()) {
			continue
		}
		if int(info.Uid) == os.Getuid() && os.Getuid() != 0 {
			continue
		}
		if line, err := os.ReadFile(dir + "/cmdline"); err == nil && len(line) > 0 {
			return nil
		}
	}
	return errors.New("no other process is to be seen")
}

func ptraceAttach(pid int) error {
	if err := unix.PtraceSeize(pid); err != nil {
		return err
	}
	// It runs on, and ends being traced with this thread. A detach wants it stopped first.
	return nil
}

func traceChild() error {
	pid, err := fork(0)
	if err != nil {
		return err
	}
	defer reap(pid)
	return unix.PtraceSeize(pid)
}

func readMemory(pid int) error {
	var word [8]byte
	local := []unix.Iovec{{Base: &word[0], Len: 8}}
	// Address 0 is mapped nowhere: EFAULT comes after the check of who asks.
	_, err := unix.ProcessVMReadv(pid, local, []unix.RemoteIovec{{Base: 0, Len: 8}}, 0)
	if errors.Is(err, unix.EFAULT) {
		return nil
	}
	return err
}
