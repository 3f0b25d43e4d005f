//go:build !linux

package audit

import (
	"errors"
	"fmt"
	"os"
)

// A log is written on Linux alone. It is read and verified everywhere, by the command
// line of whoever audits it; the directory is then a copy of their own.
var errReadOnly = fmt.Errorf("an audit log can be written on Linux alone: %w", errors.ErrUnsupported)

const (
	noFollow = 0
	nonBlock = 0
)

// isLink: without noFollow, the link was followed, so the name is looked at.
func isLink(path string, _ error) bool {
	info, err := os.Lstat(path)
	return err == nil && info.Mode()&os.ModeSymlink != 0
}

type identity struct {
	device, inode uint64
	size          int64
}

func lock(*os.File) error                           { return errReadOnly }
func dropPages(*os.File) error                      { return errReadOnly }
func createAppending(*os.File, string) (int, error) { return 0, errReadOnly }
func identifyOpen(int) (identity, error)            { return identity{}, errReadOnly }
func identify(string) (identity, error)             { return identity{}, errReadOnly }
func syncData(int) error                            { return errReadOnly }
func isFull(error) bool                             { return false }
func isExhausted(error) bool                        { return false }
