package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"time"

	"github.com/spf13/cobra"

	"github.com/octo-sts/appliance/signer/setup"
	"github.com/octo-sts/appliance/sts/trustpolicy"
)

// manifestHour is how long GitHub gives for the manifest flow.
const manifestHour = time.Hour

type setupOptions struct {
	domain         string
	hsms           []string
	gitHubURL      string
	apiURL         string
	caFile         string
	tlsCertificate string
	tlsKey         string
	behindProxy    bool
	daemonUser     string
	signerUser     string
	configDir      string
	credentialsDir string
	stateDir       string
	pinStdin       bool
	open           bool
	overwrite      bool
}

func newSetupCommand() *cobra.Command {
	var o setupOptions
	cmd := &cobra.Command{
		Use:   "setup --domain NAME --hsm MODULE:TOKEN",
		Short: "Make a GitHub App whose private key is nowhere but in the HSM",
		Long: `Make a GitHub App whose private key is nowhere but in the HSM.

To be run by the administrator, on the machine that the appliance shall run on. It
serves one page on 127.0.0.1, good for one App and for an hour: there you pick the
App's owner, name, permissions and events, see the manifest, and have the browser
take it to GitHub. From what GitHub answers, the private key goes into every HSM and
the webhook's secret into an encrypted systemd credential; neither is ever in a file
in the clear, on a command line, in a log or on the terminal. Then both configuration
files are written, and the App is proven with GET /app, signed in each HSM.

Everything that can fail is tried before the App is made: the PIN, an import into
each HSM and its removal, the encryption of credentials, the directories. It makes the
checkpoint key as well. Nothing that is there is overwritten, unless --overwrite; but configuration
files that hold nothing but comments, as packages install them, are.

The PIN of each HSM is read from $CREDENTIALS_DIRECTORY (hsm-pin, hsm-pin-2, …) where
that is set; otherwise it is asked for, or read with --pin-stdin, one line for each
HSM, and kept as an encrypted credential.`,
		Args: noArguments,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return runSetup(cmd.Context(), o, cmd.InOrStdin(), cmd.OutOrStdout())
		},
	}
	f := cmd.Flags()
	f.StringVar(&o.domain, "domain", "", "public `NAME` of the appliance, such as sts.example.com")
	f.StringArrayVar(&o.hsms, "hsm", nil, "`MODULE:TOKEN`: path of a PKCS#11 module, and a token's label or its PKCS#11 URI; repeat it for several HSMs, in order of preference")
	f.StringVar(&o.gitHubURL, "github-url", "https://github.com", "`URL` of GitHub's pages; of a GitHub Enterprise Server https://HOST")
	f.StringVar(&o.apiURL, "api-url", "", "base `URL` of GitHub's API (default: follows from --github-url)")
	f.StringVar(&o.caFile, "ca-file", "", "trust only the certificate authorities in this PEM `FILE` for GitHub (default: the system's)")
	f.StringVar(&o.tlsCertificate, "tls-certificate", "", "PEM `FILE` of the daemon's certificate (default: from Let's Encrypt, over ACME)")
	f.StringVar(&o.tlsKey, "tls-key", "", "PEM `FILE` of the certificate's key")
	f.BoolVar(&o.behindProxy, "behind-proxy", false, "a proxy on this machine ends TLS: the daemon serves 127.0.0.1:8443 without it")
	f.StringVar(&o.daemonUser, "daemon-user", "octo-sts", "`USER` that octo-stsd runs as: name or numeric ID")
	f.StringVar(&o.signerUser, "signer-user", "octo-sts-signer", "`USER` that octo-sts-signer runs as: name or numeric ID")
	f.StringVar(&o.configDir, "config-dir", "/etc/octo-sts", "`DIRECTORY` for octo-stsd.yaml and signer.yaml")
	f.StringVar(&o.credentialsDir, "credentials-dir", "/etc/credstore.encrypted", "`DIRECTORY` for encrypted credentials")
	f.StringVar(&o.stateDir, "state-dir", "/var/lib/octo-sts-signer", "the signer's state `DIRECTORY`")
	f.BoolVar(&o.pinStdin, "pin-stdin", false, "read the PINs from standard input, one line for each HSM")
	f.BoolVar(&o.open, "open", false, "open the page with xdg-open (its address, a secret, is then on a command line for a moment)")
	f.BoolVar(&o.overwrite, "overwrite", false, "replace configuration files and credentials that are there")
	return cmd
}

// runSetup is the order of things. Up to the page, nothing has been made at GitHub, and an error leaves nothing behind but
// what a second run finds and uses.
func runSetup(ctx context.Context, o setupOptions, stdin io.Reader, stdout io.Writer) (err error) {
	s, err := planSetup(ctx, o)
	if err != nil {
		return err
	}
	if err := s.takePINs(ctx, stdin); err != nil {
		return err
	}
	if err := s.tryHSMs(ctx, stdout); err != nil {
		return fmt.Errorf("%w\nNothing was made at GitHub", err)
	}
	if err := s.storePINs(ctx); err != nil {
		return fmt.Errorf("%w\nNothing was made at GitHub", err)
	}
	agreed, err := s.askOperator(ctx, stdout)
	if err != nil {
		return errors.Join(err, s.removePINs())
	}
	return s.finish(ctx, agreed, stdout)
}

// askOperator serves the page until the operator has agreed to a manifest at GitHub.
func (s *setupRun) askOperator(ctx context.Context, stdout io.Writer) (setup.Agreed, error) {
	page, err := setup.NewPage(ctx, setup.PageConfig{GitHub: s.appliance.GitHub, Domain: s.options.domain, Catalog: trustpolicy.GitHubPermissions()})
	if err != nil {
		return setup.Agreed{}, err
	}
	defer page.Close()
	host, err := os.Hostname()
	if err != nil {
		host = "THIS-MACHINE"
	}
	fmt.Fprintf(stdout, `
Open this page in a browser on this machine. Its address is a secret, good for an hour:

  %s

Where the browser is on another machine, first run there:  %s

`, page.URL(), page.Elsewhere(host))
	if s.options.open {
		if err := exec.CommandContext(ctx, "xdg-open", page.URL()).Start(); err != nil {
			fmt.Fprintf(stdout, "(The page cannot be opened from here: %v)\n", err)
		}
	}
	waiting, cancel := context.WithTimeout(ctx, manifestHour)
	defer cancel()
	agreed, err := page.Wait(waiting)
	if err != nil {
		return setup.Agreed{}, fmt.Errorf("no App came back from GitHub (%w). If you pressed the button to create it there, delete it: %s", err, s.appliance.GitHub.AppsURL(""))
	}
	return agreed, nil
}
