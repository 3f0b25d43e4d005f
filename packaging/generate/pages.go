package main

import (
	"path/filepath"

	"github.com/octo-sts/appliance/packaging/manual"
	"github.com/octo-sts/appliance/sts/trustpolicy"
)

// writePages writes the manual pages of the file formats into a directory: the configuration of both daemons, and trust policies.
func writePages(version, dir string) error {
	date, err := manual.SourceDate()
	if err != nil {
		return err
	}
	daemon, err := manual.Config(manual.Page{
		Name: "octo-stsd.yaml", Section: 5, Date: date, Version: version, Summary: "configuration of octo-stsd",
		Files:   [][2]string{{"/etc/octo-sts/octo-stsd.yaml", "Readable by root and the group octo-sts."}},
		SeeAlso: []string{"octo-stsd(8)", "signer.yaml(5)", "octo-sts-policy(5)", "systemd-creds(1)"},
	}, "appliance")
	if err != nil {
		return err
	}
	signer, err := manual.Config(manual.Page{
		Name: "signer.yaml", Section: 5, Date: date, Version: version, Summary: "configuration of octo-sts-signer",
		Files:   [][2]string{{"/etc/octo-sts/signer.yaml", "Readable by root and the group octo-sts-signer."}},
		SeeAlso: []string{"octo-sts-signer(8)", "octo-stsd.yaml(5)", "systemd-creds(1)"},
	}, "signer")
	if err != nil {
		return err
	}
	schemas := trustpolicy.Schemas()
	policy, err := manual.Policy(manual.Page{
		Name: "octo-sts-policy", Section: 5, Date: date, Version: version, Summary: "trust policies of the octo-sts appliance",
		Files:   [][2]string{{"/usr/share/octo-sts/schemas", "The JSON Schemas of these files, for editors."}},
		SeeAlso: []string{"octo-sts(1)"},
	}, policyIntroduction,
		schemas[trustpolicy.Repository.String()], schemas[trustpolicy.Organization.String()], schemas["trusted-issuers"])
	if err != nil {
		return err
	}
	for name, page := range map[string][]byte{"octo-stsd.yaml.5": daemon, "signer.yaml.5": signer, "octo-sts-policy.5": policy} {
		if err := manual.WriteGzip(filepath.Join(dir, name+".gz"), page); err != nil {
			return err
		}
	}
	return nil
}

const policyIntroduction = `A trust policy says which OIDC ID tokens, of which issuer and with which subject and claims, may be exchanged for a GitHub
token, and what that token may do. It is a YAML file on the default branch of the repository that the token is for:

    issuer: https://token.actions.githubusercontent.com
    subject: repo:my-org@1234/deployer@5678:environment:production
    permissions:
      contents: read
      deployments: write

Exactly one of ` + "`issuer` and `issuer_pattern`, exactly one of `subject` and `subject_pattern`" + ` must be there, and at most one of
` + "`audience` and `audience_pattern`" + `: where both are left out, the audience is the appliance's domain. Unknown keys are errors,
and a file with an error grants nothing. octo-sts policy lint checks a file, and octo-sts policy explain tells why it says no.`
