package main

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

const logIntroduction = `The audit log is a directory of segments. Each is a file of lines, each line one entry: a JSON object in canonical form (RFC
8785), of at most 32 KiB. Entries are counted from 0 over all segments, without gaps; a segment's name is the index of its first entry,
in 20 digits, and ` + "`.jsonl`" + `. Lines are only ever appended. A new segment begins after 64 MiB, after 24 hours, and at each start.

Each line is a leaf of a Merkle tree (RFC 6962). The file checkpoint is a signed note (c2sp.org/signed-note,
c2sp.org/tlog-checkpoint) of the log's name, the number of its entries, and the tree's root. The HSM signs it, and signs only what
extends the one before. ` + "`octo-sts audit verify`" + ` needs the directory and the public key, nothing else. Nothing but octo-stsd may
write there: no logrotate, no editor.

An exchange has two entries with the same request_id: an intent, before GitHub is asked, and an outcome, before the caller has the
token. So kind is intent or outcome, or denied (a request with a verified ID token that was refused), revocation (of a token
before its end), policy_check and trust_change (of webhook deliveries), or admin (of the operator or the appliance). Others may come. A field that is empty is left out. Bounds are in bytes of JSON text, in
parentheses; what is longer is cut, and the field is then named in truncated. No token, PIN or secret is ever in it.`

const overviewIntroduction = `The octo-sts appliance exchanges the OIDC ID tokens of CI jobs for short-lived GitHub installation tokens, under trust policies
that are kept in the repositories. It is two daemons: octo-stsd faces the network and holds no secret that signs, and octo-sts-signer
has the HSM and no network. octo-sts is the command line, for operators and for CI jobs.

A new installation:

    octo-sts-signer setup --domain sts.example.com --hsm MODULE:TOKEN
    systemctl enable --now octo-sts.target

One that has something wrong with it:

    octo-sts doctor

Secrets are credentials (systemd-creds(1)), encrypted in /etc/credstore.encrypted, and loaded by name. Changes of the units are
drop-ins, which ` + "`systemctl edit`" + ` makes; examples, with the reason of each, are in /usr/share/octo-sts/drop-ins.`
