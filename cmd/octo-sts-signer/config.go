package main

import (
	"errors"
	"fmt"
	"os"

	"github.com/spf13/cobra"

	"github.com/octo-sts/appliance/signer"
	"github.com/octo-sts/appliance/signer/hsm"
	"github.com/octo-sts/appliance/sts/strictyaml"
)

const defaultConfig = "/etc/octo-sts/signer.yaml"

func addConfigFlag(cmd *cobra.Command, path *string) {
	cmd.PersistentFlags().StringVar(path, "config", defaultConfig, "configuration `FILE`")
}

// loadConfig reads signer.yaml. Whatever is wrong with it is exit status 2.
func loadConfig(path string) (*signer.Config, error) {
	config, err := signer.LoadConfig(path)
	var problems strictyaml.Problems
	if errors.As(err, &problems) {
		return nil, usageError{fmt.Errorf("the configuration is wrong:\n%w", problems)}
	}
	if err != nil {
		return nil, usageError{err}
	}
	return config, nil
}

// tokenConfig adds the PIN, and the latch that keeps a refused one from being tried again, to what the file says of a token.
func tokenConfig(h signer.HSMConfig, stateDirectory string) (hsm.TokenConfig, error) {
	pin, err := signer.ReadCredential(os.Getenv("CREDENTIALS_DIRECTORY"), h.PINCredential)
	if err != nil {
		return hsm.TokenConfig{}, usageError{err}
	}
	return hsm.TokenConfig{
		Module:      h.Module,
		TokenLabel:  h.TokenLabel,
		TokenSerial: h.TokenSerial,
		Slot:        h.Slot,
		URI:         h.URI,
		PIN:         pin,
		Latch:       signer.NewPINLatch(stateDirectory, h.LatchName()),
		MaxSessions: h.MaxSessions,
	}, nil
}
