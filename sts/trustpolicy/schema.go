package trustpolicy

import _ "embed"

var (
	//go:embed schema/trust-policy.json
	repositorySchema string
	//go:embed schema/organization-trust-policy.json
	organizationSchema string
	//go:embed schema/trusted-token-issuers.json
	trustedIssuersSchema string
)

// Schemas returns the JSON Schemas (draft 2020-12) of the files of .github/chainguard,
// for editors: "repository" and "organization" for the two kinds of policy (see
// [Kind.String]), "trusted-issuers" for trusted-token-issuers.yaml.
//
// A schema accepts whatever the parser accepts with GitHub's own permissions. What it
// cannot say (that a pattern compiles and is small enough, limits in bytes, loopback)
// the parser says.
func Schemas() map[string][]byte {
	return map[string][]byte{
		Repository.String():   []byte(repositorySchema),
		Organization.String(): []byte(organizationSchema),
		"trusted-issuers":     []byte(trustedIssuersSchema),
	}
}
