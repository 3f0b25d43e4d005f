package main

import (
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/octo-sts/appliance/signer"
	"github.com/octo-sts/appliance/signer/setup"
)

// editConfig changes signer.yaml: durably, whole or not at all, with its owner and mode, and only where the result is a
// configuration that the signer can read.
func editConfig(path string, edit func(file []byte) ([]byte, error)) error {
	path, err := filepath.EvalSymlinks(path)
	if err != nil {
		return fmt.Errorf("changing the configuration: %w", err)
	}
	file, err := os.ReadFile(path)
	if err != nil {
		return fmt.Errorf("changing the configuration: %w", err)
	}
	edited, err := edit(file)
	if err != nil {
		return fmt.Errorf("changing %s: %w", path, err)
	}
	var stat unix.Stat_t
	if err := unix.Stat(path, &stat); err != nil {
		return fmt.Errorf("changing %s: %w", path, err)
	}
	return setup.WriteFile(setup.File{
		Path: path, Mode: os.FileMode(stat.Mode & 0o777), UID: int(stat.Uid), GID: int(stat.Gid), Replace: true,
		Accept: func(written string) error {
			_, err := signer.LoadConfig(written)
			return err
		},
	}, edited)
}
