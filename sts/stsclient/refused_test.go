package stsclient

import (
	"encoding/base64"
	"errors"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode"
)

func idTokenOf(payload string) string {
	return "eyJhbGciOiJSUzI1NiJ9." + base64.RawURLEncoding.EncodeToString([]byte(payload)) + ".c2VjcmV0"
}

// The text is for whoever reads a job's log.
func TestRefusedErrorSaysWhatToDo(t *testing.T) {
	s := serve(t, denied)
	c, _ := client(t, s.URL)
	idToken := idTokenOf(`{"iss":"https://token.actions.githubusercontent.com","sub":"repo:acme/app:ref:refs/heads/main","aud":["sts.example.com","x"]}`)
	_, err := c.exchangeOnce(t.Context(), idToken)
	want := `the exchange is not allowed (request R1) (HTTP status 403)
  sent: an ID token with
    issuer   https://token.actions.githubusercontent.com
    subject  repo:acme/app:ref:refs/heads/main
    audience sts.example.com, x
  Compare what was sent with .github/chainguard/ci.sts.yaml on the default branch:
    octo-sts policy explain --policy .github/chainguard/ci.sts.yaml --token FILE --domain DOMAIN
  The appliance's operator finds the reason with: octo-sts audit show --request-id R1`
	if err == nil || err.Error() != want {
		t.Errorf("%v\nwant\n%s", err, want)
	}
}

func TestRefusedErrorTexts(t *testing.T) {
	sent := Sent{Scope: "acme/app", Identity: "ci", Issuer: "https://issuer.example"}
	for _, tc := range []struct {
		RefusedError
		has, hasNot []string
	}{
		{RefusedError{Status: http.StatusUnauthorized, Message: "no", RequestID: "R", Sent: sent},
			[]string{"journalctl -u octo-stsd --grep R", "issuer   https://issuer.example", "subject  (none)", "audience (none)"}, []string{"audit show", "policy explain"}},
		{RefusedError{Status: http.StatusBadRequest, Message: "invalid request: scope", RequestID: "R", Sent: sent}, []string{"invalid request: scope"}, []string{"audit show", "journalctl"}},
		{RefusedError{Status: http.StatusTooManyRequests, Message: "too many", RequestID: "R", RetryAfter: time.Minute, Sent: sent}, []string{"it may be tried again in 1m0s"}, []string{"policy explain"}},
		{RefusedError{Status: http.StatusForbidden, Message: "forbidden"}, []string{"may not be the appliance's own"}, []string{"sent:", "audit show"}},
	} {
		text := tc.Error()
		for _, s := range tc.has {
			if !strings.Contains(text, s) {
				t.Errorf("%q lacks %q", text, s)
			}
		}
		for _, s := range tc.hasNot {
			if strings.Contains(text, s) {
				t.Errorf("%q has %q", text, s)
			}
		}
	}
}

func TestReadSent(t *testing.T) {
	for name, tc := range map[string]struct {
		idToken string
		want    Sent
	}{
		"usual":             {idTokenOf(`{"iss":"i","sub":"s","aud":"a"}`), Sent{Issuer: "i", Subject: "s", Audiences: []string{"a"}}},
		"of other types":    {idTokenOf(`{"iss":1,"sub":["s"],"aud":{"a":"b"}}`), Sent{}},
		"no object":         {idTokenOf(`[]`), Sent{}},
		"no JSON":           {idTokenOf(`{`), Sent{}},
		"not base64":        {"a.*.c", Sent{}},
		"two parts":         {"a.b", Sent{}},
		"a GitHub token":    {"ghs_secret", Sent{}},
		"terminal control":  {idTokenOf(`{"iss":"\u001b[2J","sub":"a\nb\u202e"}`), Sent{Issuer: "?[2J", Subject: "a?b?"}},
		"without end":       {idTokenOf(`{"sub":"` + strings.Repeat("x", 600) + `"}`), Sent{Subject: strings.Repeat("x", 500) + "..."}},
		"too many of aud":   {idTokenOf(`{"aud":["` + strings.Repeat(`a","`, 20) + `a"]}`), Sent{Audiences: slices.Repeat([]string{"a"}, 10)}},
		"an empty audience": {idTokenOf(`{"aud":["",null,"a"]}`), Sent{Audiences: []string{"a"}}},
	} {
		got := readSent(tc.idToken)
		if got.Issuer != tc.want.Issuer || got.Subject != tc.want.Subject || !slices.Equal(got.Audiences, tc.want.Audiences) {
			t.Errorf("%s: %+v", name, got)
		}
	}
}

// Whatever an ID token is, it is not in the error, nor is what plays with a terminal.
func FuzzReadSent(f *testing.F) {
	f.Add("eyJhbGciOiJSUzI1NiJ9", `{"iss":"i","sub":"s","aud":["a","b"]}`, "c2VjcmV0")
	f.Add("a", "{", "b")
	f.Fuzz(func(t *testing.T, header, payload, signature string) {
		idToken := header + "." + base64.RawURLEncoding.EncodeToString([]byte(payload)) + "." + signature
		e := &RefusedError{Status: http.StatusForbidden, Message: "no", RequestID: "R", Sent: readSent(idToken)}
		text := e.Error()
		if len(signature) > 40 && !strings.Contains(payload, signature) && strings.Contains(text, signature) {
			t.Errorf("%q has the signature", text)
		}
		if strings.ContainsFunc(text, func(r rune) bool { return r != '\n' && (unicode.IsControl(r) || r > '~') }) || len(text) > 8<<10 {
			t.Errorf("%q", text)
		}
	})
}

// What stands before an appliance may repeat what it was shown, and a job's log is for many to read.
func TestRefusedErrorDoesNotRepeatTheToken(t *testing.T) {
	idToken := idTokenOf(`{"iss":"https://i"}`)
	a := &answer{status: http.StatusForbidden, body: []byte(`{"message":"no such header: Bearer ` + idToken + `"}`)}
	if said := a.refusal(readSent(idToken), idToken).Error(); strings.Contains(said, idToken) || !strings.Contains(said, "no such header: Bearer [the token]") {
		t.Error(said)
	}
}

// Whatever the answer is, it makes a grant or an error, and a bounded one.
func FuzzAnswer(f *testing.F) {
	f.Add(200, []byte(grantBody), "3")
	f.Add(403, []byte(denied.body), "")
	f.Add(400, []byte(`{"error":"invalid_target","error_description":"no"}`), "Mon, 23 Nov 2026 12:00:09 GMT")
	f.Add(200, []byte(`{"revoked":false}`), "x")
	f.Fuzz(func(t *testing.T, status int, body []byte, retry string) {
		if token, err := parseGrant(body); err == nil && (!visible(token.Value) || token.Expiry.IsZero()) {
			t.Errorf("%q gives %#v", body, token)
		}
		if err := parseRevocation(body); err == nil && !strings.Contains(strings.ToLower(string(body)), "true") {
			t.Errorf("%q is taken for a yes", body)
		}
		a := &answer{status: status, header: http.Header{"Retry-After": {retry}, "X-Request-Id": {retry}}, body: body}
		refused := a.refusal(Sent{}, "a.b.c")
		if refused.RetryAfter < 0 || len(refused.Error()) > 4<<10 {
			t.Errorf("%+v", refused)
		}
		wait, again := nextAttempt(errors.Join(refused), 1)
		if again && (wait < 0 || wait > longestPause*6/5 || !refused.passing()) {
			t.Errorf("%+v is asked again in %s", refused, wait)
		}
	})
}
