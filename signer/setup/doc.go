// Package setup is what registering a GitHub App and exchanging its keys need beside the HSM: the manifest and the page on
// which an operator composes it, the conversion that hands over the App's secrets, encrypted credentials to keep one of
// them in, and the two configuration files, written and edited so that a failure at any point leaves a working one.
//
// The other secret, the App's private key, passes through as bytes on their way into the HSM. Nothing here writes it anywhere.
package setup
