package main

import (
	"context"
	"crypto/ecdsa"
	"errors"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/octo-sts/appliance/signer"
	"github.com/octo-sts/appliance/signer/hsm"
)

// probeKeyPlaced is one HSM that has a probe key now: one line of key generate --probe.
type probeKeyPlaced struct {
	Token   string `json:"token"`
	Already bool   `json:"already"` // it had the key before
	KeyID   string `json:"key_id"`  // the kid of ID tokens that it signs
}

// generateAndTell is key generate --probe.
func generateAndTell(cmd *cobra.Command, flags *keyFlags, config *signer.Config, pins []string) error {
	if config.Probe.Key == "" {
		return usageError{errors.New("the configuration has no section probe: add probe: {issuer: https://DOMAIN" + signer.ProbeIssuerPath + ", key: probe-issuer}, with octo-stsd's domain")}
	}
	placed, err := generateProbeKeys(cmd.Context(), config, pins)
	if err != nil {
		return err
	}
	if flags.output == "json" {
		return writeJSON(cmd.OutOrStdout(), placed)
	}
	if err := writeProbeKeys(cmd.OutOrStdout(), placed); err != nil {
		return err
	}
	_, err = fmt.Fprintln(cmd.OutOrStdout(), "Restart octo-sts-signer where it was running without the section probe.")
	return err
}

// generateProbeKeys makes the key in each HSM that has none.
func generateProbeKeys(ctx context.Context, config *signer.Config, pins []string) ([]probeKeyPlaced, error) {
	placed := []probeKeyPlaced{}
	err := eachToken(ctx, config, pins, func(token *hsm.Token) error {
		key, already, err := findOrGenerate(token, config.Probe.Key, token.GenerateProbeKey)
		if err != nil {
			return err
		}
		public, ok := key.Public().(*ecdsa.PublicKey)
		if !ok {
			return fmt.Errorf("the key %q in %s is a %T, and probes' ID tokens are signed with a P-256 key: name another label under probe.key", config.Probe.Key, token.Info(), key.Public())
		}
		id, err := signer.ProbeKeyID(public)
		placed = append(placed, probeKeyPlaced{Token: token.Info().String(), Already: already, KeyID: id})
		return err
	})
	return placed, err
}

func writeProbeKeys(w io.Writer, placed []probeKeyPlaced) error {
	for _, p := range placed {
		verb := "made the probe's key"
		if p.Already {
			verb = "has the probe's key already"
		}
		if _, err := fmt.Fprintf(w, "%s: %s\n", p.Token, verb); err != nil {
			return err
		}
	}
	return nil
}
