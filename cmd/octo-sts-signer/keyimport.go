package main

import (
	"context"
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
}

func newKeyImportCommand(flags *keyFlags) *cobra.Command {
	var options importOptions
	cmd := &cobra.Command{
		Use:   "import --app ID --pem FILE|-",
		Short: "Put a GitHub App's private key into the HSM",
		Long: `Put a GitHub App's private key into the HSM: sensitive, not extractable, good for
signing alone.

The key is the PEM file that GitHub hands out once when a key is generated; "-"
reads it from standard input, so that it need not lie on a disk. It gets the first
of the App's configured key labels that is still free in the token, or --label.
The fingerprint that is printed is the one that the App's settings page shows.`,
		Args: noArguments,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return importKey(cmd.Context(), flags, options, cmd.InOrStdin(), cmd.OutOrStdout())
		},
	}
	cmd.Flags().Int64Var(&options.appID, "app", 0, "numeric `ID` of the GitHub App")
	cmd.Flags().StringVar(&options.pem, "pem", "", "private key in PEM form, `FILE` or - for standard input")
	cmd.Flags().StringVar(&options.label, "label", "", "CKA_`LABEL` for the key (default: the App's first configured label that is free)")
	return cmd
}

func importKey(ctx context.Context, flags *keyFlags, options importOptions, stdin io.Reader, stdout io.Writer) error {
	switch {
	case options.appID <= 0:
		return usageError{errors.New("--app ID is required: the App's numeric ID, from its settings page")}
	case options.pem == "":
		return usageError{errors.New("--pem FILE is required, or --pem - for standard input")}
	}
	config, err := loadConfig(flags.config)
	if err != nil {
		return err
	}
	app, ok := config.App(options.appID)
	if !ok {
		return usageError{fmt.Errorf("%s lists no App %d under apps", flags.config, options.appID)}
	}
	if owner, taken := config.AppOfKey(options.label); taken && owner.ID != app.ID {
		return usageError{fmt.Errorf("label %q belongs to App %d in %s", options.label, owner.ID, flags.config)}
	}
	// The PEM is read and understood before the PIN is tried.
	text, err := readPEM(options.pem, stdin)
	if err != nil {
		return usageError{err}
	}
	key, err := signer.ParsePrivateKey(text)
	clear(text)
	if err != nil {
		return usageError{fmt.Errorf("reading the private key from %s: %w", pemName(options.pem), err)}
	}

	var report keyReport
	err = withToken(ctx, config, func(token *hsm.Token) error {
		label := options.label
		if label == "" {
			if label, err = freeLabel(token, app); err != nil {
				return err
			}
		}
		imported, err := token.Import(label, key)
		if err != nil {
			return err
		}
		report = reportKey(config, imported.Info())
		return nil
	})
	if err != nil {
		return err
	}
	if flags.output == "json" {
		return writeJSON(stdout, report)
	}
	return writeImportReport(stdout, app.ID, options.pem, report)
}

// freeLabel is the first configured label of the App under which the token has no key yet.
func freeLabel(token *hsm.Token, app signer.AppConfig) (string, error) {
	keys, err := token.Keys()
	if err != nil {
		return "", err
	}
	used := map[string]bool{}
	for _, key := range keys {
		used[key.Label] = true
	}
	for _, label := range app.Keys {
		if !used[label] {
			return label, nil
		}
	}
	return "", fmt.Errorf("no label is free for App %d: each of %q has a key in the token already; add a label to its keys, or give --label", app.ID, app.Keys)
}

func pemName(path string) string {
	if path == "-" {
		return "standard input"
	}
	return path
}

func writeImportReport(w io.Writer, appID int64, pem string, r keyReport) error {
	_, err := fmt.Fprintf(w, `imported and tested: a signature made in the token verifies
label        %s
CKA_ID       %s
fingerprint  %s

Compare the fingerprint with the one under "Private keys" on the settings page of App %d.
`, r.Label, r.ID, r.Fingerprint, appID)
	if err == nil && r.AppID == 0 {
		_, err = fmt.Fprintf(w, "No App uses this label yet: add it to keys of App %d in the configuration.\n", appID)
	}
	if err != nil {
		return err
	}
	if pem == "-" {
		_, err = fmt.Fprintln(w, "If the PEM lies on a disk anywhere, destroy it now: whoever has it is the App.")
	} else {
		_, err = fmt.Fprintf(w, "Then destroy the PEM, for whoever has it is the App: shred -u %s\n", pem)
	}
	return err
}
