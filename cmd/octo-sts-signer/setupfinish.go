package main

import (
	"context"
	"crypto/rand"
	"crypto/rsa"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/octo-sts/appliance/signer"
	"github.com/octo-sts/appliance/signer/hsm"
	"github.com/octo-sts/appliance/signer/setup"
)

const (
	// proofTries is how often GitHub is asked about an App that it has just made, and does not know everywhere yet.
	proofTries = 5
	proofPause = time.Second
)

// tryHSMs shows that each HSM takes the PIN, an import, and the removal of what was imported, with a key of no meaning, and
// makes the checkpoint keys and the probe's.
func (s *setupRun) tryHSMs(ctx context.Context, stdout io.Writer) error {
	trial, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		return fmt.Errorf("making a key to try the HSMs with: %w", err)
	}
	label := "octo-sts-setup-trial-" + strings.ToLower(rand.Text())
	err = eachToken(ctx, s.config, s.pins, func(token *hsm.Token) error {
		if _, err := token.Import(label, trial); err != nil {
			return fmt.Errorf("trying an import: %w", err)
		}
		if err := token.Destroy(label); err != nil {
			return fmt.Errorf("removing the key %q that an import was tried with: %w", label, err)
		}
		_, err := fmt.Fprintf(stdout, "%s: the PIN is right, and it takes imports\n", token.Info())
		return err
	})
	if err != nil {
		return err
	}
	report, err := generateCheckpointKeys(ctx, s.config, s.pins)
	if err != nil {
		return err
	}
	if err := writeGenerateReport(stdout, report); err != nil {
		return err
	}
	placed, err := generateProbeKeys(ctx, s.config, s.pins)
	if err != nil {
		return err
	}
	return writeProbeKeys(stdout, placed)
}

// finish does what follows when GitHub has made the App. Each step is taken whatever became of the others, since the
// secrets are here now and never again; what failed is told with how to go on.
func (s *setupRun) finish(ctx context.Context, agreed setup.Agreed, stdout io.Writer) error {
	app, err := setup.Convert(ctx, s.client, s.appliance.GitHub.APIURL, agreed.Code)
	if err != nil {
		return fmt.Errorf("%w\nGitHub may have made the App %q; its private key was not received and cannot be. Delete the App at %s and run setup again",
			errors.Join(err, s.removePINs()), agreed.Choice.Name, s.appliance.GitHub.AppsURL(agreed.Choice.Owner))
	}
	defer app.Forget()
	// From here on Ctrl-C is not for stopping: what is stopped is lost.
	ctx = context.WithoutCancel(ctx)
	settings := s.appliance.GitHub.AppURL(agreed.Choice.Owner, app.Slug)
	fmt.Fprintf(stdout, "GitHub has made App %d, %s\n  settings     %s\n", app.ID, quoted(app.Slug), settings)

	s.appliance.AppID, s.appliance.AppSlug = app.ID, app.Slug
	s.appliance.KeyName = fmt.Sprintf("app-%d-%s", app.ID, time.Now().UTC().Format("20060102"))
	failed := s.keepKey(ctx, app, settings, stdout)
	if len(agreed.Choice.Events) > 0 {
		s.appliance.WebhookSecret = webhookCredential
		if err := s.keepWebhookSecret(ctx, app, stdout); err != nil {
			failed = append(failed, fmt.Errorf("%w\n  To go on: set another webhook secret at %s, and store the same one:\n  systemd-creds encrypt --name=%s - %s",
				err, settings, webhookCredential, s.credentials.Path(webhookCredential)))
		}
	}
	failed = append(failed, s.writeConfigs(stdout)...)
	if len(failed) > 0 {
		return fmt.Errorf("App %d was made at GitHub, and not everything followed:\n%w", app.ID, errors.Join(failed...))
	}
	return s.sayWhatIsNext(app, stdout)
}

// keepKey puts the App's private key into every HSM and proves each of them to GitHub.
func (s *setupRun) keepKey(ctx context.Context, app *setup.App, settings string, stdout io.Writer) []error {
	key, err := signer.ParsePrivateKey(app.PEM)
	clear(app.PEM)
	var placed []placedKey
	if err == nil {
		placed, err = importAll(ctx, s.config, s.pins, keyImport{
			key:   key,
			label: func(map[string]hsm.KeyInfo) (string, error) { return s.appliance.KeyName, nil },
		})
	}
	for _, p := range placed {
		fmt.Fprintf(stdout, "%s: has the private key\n", p.token)
	}
	if err != nil {
		return []error{s.keyLost(app, settings, len(placed), err)}
	}
	fmt.Fprintf(stdout, "  key          %s\n  fingerprint  %s\n", s.appliance.KeyName, signer.Fingerprint(&key.PublicKey))
	err = eachToken(ctx, s.config, s.pins, func(token *hsm.Token) error {
		key, err := token.Key(s.appliance.KeyName)
		if err == nil {
			err = s.prove(ctx, key, app)
		}
		if err == nil {
			_, err = fmt.Fprintf(stdout, "%s: GitHub knows the App by a JWT signed in it\n", token.Info())
		}
		return err
	})
	if err != nil {
		return []error{fmt.Errorf("the key is in the HSMs, and was not proven: %w\n  To go on: octo-sts-signer key verify --config %s --api-url %s", err, s.signerFile.Path, s.appliance.GitHub.APIURL)}
	}
	return nil
}

// keyLost says how to go on where the key did not get everywhere that it should: with another one, since GitHub hands a
// key out once.
func (s *setupRun) keyLost(app *setup.App, settings string, places int, err error) error {
	how := fmt.Sprintf("octo-sts-signer key import --config %s --app %d --pem FILE --shred", s.signerFile.Path, app.ID)
	if places > 0 { // the label is taken there
		how = fmt.Sprintf("octo-sts-signer key rotate --config %s --app %d --pem FILE --shred, and then key retire --key %s", s.signerFile.Path, app.ID, s.appliance.KeyName)
	}
	return fmt.Errorf("the App's private key is in %d of %d HSMs, and now lost: %w\n  To go on: generate another private key at %s, delete the first one there, and, with the PINs in $CREDENTIALS_DIRECTORY:\n  %s",
		places, len(s.config.HSMs), err, settings, how)
}

func (s *setupRun) prove(ctx context.Context, key *hsm.Key, app *setup.App) error {
	for try := 1; ; try++ {
		jwt, err := signer.SignAppJWT(key, app.ID, time.Now())
		if err == nil {
			_, err = askGitHub(ctx, s.client, s.appliance.GitHub.APIURL, app.ID, jwt.JWT)
		}
		if err == nil || try == proofTries {
			return err
		}
		time.Sleep(proofPause)
	}
}

func (s *setupRun) keepWebhookSecret(ctx context.Context, app *setup.App, stdout io.Writer) error {
	if len(app.WebhookSecret) == 0 {
		return errors.New("GitHub gave no webhook secret")
	}
	if err := s.credentials.Store(ctx, webhookCredential, app.WebhookSecret, s.options.overwrite); err != nil {
		return fmt.Errorf("the webhook's secret is lost: %w", err)
	}
	_, err := fmt.Fprintf(stdout, "  webhook      its secret is encrypted in %s\n", s.credentials.Path(webhookCredential))
	return err
}

// writeConfigs writes both files. One that cannot be written is shown: there is no secret in it.
func (s *setupRun) writeConfigs(stdout io.Writer) []error {
	var failed []error
	for _, c := range []struct {
		file setup.File
		text func() ([]byte, error)
	}{{s.daemonFile, s.appliance.DaemonConfig}, {s.signerFile, s.appliance.SignerConfig}} {
		text, err := c.text()
		if err == nil {
			err = setup.WriteFile(c.file, text)
		}
		if err != nil {
			failed = append(failed, fmt.Errorf("%w\n  To go on: write the file yourself, as it is shown above", err))
			fmt.Fprintf(stdout, "\n%s was to be:\n\n%s\n", c.file.Path, text)
			continue
		}
		fmt.Fprintf(stdout, "wrote %s\n", c.file.Path)
	}
	return failed
}

// quoted is text of somebody else's, fit for a terminal.
func quoted(text string) string { return fmt.Sprintf("%q", text) }

func (s *setupRun) sayWhatIsNext(app *setup.App, stdout io.Writer) error {
	before := ""
	if !s.asked {
		before = "     The PINs came from $CREDENTIALS_DIRECTORY: see that octo-sts-signer.service gets them under the same names.\n"
	}
	if s.options.behindProxy {
		before += `     Have the socket listen for the proxy, and nobody on port 80:
       install -D -m 644 /usr/share/octo-sts/drop-ins/octo-stsd.socket.d/behind-proxy.conf /etc/systemd/system/octo-stsd.socket.d/behind-proxy.conf
       systemctl mask octo-stsd-http.socket
`
	}
	_, err := fmt.Fprintf(stdout, `
Done. Compare the fingerprint with the one under "Private keys" on the App's settings page. What is left:

  1. Look through both configuration files, the issuers above all, and check them:
       octo-stsd check-config --config %s
       octo-sts-signer check-config --config %s
%s  2. systemctl enable --now octo-sts.target
  3. Install the App: %s
  4. Write the first trust policy, .github/chainguard/NAME.sts.yaml in a repository; octo-sts policy lint checks it.
`, s.daemonFile.Path, s.signerFile.Path, before, quoted(app.InstallURL()))
	return err
}
