package stsclient

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"time"
)

// RefusedError is an answer of the appliance's other than yes. Its text is for whoever
// reads the job's log: what was sent, and how the appliance's operator finds out why.
type RefusedError struct {
	Status     int           // of HTTP
	Message    string        // what the appliance said
	RequestID  string        // by which its operator finds the request; "" where something else answered
	RetryAfter time.Duration // 0: the appliance did not say
	Sent       Sent
}

// Sent is what was asked for, and the claims that the appliance looks at first, decoded from the ID
// token that was shown and not verified. It never holds the ID token.
type Sent struct {
	Scope, Identity string
	Issuer, Subject string
	Audiences       []string
}

// passing tells whether the answer was about the moment, so that the same request may be made
// again: too many requests, or something away. The gateways' two are those of a proxy before the
// appliance.
func (e *RefusedError) passing() bool {
	switch e.Status {
	case http.StatusTooManyRequests, http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout:
		return true
	}
	return false
}

// Error is several lines long where there is something to do about it.
func (e *RefusedError) Error() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s (HTTP status %d)", e.Message, e.Status)
	if e.RetryAfter > 0 {
		fmt.Fprintf(&b, "; it may be tried again in %s", e.RetryAfter)
	}
	if e.Sent.Issuer != "" || e.Sent.Subject != "" || len(e.Sent.Audiences) > 0 {
		fmt.Fprintf(&b, "\n  sent: an ID token with\n    issuer   %s\n    subject  %s\n    audience %s",
			orNone(e.Sent.Issuer), orNone(e.Sent.Subject), orNone(strings.Join(e.Sent.Audiences, ", ")))
	}
	if e.RequestID == "" {
		b.WriteString("\n  The answer has no request ID, so it may not be the appliance's own.")
		return b.String()
	}
	switch e.Status {
	case http.StatusUnauthorized:
		fmt.Fprintf(&b, "\n  The appliance takes ID tokens of the issuers that its operator lists, as long as they are valid."+
			"\n  Its operator finds the reason with: journalctl -u octo-stsd --grep %s", e.RequestID)
	case http.StatusForbidden:
		fmt.Fprintf(&b, "\n  Compare what was sent with .github/chainguard/%s.sts.yaml on the default branch:"+
			"\n    octo-sts policy explain --policy .github/chainguard/%s.sts.yaml --token FILE --domain DOMAIN"+
			"\n  The appliance's operator finds the reason with: octo-sts audit show --request-id %s",
			clip(e.Sent.Identity, 200), clip(e.Sent.Identity, 200), e.RequestID)
	}
	return b.String()
}

func orNone(s string) string {
	if s == "" {
		return "(none)"
	}
	return s
}

// readSent decodes what can be shown of an ID token, and verifies nothing.
func readSent(idToken string) Sent {
	var claims struct {
		Issuer   any `json:"iss"`
		Subject  any `json:"sub"`
		Audience any `json:"aud"`
	}
	parts := strings.Split(idToken, ".")
	if len(parts) != 3 {
		return Sent{}
	}
	payload, err := base64.RawURLEncoding.DecodeString(parts[1])
	if err != nil || json.Unmarshal(payload, &claims) != nil {
		return Sent{}
	}
	s := Sent{Issuer: text(claims.Issuer), Subject: text(claims.Subject)}
	audiences, many := claims.Audience.([]any)
	if !many {
		audiences = []any{claims.Audience}
	}
	for _, a := range audiences[:min(len(audiences), 10)] {
		if a := text(a); a != "" {
			s.Audiences = append(s.Audiences, a)
		}
	}
	return s
}

func text(claim any) string {
	s, _ := claim.(string)
	return clip(s, 500)
}

// clip keeps what others wrote from filling a log, or playing with a terminal.
func clip(s string, most int) string {
	s = strings.Map(func(r rune) rune {
		if r < ' ' || r > '~' {
			return '?'
		}
		return r
	}, s)
	if len(s) > most {
		return s[:most] + "..."
	}
	return s
}

// visible tells whether s can be a token of any kind: printable, and without blanks.
func visible(s string) bool {
	return s != "" && !strings.ContainsFunc(s, func(r rune) bool { return r <= ' ' || r > '~' })
}
