//go:build packages && linux

package main

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"slices"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// errno is a raw system call. reached lists errors that come only after the kernel would have refused: they count as done.
func errno(trap, a1, a2, a3, a4, a5 uintptr, reached ...unix.Errno) error {
	_, _, err := unix.RawSyscall6(trap, a1, a2, a3, a4, a5, 0)
	if err == 0 || slices.Contains(reached, err) {
		return nil
	}
	return err
}

// kernel are attacks on the machine itself.
func kernel() []attempt {
	image := []byte("no module\x00")
	at := uintptr(unsafe.Pointer(&image[0]))
	return []attempt{
		{"load a kernel module", func() error { return errno(unix.SYS_INIT_MODULE, at, 10, at+9, 0, 0, unix.ENOEXEC, unix.EINVAL) }},
		{"load a kernel module from a file", func() error {
			return errno(unix.SYS_FINIT_MODULE, ^uintptr(0), at+9, 0, 0, 0, unix.EBADF, unix.ENOEXEC)
		}},
		{"load another kernel (kexec)", func() error { return errno(unix.SYS_KEXEC_LOAD, 0, 1<<20, 0, 0, 0, unix.EINVAL, unix.EADDRNOTAVAIL) }},
		{"reboot", func() error { return errno(unix.SYS_REBOOT, 0, 0, 0, 0, 0, unix.EINVAL) }}, // without the magic numbers
		{"set the clock", setTimezone},
		{"adjust the clock", func() error {
			_, err := unix.ClockAdjtime(unix.CLOCK_REALTIME, &unix.Timex{Modes: unix.ADJ_TICK, Tick: 1})
			return but(err, unix.EINVAL) // no tick is that short
		}},
		{"make a device", func() error {
			path := os.TempDir() + "/device"
			defer os.Remove(path)
			return unix.Mknod(path, unix.S_IFCHR|0o600, int(unix.Mkdev(1, 3)))
		}},
		{"load a BPF program", func() error { return errno(unix.SYS_BPF, 5, 0, 0, 0, 0, unix.EINVAL, unix.EFAULT, unix.E2BIG) }},
		{"count events of the machine (perf)", perfOpen},
		{"set up io_uring", func() error {
			params := make([]byte, 120)
			return errno(unix.SYS_IO_URING_SETUP, 1, uintptr(unsafe.Pointer(&params[0])), 0, 0, 0)
		}},
		{"set up asynchronous I/O", func() error {
			var context uint64
			return errno(unix.SYS_IO_SETUP, 1, uintptr(unsafe.Pointer(&context)), 0, 0, 0)
		}},
		{"add a key to a keyring", func() error {
			_, err := unix.AddKey("user", "escape", []byte("x"), unix.KEY_SPEC_PROCESS_KEYRING)
			return err
		}},
		{"use a keyring (keyctl)", func() error { _, err := unix.KeyctlGetKeyringID(unix.KEY_SPEC_SESSION_KEYRING, true); return err }},
		{"handle page faults (userfaultfd)", func() error { return errno(unix.SYS_USERFAULTFD, 1, 0, 0, 0, 0) }}, // UFFD_USER_MODE_ONLY
		{"mount", func() error {
			dir, err := os.MkdirTemp(ownDirectory(), "escape-mount")
			if err != nil {
				return fmt.Errorf("making a plain directory: %w", err)
			}
			defer os.Remove(dir)
			if err := unix.Mount("tmpfs", dir, "tmpfs", 0, ""); err != nil {
				return err
			}
			return unix.Unmount(dir, unix.MNT_DETACH)
		}},
		{"mount something else", func() error { return but(unix.Mount("none", os.TempDir(), "", unix.MS_BIND, ""), unix.ENOENT) }},
		{"unmount", func() error { return but(unix.Unmount("/proc/self/no-mount", 0), unix.ENOENT, unix.EINVAL) }},
		{"change the root directory", func() error { return but(unix.Chroot("/no-directory"), unix.ENOENT) }},
		{"swap", func() error { return errno(unix.SYS_SWAPON, 0, 0, 0, 0, 0, unix.EFAULT) }},
		{"set the host's name", func() error { return errno(unix.SYS_SETHOSTNAME, 0, 1, 0, 0, 0, unix.EFAULT) }},
		{"read the kernel's messages (syslog)", func() error { _, err := unix.Klogctl(10, nil); return err }},
		{"use ports of devices (iopl)", func() error { return errno(unix.SYS_IOPL, 3, 0, 0, 0, 0) }},
		{"watch all files (fanotify)", func() error { _, err := unix.FanotifyInit(0, 0); return err }},
		{"open a file by its handle", func() error {
			return errno(unix.SYS_OPEN_BY_HANDLE_AT, ^uintptr(0), 0, 0, 0, 0, unix.EBADF, unix.EFAULT)
		}},
		{"count the processes' costs (acct)", func() error { return but(unix.Acct("/no-file"), unix.ENOENT) }},
		{"become another machine (personality)", func() error { return errno(unix.SYS_PERSONALITY, 8, 0, 0, 0, 0) }},
		{"run before others (real time)", func() error {
			priority := int32(1)
			return errno(unix.SYS_SCHED_SETSCHEDULER, 0, 1, uintptr(unsafe.Pointer(&priority)), 0, 0)
		}},
		{"use shared memory of System V as code", func() error {
			return errno(unix.SYS_SHMAT, ^uintptr(0), 0, 0o100000, 0, 0, unix.EINVAL, unix.EIDRM)
		}},
	}
}

func but(err error, reached ...unix.Errno) error {
	for _, e := range reached {
		if errors.Is(err, e) {
			return nil
		}
	}
	return err
}

// setTimezone sets the kernel's time zone to what it is, which needs the right to set the clock.
func setTimezone() error {
	var now unix.Timeval
	var zone [2]int32
	if err := errno(unix.SYS_GETTIMEOFDAY, uintptr(unsafe.Pointer(&now)), uintptr(unsafe.Pointer(&zone)), 0, 0, 0); err != nil {
		return err
	}
	return errno(unix.SYS_SETTIMEOFDAY, 0, uintptr(unsafe.Pointer(&zone)), 0, 0, 0)
}

func perfOpen() error {
	attr := unix.PerfEventAttr{Type: unix.PERF_TYPE_SOFTWARE, Size: uint32(unsafe.Sizeof(unix.PerfEventAttr{})), Config: unix.PERF_COUNT_SW_CPU_CLOCK}
	fd, err := unix.PerfEventOpen(&attr, 0, -1, -1, 0)
	if err == nil {
		_ = unix.Close(fd)
	}
	return err
}

// namespaces are those that a process could make and be root in.
func namespaces() []attempt {
	var list []attempt
	for _, kind := range []struct {
		name string
		flag uintptr
	}{
		{"user", unix.CLONE_NEWUSER}, {"mount", unix.CLONE_NEWNS}, {"network", unix.CLONE_NEWNET}, {"process", unix.CLONE_NEWPID},
		{"host name", unix.CLONE_NEWUTS}, {"IPC", unix.CLONE_NEWIPC}, {"cgroup", unix.CLONE_NEWCGROUP},
	} {
		list = append(list, attempt{"make a " + kind.name + " namespace", func() error {
			pid, err := fork(kind.flag)
			if err == nil {
				reap(pid)
			}
			return err
		}})
	}
	return append(list,
		attempt{"make a namespace by clone3", clone3},
		attempt{"enter a namespace", func() error {
			fd, err := unix.Open("/proc/self/ns/uts", unix.O_RDONLY, 0)
			if err != nil {
				return err
			}
			defer unix.Close(fd)
			return unix.Setns(fd, 0)
		}})
}

// fork makes a process that waits to be killed. It touches nothing of the Go runtime's.
func fork(flags uintptr) (int, error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	pid, _, err := unix.RawSyscall6(unix.SYS_CLONE, flags|uintptr(unix.SIGCHLD), 0, 0, 0, 0, 0)
	if err != 0 {
		return 0, err
	}
	if pid == 0 {
		for {
			unix.RawSyscall(unix.SYS_PAUSE, 0, 0, 0)
		}
	}
	return int(pid), nil
}

func reap(pid int) {
	_ = unix.Kill(pid, unix.SIGKILL)
	_, _ = syscall.Wait4(pid, nil, 0, nil)
}

// clone3 asks for a user namespace with a structure that a filter cannot look into.
func clone3() error {
	args := [11]uint64{0: unix.CLONE_NEWUSER, 4: uint64(unix.SIGCHLD)}
	pid, _, err := unix.RawSyscall(unix.SYS_CLONE3, uintptr(unsafe.Pointer(&args)), unsafe.Sizeof(args), 0)
	if err != 0 {
		return err
	}
	if pid == 0 {
		for {
			unix.RawSyscall(unix.SYS_PAUSE, 0, 0, 0)
		}
	}
	reap(int(pid))
	return nil
}
