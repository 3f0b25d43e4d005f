package main

import (
	"fmt"
	"io"
	"os"
	"strings"
)

// maxIDToken is the longest ID token that an appliance accepts, in bytes.
const maxIDToken = 16 << 10

// readIDToken reads an ID token, of any form, that somebody wants explained; - is
// standard input.
func readIDToken(file string, stdin io.Reader) (string, error) {
	source := stdin
	if file != "-" {
		f, err := os.Open(file)
		if err != nil {
			return "", fmt.Errorf("reading the ID token: %w", err)
		}
		defer f.Close()
		source = f
	}
	data, err := io.ReadAll(io.LimitReader(source, maxIDToken+2))
	if err != nil {
		return "", fmt.Errorf("reading the ID token: %w", err)
	}
	token := strings.TrimSpace(string(data))
	if token == "" || len(token) > maxIDToken {
		return "", fmt.Errorf("reading the ID token: %s holds %d bytes, want 1 to %d", file, len(token), maxIDToken)
	}
	return token, nil
}
