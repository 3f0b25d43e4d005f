package signer

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// The files of the state directory. The directory belongs to the signer's user, and operators run commands on it as root:
// so nothing here follows a symbolic link, which would lead root to other files.

// lockFile opens path, which is made where it is not there, and takes the lock on it for as long as the file is open. The
// kernel gives it back when the process dies. The error matches unix.EWOULDBLOCK where another process kept it for all
// of wait.
func lockFile(path string, wait time.Duration) (*os.File, error) {
	file, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return nil, fmt.Errorf("%w (checkpoint.state_directory must exist and belong to the signer's user)", err)
	}
	if err := giveToOwner(file); err != nil {
		return nil, errors.Join(err, file.Close())
	}
	for deadline := time.Now().Add(wait); ; time.Sleep(20 * time.Millisecond) {
		err := unix.Flock(int(file.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if err == nil {
			return file, nil
		}
		if !errors.Is(err, unix.EWOULDBLOCK) || time.Now().After(deadline) {
			return nil, errors.Join(fmt.Errorf("locking %s: %w", path, err), file.Close())
		}
	}
}

// replaceFile gives path a new content, durably: when it returns nil the new one is there, after an error or a power loss
// the old or the new one, whole. It goes through a new file each time: after a sync that failed, nothing that the kernel
// says of the old one counts. The caller has a lock that keeps others from doing the same.
func replaceFile(path string, data []byte) error {
	temporary := path + ".tmp"
	if err := os.Remove(temporary); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	file, err := os.OpenFile(temporary, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = file.Write(data)
	if err == nil {
		err = errors.Join(giveToOwner(file), file.Sync())
	}
	if err := errors.Join(err, file.Close()); err != nil {
		return errors.Join(err, os.Remove(temporary))
	}
	if err := os.Rename(temporary, path); err != nil {
		return err
	}
	return syncDirectory(filepath.Dir(path))
}

// giveToOwner gives a file that root made to the owner of its directory: operators run the key commands as root, and the
// service must be able to read what they leave.
func giveToOwner(file *os.File) error {
	if os.Geteuid() != 0 {
		return nil
	}
	info, err := os.Stat(filepath.Dir(file.Name()))
	if err != nil {
		return err
	}
	owner, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return fmt.Errorf("the owner of %s is not known", filepath.Dir(file.Name()))
	}
	return file.Chown(int(owner.Uid), int(owner.Gid))
}

// syncDirectory makes a rename or a removal in a directory durable.
func syncDirectory(path string) error {
	directory, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("syncing a directory: %w", err)
	}
	return errors.Join(directory.Sync(), directory.Close())
}
