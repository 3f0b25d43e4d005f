package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"golang.org/x/term"

	"github.com/octo-sts/appliance/signer"
	"github.com/octo-sts/appliance/signer/setup"
)

// maxPIN bounds a line with a PIN, in bytes.
const maxPIN = 1024

// takePINs reads the PIN of each HSM from where it is.
func (s *setupRun) takePINs(ctx context.Context, stdin io.Reader) error {
	directory, set := os.LookupEnv("CREDENTIALS_DIRECTORY")
	switch {
	case s.options.pinStdin:
		return s.readPINLines(stdin)
	case set:
		for _, h := range s.config.HSMs {
			pin, err := signer.ReadCredential(directory, h.PINCredential)
			if err != nil {
				return usageError{err}
			}
			s.pins = append(s.pins, pin)
		}
		return nil
	}
	if err := s.checkPINFiles(); err != nil {
		return err
	}
	for i := range s.config.HSMs {
		pin, err := askPIN(ctx, fmt.Sprintf("PIN of the HSM %s: ", s.options.hsms[i]))
		if err != nil {
			return err
		}
		s.pins = append(s.pins, pin)
	}
	return nil
}

func (s *setupRun) readPINLines(stdin io.Reader) error {
	if err := s.checkPINFiles(); err != nil {
		return err
	}
	lines := bufio.NewScanner(io.LimitReader(stdin, maxPIN*int64(len(s.config.HSMs))))
	for i := range s.config.HSMs {
		if !lines.Scan() || strings.TrimSuffix(lines.Text(), "\r") == "" {
			return usageError{fmt.Errorf("--pin-stdin: line %d of standard input has no PIN for the HSM %s", i+1, s.options.hsms[i])}
		}
		s.pins = append(s.pins, strings.TrimSuffix(lines.Text(), "\r"))
	}
	return nil
}

// checkPINFiles makes sure that the PINs can be kept, and notes that they are to be.
func (s *setupRun) checkPINFiles() error {
	s.asked = true
	for _, h := range s.config.HSMs {
		file := setup.File{Path: s.credentials.Path(h.PINCredential), Mode: 0o600, UID: -1, GID: -1, Replace: s.options.overwrite}
		if err := file.Check(); err != nil {
			return usageError{err}
		}
	}
	return nil
}

// askPIN reads a line from the terminal that does not show it. Where ctx ends, by Ctrl-C for one, the terminal is put
// back as it was.
func askPIN(ctx context.Context, question string) (string, error) {
	terminal, err := os.OpenFile("/dev/tty", os.O_RDWR, 0)
	if err != nil {
		return "", usageError{fmt.Errorf("there is no terminal to ask for the PIN: set $CREDENTIALS_DIRECTORY, or use --pin-stdin (%w)", err)}
	}
	fd := int(terminal.Fd())
	before, err := term.GetState(fd)
	if err != nil {
		return "", errors.Join(fmt.Errorf("asking for the PIN: %w", err), terminal.Close())
	}
	fmt.Fprint(terminal, question)
	type answer struct {
		pin []byte
		err error
	}
	answered := make(chan answer, 1)
	go func() {
		pin, err := term.ReadPassword(fd)
		answered <- answer{pin, err}
	}()
	select {
	case a := <-answered:
		fmt.Fprintln(terminal)
		_ = terminal.Close() // nothing was buffered
		if a.err == nil && len(a.pin) == 0 {
			a.err = errors.New("an empty PIN")
		}
		if a.err != nil {
			return "", fmt.Errorf("asking for the PIN: %w", a.err)
		}
		return string(a.pin), nil
	case <-ctx.Done():
		// The terminal stays open: the read that nobody waits for any more would else go on with another file's descriptor.
		_ = term.Restore(fd, before)
		return "", fmt.Errorf("asking for the PIN: %w", ctx.Err())
	}
}

// storePINs keeps PINs that were typed in, now that the HSMs have taken them, as credentials.
func (s *setupRun) storePINs(ctx context.Context) error {
	if !s.asked {
		return nil
	}
	for i, h := range s.config.HSMs {
		path := s.credentials.Path(h.PINCredential)
		_, before := os.Lstat(path)
		if err := s.credentials.Store(ctx, h.PINCredential, []byte(s.pins[i]), s.options.overwrite); err != nil {
			return errors.Join(err, s.removePINs())
		}
		if errors.Is(before, os.ErrNotExist) {
			s.stored = append(s.stored, path)
		}
	}
	return nil
}

// removePINs undoes storePINs where no App came of it, so that the next run finds the names free. A credential that took
// the place of another stays: a signer may need one under that name, and this one's PIN is good.
func (s *setupRun) removePINs() error {
	var errs []error
	for _, path := range s.stored {
		errs = append(errs, os.Remove(path))
	}
	s.stored = nil
	return errors.Join(errs...)
}
