package audit

import (
	"errors"
	"os"

	"golang.org/x/sys/unix"
)

// What the log wants of the system when it opens a file: no link in place of one,
// and no waiting for whoever writes to a pipe.
const (
	noFollow = unix.O_NOFOLLOW
	nonBlock = unix.O_NONBLOCK
)

// isLink says whether opening a file with noFollow failed since it is a link.
func isLink(_ string, err error) bool { return errors.Is(err, unix.ELOOP) }

// lock takes the one lock on the file, or returns ErrLocked.
func lock(f *os.File) error {
	err := retryInterrupted(func() error { return unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB) })
	if errors.Is(err, unix.EWOULDBLOCK) {
		return ErrLocked
	}
	return err
}

// dropPages has the next read come from the disk.
func dropPages(f *os.File) error {
	return unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_DONTNEED)
}

// createAppending opens a file of the open directory for appending, and makes it
// where it is missing.
func createAppending(dir *os.File, name string) (fd int, err error) {
	err = retryInterrupted(func() (err error) {
		fd, err = unix.Openat(int(dir.Fd()), name, unix.O_WRONLY|unix.O_APPEND|unix.O_CREAT|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o640)
		return err
	})
	return fd, err
}

// identity tells a file from every other one there is now; size is in bytes.
type identity struct {
	device, inode uint64
	size          int64
}

func identifyOpen(fd int) (identity, error) {
	var st unix.Stat_t
	err := unix.Fstat(fd, &st)
	return identity{st.Dev, st.Ino, st.Size}, err
}

// identify does not follow a link.
func identify(path string) (identity, error) {
	var st unix.Stat_t
	err := retryInterrupted(func() error { return unix.Lstat(path, &st) })
	return identity{st.Dev, st.Ino, st.Size}, err
}

// syncData waits until the disk has what was written, and the file's size.
func syncData(fd int) error {
	return retryInterrupted(func() error { return unix.Fdatasync(fd) })
}

// isFull says whether err means that there is no room now, but may be again: no blocks or inodes, or a quota.
func isFull(err error) bool {
	return errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT)
}

// isExhausted says whether err means that the process or the machine can open no file now, but may again: no file
// descriptor (of the process or of the machine) or no memory.
func isExhausted(err error) bool {
	return errors.Is(err, unix.EMFILE) || errors.Is(err, unix.ENFILE) || errors.Is(err, unix.ENOMEM)
}

// retryInterrupted calls a system call again for as long as a signal interrupts it.
func retryInterrupted(call func() error) error {
	for {
		if err := call(); err != unix.EINTR {
			return err
		}
	}
}
