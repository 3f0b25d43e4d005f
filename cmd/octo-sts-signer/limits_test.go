package main

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/octo-sts/appliance/signer"
	"github.com/octo-sts/appliance/signer/hsm"
)

// Packages signer and hsm cannot import each other and both know some limits: what the one lets pass, the other must take.
func TestLimitsAgree(t *testing.T) {
	path := filepath.Join(t.TempDir(), "signer.yaml")
	for sessions, good := range map[int]bool{hsm.MinSessions - 1: false, hsm.MinSessions: true} {
		text := fmt.Sprintf("socket: /s\nallow_users: [root]\nhsms: [{module: %s, slot: 0, pin_credential: p, max_sessions: %d}]\napps: [{id: 1, keys: [k]}]\ncheckpoint: {origin: o, key: c}\n", binary, sessions)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		config, err := signer.LoadConfig(path)
		if (err == nil) != good {
			t.Errorf("max_sessions %d: %v", sessions, err)
		}
		if err == nil && config.HSMs[0].ConcurrentSignatures() != 1 {
			t.Errorf("max_sessions %d lets %d sign at a time, want 1", sessions, config.HSMs[0].ConcurrentSignatures())
		}
	}
	if signer.MinRSABits != hsm.MinRSABits {
		t.Errorf("signer takes RSA keys of %d bits, hsm of %d", signer.MinRSABits, hsm.MinRSABits)
	}
	if signer.MaxKeyLabel != hsm.MaxLabel {
		t.Errorf("signer takes labels of %d bytes, hsm of %d", signer.MaxKeyLabel, hsm.MaxLabel)
	}
}
