package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"

	"github.com/octo-sts/appliance/signer"
	"github.com/octo-sts/appliance/signer/hsm"
	"github.com/octo-sts/appliance/sts/audit/checkpoint"
)

func newKeyGenerateCommand(flags *keyFlags) *cobra.Command {
	var probe bool
	cmd := &cobra.Command{
		Use:   "generate",
		Short: "Make the checkpoint key in every HSM, and begin the log where it is new",
		Long: `Make the checkpoint key in every HSM that has none, and begin the log where it is new.

The key signs the audit log's checkpoints. It is made in the HSM and cannot leave it,
so each HSM has its own. The verifier keys that are printed are what an auditor keeps,
all of them, away from this machine: octo-sts audit verify --key takes them.

Where no HSM had the key, and checkpoint.state_directory says nothing of a checkpoint
signed before, the log is new: its state of no entries is signed and written. A state
that was lost is not made anew: see octo-sts-signer checkpoint restore. Running the
command again changes nothing and prints the same keys.

With --probe, the key under probe.key is made instead, with which the signer signs the
ID tokens that the daemon probes itself with: P-256, and each HSM has its own, too.`,
		Args: noArguments,
		RunE: func(cmd *cobra.Command, _ []string) error {
			config, err := loadConfig(flags.config)
			if err != nil {
				return err
			}
			pins, err := readPINs(config)
			if err != nil {
				return err
			}
			if probe {
				return generateAndTell(cmd, flags, config, pins)
			}
			report, err := generateCheckpointKeys(cmd.Context(), config, pins)
			if err != nil {
				return err
			}
			if flags.output == "json" {
				return writeJSON(cmd.OutOrStdout(), report)
			}
			return writeGenerateReport(cmd.OutOrStdout(), report)
		},
	}
	cmd.Flags().BoolVar(&probe, "probe", false, "make the probe's key (probe.key), not the checkpoint key")
	return cmd
}

// generateReport is the answer of key generate.
type generateReport struct {
	Origin string           `json:"origin"`
	Began  bool             `json:"began"` // the log is new, and its state was made
	HSMs   []generatePlaced `json:"hsms"`
}

// generatePlaced is one HSM that has a checkpoint key now.
type generatePlaced struct {
	Token       string `json:"token"`
	Already     bool   `json:"already"` // it had the key before
	VerifierKey string `json:"verifier_key"`
}

// generateCheckpointKeys looks at the state and at every HSM before it changes anything.
func generateCheckpointKeys(ctx context.Context, config *signer.Config, pins []string) (*generateReport, error) {
	state, err := stateToBegin(config)
	if err != nil {
		return nil, err
	}
	if state != nil {
		defer state.Close()
	}
	report := &generateReport{Origin: config.Checkpoint.Origin, HSMs: []generatePlaced{}}
	known := 0
	err = eachToken(ctx, config, pins, func(token *hsm.Token) error {
		key, err := token.Key(config.Checkpoint.Key)
		if errors.Is(err, hsm.ErrKeyNotFound) {
			return nil
		}
		known++
		return report.add(token, key, true, err)
	})
	switch {
	case err != nil:
		return nil, err
	case known > 0 && state != nil:
		return nil, fmt.Errorf("the key %q is in %d of %d HSMs, and %s is missing, which says what it signed last: run octo-sts-signer checkpoint restore with the newest checkpoint that you have; only if the key never signed one, destroy it with the HSM's own tool and run key generate again",
			config.Checkpoint.Key, known, len(config.HSMs), state.Path())
	case known == len(config.HSMs):
		return report, nil
	}
	report.HSMs = report.HSMs[:0]
	err = eachToken(ctx, config, pins, func(token *hsm.Token) error {
		key, already, err := findOrGenerate(token, config.Checkpoint.Key, token.GenerateCheckpointKey)
		if err == nil && state != nil && !report.Began {
			if err := beginLog(state, config.Checkpoint, key); err != nil {
				return errors.Join(err, withdraw(token, config.Checkpoint.Key, already))
			}
			report.Began = true
		}
		return report.add(token, key, already, err)
	})
	return report, err
}

func (r *generateReport) add(token *hsm.Token, key *hsm.Key, already bool, err error) error {
	if err != nil {
		return err
	}
	vkey, err := checkpoint.EncodeKey(r.Origin, key.Public())
	r.HSMs = append(r.HSMs, generatePlaced{Token: token.Info().String(), Already: already, VerifierKey: vkey})
	return err
}

// stateToBegin returns the state, locked, where there is none yet, and nil where the log has begun.
func stateToBegin(config *signer.Config) (*signer.CheckpointState, error) {
	state, err := signer.OpenCheckpointState(config.Checkpoint.StateDirectory)
	if errors.Is(err, signer.ErrCheckpointStateLocked) {
		return nil, nil // a signer that serves keeps the lock once it has a state
	}
	if err != nil {
		return nil, err
	}
	last, err := state.Load()
	switch {
	case errors.Is(err, os.ErrNotExist):
		return state, nil
	case err != nil:
		err = fmt.Errorf("%w; run octo-sts-signer checkpoint restore with the newest checkpoint that you have", err)
	case last.Checkpoint.Origin != config.Checkpoint.Origin:
		err = otherLog(state, last, config)
	}
	return nil, errors.Join(err, state.Close())
}

func otherLog(state *signer.CheckpointState, last signer.SignedCheckpoint, config *signer.Config) error {
	return fmt.Errorf("%s is of the log %s, and checkpoint.origin is %s: each log needs a checkpoint.state_directory and a checkpoint.key of its own", state.Path(), last.Checkpoint.Origin, config.Checkpoint.Origin)
}

func findOrGenerate(token *hsm.Token, label string, generate func(string) (*hsm.Key, error)) (key *hsm.Key, already bool, err error) {
	key, err = token.Key(label)
	if errors.Is(err, hsm.ErrKeyNotFound) {
		key, err = generate(label)
		return key, false, err
	}
	return key, true, err
}

// beginLog signs the checkpoint of a log without entries, and makes it the state.
func beginLog(state *signer.CheckpointState, config signer.CheckpointConfig, key *hsm.Key) error {
	first, err := signer.SignCheckpoint(checkpoint.Empty(config.Origin), key)
	if err != nil {
		return err
	}
	return state.Save(first)
}

func writeGenerateReport(w io.Writer, report *generateReport) error {
	for _, h := range report.HSMs {
		verb := "made the checkpoint key"
		if h.Already {
			verb = "has the checkpoint key already"
		}
		fmt.Fprintf(w, "%s: %s\n%s\n", h.Token, verb, h.VerifierKey)
	}
	if report.Began {
		fmt.Fprintf(w, "The log %s has begun: no checkpoint of entries is signed yet.\n", report.Origin)
	}
	_, err := fmt.Fprintln(w, "Keep every verifier key where whoever takes over this machine cannot change it: it is what audit verify --key needs.")
	return err
}
