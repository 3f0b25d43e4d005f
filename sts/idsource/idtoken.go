package idsource

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"regexp"
	"slices"
	"strings"
)

// maxIDToken is the longest ID token that an appliance accepts, in bytes.
const maxIDToken = 16 << 10

// readIDToken reads a bounded text.
func readIDToken(r io.Reader) (string, error) {
	data, err := io.ReadAll(io.LimitReader(r, maxIDToken+3)) // a line's end is none of the token
	if err != nil {
		return "", err
	}
	return string(data), nil
}

// compactForm takes the white space off a token and makes sure that it looks like a
// JWT (RFC 7519: a JWS of three parts), so that no other secret that somebody
// pointed at is sent anywhere.
func compactForm(raw string) (string, error) {
	raw = strings.TrimSpace(raw)
	if len(raw) > maxIDToken {
		return "", fmt.Errorf("there are more than %d bytes, which no ID token has", maxIDToken)
	}
	parts := strings.Split(raw, ".")
	isPart := func(s string) bool {
		decoded, err := base64.RawURLEncoding.DecodeString(s)
		return err == nil && len(decoded) > 0 && !strings.ContainsAny(s, "\r\n")
	}
	if len(parts) != 3 || slices.ContainsFunc(parts, func(s string) bool { return !isPart(s) }) {
		return "", fmt.Errorf("there are %d bytes that are no ID token: a JWT has three parts in base64url, with dots between", len(raw))
	}
	return raw, nil
}

// meantFor gives back a token that somebody made for a purpose that the program does
// not know, if it is for the audience that is wanted: whoever gets a token for AWS,
// say, can be its owner there. The signature is not looked at.
func meantFor(raw, audience string) (string, error) {
	raw, err := compactForm(raw)
	if err != nil {
		return "", err
	}
	payload, err := base64.RawURLEncoding.DecodeString(strings.Split(raw, ".")[1])
	if err != nil {
		return "", err
	}
	var claims struct {
		Audience audiences `json:"aud"`
	}
	if json.Unmarshal(payload, &claims) != nil {
		return "", errors.New("its payload is not JSON")
	}
	if !slices.Contains(claims.Audience, audience) {
		return "", fmt.Errorf("it is for the audience %q, not %q, and an ID token that was made for others is not sent (where it is meant to be, name its audience with --audience)",
			[]string(claims.Audience), audience)
	}
	return raw, nil
}

// audiences is aud: one string, or an array of them (RFC 7519 section 4.1.3).
type audiences []string

func (a *audiences) UnmarshalJSON(data []byte) error {
	var one string
	if json.Unmarshal(data, &one) == nil {
		*a = audiences{one}
		return nil
	}
	return json.Unmarshal(data, (*[]string)(a))
}

// withoutTokens makes what a program or a server said fit for an error: at most 300
// bytes, on one line, and without anything that looks like a JWT.
func withoutTokens(said string) string {
	said = regexp.MustCompile(`eyJ[\w.-]*`).ReplaceAllString(said, "[a token]")
	said = strings.Join(strings.Fields(said), " ")
	if len(said) > 300 {
		said = strings.ToValidUTF8(said[:300], "") + "…"
	}
	return said
}
