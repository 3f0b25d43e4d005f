package webhook

import (
	"crypto/hmac"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/hex"
	"errors"
	"net/http"
	"strings"
)

var (
	errNoSignature  = errors.New("X-Hub-Signature-256 is missing: is a secret set in the App's webhook settings?")
	errBadSignature = errors.New("X-Hub-Signature-256 is not sha256= and 64 hexadecimal digits")
)

// signatureOf reads X-Hub-Signature-256, the one signature that counts: GitHub
// sends X-Hub-Signature, over SHA-1, beside it for old receivers' sake.
func signatureOf(h http.Header) ([sha256.Size]byte, error) {
	var signature [sha256.Size]byte
	values := h.Values("X-Hub-Signature-256")
	if len(values) == 0 {
		return signature, errNoSignature
	}
	digits, ok := strings.CutPrefix(values[0], "sha256=")
	if len(values) > 1 || !ok || len(digits) != 2*sha256.Size {
		return signature, errBadSignature
	}
	if _, err := hex.Decode(signature[:], []byte(digits)); err != nil {
		return signature, errBadSignature
	}
	return signature, nil
}

// isSigned says whether signature is body's HMAC under one of the secrets. All
// of them are tried, so that the time it takes does not tell which one it was.
func isSigned(secrets [][]byte, body []byte, signature [sha256.Size]byte) bool {
	good := 0
	for _, secret := range secrets {
		mac := hmac.New(sha256.New, secret)
		mac.Write(body)
		good |= subtle.ConstantTimeCompare(mac.Sum(nil), signature[:])
	}
	return good == 1
}
