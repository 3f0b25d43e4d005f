//go:build packages && linux

package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// memory are ways to code that did not come with the program.
func memory() []attempt {
	list := []attempt{
		{"map a page that is writable and code", func() error {
			page, err := unix.Mmap(-1, 0, 4096, unix.PROT_READ|unix.PROT_WRITE|unix.PROT_EXEC, unix.MAP_PRIVATE|unix.MAP_ANON)
			if err == nil {
				_ = unix.Munmap(page)
			}
			return err
		}},
		{"make a writable page code", func() error {
			page, err := unix.Mmap(-1, 0, 4096, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANON)
			if err != nil {
				return fmt.Errorf("mapping a plain page: %w", err)
			}
			defer func() { _ = unix.Munmap(page) }()
			return unix.Mprotect(page, unix.PROT_READ|unix.PROT_EXEC)
		}},
		{"make code in a file of memory (memfd)", func() error {
			fd, err := unix.MemfdCreate("escape", 0)
			if err != nil {
				return err
			}
			defer unix.Close(fd)
			return mapCode(fd)
		}},
		{"run another program", func() error { return exec.Command("/usr/bin/true").Run() }},
		{"load an HSM's module", func() error {
			modules, err := filepath.Glob("/usr/lib/*/softhsm/libsofthsm2.so")
			if err != nil || len(modules) == 0 {
				return errors.Join(err, errors.New("no module is to be seen"))
			}
			fd, err := unix.Open(modules[0], unix.O_RDONLY, 0)
			if err != nil {
				return err
			}
			defer unix.Close(fd)
			return mapPages(fd)
		}},
	}
	for _, dir := range append([]string{"/tmp", "/var/tmp", "/dev/shm"}, filepath.SplitList(os.Getenv("ESCAPE_OWN_DIRECTORIES"))...) {
		list = append(list,
			attempt{"map code out of a file in " + dir, func() error {
				path := filepath.Join(dir, "escape-code")
				fd, err := unix.Open(path, unix.O_RDWR|unix.O_CREAT, 0o700)
				if err != nil {
					return err
				}
				defer os.Remove(path)
				defer unix.Close(fd)
				return mapCode(fd)
			}},
			attempt{"run a program out of " + dir, func() error {
				path := filepath.Join(dir, "escape-program")
				self, err := os.ReadFile("/proc/self/exe")
				if err != nil {
					return err
				}
				defer os.Remove(path)
				if err := os.WriteFile(path, self, 0o700); err != nil {
					return err
				}
				cmd := exec.Command(path)
				cmd.Env = []string{"ESCAPE=nothing"}
				if err := cmd.Run(); !errors.As(err, new(*exec.ExitError)) {
					return err
				}
				return nil // it ran, and said that this is no task
			}})
	}
	return list
}

// mapCode fills a file and maps it as code.
func mapCode(fd int) error {
	if err := unix.Ftruncate(fd, 4096); err != nil {
		return err
	}
	return mapPages(fd)
}

func mapPages(fd int) error {
	page, err := unix.Mmap(fd, 0, 4096, unix.PROT_READ|unix.PROT_EXEC, unix.MAP_PRIVATE)
	if err == nil {
		_ = unix.Munmap(page)
	}
	return err
}
