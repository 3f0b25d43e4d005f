package idtoken

import (
	"encoding/base64"
	"errors"
	"fmt"
	"strings"
)

const (
	maxTokenSize  = 16 << 10 // bytes of the compact form
	maxHeaderSize = 8 << 10  // bytes of the decoded JOSE header
	maxKeyIDSize  = 1024     // bytes of a kid
	usualClaims   = 32       // about as many as CI systems put into a token
)

// compactJWS is a JWS in the compact serialization (RFC 7515 section 7.1), parsed and not verified.
type compactJWS struct {
	raw       string         // the whole
	signed    string         // what the signature is over: header and payload as they were sent
	alg       string         // one of the algorithms that are accepted
	kid       string         // empty: none
	payload   []byte         // decoded
	claims    map[string]any // read from payload
	signature []byte
}

// parseCompact parses a compact JWS whose payload is a JWT claims set. It is deliberately narrower than the RFCs: where
// two readers could understand a token differently, or where a header asks for a feature that no ID token needs, it is
// an error.
func parseCompact(raw string) (*compactJWS, error) {
	if len(raw) > maxTokenSize {
		return nil, malformed("longer than %d bytes", maxTokenSize)
	}
	first := strings.IndexByte(raw, '.')
	last := strings.LastIndexByte(raw, '.')
	if first == last || strings.IndexByte(raw[first+1:last], '.') >= 0 {
		return nil, malformed("a compact JWS has three segments")
	}
	// The base64 package skips line breaks, whatever the encoding.
	if strings.IndexByte(raw, '\n') >= 0 || strings.IndexByte(raw, '\r') >= 0 {
		return nil, malformed("line break")
	}
	headerJSON, err := decodeSegment("header", raw[:first])
	if err != nil {
		return nil, err
	}
	if len(headerJSON) > maxHeaderSize {
		return nil, malformed("header longer than %d bytes", maxHeaderSize)
	}
	payload, err := decodeSegment("payload", raw[first+1:last])
	if err != nil {
		return nil, err
	}
	signature, err := decodeSegment("signature", raw[last+1:])
	if err != nil {
		return nil, err
	}

	t := &compactJWS{raw: raw, signed: raw[:last], payload: payload, signature: signature}
	header, err := parseJSONObject(string(headerJSON), 0)
	if err != nil {
		return nil, malformed("header: %w", err)
	}
	if err := t.readHeader(header); err != nil {
		return nil, err
	}
	if t.claims, err = parseJSONObject(string(payload), usualClaims); err != nil {
		return nil, malformed("payload: %w", err)
	}
	for name := range t.claims {
		if exact, ok := caseVariant(name, registeredClaims[:]); ok {
			return nil, malformed("claim %q differs from %q in case only", name, exact)
		}
	}
	return t, nil
}

// decodeSegment decodes strict base64url without padding (RFC 7515 section 2): no unused bits may be set, so a segment
// has one spelling only.
func decodeSegment(what, segment string) ([]byte, error) {
	if segment == "" {
		return nil, malformed("empty %s", what)
	}
	decoded, err := base64.RawURLEncoding.Strict().DecodeString(segment)
	if err != nil {
		return nil, malformed("%s is not unpadded base64url", what)
	}
	return decoded, nil
}

// registeredClaims are the names of RFC 7519 section 4.1.
var registeredClaims = [...]string{"iss", "sub", "aud", "exp", "nbf", "iat", "jti"}

// knownHeaders are the JOSE header parameters that mean something here, good or bad. Everything else is ignored, as
// RFC 7515 section 4 demands.
var knownHeaders = [...]string{"alg", "kid", "typ", "jwk", "jku", "x5u", "x5c", "crit", "b64", "enc", "zip", "cty"}

// refusedHeaders would have the sender choose the key (jwk, jku, x5u, x5c), change how the token is to be read (crit,
// b64, zip, cty), or make it a JWE (enc). No ID token needs them.
var refusedHeaders = [...]string{"jwk", "jku", "x5u", "x5c", "crit", "b64", "enc", "zip", "cty"}

// readHeader takes what is needed out of the JOSE header.
func (t *compactJWS) readHeader(header map[string]any) error {
	for name := range header {
		if exact, ok := caseVariant(name, knownHeaders[:]); ok {
			return malformed("header parameter %q differs from %q in case only", name, exact)
		}
	}
	for _, name := range refusedHeaders {
		if _, present := header[name]; present {
			return malformed("header parameter %q is not accepted", name)
		}
	}
	// An access token (at+jwt, RFC 9068) or a logout token (logout+jwt) of the same issuer is no ID token.
	if typ, present := header["typ"]; present {
		name, _ := typ.(string)
		if !strings.EqualFold(name, "JWT") && !strings.EqualFold(name, "JOSE") {
			return malformed("typ %q is not JWT", shorten(fmt.Sprint(typ)))
		}
	}
	if kid, present := header["kid"]; present {
		var ok bool
		if t.kid, ok = kid.(string); !ok || t.kid == "" || len(t.kid) > maxKeyIDSize {
			return malformed("kid is not a string of 1 to %d bytes", maxKeyIDSize)
		}
	}
	alg, present := header["alg"]
	if !present {
		return malformed("no alg")
	}
	t.alg, _ = alg.(string)
	if _, ok := algorithms[t.alg]; !ok {
		return &Error{ReasonAlgorithm, fmt.Errorf("alg %q is not accepted", shorten(fmt.Sprint(alg)))}
	}
	return nil
}

// caseVariant says which of names the name would be taken for by a reader that ignores case, as encoding/json does,
// although it is none of them. strings.EqualFold folds as encoding/json folds: "ſub" too is a variant of "sub".
func caseVariant(name string, names []string) (string, bool) {
	// The longest name here has four letters, and no letter folds to one of more than three bytes.
	if len(name) > 12 {
		return "", false
	}
	for _, exact := range names {
		if name != exact && strings.EqualFold(name, exact) {
			return exact, true
		}
	}
	return "", false
}

func malformed(format string, args ...any) error {
	return &Error{ReasonMalformed, fmt.Errorf(format, args...)}
}

// issuer returns iss.
func (t *compactJWS) issuer() (string, error) {
	iss, ok := t.claims["iss"].(string)
	if !ok || iss == "" {
		return "", &Error{ReasonClaims, errors.New("iss is not a non-empty string")}
	}
	return iss, nil
}
