package main

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/octo-sts/appliance/signer"
	"github.com/octo-sts/appliance/signer/hsm"
)

// readPINs reads the PIN of each configured HSM, in order, before any of them is tried.
func readPINs(config *signer.Config) ([]string, error) {
	var pins []string
	for _, h := range config.HSMs {
		pin, err := signer.ReadCredential(os.Getenv("CREDENTIALS_DIRECTORY"), h.PINCredential)
		if err != nil {
			return nil, usageError{err}
		}
		pins = append(pins, pin)
	}
	return pins, nil
}

// eachToken lends f each configured HSM's token, logged in, one after the other, and stops at the first error. A PIN is
// tried once, and not at all where the signer's state says that the token refused it before.
func eachToken(ctx context.Context, config *signer.Config, pins []string, f func(token *hsm.Token) error) error {
	for i, h := range config.HSMs {
		err := withTokenOf(ctx, config, h, pins[i], f)
		if err == nil {
			continue
		}
		if len(config.HSMs) == 1 {
			return err
		}
		return fmt.Errorf("hsms[%d]: %w", i, err)
	}
	return nil
}

// withTokenOf does it for one HSM, as the signer's user where this process is root's.
func withTokenOf(ctx context.Context, config *signer.Config, h signer.HSMConfig, pin string, f func(token *hsm.Token) error) error {
	return asSigner(config.Checkpoint.StateDirectory, func() error {
		token, err := hsm.Open(ctx, hsm.TokenConfig{
			Module:      h.Module,
			TokenLabel:  h.TokenLabel,
			TokenSerial: h.TokenSerial,
			Slot:        h.Slot,
			URI:         h.URI,
			PIN:         pin,
			Latch:       signer.NewPINLatch(config.Checkpoint.StateDirectory, h.LatchName()),
			MaxSessions: h.MaxSessions,
		})
		if err != nil {
			return err
		}
		return errors.Join(f(token), token.Close())
	})
}
