package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/octo-sts/appliance/signer"
	"github.com/octo-sts/appliance/signer/hsm"
	"github.com/octo-sts/appliance/signer/setup"
)

type retireOptions struct {
	appID int64
	label string
	yes   bool
}

func newKeyRetireCommand(flags *keyFlags) *cobra.Command {
	var options retireOptions
	cmd := &cobra.Command{
		Use:   "retire --app ID --key LABEL",
		Short: "Destroy a key that no longer signs, in every HSM",
		Long: `Destroy a key that no longer signs, in every HSM.

The key is taken out of signer.yaml first, the running signer reloads, and then both
of its objects are destroyed in each HSM. The first of an App's keys, the one that
signs, is refused. This cannot be undone: the key is asked about, unless --yes, and
once more where the running signer does not tell whether it has reloaded.`,
		Args: noArguments,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return retireKey(cmd.Context(), flags, options, cmd.InOrStdin(), cmd.OutOrStdout())
		},
	}
	cmd.Flags().Int64Var(&options.appID, "app", 0, "numeric `ID` of the GitHub App")
	cmd.Flags().StringVar(&options.label, "key", "", "CKA_`LABEL` of the key")
	cmd.Flags().BoolVar(&options.yes, "yes", false, "do not ask")
	return cmd
}

func retireKey(ctx context.Context, flags *keyFlags, options retireOptions, stdin io.Reader, stdout io.Writer) error {
	if flags.output != "text" {
		return usageError{errors.New("key retire answers in text alone")}
	}
	if options.appID <= 0 || options.label == "" {
		return usageError{errors.New("--app ID and --key LABEL are required")}
	}
	config, app, err := loadApp(flags.config, options.appID, options.label)
	if err != nil {
		return err
	}
	switch i := slices.Index(app.Keys, options.label); i {
	case -1:
		return usageError{fmt.Errorf("App %d has no key %q in %s: it has %q", app.ID, options.label, flags.config, app.Keys)}
	case 0:
		return usageError{fmt.Errorf("%q is the key that App %d signs with: make another one first with key rotate", options.label, app.ID)}
	}
	pins, err := readPINs(config)
	if err != nil {
		return err
	}
	answers := bufio.NewReader(io.LimitReader(stdin, 200))
	confirmed := func(question string) error {
		if options.yes {
			return nil
		}
		return confirm(answers, stdout, question+" Type yes: ")
	}
	if err := confirmed(fmt.Sprintf("Destroy the key %q of App %d in %d HSM(s)? There is no way back.", options.label, app.ID, len(config.HSMs))); err != nil {
		return fmt.Errorf("%w: nothing was changed", err)
	}
	err = editConfig(flags.config, func(file []byte) ([]byte, error) { return setup.RemoveKey(file, app.ID, options.label) })
	if err != nil {
		return err
	}
	// A signer that still knows the key would report that it is missing: it signs with the first one all the same.
	if err := reloadWithout(ctx, config.Socket, options.label, confirmed); err != nil {
		return fmt.Errorf("%w\nThe key %q is out of %s and still in the HSMs: put it back as the last of App %d's keys to run key retire again", err, options.label, flags.config, app.ID)
	}
	err = destroyAll(ctx, config, pins, options.label, stdout)
	if err != nil {
		return fmt.Errorf("%w\nThe key %q is out of %s: destroy it in the HSM with the vendor's tool", err, options.label, flags.config)
	}
	_, err = fmt.Fprintf(stdout, "Delete the key at GitHub too, if that is not done: the App's settings page, Private keys. App JWTs that it signed are good\nfor nine minutes, so not before the signer has signed with another key for ten.\n")
	return err
}

// reloadWithout makes sure that the running signer does not sign with the key any more. Where it does not tell, it may: a
// reload that it refuses leaves everything as it was.
func reloadWithout(ctx context.Context, socket, label string, confirmed func(question string) error) error {
	err := signalSigner(ctx, socket)
	if err == nil {
		err = awaitSigner(ctx, socket, func(status signer.Status) bool {
			return !slices.ContainsFunc(status.HSMs, func(h signer.HSMStatus) bool {
				return slices.ContainsFunc(h.Keys, func(k signer.KeyStatus) bool { return k.Key == label })
			})
		})
	}
	switch {
	case errors.Is(err, errNoSigner):
		return nil
	case onlySaid(err):
		return confirmed(fmt.Sprintf("%v.\nA signer that has not taken it up may still sign with the key %q: destroy it nevertheless?", err, label))
	}
	return err
}

func destroyAll(ctx context.Context, config *signer.Config, pins []string, label string, stdout io.Writer) error {
	return eachToken(ctx, config, pins, func(token *hsm.Token) error {
		err := token.Destroy(label)
		if errors.Is(err, hsm.ErrKeyNotFound) {
			_, err = fmt.Fprintf(stdout, "%s has no key %q\n", token.Info(), label)
			return err
		}
		if err == nil {
			_, err = fmt.Fprintf(stdout, "%s: destroyed the key %q\n", token.Info(), label)
		}
		return err
	})
}

// confirm asks for the word yes.
func confirm(answers *bufio.Reader, stdout io.Writer, question string) error {
	fmt.Fprint(stdout, question)
	answer, err := answers.ReadString('\n')
	if err != nil && !errors.Is(err, io.EOF) {
		return fmt.Errorf("reading the answer: %w", err)
	}
	if strings.TrimSpace(answer) != "yes" {
		return errors.New("not confirmed")
	}
	return nil
}
