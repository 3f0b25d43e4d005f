package setup

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// credsTimeout bounds one run of systemd-creds, which may have a TPM to talk to.
const credsTimeout = 30 * time.Second

// Credentials encrypts secrets for this machine alone, with systemd-creds(1), into files that a unit's
// LoadCredentialEncrypted= decrypts at its start. What is decrypted never is on a disk.
type Credentials struct {
	directory string
	program   string // path of systemd-creds
}

// NewCredentials finds systemd-creds and has it encrypt something, so that a machine that cannot is known before a secret
// is there that would have nowhere to go. Credentials are kept in directory.
func NewCredentials(ctx context.Context, directory string) (*Credentials, error) {
	program, err := exec.LookPath("systemd-creds")
	if err != nil {
		return nil, fmt.Errorf("encrypted credentials need systemd-creds, of systemd 250 or later: %w", err)
	}
	c := &Credentials{directory: directory, program: program}
	if _, err := c.encrypt(ctx, "octo-sts-trial", []byte("trial")); err != nil {
		return nil, fmt.Errorf("trying whether this machine can encrypt credentials: %w", err)
	}
	return c, nil
}

// Path is the file of a credential.
func (c *Credentials) Path(name string) string { return filepath.Join(c.directory, name) }

// Store encrypts a secret into the file of a credential. The secret travels through a pipe. Where replace is false, a
// file that is there stays and is an error.
func (c *Credentials) Store(ctx context.Context, name string, secret []byte, replace bool) error {
	encrypted, err := c.encrypt(ctx, name, secret)
	if err != nil {
		return fmt.Errorf("encrypting the credential %s: %w", name, err)
	}
	if err := WriteFile(File{Path: c.Path(name), Mode: 0o600, UID: -1, GID: -1, Replace: replace}, encrypted); err != nil {
		return fmt.Errorf("storing the credential %s: %w", name, err)
	}
	return nil
}

func (c *Credentials) encrypt(ctx context.Context, name string, secret []byte) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, credsTimeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, c.program, "encrypt", "--name="+name, "-", "-")
	cmd.Stdin = bytes.NewReader(secret)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		return nil, fmt.Errorf("systemd-creds encrypt: %w: %s", err, strings.TrimSpace(stderr.String()))
	}
	if stdout.Len() == 0 || bytes.Contains(stdout.Bytes(), secret) {
		return nil, errors.New("systemd-creds encrypt: what it answered is not encrypted")
	}
	return stdout.Bytes(), nil
}
