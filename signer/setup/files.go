package setup

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// File is one that is going to be written.
type File struct {
	Path     string
	Mode     os.FileMode
	UID, GID int  // whom it shall belong to; -1: as it comes
	Replace  bool // a file that is there may be replaced
	// Accept says whether what was written, to a file of another name in the same directory, may take its place. nil: yes.
	Accept func(written string) error
}

// Check makes sure that WriteFile can succeed: the directory is there, or can be made, and takes files, and the name is
// free, or that of a file that may be replaced or holds nothing but comments, as packages install it.
func (f File) Check() error {
	directory := filepath.Dir(f.Path)
	if err := os.MkdirAll(directory, 0o755); err != nil {
		return fmt.Errorf("%s cannot be written: %w", f.Path, err)
	}
	switch info, err := os.Lstat(f.Path); {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		return fmt.Errorf("%s cannot be written: %w", f.Path, err)
	case !f.Replace && !onlyComments(f.Path):
		return fmt.Errorf("%s is there already: move it away, or have it replaced with --overwrite; nothing is merged", f.Path)
	case !info.Mode().IsRegular():
		return fmt.Errorf("%s cannot be replaced: it is not a file", f.Path)
	}
	trial, err := os.CreateTemp(directory, ".octo-sts-*")
	if err != nil {
		return fmt.Errorf("%s cannot be written: %w", f.Path, err)
	}
	err = errors.Join(f.give(trial), trial.Close(), os.Remove(trial.Name()))
	if err != nil {
		return fmt.Errorf("%s cannot be written: %w", f.Path, err)
	}
	return nil
}

// onlyComments says whether a file of YAML holds nothing but comments and blank lines.
func onlyComments(path string) bool {
	data, err := os.ReadFile(path)
	if err != nil {
		return false
	}
	for line := range strings.Lines(string(data)) {
		if line = strings.TrimSpace(line); line != "" && !strings.HasPrefix(line, "#") {
			return false
		}
	}
	return true
}

// give sets the mode and the group.
func (f File) give(file *os.File) error {
	if err := file.Chmod(f.Mode); err != nil {
		return err
	}
	if f.UID < 0 && f.GID < 0 {
		return nil
	}
	return file.Chown(f.UID, f.GID)
}

// WriteFile writes a file, durably and whole or not at all: to another name, then under its own.
func WriteFile(f File, data []byte) (err error) {
	directory := filepath.Dir(f.Path)
	temporary, err := os.CreateTemp(directory, ".octo-sts-*")
	if err != nil {
		return fmt.Errorf("writing %s: %w", f.Path, err)
	}
	defer func() {
		if err != nil {
			err = fmt.Errorf("writing %s: %w", f.Path, err)
			_ = temporary.Close()
			_ = os.Remove(temporary.Name()) // gone where it was renamed
		}
	}()
	if err := f.give(temporary); err != nil {
		return err
	}
	if _, err := temporary.Write(data); err != nil {
		return err
	}
	if err := temporary.Sync(); err != nil {
		return err
	}
	if err := temporary.Close(); err != nil {
		return err
	}
	if f.Accept != nil {
		if err := f.Accept(temporary.Name()); err != nil {
			return err
		}
	}
	if f.Replace || onlyComments(f.Path) {
		err = os.Rename(temporary.Name(), f.Path)
	} else if err = os.Link(temporary.Name(), f.Path); err == nil { // unlike a rename, it replaces nothing
		err = os.Remove(temporary.Name())
	}
	if err != nil {
		return err
	}
	return syncDirectory(directory)
}

func syncDirectory(path string) error {
	directory, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(directory.Sync(), directory.Close())
}
