package main

import (
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"

	"github.com/octo-sts/appliance/signer"
	"github.com/octo-sts/appliance/signer/hsm"
	"github.com/octo-sts/appliance/sts/audit/checkpoint"
)

// keyFlags are common to the key commands.
type keyFlags struct {
	config string
	output string
}

func newKeyCommand() *cobra.Command {
	var flags keyFlags
	cmd := &cobra.Command{
		Use:   "key",
		Short: "Generate, import, rotate, retire, list and verify the keys in the HSMs",
		Long: `Generate, import, rotate, retire, list and verify the keys in the HSMs.

Every key command logs in with the PINs from $CREDENTIALS_DIRECTORY. A PIN that an HSM
refuses is tried once, and not again before the credential changes: tokens lock for
good after a few wrong PINs.`,
		Args: noArguments,
		RunE: func(*cobra.Command, []string) error {
			return usageError{errors.New("a key command is missing; see octo-sts-signer key --help")}
		},
		PersistentPreRunE: func(*cobra.Command, []string) error {
			if flags.output != "text" && flags.output != "json" {
				return usageError{fmt.Errorf("--output must be text or json, not %q", flags.output)}
			}
			return nil
		},
	}
	addConfigFlag(cmd, &flags.config)
	cmd.PersistentFlags().StringVar(&flags.output, "output", "text", "`FORMAT` of the answer: text or json")
	cmd.AddCommand(newKeyGenerateCommand(&flags), newKeyImportCommand(&flags), newKeyRotateCommand(&flags), newKeyRetireCommand(&flags), newKeyListCommand(&flags), newKeyVerifyCommand(&flags))
	return cmd
}

// keyReport is one key in the answer of a key command.
type keyReport struct {
	Label       string `json:"label"`
	ID          string `json:"id"` // CKA_ID, hexadecimal
	Type        string `json:"type"`
	Bits        int    `json:"bits,omitempty"`
	Sensitive   bool   `json:"sensitive"`
	Extractable bool   `json:"extractable"`
	Sign        bool   `json:"sign"`
	Fingerprint string `json:"fingerprint,omitempty"`
	AppID       int64  `json:"app_id,omitempty"`       // 0: no App of the configuration uses it
	VerifierKey string `json:"verifier_key,omitempty"` // of the checkpoint key
	Weakness    string `json:"weakness,omitempty"`
}

func reportKey(config *signer.Config, info hsm.KeyInfo) keyReport {
	r := keyReport{
		Label:       info.Label,
		ID:          hex.EncodeToString(info.ID),
		Type:        info.Type,
		Bits:        info.Bits(),
		Sensitive:   info.Sensitive,
		Extractable: info.Extractable,
		Sign:        info.Sign,
		Weakness:    info.Weakness(),
	}
	if info.Public != nil {
		r.Fingerprint = signer.Fingerprint(info.Public)
	}
	if app, ok := config.AppOfKey(info.Label); ok {
		r.AppID = app.ID
	}
	if info.Label == config.Checkpoint.Key {
		vkey, err := checkpoint.EncodeKey(config.Checkpoint.Origin, info.Public)
		if err != nil && r.Weakness == "" {
			r.Weakness = err.Error()
		}
		r.VerifierKey = vkey
	}
	return r
}

func writeJSON(w io.Writer, v any) error {
	encoder := json.NewEncoder(w)
	encoder.SetIndent("", "  ")
	return encoder.Encode(v)
}

// readPEM reads at most one byte more than a private key may have, from a file or, for "-", from standard input. The
// caller clears the result.
func readPEM(path string, stdin io.Reader) ([]byte, error) {
	source := stdin
	if path != "-" {
		file, err := os.Open(path)
		if err != nil {
			return nil, fmt.Errorf("opening the PEM file: %w", err)
		}
		defer file.Close()
		source = file
	}
	// One buffer of full size: growing would leave copies of the key behind.
	buffer := make([]byte, signer.MaxPEM+1)
	n, err := io.ReadFull(source, buffer)
	if err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
		clear(buffer)
		return nil, fmt.Errorf("reading the private key: %w", err)
	}
	return buffer[:n], nil
}
