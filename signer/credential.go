package signer

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
)

// maxCredential bounds a credential; systemd itself allows 1 MiB, a PIN has a few bytes.
const maxCredential = 4096

// ReadCredential reads the secret called name from directory, which is the value of $CREDENTIALS_DIRECTORY (systemd.exec(5),
// LoadCredential=). One trailing newline, as editors and echo leave, is not part of the secret. An empty secret is an
// error. Errors name the file and never its content.
func ReadCredential(directory, name string) (string, error) {
	if err := checkCredentialName(name); err != nil {
		return "", err
	}
	if directory == "" {
		return "", fmt.Errorf("reading credential %s: $CREDENTIALS_DIRECTORY is not set; under systemd use LoadCredential=%s:PATH, by hand set it to a directory that holds the file %[1]s", name, name)
	}
	path := filepath.Join(directory, name)
	file, err := os.Open(path)
	if err != nil {
		return "", fmt.Errorf("reading credential %s: %w", name, err)
	}
	defer file.Close()
	data, err := io.ReadAll(io.LimitReader(file, maxCredential+1))
	if err != nil {
		return "", fmt.Errorf("reading credential %s: %w", name, err)
	}
	if len(data) > maxCredential {
		return "", fmt.Errorf("reading credential %s: %s has more than %d bytes", name, path, maxCredential)
	}
	secret := strings.TrimSuffix(strings.TrimSuffix(string(data), "\n"), "\r")
	switch {
	case secret == "":
		return "", fmt.Errorf("reading credential %s: %s is empty", name, path)
	case strings.ContainsAny(secret, "\x00\r\n"):
		return "", fmt.Errorf("reading credential %s: %s has more than one line, or a NUL", name, path)
	}
	return secret, nil
}

// checkCredentialName makes sure that a name stays within the directory.
func checkCredentialName(name string) error {
	if name == "" || name == "." || name == ".." || strings.ContainsAny(name, "/\x00") {
		return errors.New("a credential name is one path segment, such as hsm-pin")
	}
	return nil
}
