package signer

import (
	"bytes"
	"crypto"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
)

// MaxPEM bounds the PEM text of a private key, in bytes. GitHub's has 1.7 kB.
const MaxPEM = 64 << 10

// MinRSABits is the length in bits of the shortest RSA modulus accepted. GitHub makes keys of 2048.
const MinRSABits = 2048

// ParsePrivateKey reads the private key that GitHub hands out when one is generated for an App: a single PEM block,
// PKCS #1 ("RSA PRIVATE KEY", RFC 8017 appendix A.1.2), or its PKCS #8 form ("PRIVATE KEY", RFC 5208). Nothing else may
// stand before or after it, and whatever else PEM can hold is refused by name. The caller owns data and clears it; the
// copy that decoding makes is cleared here. Errors never contain key material.
func ParsePrivateKey(data []byte) (*rsa.PrivateKey, error) {
	if len(data) > MaxPEM {
		return nil, fmt.Errorf("the input has more than %d bytes, so it is not one private key in PEM form", MaxPEM)
	}
	data = bytes.TrimSpace(data)
	if len(data) == 0 {
		return nil, errors.New("the input is empty; expected a private key in PEM form")
	}
	if !bytes.HasPrefix(data, []byte("-----BEGIN ")) {
		return nil, errors.New("the input does not begin with -----BEGIN …: expected a private key in PEM form, the .pem file that GitHub gave out")
	}
	block, rest := pem.Decode(data)
	if block == nil {
		return nil, errors.New("the PEM block is damaged: its base64 or its END line is wrong")
	}
	defer clear(block.Bytes)
	if len(bytes.TrimSpace(rest)) > 0 {
		return nil, errors.New("something follows the private key; expected a single PEM block")
	}
	key, err := parseBlock(block)
	if err != nil {
		return nil, err
	}
	switch {
	case len(key.Primes) != 2:
		return nil, fmt.Errorf("the RSA key has %d primes; only keys with two are supported", len(key.Primes))
	case key.N.BitLen() < MinRSABits:
		return nil, fmt.Errorf("the RSA key has %d bits, at least %d are required", key.N.BitLen(), MinRSABits)
	}
	if err := key.Validate(); err != nil {
		return nil, fmt.Errorf("the RSA key is not sound: %w", err)
	}
	return key, nil
}

func parseBlock(block *pem.Block) (*rsa.PrivateKey, error) {
	// RFC 1421 encryption keeps the type "RSA PRIVATE KEY" and adds headers.
	if len(block.Headers) > 0 {
		return nil, errors.New("the private key is encrypted, or has PEM headers; decrypt it first: openssl rsa -in FILE | octo-sts-signer key import --pem - …")
	}
	switch block.Type {
	case "RSA PRIVATE KEY":
		key, err := x509.ParsePKCS1PrivateKey(block.Bytes)
		if err != nil {
			return nil, errors.New("the RSA PRIVATE KEY block holds no sound PKCS #1 key")
		}
		return key, nil
	case "PRIVATE KEY":
		parsed, err := x509.ParsePKCS8PrivateKey(block.Bytes)
		if err != nil {
			return nil, errors.New("the PRIVATE KEY block holds no sound PKCS #8 key")
		}
		key, ok := parsed.(*rsa.PrivateKey)
		if !ok {
			return nil, fmt.Errorf("the private key is not RSA (%T); GitHub Apps have RSA keys", parsed)
		}
		return key, nil
	case "ENCRYPTED PRIVATE KEY":
		return nil, errors.New("the private key is encrypted; decrypt it first: openssl pkey -in FILE | octo-sts-signer key import --pem - …")
	case "EC PRIVATE KEY":
		return nil, errors.New("the private key is an EC key; GitHub Apps have RSA keys")
	case "CERTIFICATE", "PUBLIC KEY", "RSA PUBLIC KEY":
		return nil, fmt.Errorf("the PEM block is a %s, not a private key", block.Type)
	}
	return nil, fmt.Errorf("the PEM block is of type %q; expected RSA PRIVATE KEY or PRIVATE KEY", block.Type)
}

// Fingerprint returns a public key's fingerprint as the settings page of a GitHub App shows it: "SHA256:" and the padded
// standard base64 of the SHA-256 of the DER SubjectPublicKeyInfo. The same by hand, from GitHub's "Managing private keys for GitHub
// Apps": openssl rsa -in PEM -pubout -outform DER | openssl sha256 -binary | openssl base64.
func Fingerprint(key crypto.PublicKey) string {
	der, err := x509.MarshalPKIXPublicKey(key)
	if err != nil {
		return "" // not possible for a key of a known type
	}
	return fingerprint(der)
}

// fingerprint is Fingerprint of a key in PKIX form.
func fingerprint(der []byte) string {
	sum := sha256.Sum256(der)
	return "SHA256:" + base64.StdEncoding.EncodeToString(sum[:])
}
