package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"github.com/octo-sts/appliance/sts/stsclient"
)

// maxInstallationToken is longer than any GitHub token, in bytes.
const maxInstallationToken = 4 << 10

func newRevokeCommand() *cobra.Command {
	var o connection
	var variable string
	c := &cobra.Command{
		Use:   "revoke --url URL [--env NAME]",
		Short: "End a GitHub token's life now",
		Long: `Revoke the GitHub token that comes on standard input, or is in the environment variable
that --env names: never on the command line, where every process of the machine can read it.
The appliance that handed it out passes it on to GitHub, so this works where GitHub itself is out of
reach. A token that was revoked before is no error; one that this appliance does not know is, since
it may have expired, and may live on if another appliance made it.

Exit status: 0 the token is not alive, 1 it could not be revoked, 2 wrong usage.`,
		Example: `  octo-sts revoke --url https://sts.example.com --env GITHUB_TOKEN
  printf %s "$token" | octo-sts revoke --url https://sts.example.com`,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) > 0 { // not quoted: it may be the token
				return errors.New("revoke takes no arguments: the token comes on standard input, or in the variable that --env names")
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, _ []string) error {
			client, err := o.client(cmd.Context(), stsclient.Config{})
			if err != nil {
				return err
			}
			token, err := readInstallationToken(cmd.InOrStdin(), variable)
			if err != nil {
				return err
			}
			if err := client.Revoke(cmd.Context(), token); err != nil {
				return &failedError{err}
			}
			return nil
		},
	}
	o.register(c.Flags())
	c.Flags().StringVar(&variable, "env", "", "environment variable that holds the token (default: it comes on standard input)")
	return c
}

// readInstallationToken reads it from the variable, or from stdin where that is "".
func readInstallationToken(stdin io.Reader, variable string) (string, error) {
	where, text := "standard input", ""
	if variable != "" {
		where, text = fmt.Sprintf("--env %s: the variable", variable), os.Getenv(variable)
	} else {
		data, err := io.ReadAll(io.LimitReader(stdin, maxInstallationToken+1))
		if err != nil {
			return "", fmt.Errorf("reading the token to revoke: %w", err)
		}
		text = string(data)
	}
	text = strings.TrimSpace(text)
	if text == "" || len(text) > maxInstallationToken || strings.ContainsFunc(text, func(r rune) bool { return r <= ' ' || r > '~' }) {
		return "", fmt.Errorf("%s holds no token: there are %d bytes", where, len(text))
	}
	return text, nil
}
