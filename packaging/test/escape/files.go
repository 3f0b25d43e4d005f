//go:build packages && linux

package main

import (
	"encoding/json"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// files are attempts to leave something behind, or to change what others run.
func files() []attempt {
	var list []attempt
	for _, dir := range []string{
		"/", "/etc", "/etc/octo-sts", "/etc/systemd/system", "/etc/credstore.encrypted", "/usr", "/usr/bin", "/usr/lib",
		"/usr/lib/systemd/system", "/boot", "/var", "/var/lib", "/var/log", "/var/log/octo-sts", "/run", "/run/octo-sts-signer", "/run/systemd/system",
		"/root", "/dev", "/sys/fs/cgroup",
	} {
		list = append(list, attempt{"make a file in " + dir, func() error {
			path := filepath.Join(dir, "escape-file")
			fd, err := unix.Open(path, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL, 0o600)
			if err != nil {
				return err
			}
			_ = unix.Close(fd)
			return os.Remove(path)
		}})
	}
	for _, path := range []string{
		"/etc/passwd", "/etc/octo-sts/octo-stsd.yaml", "/etc/octo-sts/signer.yaml", "/usr/bin/octo-stsd", "/usr/bin/octo-sts-signer",
		"/usr/lib/systemd/system/octo-stsd.service", "/proc/sys/kernel/core_pattern", "/proc/sysrq-trigger", "/sys/kernel/uevent_helper", "/dev/mem",
	} {
		list = append(list, attempt{"write to " + path, func() error { return openForWriting(path) }})
	}
	return append(list,
		attempt{"move the audit log away", func() error { return unix.Rename("/var/log/octo-sts/audit", "/var/log/octo-sts/gone") }},
		attempt{"remount the system to write to it", func() error { return unix.Mount("", "/usr", "", unix.MS_REMOUNT|unix.MS_BIND, "") }})
}

// openForWriting changes nothing. Access is asked first, since a program that runs cannot be opened for writing by anybody.
func openForWriting(path string) error {
	if err := unix.Access(path, unix.W_OK); err != nil {
		return err
	}
	fd, err := unix.Open(path, unix.O_WRONLY, 0)
	if err == nil {
		_ = unix.Close(fd)
	}
	return but(err, unix.ETXTBSY)
}

// libraries may be read by anybody, and are many.
var libraries = []string{"/usr/lib/", "/usr/lib64/", "/lib/", "/lib64/", "/usr/share/zoneinfo/"}

// view is what there is for a service: the files that it can read, but libraries and what the kernel shows, and the
// files and directories that it can write to.
type view struct {
	Readable []string `json:"readable"`
	Writable []string `json:"writable"`
}

func printView() error {
	var v view
	err := filepath.WalkDir("/", func(path string, entry fs.DirEntry, err error) error {
		if path == "/proc" || path == "/sys" {
			return fs.SkipDir
		}
		if err != nil {
			return nil // not for this user
		}
		if entry.Type()&(fs.ModeSymlink|fs.ModeDevice) == 0 && unix.Access(path, unix.W_OK) == nil {
			v.Writable = append(v.Writable, path)
		}
		switch {
		case entry.IsDir() || entry.Type()&fs.ModeDevice != 0:
		case slices.ContainsFunc(libraries, func(dir string) bool { return strings.HasPrefix(path, dir) }):
		case entry.Type()&fs.ModeSymlink == 0 && unix.Access(path, unix.R_OK) == nil:
			v.Readable = append(v.Readable, path)
		}
		return nil
	})
	if err != nil {
		return err
	}
	return json.NewEncoder(os.Stdout).Encode(v)
}
