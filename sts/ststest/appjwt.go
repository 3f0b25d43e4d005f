package ststest

import (
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"time"
)

// AppJWT signs an App JWT with a key in memory, as GitHub wants it: iat 60
// seconds back and exp 9 minutes ahead of now. It is for tests of what speaks
// to GitHub alone; the appliance itself signs in its HSM and nowhere else.
func AppJWT(key *rsa.PrivateKey, appID int64, now time.Time) (jwt string, expiry time.Time, err error) {
	expiry = now.Add(9 * time.Minute).Truncate(time.Second)
	claims := fmt.Sprintf(`{"iat":%d,"exp":%d,"iss":"%d"}`, now.Add(-time.Minute).Unix(), expiry.Unix(), appID)
	jwt, err = signRS256(key, `{"alg":"RS256","typ":"JWT"}`, claims)
	return jwt, expiry, err
}

// signRS256 makes a compact JWS of header and claims as they are.
func signRS256(key *rsa.PrivateKey, header, claims string) (string, error) {
	encode := base64.RawURLEncoding.EncodeToString
	input := encode([]byte(header)) + "." + encode([]byte(claims))
	digest := sha256.Sum256([]byte(input))
	signature, err := rsa.SignPKCS1v15(rand.Reader, key, crypto.SHA256, digest[:])
	if err != nil {
		return "", fmt.Errorf("signing a JWT: %w", err)
	}
	return input + "." + encode(signature), nil
}
