package probe

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"math/big"
	"strings"
)

// Forge signs what an ID token says with a key that was made for it and that nobody
// has, under the same key ID: what a stranger can do who has seen an ID token. ES256
// and RS256 stay what they are; others become ES256.
func Forge(idToken string) (string, error) {
	header, rest, _ := strings.Cut(idToken, ".")
	payload, _, whole := strings.Cut(rest, ".")
	raw, err := base64.RawURLEncoding.DecodeString(header)
	if err != nil || !whole || payload == "" {
		return "", errors.New("forging an ID token: what it is to be like is no compact JWS")
	}
	var said struct {
		Alg string `json:"alg"`
		Kid string `json:"kid,omitempty"`
		Typ string `json:"typ,omitempty"`
	}
	if err := json.Unmarshal(raw, &said); err != nil {
		return "", fmt.Errorf("forging an ID token: its header: %w", err)
	}
	if said.Alg != "RS256" {
		said.Alg = "ES256"
	}
	if raw, err = json.Marshal(said); err != nil {
		return "", err
	}
	input := base64.RawURLEncoding.EncodeToString(raw) + "." + payload
	signature, err := signAsStranger(said.Alg, sha256.Sum256([]byte(input)))
	if err != nil {
		return "", fmt.Errorf("forging an ID token: %w", err)
	}
	return input + "." + base64.RawURLEncoding.EncodeToString(signature), nil
}

func signAsStranger(alg string, digest [sha256.Size]byte) ([]byte, error) {
	if alg == "RS256" {
		key, err := rsa.GenerateKey(rand.Reader, 2048)
		if err != nil {
			return nil, err
		}
		return rsa.SignPKCS1v15(nil, key, crypto.SHA256, digest[:])
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	r, s, err := ecdsa.Sign(rand.Reader, key, digest[:])
	if err != nil {
		return nil, err
	}
	return append(fill(r), fill(s)...), nil
}

// fill is a number in 32 bytes (RFC 7518, section 3.4).
func fill(n *big.Int) []byte { return n.FillBytes(make([]byte, 32)) }
