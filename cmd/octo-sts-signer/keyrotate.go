package main

import (
	"context"
	"crypto/rsa"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"github.com/octo-sts/appliance/signer"
	"github.com/octo-sts/appliance/signer/hsm"
	"github.com/octo-sts/appliance/signer/setup"
)

// jwtLife is how long GitHub may still see App JWTs that the old key signed: nine minutes, and one for clocks.
const jwtLife = 10 * time.Minute

type rotateOptions struct {
	importOptions
	apiURL string
	caFile string
}

func newKeyRotateCommand(flags *keyFlags) *cobra.Command {
	var options rotateOptions
	cmd := &cobra.Command{
		Use:   "rotate --app ID --pem FILE|-",
		Short: "Switch an App to a new private key, without a failed exchange",
		Long: `Switch an App to a new private key, without a failed exchange.

First generate the key at GitHub, on the App's settings page under "Private keys".
Then this command imports it into every HSM under a label of its own, proves it to
GitHub with GET /app, signed in each HSM, makes it the first of the App's keys in
signer.yaml, where it leaves everything else as it is, and has the running signer
reload. The old key stands by. Where a step fails, the one before it holds: the old
key signs, or the new one does, and the command can be run again.

Afterwards, when the App JWTs that the old key signed have expired: delete the old
key at GitHub, and here with key retire. To go back instead, put the old label
first in signer.yaml again and reload the signer.`,
		Args: noArguments,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return rotateKey(cmd.Context(), flags, options, cmd.InOrStdin(), cmd.OutOrStdout())
		},
	}
	cmd.Flags().Int64Var(&options.appID, "app", 0, "numeric `ID` of the GitHub App")
	cmd.Flags().StringVar(&options.pem, "pem", "", "new private key in PEM form, `FILE` or - for standard input")
	cmd.Flags().StringVar(&options.label, "label", "", "CKA_`LABEL` for the new key (default: app-ID-YYYYMMDD)")
	cmd.Flags().BoolVar(&options.shred, "shred", false, shredHelp)
	cmd.Flags().StringVar(&options.apiURL, "api-url", "https://api.github.com", "base `URL` of GitHub's API; for GitHub Enterprise Server https://HOST/api/v3")
	cmd.Flags().StringVar(&options.caFile, "ca-file", "", "trust only the certificate authorities in this PEM `FILE` (default: the system's)")
	return cmd
}

func rotateKey(ctx context.Context, flags *keyFlags, options rotateOptions, stdin io.Reader, stdout io.Writer) error {
	if flags.output != "text" {
		return usageError{errors.New("key rotate answers in text alone")}
	}
	if options.appID <= 0 {
		return usageError{errors.New("--app ID is required: the App's numeric ID, from its settings page")}
	}
	config, app, err := loadApp(flags.config, options.appID, options.label)
	if err != nil {
		return err
	}
	github, err := newGitHubClient(options.apiURL, options.caFile)
	if err != nil {
		return usageError{err}
	}
	// An edit of the file that would be refused is refused before anything is imported.
	if err := tryEdit(flags.config, app.ID); err != nil {
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
	placed, err := importAll(ctx, config, pins, rotation(ctx, config, app, options, key, github))
	if err != nil {
		return fmt.Errorf("%w\nApp %d goes on with the key %q: the configuration was not changed", importedSoFar(placed, err), app.ID, app.Keys[0])
	}
	label, fingerprint := placed[0].info.Label, signer.Fingerprint(&key.PublicKey)
	err = editConfig(flags.config, func(file []byte) ([]byte, error) { return setup.PutKeyFirst(file, app.ID, label) })
	if err != nil {
		return fmt.Errorf("%w\nThe key is in every HSM under the label %q: put that first under keys of App %d in %s, and reload the signer", err, label, app.ID, flags.config)
	}
	fmt.Fprintf(stdout, "App %d has the new key %q in %d HSM(s), GitHub knows it, and %s names it first.\nfingerprint  %s\n", app.ID, label, len(placed), flags.config, fingerprint)
	err = source.farewell(stdout)
	return errors.Join(err, reloadForKey(ctx, config.Socket, app, label, fingerprint, stdout))
}

// rotation is the import of a new key, with its label, and what it has to show.
func rotation(ctx context.Context, config *signer.Config, app signer.AppConfig, options rotateOptions, key *rsa.PrivateKey, github *http.Client) keyImport {
	return keyImport{
		key: key,
		label: func(labels map[string]hsm.KeyInfo) (string, error) {
			known := labelOfKey(labels, key)
			switch {
			case known == app.Keys[0] && known != "":
				return "", fmt.Errorf("this is the key %q, with which App %d signs already: generate another one at GitHub", known, app.ID)
			case options.label != "":
				return options.label, nil
			case known != "":
				return known, nil
			}
			return datedLabel(config, app.ID, labels, time.Now()), nil
		},
		prove: func(key *hsm.Key) error {
			jwt, err := signer.SignAppJWT(key, app.ID, time.Now())
			if err == nil {
				_, err = askGitHub(ctx, github, options.apiURL, app.ID, jwt.JWT)
			}
			return err
		},
	}
}

// datedLabel is app-ID-YYYYMMDD, with a number after it where that is taken, in the token or in the configuration.
func datedLabel(config *signer.Config, appID int64, labels map[string]hsm.KeyInfo, now time.Time) string {
	day := fmt.Sprintf("app-%d-%s", appID, now.UTC().Format("20060102"))
	label := day
	for n := 2; ; n++ {
		_, inToken := labels[label]
		if !inToken && !slices.Contains(config.KeyLabels(), label) {
			return label
		}
		label = fmt.Sprintf("%s-%d", day, n)
	}
}

// reloadForKey has the running signer take the key up, and says how to go on.
func reloadForKey(ctx context.Context, socket string, app signer.AppConfig, label, fingerprint string, stdout io.Writer) error {
	err := signalSigner(ctx, socket)
	if err == nil {
		err = awaitSigner(ctx, socket, func(status signer.Status) bool {
			return slices.ContainsFunc(status.Apps, func(a signer.AppStatus) bool {
				return a.AppID == app.ID && a.Ready && a.Key == label && a.Fingerprint == fingerprint
			})
		})
	}
	switch {
	case onlySaid(err):
		fmt.Fprintf(stdout, "%v\n", err)
	case err != nil:
		return err
	default:
		fmt.Fprintln(stdout, "The running signer signs with it.")
	}
	fmt.Fprintf(stdout, "\nOnce that is so for %s, at %s at the earliest, no App JWT of the old key is left. Then\n", jwtLife, time.Now().Add(jwtLife).Format("15:04:05 MST"))
	fmt.Fprintf(stdout, "  delete the old key at GitHub: the App's settings page, Private keys\n")
	for _, old := range app.Keys {
		if old != label {
			fmt.Fprintf(stdout, "  octo-sts-signer key retire --app %d --key %s\n", app.ID, old)
		}
	}
	return nil
}

// tryEdit makes the edit of a rotation without writing it.
func tryEdit(path string, appID int64) error {
	file, err := os.ReadFile(path)
	if err == nil {
		_, err = setup.PutKeyFirst(file, appID, "new")
	}
	if err != nil {
		return usageError{fmt.Errorf("the keys of App %d in %s: %w; import the key with key import --label, and put its label first by hand", appID, path, err)}
	}
	return nil
}
