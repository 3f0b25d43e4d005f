//go:build manual

// With the build tag manual this writes the program's manual page and completions, for the packages.
package main

import "github.com/octo-sts/appliance/packaging/manual"

func main() {
	manual.Main(newCommand(), 1, manual.Page{
		Version: version,
		Summary: "exchange OIDC ID tokens for GitHub tokens",
		Files: [][2]string{
			{".github/chainguard/NAME.sts.yaml", "In a repository, on its default branch: the trust policy of the identity NAME, see sts.yaml(5)."},
			{"/var/log/octo-sts/audit", "Where octo-stsd keeps its audit log."},
		},
		SeeAlso: []string{"sts.yaml(5)", "octo-sts-audit(5)", "octo-sts(7)", "octo-stsd(8)", "octo-sts-signer(8)"},
	}, `octo-sts is the command line of the octo-sts appliance. A CI job runs a command with a GitHub token with exec, or
gets one with exchange or git-credential; an operator asks with doctor and probe whether all is well; whoever writes a trust policy
finds out with policy why it says yes or no; whoever reads the appliance's audit log verifies it with audit, on any machine.
It holds no secret of the appliance and needs none.`)
}
