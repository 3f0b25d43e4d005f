package signer

import (
	"crypto"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"time"
)

const (
	// backdate allows for a signer clock that runs ahead of GitHub's, as GitHub advises.
	backdate = 60 * time.Second
	// lifetime stays clear of GitHub's limit of 10 minutes from its own now: exactly 10 draws a 401 where clocks differ.
	lifetime = 9 * time.Minute
)

// AppJWT is a signed App JWT: an RS256 JSON Web Token (RFC 7519) that proves to GitHub's API that its bearer is the App.
// It is a secret until Expiry.
type AppJWT struct {
	JWT    string    `json:"jwt"`
	Expiry time.Time `json:"expiry"` // the exp claim, nine minutes after signing
}

// appClaims are the claims that GitHub reads ("Generating a JSON Web Token for a GitHub App"). All of them, so that the
// order and form of the payload are fixed here.
type appClaims struct {
	IssuedAt int64  `json:"iat"`
	Expiry   int64  `json:"exp"`
	Issuer   string `json:"iss"` // the App's ID; a string, since RFC 7519 section 4.1.1 wants one
}

// SignAppJWT makes an App JWT for an App at time now. Every claim is made here; the caller chooses the App alone. The
// signature is verified against the key's public half before the JWT is returned, whatever the key is made of.
func SignAppJWT(key crypto.Signer, appID int64, now time.Time) (AppJWT, error) {
	public, ok := key.Public().(*rsa.PublicKey)
	if !ok {
		return AppJWT{}, fmt.Errorf("signing an App JWT: the key is a %T, not RSA", key.Public())
	}
	expiry := now.Add(lifetime).Truncate(time.Second).UTC()
	claims, err := json.Marshal(appClaims{
		IssuedAt: now.Add(-backdate).Unix(),
		Expiry:   expiry.Unix(),
		Issuer:   strconv.FormatInt(appID, 10),
	})
	if err != nil {
		return AppJWT{}, fmt.Errorf("encoding the claims of an App JWT: %w", err)
	}
	encode := base64.RawURLEncoding.EncodeToString
	input := encode([]byte(`{"alg":"RS256","typ":"JWT"}`)) + "." + encode(claims)
	signature, err := crypto.SignMessage(key, nil, []byte(input), crypto.SHA256)
	if err != nil {
		return AppJWT{}, fmt.Errorf("signing an App JWT: %w", err)
	}
	digest := sha256.Sum256([]byte(input))
	if err := rsa.VerifyPKCS1v15(public, crypto.SHA256, digest[:], signature); err != nil {
		return AppJWT{}, errors.New("signing an App JWT: the signature does not verify against the key's public half, so it is withheld")
	}
	return AppJWT{JWT: input + "." + encode(signature), Expiry: expiry}, nil
}
