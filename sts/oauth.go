package sts

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"net/url"
	"slices"
	"strings"
)

// The endpoints of OAuth's wire.
const (
	tokenPath  = "/sts/token"  // RFC 8693
	revokePath = "/sts/revoke" // RFC 7009
)

// readForm reads the one form that a request to an endpoint of OAuth's is
// (RFC 6749, section 3.2): POSTed, in the body alone, so that no token is in a URL.
//
// There are no clients to authenticate: the credential is in the form. Since stock
// clients cannot leave theirs out, a client's name and secret are accepted, in
// either of OAuth's places (section 2.3.1), and nobody looks at them. Any other
// Authorization header is a token in the wrong place, and refused.
func readForm(w http.ResponseWriter, r *http.Request, names []string) (url.Values, error) {
	if r.Method != http.MethodPost {
		w.Header().Set("Allow", http.MethodPost)
		return nil, &Refusal{Kind: errNotPosted, Reason: "malformed_request", Detail: errors.New("the method is not POST")}
	}
	malformed := func(text string) error { return invalid("malformed_request", errors.New(text)) }
	for _, value := range r.Header.Values("Authorization") {
		if scheme, _, _ := strings.Cut(value, " "); !strings.EqualFold(scheme, "Basic") {
			return nil, malformed("the Authorization header is not of a client: the form alone holds tokens")
		}
	}
	if r.URL.RawQuery != "" {
		return nil, malformed("the URL has a query: parameters go into the body")
	}
	if mediaType, _, _ := mime.ParseMediaType(r.Header.Get("Content-Type")); mediaType != "application/x-www-form-urlencoded" {
		return nil, malformed("the Content-Type is not application/x-www-form-urlencoded")
	}
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxMessage))
	if err != nil {
		return nil, malformed(fmt.Sprintf("the form cannot be read, or is longer than %d bytes", maxMessage))
	}
	return parseForm(string(body), names)
}

// parseForm reads a form as RFC 6749, sections 3.1 and 3.2, has it: a parameter
// without a value is as if it were not there, one that nobody knows is passed over,
// and none may be there twice. What it returns has those in names alone, each with
// one value that is not empty.
func parseForm(body string, names []string) (url.Values, error) {
	all, err := url.ParseQuery(body)
	if err != nil {
		return nil, invalid("malformed_request", errors.New("the form cannot be decoded"))
	}
	form := url.Values{}
	for name, values := range all {
		known := slices.Contains(names, name)
		if len(values) > 1 {
			if !known {
				name = "a parameter" // anything at all, even a token
			}
			return nil, invalid("malformed_request", fmt.Errorf("%s is given %d times", name, len(values)))
		}
		if known && values[0] != "" {
			form[name] = values
		}
	}
	return form, nil
}

// writeOAuthError answers with an error as RFC 6749, section 5.2, has it.
func writeOAuthError(w http.ResponseWriter, a answer, requestID string) {
	writeOAuth(w, a.oauthStatus, struct {
		Error       string `json:"error"`
		Description string `json:"error_description"`
	}{a.oauth, describable(publicMessage(a, requestID))})
}

// describable makes s an error_description: printable ASCII without quotation marks
// and backslashes.
func describable(s string) string {
	return strings.NewReplacer(`"`, "'", `\`, "/").Replace(printableASCII(s))
}

// writeOAuth answers with JSON that nobody may keep (RFC 6749, section 5.1).
func writeOAuth(w http.ResponseWriter, status int, v any) {
	body, err := json.Marshal(v)
	if err != nil {
		panic(err) // strings, numbers and booleans always encode
	}
	w.Header().Set("Pragma", "no-cache")
	writeJSON(w, status, body)
}
