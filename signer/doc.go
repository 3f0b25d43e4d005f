// Package signer is the small service that holds the private keys of GitHub Apps and makes App JWTs with them, and that
// countersigns the checkpoints of the audit log: its configuration, the JWTs, the state of the checkpoints, and both ends
// of the unix socket between it and the daemon.
//
// The socket's interface is semantic. A caller asks for "an App JWT for App N" and the signer builds every claim itself;
// no request exists by which a caller, however compromised, could have other bytes signed, a longer lifetime, or a JWT
// for an App that the configuration does not list, nor a checkpoint that does not extend the one signed before. The protocol is HTTP/1.1 with JSON bodies:
//
//	POST /v1/app-jwt  {"app_id": 1234}  →  200 {"jwt": "…", "expiry": "2026-08-01T12:09:00Z"}
//	POST /v1/checkpoint {"origin": "sts.example.com/audit", "size": 9, "root": "…", "old_size": 4, "proof": ["…", …]}
//	                                    →  200 {"note": "…"}
//	                                    →  409 {"error": "…", "last": {"origin": "…", "size": 5, "root": "…"}}
//	GET  /v1/status                     →  200 Status
//	anything else, refused or failed    →  4xx or 5xx {"error": "…"}
//
// The package has no cgo and loads no PKCS#11 module, so that the daemon can import its Client. Keys are in the hands of
// other processes, one for each HSM: [HSMs] starts them, replaces them, and goes to the next where one fails; [WorkerServer] is
// their side of it, which package hsm gives its keys to. This package knows nothing of installations, policies, or
// GitHub's API, and opens no network connection other than the socket.
package signer
