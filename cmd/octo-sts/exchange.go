package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/spf13/cobra"
)

func newExchangeCommand() *cobra.Command {
	var o asking
	var output string
	c := &cobra.Command{
		Use:   "exchange --url URL --scope OWNER[/REPOSITORY] --identity NAME",
		Short: "Exchange this job's ID token for a GitHub token, printed on standard output",
		Long: `Exchange this job's ID token for a GitHub token and print it.

` + tokenSourcesHelp + `

The token lives for an hour, also when the job ends before: where only one command
needs it, "octo-sts exec" runs that and revokes the token after it. Within such a
command, exchange without --scope and --identity prints exec's token, renewed where
it is about to expire.

Exit status: 0 a token was printed, 1 the exchange was refused or failed, 2 wrong usage.`,
		Example: `  octo-sts exchange --url https://sts.example.com --scope my-org/my-repo --identity deploy
  octo-sts exchange --url https://sts.example.com --scope my-org --identity mirror --token-file /run/id-token --output json`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if output != "text" && output != "json" {
				return fmt.Errorf("--output %q: want text or json", output)
			}
			if o.scope != "" && o.identity == "" { // within octo-sts exec, that would be exec's own token
				return errors.New("--scope and --identity are required")
			}
			granted, err := o.exchange(cmd)
			if err != nil {
				return err
			}
			if output == "json" {
				return json.NewEncoder(cmd.OutOrStdout()).Encode(granted)
			}
			_, err = fmt.Fprintln(cmd.OutOrStdout(), granted.Token)
			return err
		},
	}
	o.register(c.Flags())
	c.Flags().StringVar(&output, "output", "text", "text (the token alone) or json (token and expiry)")
	return c
}

// granted is an installation token, as --output json prints it.
type granted struct {
	Token  string    `json:"token"`
	Expiry time.Time `json:"expiry"`
}

// exchange makes an exchange; or it takes what the surrounding octo-sts exec has,
// where that runs and nothing else was asked for.
func (o *asking) exchange(cmd *cobra.Command) (granted, error) {
	if socket := os.Getenv(socketVariable); socket != "" && o.identity == "" {
		return askHolder(cmd.Context(), socket, holderRequest{})
	}
	client, err := o.client(cmd)
	if err != nil {
		return granted{}, err
	}
	t, err := client.Exchange(cmd.Context())
	if err != nil {
		return granted{}, &failedError{err}
	}
	return granted{t.Value, t.Expiry}, nil
}
