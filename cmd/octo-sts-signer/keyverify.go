package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"

	"github.com/spf13/cobra"

	"github.com/octo-sts/appliance/signer"
	"github.com/octo-sts/appliance/signer/hsm"
)

type verifyOptions struct {
	apiURL  string
	caFile  string
	offline bool
}

func newKeyVerifyCommand(flags *keyFlags) *cobra.Command {
	var options verifyOptions
	cmd := &cobra.Command{
		Use:   "verify",
		Short: "Prove that each configured key signs, and that GitHub knows it",
		Long: `Prove that each configured key signs, and that GitHub knows it.

For every label of every App, in every HSM: the key is in the token, alone under its label and
CKA_ID, sensitive and not extractable; it makes a signature that software verifies;
and GitHub answers GET /app to a JWT signed with it, with this App's ID. --offline
leaves the last one out. Exit status 1 where any of it fails.`,
		Args: noArguments,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return verifyKeys(cmd.Context(), flags, options, cmd.OutOrStdout())
		},
	}
	cmd.Flags().StringVar(&options.apiURL, "api-url", "https://api.github.com", "base `URL` of GitHub's API; for GitHub Enterprise Server https://HOST/api/v3")
	cmd.Flags().StringVar(&options.caFile, "ca-file", "", "trust only the certificate authorities in this PEM `FILE` (default: the system's)")
	cmd.Flags().BoolVar(&options.offline, "offline", false, "do not ask GitHub")
	return cmd
}

// verifyReport is the outcome for one configured key in one HSM.
type verifyReport struct {
	Token       string `json:"token"`
	AppID       int64  `json:"app_id"`
	Label       string `json:"label"`
	OK          bool   `json:"ok"`
	Fingerprint string `json:"fingerprint,omitempty"`
	Slug        string `json:"slug,omitempty"` // the App's name in URLs, as GitHub told it
	Error       string `json:"error,omitempty"`
}

func verifyKeys(ctx context.Context, flags *keyFlags, options verifyOptions, stdout io.Writer) error {
	config, err := loadConfig(flags.config)
	if err != nil {
		return err
	}
	var github *http.Client
	if !options.offline {
		if github, err = newGitHubClient(options.apiURL, options.caFile); err != nil {
			return usageError{err}
		}
	}
	pins, err := readPINs(config)
	if err != nil {
		return err
	}
	reports := []verifyReport{}
	err = eachToken(ctx, config, pins, func(token *hsm.Token) error {
		for _, app := range config.Apps {
			for _, label := range app.Keys {
				reports = append(reports, verifyKey(ctx, token, app, label, github, options.apiURL))
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	if flags.output == "json" {
		err = writeJSON(stdout, reports)
	} else {
		err = writeVerifyReports(stdout, reports, options.offline)
	}
	failed := 0
	for _, r := range reports {
		if !r.OK {
			failed++
		}
	}
	if failed > 0 {
		return errors.Join(err, fmt.Errorf("%d of %d keys failed", failed, len(reports)))
	}
	return err
}

func verifyKey(ctx context.Context, token *hsm.Token, app signer.AppConfig, label string, github *http.Client, apiURL string) verifyReport {
	report := verifyReport{Token: token.Info().String(), AppID: app.ID, Label: label}
	key, err := token.Key(label)
	if err != nil {
		report.Error = err.Error()
		return report
	}
	report.Fingerprint = signer.Fingerprint(key.Info().Public)
	jwt, err := signer.SignAppJWT(key, app.ID, time.Now())
	if err == nil && github != nil {
		report.Slug, err = askGitHub(ctx, github, apiURL, app.ID, jwt.JWT)
	}
	if err != nil {
		report.Error = err.Error()
		return report
	}
	report.OK = true
	return report
}

func writeVerifyReports(w io.Writer, reports []verifyReport, offline bool) error {
	var errs []error
	for _, r := range reports {
		var err error
		switch {
		case !r.OK:
			_, err = fmt.Fprintf(w, "FAILED  App %d  key %q: %s\n", r.AppID, r.Label, r.Error)
		case offline:
			_, err = fmt.Fprintf(w, "ok      App %d  key %q  %s: signature verified (GitHub not asked)\n", r.AppID, r.Label, r.Fingerprint)
		default:
			_, err = fmt.Fprintf(w, "ok      App %d  key %q  %s: signature verified, GitHub knows the App as %q\n", r.AppID, r.Label, r.Fingerprint, r.Slug)
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}
