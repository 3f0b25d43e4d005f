// Package hsm speaks PKCS#11 (OASIS PKCS #11 v2.40, and of v3.0 the Edwards curves): it loads one vendor module, logs in
// to one token, finds the keys that the configuration names by label, signs with them, imports an App's RSA key, and
// generates the key that signs checkpoints.
//
// It is the only package of the project with cgo. A vendor's module is arbitrary C that can hang, crash or corrupt
// memory, so nothing but cmd/octo-sts-signer links it, and there only a process that can be spared loads a module.
//
// Two types matter:
//
//   - [Token] is one logged-in connection, for commands that run once. It does not heal: what fails because the token was
//     reset goes on failing.
//   - [Keyring] is what a server wants: it keeps a Token open, its sessions alive and its keys tested, opens a fresh one
//     after a failure, and tries a wrong PIN exactly once.
//
// crypto11 initializes Cryptoki and finalizes it. What lies between are PKCS#11's own calls, because crypto11 never drops
// a session that has failed.
//
// The package knows nothing of GitHub, App JWTs or sockets and reads no environment; the one file that it touches is
// signer.PINLatch's. It cannot cut short a call that hangs inside the module: no cgo call can be cancelled. Status.CallSince
// tells whoever supervises the process that it must be replaced.
package hsm
