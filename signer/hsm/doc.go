// Package hsm speaks PKCS#11 (OASIS PKCS #11 v2.40): it loads one vendor module, logs in to one token, finds the RSA keys
// that the configuration names by label, signs with them, and imports new ones.
//
// It is the only package of the project with cgo. A vendor's module is arbitrary C that can hang, crash or corrupt
// memory, so nothing but cmd/octo-sts-signer links it.
//
// Two types matter:
//
//   - [Token] is one logged-in connection, for commands that run once. It does not heal: after a session is lost,
//     every later call fails.
//   - [Keyring] is what a server wants: it keeps a Token open, opens a fresh one after a failure, and tries a wrong
//     PIN exactly once.
//
// The package knows nothing of GitHub, App JWTs or sockets, reads no files and no environment. It cannot cut short a
// call that hangs inside the module: no cgo call can be cancelled, so callers put a deadline around it and the process
// must be replaced. The refusal to try a wrong PIN again lasts as long as the process.
package hsm
