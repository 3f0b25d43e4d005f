package main

import (
	"path/filepath"

	"github.com/octo-sts/appliance/packaging/manual"
	"github.com/octo-sts/appliance/sts/trustpolicy"
)

// writePages writes the manual pages that are of no program into a directory: the configuration of both daemons, trust policies,
// the audit log, and an overview of the units.
func writePages(version, dir string) error {
	date, err := manual.SourceDate()
	if err != nil {
		return err
	}
	daemon, err := manual.Config(manual.Page{
		Name: "octo-stsd.yaml", Section: 5, Date: date, Version: version, Summary: "configuration of octo-stsd",
		Files:   [][2]string{{"/etc/octo-sts/octo-stsd.yaml", "Readable by root and the group octo-sts."}},
		SeeAlso: []string{"octo-stsd(8)", "signer.yaml(5)", "sts.yaml(5)", "octo-sts(7)", "systemd-creds(1)"},
	}, "appliance")
	if err != nil {
		return err
	}
	signer, err := manual.Config(manual.Page{
		Name: "signer.yaml", Section: 5, Date: date, Version: version, Summary: "configuration of octo-sts-signer",
		Files:   [][2]string{{"/etc/octo-sts/signer.yaml", "Readable by root and the group octo-sts-signer."}},
		SeeAlso: []string{"octo-sts-signer(8)", "octo-stsd.yaml(5)", "octo-sts(7)", "systemd-creds(1)"},
	}, "signer")
	if err != nil {
		return err
	}
	schemas := trustpolicy.Schemas()
	policy, err := manual.Policy(manual.Page{
		Name: "sts.yaml", Section: 5, Date: date, Version: version, Summary: "trust policies of the octo-sts appliance",
		Files:   [][2]string{{"/usr/share/octo-sts/schemas", "The JSON Schemas of these files, for editors."}},
		SeeAlso: []string{"octo-sts-policy(1)", "octo-sts(1)"},
	}, policyIntroduction,
		schemas[trustpolicy.Repository.String()], schemas[trustpolicy.Organization.String()], schemas["trusted-issuers"])
	if err != nil {
		return err
	}
	log, err := manual.Lines(manual.Page{
		Name: "octo-sts-audit", Section: 5, Date: date, Version: version, Summary: "the audit log of the octo-sts appliance",
		Files: [][2]string{
			{"/var/log/octo-sts/audit/00000000000000000000.jsonl", "A segment. Its name is the index of its first entry."},
			{"/var/log/octo-sts/audit/checkpoint", "The newest signed checkpoint."},
			{"/var/log/octo-sts/audit/tile", "Hashes of the tree, as c2sp.org/tlog-tiles has them."},
		},
		SeeAlso: []string{"octo-sts-audit(1)", "octo-stsd(8)", "jq(1)"},
	}, "sts/audit", "Entry", logIntroduction)
	if err != nil {
		return err
	}
	overview, err := manual.Units(manual.Page{
		Name: "octo-sts", Section: 7, Date: date, Version: version, Summary: "the octo-sts appliance, its units and its drop-ins",
		SeeAlso: []string{"octo-stsd(8)", "octo-sts-signer(8)", "octo-sts(1)", "octo-sts-doctor(1)", "octo-stsd.yaml(5)", "signer.yaml(5)", "sts.yaml(5)", "octo-sts-audit(5)", "systemd(1)"},
	}, overviewIntroduction, "systemd")
	if err != nil {
		return err
	}
	for name, page := range map[string][]byte{"octo-stsd.yaml.5": daemon, "signer.yaml.5": signer, "sts.yaml.5": policy, "octo-sts-audit.5": log, "octo-sts.7": overview} {
		if err := manual.WriteGzip(filepath.Join(dir, name+".gz"), page); err != nil {
			return err
		}
	}
	return nil
}
