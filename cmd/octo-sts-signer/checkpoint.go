package main

import (
	"bytes"
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

func newCheckpointCommand() *cobra.Command {
	var path string
	cmd := &cobra.Command{
		Use:   "checkpoint",
		Short: "Mend what the signer knows of the checkpoints that it signed",
		Args:  noArguments,
		RunE: func(*cobra.Command, []string) error {
			return usageError{errors.New("a checkpoint command is missing; see octo-sts-signer checkpoint --help")}
		},
	}
	addConfigFlag(cmd, &path)
	cmd.AddCommand(newCheckpointRestoreCommand(&path))
	return cmd
}

func newCheckpointRestoreCommand(config *string) *cobra.Command {
	var source string
	cmd := &cobra.Command{
		Use:   "restore --checkpoint FILE|-",
		Short: "Tell the signer which checkpoint it signed last, where it does not know any more",
		Long: `Tell the signer which checkpoint it signed last, where it does not know any more.

The checkpoint must be signed by the checkpoint key of one of the configured HSMs. Give
the newest one that there is: compare the file checkpoint in the audit log's directory
with the copies that left the machine, in the journal or with an auditor. Whatever is
newer than the one given can be signed again, and differently. So no checkpoint is taken
that is older than the state that is there.`,
		Args: noArguments,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return restoreCheckpoint(cmd.Context(), *config, source, cmd.InOrStdin(), cmd.OutOrStdout())
		},
	}
	cmd.Flags().StringVar(&source, "checkpoint", "", "signed checkpoint, `FILE` or - for standard input")
	return cmd
}

func restoreCheckpoint(ctx context.Context, path, source string, stdin io.Reader, stdout io.Writer) error {
	if source == "" {
		return usageError{errors.New("--checkpoint FILE is required, or --checkpoint - for standard input")}
	}
	config, err := loadConfig(path)
	if err != nil {
		return err
	}
	note, err := readNote(source, stdin)
	if err != nil {
		return usageError{err}
	}
	c, err := checkpoint.Parse(note)
	if err != nil {
		return usageError{err}
	}
	if c.Origin != config.Checkpoint.Origin {
		return usageError{fmt.Errorf("the checkpoint is of the log %s, and checkpoint.origin is %s", c.Origin, config.Checkpoint.Origin)}
	}
	state, err := signer.OpenCheckpointState(config.Checkpoint.StateDirectory)
	if err != nil {
		return err
	}
	defer state.Close()
	// The state is looked at before any PIN is tried.
	if err := mayRestore(state, config, c); err != nil {
		return err
	}
	pins, err := readPINs(config)
	if err != nil {
		return err
	}
	signed, err := verifyOwn(ctx, config, pins, note)
	if err != nil {
		return err
	}
	if err := state.Save(signed); err != nil {
		return err
	}
	_, err = fmt.Fprintf(stdout, "restored: the last checkpoint signed is now that of size %d, root %s\n", c.Size, c.Root)
	return err
}

func readNote(source string, stdin io.Reader) ([]byte, error) {
	if source != "-" {
		file, err := os.Open(source)
		if err != nil {
			return nil, fmt.Errorf("reading the checkpoint: %w", err)
		}
		defer file.Close()
		stdin = file
	}
	note, err := io.ReadAll(io.LimitReader(stdin, checkpoint.MaxNote+1))
	if err != nil {
		return nil, fmt.Errorf("reading the checkpoint: %w", err)
	}
	return note, nil
}

// mayRestore refuses to go back behind a state that is there and whole, or to leave its log.
func mayRestore(state *signer.CheckpointState, config *signer.Config, c checkpoint.Checkpoint) error {
	last, err := state.Load()
	switch {
	case err != nil:
		return nil // missing or damaged: what restore is for
	case last.Checkpoint.Origin != c.Origin:
		return otherLog(state, last, config)
	case last.Checkpoint.Size > c.Size:
		return fmt.Errorf("%s is newer: it has size %d, and the checkpoint given %d", state.Path(), last.Checkpoint.Size, c.Size)
	case last.Checkpoint.Size == c.Size && last.Checkpoint.Root != c.Root:
		return fmt.Errorf("%s and the checkpoint given both have size %d, with the roots %s and %s: two logs were signed; keep both, and find out how", state.Path(), c.Size, last.Checkpoint.Root, c.Root)
	}
	return nil
}

// verifyOwn finds the HSM whose checkpoint key has signed. One that cannot be opened matters only where no other has.
func verifyOwn(ctx context.Context, config *signer.Config, pins []string, note []byte) (signer.SignedCheckpoint, error) {
	var errs []error
	for i, h := range config.HSMs {
		var signed signer.SignedCheckpoint
		err := withTokenOf(ctx, config, h, pins[i], func(token *hsm.Token) error {
			key, err := token.Key(config.Checkpoint.Key)
			if err != nil {
				return err
			}
			vkey, err := checkpoint.EncodeKey(config.Checkpoint.Origin, key.Public())
			if err != nil {
				return err
			}
			signed, err = ownSignature(vkey, note)
			return err
		})
		if err == nil {
			return signed, nil
		}
		errs = append(errs, fmt.Errorf("hsms[%d]: %w", i, err))
	}
	return signer.SignedCheckpoint{}, fmt.Errorf("the checkpoint is not known to be signed by a key of this signer:\n%w", errors.Join(errs...))
}

// ownSignature leaves out the signatures of others, such as witnesses: the state is bounded.
func ownSignature(vkey string, note []byte) (signer.SignedCheckpoint, error) {
	signed, err := signer.NewSignedCheckpoint(vkey, note)
	if err != nil {
		return signer.SignedCheckpoint{}, err
	}
	text := signed.Checkpoint.Text() + "\n"
	for line := range bytes.Lines(note[len(text):]) {
		if own, err := signer.NewSignedCheckpoint(vkey, append([]byte(text), line...)); err == nil {
			return own, nil
		}
	}
	return signer.SignedCheckpoint{}, errors.New("the signature that verifies is not found again")
}
