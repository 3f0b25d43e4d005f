// Package ststest is what a test, a demonstration or a benchmark of the
// appliance runs against in place of the outside world:
//
//   - [GitHub], a fake of the part of GitHub's REST API that the appliance
//     calls. It is a real server (HTTP/2 over TLS, with a certificate authority
//     of its own), it verifies App JWTs and installation tokens for real, and it
//     refuses what GitHub refuses. It keeps account of every token that it
//     minted, so that a test can prove that none leaked. It has commits, branches
//     and pull requests, and delivers the events about them to webhooks.
//   - [Issuer], an OIDC issuer with discovery and a key set, that can rotate its
//     keys and misbehave in the ways that an issuer can.
//   - [Service], the real octo-stsd and octo-sts-signer, running as processes
//     against the two.
//
// It is published so that whoever writes trust policies or calls the appliance
// can test against it too. It does not import package testing; its helpers
// return errors, or panic where a fixture is impossible (an installation of an
// App that was never added).
//
// What it is not: a general GitHub simulator. Everything that the appliance
// does not call is absent and answered 404, there are no tags, and secondary
// rate limits are only given when asked for.
package ststest
