package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/octo-sts/appliance/sts/idsource"
)

func newTokenSourcesCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "token-sources",
		Short: "List the places that ID tokens come from, what each needs, and which it is here",
		Long: `List the sources of ID tokens, in the order in which they are looked for, and say which
one a command would take here. Its name is what --token-source takes. Nothing is asked
over the network.

A token is asked for with the host of --url as its audience, or --audience. A source that
holds a token made beforehand for another audience (circleci, aws, azure) does not send it.

Sources:
` + idsource.Describe() + `
Exit status: 0, or 1 where none is found.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			out := cmd.OutOrStdout()
			fmt.Fprint(out, idsource.Describe())
			source, err := idsource.Find(cmd.Context(), idsource.Config{Audience: "AUDIENCE"})
			if err != nil {
				return &failedError{err}
			}
			_, err = fmt.Fprintf(out, "here: %s\n", source.Name)
			return err
		},
	}
}
