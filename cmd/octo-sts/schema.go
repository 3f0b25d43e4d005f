package main

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/octo-sts/appliance/sts/trustpolicy"
)

func newSchemaCommand() *cobra.Command {
	schemas := trustpolicy.Schemas()
	names := slices.Sorted(maps.Keys(schemas))
	return &cobra.Command{
		Use:       "schema {" + strings.Join(names, "|") + "}",
		Short:     "Print the JSON Schema of a kind of policy file, for editors",
		Example:   "  octo-sts policy schema repository > .github/chainguard/schema.json",
		Args:      cobra.ExactArgs(1),
		ValidArgs: names,
		RunE: func(cmd *cobra.Command, args []string) error {
			schema, ok := schemas[args[0]]
			if !ok {
				return fmt.Errorf("there is no schema %q: want %s", args[0], strings.Join(names, " or "))
			}
			_, err := cmd.OutOrStdout().Write(schema)
			return err
		},
	}
}

// formatPermissions writes permissions in a line, sorted.
func formatPermissions(permissions map[string]string) string {
	words := make([]string, 0, len(permissions))
	for _, name := range slices.Sorted(maps.Keys(permissions)) {
		words = append(words, name+": "+permissions[name])
	}
	return strings.Join(words, ", ")
}
