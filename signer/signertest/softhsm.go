// Package signertest runs a real signer for tests and demonstrations: an ephemeral SoftHSM token in a directory of the
// caller's, keys imported with the real program, and the real program serving them.
//
// It is no fake: nothing here signs, and the protocol is spoken by package signer's own client. It is not for production
// either: the PIN lies in a file beside the token, and SoftHSM keeps keys on the disk.
package signertest

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
)

// SoftHSM is one initialized SoftHSM token of its own, apart from any token of the machine.
type SoftHSM struct {
	Module     string // path of libsofthsm2.so
	ConfigFile string // for the environment of whatever loads Module: SOFTHSM2_CONF
	TokenLabel string
	PIN        string
}

// InitSoftHSM makes a token in directory, which must exist. It needs softhsm2-util and libsofthsm2.so: Debian's package
// is softhsm2, Fedora's is softhsm.
func InitSoftHSM(ctx context.Context, directory, tokenLabel, pin string) (*SoftHSM, error) {
	module, err := FindSoftHSM()
	if err != nil {
		return nil, err
	}
	directory, err = filepath.Abs(directory)
	if err != nil {
		return nil, fmt.Errorf("making a SoftHSM token: %w", err)
	}
	tokens := filepath.Join(directory, "tokens")
	if err := os.Mkdir(tokens, 0o700); err != nil {
		return nil, fmt.Errorf("making a SoftHSM token: %w", err)
	}
	s := &SoftHSM{Module: module, ConfigFile: filepath.Join(directory, "softhsm2.conf"), TokenLabel: tokenLabel, PIN: pin}
	conf := fmt.Sprintf("directories.tokendir = %s\nobjectstore.backend = file\nlog.level = ERROR\nslots.removable = false\n", tokens)
	if err := os.WriteFile(s.ConfigFile, []byte(conf), 0o600); err != nil {
		return nil, fmt.Errorf("making a SoftHSM token: %w", err)
	}
	if err := s.InitToken(ctx, tokenLabel, pin); err != nil {
		return nil, err
	}
	return s, nil
}

// InitToken adds another token to the same SoftHSM, for tests of what happens where there are several.
func (s *SoftHSM) InitToken(ctx context.Context, label, pin string) error {
	cmd := exec.CommandContext(ctx, "softhsm2-util", "--init-token", "--free", "--label", label, "--pin", pin, "--so-pin", "security-officer")
	cmd.Env = append(os.Environ(), s.Env())
	if output, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("initializing SoftHSM token %q: %w\n%s", label, err, output)
	}
	return nil
}

// Env is the environment variable that points SoftHSM at this token.
func (s *SoftHSM) Env() string { return "SOFTHSM2_CONF=" + s.ConfigFile }

// FindSoftHSM returns the path of SoftHSM's PKCS#11 module where Debian, Fedora and their kin install it.
func FindSoftHSM() (string, error) {
	patterns := []string{
		"/usr/lib/softhsm/libsofthsm2.so",
		"/usr/lib/*/softhsm/libsofthsm2.so",
		"/usr/lib64/pkcs11/libsofthsm2.so",
		"/usr/lib64/softhsm/libsofthsm2.so",
		"/usr/lib64/libsofthsm2.so",
		"/usr/local/lib/softhsm/libsofthsm2.so",
	}
	for _, pattern := range patterns {
		found, err := filepath.Glob(pattern)
		if err == nil && len(found) > 0 {
			return found[0], nil
		}
	}
	return "", errors.New("libsofthsm2.so is not installed: apt-get install softhsm2, or dnf install softhsm")
}
