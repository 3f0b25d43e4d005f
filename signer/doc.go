// Package signer is the small service that holds the private keys of GitHub Apps and makes App JWTs with them: its
// configuration, the JWTs, and both ends of the unix socket between it and the daemon.
//
// The socket's interface is semantic. A caller asks for "an App JWT for App N" and the signer builds every claim itself;
// no request exists by which a caller, however compromised, could have other bytes signed, a longer lifetime, or a JWT
// for an App that the configuration does not list. The protocol is HTTP/1.1 with JSON bodies:
//
//	POST /v1/app-jwt  {"app_id": 1234}  →  200 {"jwt": "…", "expiry": "2026-08-01T12:09:00Z"}
//	GET  /v1/status                     →  200 Status
//	anything refused or failed          →  4xx or 5xx {"error": "…"}
//
// The package has no cgo and loads no PKCS#11 module, so that the daemon can import its Client. Keys come to it as
// crypto.Signer from a function that it is given; package hsm makes them. It knows nothing of installations, policies,
// or GitHub's API, and opens no network connection other than the socket.
package signer
