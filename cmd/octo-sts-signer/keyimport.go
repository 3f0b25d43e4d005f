package main

import (
	"context"
	"crypto/rsa"
	"errors"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/octo-sts/appliance/signer"
	"github.com/octo-sts/appliance/signer/hsm"
)

type importOptions struct {
	appID int64
	pem   string
	label string
	shred bool
}

func newKeyImportCommand(flags *keyFlags) *cobra.Command {
	var options importOptions
	cmd := &cobra.Command{
		Use:   "import --app ID --pem FILE|-",
		Short: "Put a GitHub App's private key into every HSM",
		Long: `Put a GitHub App's private key into every configured HSM: sensitive, not
extractable, good for signing alone. An HSM that has it already keeps it, so an
import that failed halfway is simply made again.

The key is the PEM file that GitHub hands out once when a key is generated; "-"
reads it from standard input, so that it need not lie on a disk. It gets the first
of the App's configured key labels that is still free in the first HSM, or --label.
The fingerprint that is printed is the one that the App's settings page shows.`,
		Args: noArguments,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return importKey(cmd.Context(), flags, options, cmd.InOrStdin(), cmd.OutOrStdout())
		},
	}
	cmd.Flags().Int64Var(&options.appID, "app", 0, "numeric `ID` of the GitHub App")
	cmd.Flags().StringVar(&options.pem, "pem", "", "private key in PEM form, `FILE` or - for standard input")
	cmd.Flags().StringVar(&options.label, "label", "", "CKA_`LABEL` for the key (default: the App's first configured label that is free)")
	cmd.Flags().BoolVar(&options.shred, "shred", false, shredHelp)
	return cmd
}

// importReport is the answer of key import.
type importReport struct {
	keyReport
	HSMs []placeReport `json:"hsms"`
}

// placeReport is one HSM that has the key now.
type placeReport struct {
	Token   string `json:"token"`
	Already bool   `json:"already"` // it had the key before
}

func importKey(ctx context.Context, flags *keyFlags, options importOptions, stdin io.Reader, stdout io.Writer) error {
	if options.appID <= 0 {
		return usageError{errors.New("--app ID is required: the App's numeric ID, from its settings page")}
	}
	config, app, err := loadApp(flags.config, options.appID, options.label)
	if err != nil {
		return err
	}
	key, source, err := readPrivateKey(options.pem, options.shred, stdin)
	if err != nil {
		return err
	}
	defer source.close()
	pins, err := readPINs(config)
	if err != nil {
		return err
	}
	label := func(labels map[string]hsm.KeyInfo) (string, error) {
		if options.label != "" {
			return options.label, nil
		}
		return configuredLabel(app, labels, key)
	}
	placed, err := importAll(ctx, config, pins, keyImport{key: key, label: label})
	if err != nil {
		return importedSoFar(placed, err)
	}
	report := importReport{keyReport: reportKey(config, placed[0].info)}
	for _, p := range placed {
		report.HSMs = append(report.HSMs, placeReport{p.token.String(), p.already})
	}
	if flags.output == "json" {
		err = writeJSON(stdout, report)
		stdout = io.Discard
	} else {
		err = writeImportReport(stdout, app.ID, report)
	}
	return errors.Join(err, source.farewell(stdout))
}

// loadApp finds an App that the file must list. A label, where it is not empty, must not be that of another App.
func loadApp(path string, appID int64, label string) (*signer.Config, signer.AppConfig, error) {
	config, err := loadConfig(path)
	if err != nil {
		return nil, signer.AppConfig{}, err
	}
	app, ok := config.App(appID)
	if !ok {
		return nil, app, usageError{fmt.Errorf("%s lists no App %d under apps", path, appID)}
	}
	if owner, taken := config.AppOfKey(label); taken && owner.ID != appID {
		return nil, app, usageError{fmt.Errorf("label %q belongs to App %d in %s", label, owner.ID, path)}
	}
	if label == config.Checkpoint.Key {
		return nil, app, usageError{fmt.Errorf("label %q is that of the checkpoint key in %s", label, path)}
	}
	if label != "" && label == config.Probe.Key {
		return nil, app, usageError{fmt.Errorf("label %q is that of the probe's key in %s", label, path)}
	}
	return config, app, nil
}

// configuredLabel is the App's label under which the token has this very key, else its first one that the token has no
// key under.
func configuredLabel(app signer.AppConfig, labels map[string]hsm.KeyInfo, key *rsa.PrivateKey) (string, error) {
	if known := labelOfKey(labels, key); known != "" {
		return known, nil
	}
	for _, label := range app.Keys {
		if _, used := labels[label]; !used {
			return label, nil
		}
	}
	return "", fmt.Errorf("no label is free for App %d: each of %q has a key in the token already; use key rotate, or give --label", app.ID, app.Keys)
}

// importedSoFar adds to an error what was done before it.
func importedSoFar(placed []placedKey, err error) error {
	for _, p := range placed {
		err = fmt.Errorf("%w\n(%s has the key under the label %q; run the command again to go on)", err, p.token, p.info.Label)
	}
	return err
}

func writeImportReport(w io.Writer, appID int64, r importReport) error {
	var errs []error
	print := func(format string, args ...any) {
		_, err := fmt.Fprintf(w, format, args...)
		errs = append(errs, err)
	}
	for _, h := range r.HSMs {
		if h.Already {
			print("%s has the key already; a signature made in it verifies\n", h.Token)
		} else {
			print("%s: imported and tested, a signature made in it verifies\n", h.Token)
		}
	}
	print("label        %s\nCKA_ID       %s\nfingerprint  %s\n\n", r.Label, r.ID, r.Fingerprint)
	print("Compare the fingerprint with the one under \"Private keys\" on the settings page of App %d.\n", appID)
	if r.AppID == 0 {
		print("No App uses this label yet: add it to keys of App %d in the configuration.\n", appID)
	}
	return errors.Join(errs...)
}
