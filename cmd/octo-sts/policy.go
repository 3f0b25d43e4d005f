package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/octo-sts/appliance/sts/idtoken"
	"github.com/octo-sts/appliance/sts/trustpolicy"
)

func newPolicyCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "policy",
		Short: "Check trust policies, and explain what one says of a token",
		Long: `Check trust policies, and explain what one says of a token.

These commands use the functions that the exchange uses: they cannot disagree.`,
		Args: subcommandAlone, RunE: showHelp,
	}
	c.AddCommand(newLintCommand(), newExplainCommand(), newSchemaCommand())
	return c
}

func newLintCommand() *cobra.Command {
	output, organization := "", false
	c := &cobra.Command{
		Use:   "lint FILE...",
		Short: "Check policy files and lists of trusted issuers",
		Long: `Check policy files and lists of trusted issuers.

An error is what makes the exchange refuse a file; a warning is what is allowed
and seldom meant.

A policy is read as a repository's own, or as an organization's where its path
shows a checkout of the repository .github (…/.github/.github/chainguard/FILE) or
where it has the key repositories. In a checkout of the organization's policy
repository a relative path does not show that: use --organization there.

Exit status: 0 no errors, 1 errors, 2 wrong usage.`,
		Example: `  octo-sts policy lint .github/chainguard/*.yaml
  octo-sts policy lint --organization .github/chainguard/*.yaml`,
		Args: cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, files []string) error {
			if output != "text" && output != "json" {
				return fmt.Errorf("--output %q: want text or json", output)
			}
			return lint(cmd.OutOrStdout(), files, organization, output)
		},
	}
	c.Flags().BoolVar(&organization, "organization", false, "the policies are an organization's, from its policy repository")
	c.Flags().StringVar(&output, "output", "text", "text or json (one finding a line)")
	return c
}

func lint(w io.Writer, files []string, organization bool, output string) error {
	errorsFound := 0
	for _, file := range files {
		data, err := os.ReadFile(file)
		if err != nil {
			return fmt.Errorf("reading the policy: %w", err)
		}
		for _, f := range findings(file, data, organization) {
			if f.Severity == trustpolicy.Error {
				errorsFound++
			}
			if err := printFinding(w, file, f, output); err != nil {
				return err
			}
		}
	}
	if errorsFound > 0 {
		return errNo
	}
	return nil
}

func findings(file string, data []byte, organization bool) []trustpolicy.Finding {
	// The list of trusted issuers is no policy, and stands in the same directory.
	if organization && filepath.Base(file) != trustpolicy.TrustedIssuersFile {
		return trustpolicy.LintKind(trustpolicy.Organization, file, data, trustpolicy.GitHubPermissions())
	}
	return trustpolicy.Lint(file, data, trustpolicy.GitHubPermissions())
}

func printFinding(w io.Writer, file string, f trustpolicy.Finding, output string) error {
	if output == "json" {
		return json.NewEncoder(w).Encode(struct {
			File     string `json:"file"`
			Line     int    `json:"line,omitempty"`
			Severity string `json:"severity"`
			Rule     string `json:"rule"`
			Message  string `json:"message"`
		}{file, f.Line, f.Severity.String(), f.Rule, f.Message})
	}
	_, err := fmt.Fprintf(w, "%s:%d: %s: %s (%s)\n", file, f.Line, f.Severity, f.Message, f.Rule)
	return err
}

type explainOptions struct {
	policy, token, domain, output string
	organization                  bool
}

func newExplainCommand() *cobra.Command {
	o := explainOptions{}
	c := &cobra.Command{
		Use:   "explain --policy FILE --token FILE|- --domain NAME",
		Short: "Tell, claim by claim, why a policy says yes or no to an ID token",
		Long: `Tell, claim by claim, why a policy says yes or no to an ID token.

The token's claims are read; its signature, its issuer's keys and its times are
not checked, so an old token serves. Nothing leaves this machine.
Exit status: 0 the policy would grant, 1 it would not, 2 wrong usage.`,
		Example: "  octo-sts policy explain --policy .github/chainguard/deploy.sts.yaml --token id-token.txt --domain sts.example.com",
		Args:    cobra.NoArgs,
		RunE:    func(cmd *cobra.Command, _ []string) error { return o.run(cmd) },
	}
	f := c.Flags()
	f.StringVar(&o.policy, "policy", "", "trust policy file (required)")
	f.StringVar(&o.token, "token", "", "file that holds an ID token; - is standard input (required)")
	f.StringVar(&o.domain, "domain", "", "the appliance's domain: the audience that counts where the policy names none (required)")
	f.BoolVar(&o.organization, "organization", false, "the policy is an organization's, from its policy repository")
	f.StringVar(&o.output, "output", "text", "text or json")
	return c
}

func (o *explainOptions) run(cmd *cobra.Command) error {
	if o.policy == "" || o.token == "" || o.domain == "" {
		return errors.New("--policy, --token and --domain are required")
	}
	if o.output != "text" && o.output != "json" {
		return fmt.Errorf("--output %q: want text or json", o.output)
	}
	data, err := os.ReadFile(o.policy)
	if err != nil {
		return fmt.Errorf("reading the policy: %w", err)
	}
	raw, err := readIDToken(o.token, cmd.InOrStdin())
	if err != nil {
		return err
	}
	token, err := idtoken.ParseUnverified(raw)
	if err != nil {
		return &failedError{fmt.Errorf("reading the ID token: %w", err)}
	}
	kind := trustpolicy.Repository
	if o.organization {
		kind = trustpolicy.Organization
	}
	policy, err := trustpolicy.Parse(kind, o.policy, data, trustpolicy.GitHubPermissions())
	if err != nil {
		return &failedError{fmt.Errorf("the policy grants nothing to anyone:\n%w", err)}
	}
	decision := policy.Match(trustpolicy.Actor{
		Issuer: token.Issuer, Subject: token.Subject, Audience: token.Audience, Claims: token.Claims,
	}, o.domain)
	if err := o.print(cmd.OutOrStdout(), policy, decision); err != nil {
		return err
	}
	if !decision.Granted {
		return errNo
	}
	return nil
}

func (o *explainOptions) print(w io.Writer, policy *trustpolicy.TrustPolicy, d trustpolicy.Decision) error {
	if o.output == "json" {
		return json.NewEncoder(w).Encode(struct {
			Granted     bool                `json:"granted"`
			Checks      []trustpolicy.Check `json:"checks"`
			Hints       []string            `json:"hints,omitempty"`
			Permissions map[string]string   `json:"permissions"`
		}{d.Granted, d.Checks, d.Hints(), policy.Permissions()})
	}
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	for _, c := range d.Checks {
		verdict := "yes"
		if !c.OK {
			verdict = "NO"
		}
		fmt.Fprintf(table, "%s\t%s\tthe policy wants\t%s\n\t\tthe token has\t%s\n", verdict, printable(c.Field), asWritten(c.Want), printable(c.Got))
	}
	if err := table.Flush(); err != nil {
		return err
	}
	for _, hint := range d.Hints() {
		fmt.Fprintf(w, "hint: %s\n", printable(hint))
	}
	if !d.Granted {
		_, err := fmt.Fprintln(w, "The policy would refuse this token.")
		return err
	}
	_, err := fmt.Fprintf(w, "The policy would grant this token: %s\n", formatPermissions(policy.Permissions()))
	return err
}

// asWritten is printable for a pattern, whose backslashes are to be read as the policy has them.
func asWritten(pattern string) string {
	return strings.ReplaceAll(printable(pattern), `\\`, `\`)
}
