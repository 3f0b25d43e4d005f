//go:build manual

// With the build tag manual this writes the program's manual page and completions, for the packages.
package main

import "github.com/octo-sts/appliance/packaging/manual"

func main() {
	var status int
	manual.Main(newCommand(&status), 8, manual.Page{
		Version: version,
		Files: [][2]string{
			{"/etc/octo-sts/octo-stsd.yaml", "The configuration, see octo-stsd.yaml(5)."},
			{"/var/log/octo-sts/audit", "The audit log. It is the record of every exchange: no package removes it."},
			{"/var/lib/octo-sts", "What outlasts a restart: certificates, and the queue of GitHub's deliveries."},
			{"/etc/credstore.encrypted", "Secrets, each encrypted with systemd-creds(1), under the names that the units load."},
			{"/usr/share/octo-sts/drop-ins", "Examples of changes to the units, for systemctl edit."},
		},
		SeeAlso: []string{"octo-sts(7)", "octo-stsd.yaml(5)", "octo-sts-signer(8)", "octo-sts(1)", "systemd.socket(5)"},
	}, `octo-stsd is a GitHub App that exchanges the OIDC ID token of a CI job for a short-lived GitHub installation token, under
trust policies that are kept in the repositories. Every exchange is in its audit log before the token leaves.

It is started by systemd, octo-stsd.service with octo-stsd.socket and octo-stsd-http.socket, and the one command that
starts it and all that it needs is

    systemctl enable --now octo-sts.target

SIGHUP, which systemctl reload sends, has it read its configuration again: a file that is wrong changes nothing and the log says
why. On SIGTERM it takes no new connection, finishes the exchanges that are under way, and leaves.`)
}
