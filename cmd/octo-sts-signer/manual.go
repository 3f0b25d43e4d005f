//go:build manual

// With the build tag manual this writes the program's manual page and completions, for the packages.
package main

import "github.com/octo-sts/appliance/packaging/manual"

func main() {
	manual.Main(newCommand(), 8, manual.Page{
		Version: version,
		Files: [][2]string{
			{"/etc/octo-sts/signer.yaml", "The configuration, see signer.yaml(5)."},
			{"/run/octo-sts-signer/signer.sock", "Where octo-stsd asks for signatures."},
			{"/var/lib/octo-sts-signer", "The checkpoint that was signed last, and which PIN a token refused. Without it the audit log cannot be continued, so no package removes it."},
			{"/etc/credstore.encrypted/hsm-pin", "The HSM's PIN, encrypted with systemd-creds(1)."},
		},
		SeeAlso: []string{"octo-sts(7)", "signer.yaml(5)", "octo-stsd(8)", "octo-sts(1)", "systemd-creds(1)", "pkcs11-tool(1)"},
	}, `octo-sts-signer holds the private keys of GitHub Apps in a PKCS#11 token, an HSM, and signs for octo-stsd over a unix socket:
App JWTs and, where a probe is set up, the probe's ID tokens, whose claims it makes up itself, and checkpoints of the audit log that
extend the one before. It signs nothing else.

It is also the tool with which the keys are made: setup makes a GitHub App whose private key is nowhere but in the HSM, and key
imports, lists, verifies, rotates and retires keys.

systemd starts it, as octo-sts-signer.service with octo-sts-signer.socket. It runs as a user of its own, without a network.`)
}
