package sts

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
)

// Every row has an error that RFC 6749 or RFC 8693 knows, in the form that section 5.2 has,
// and says what the other wires say.
func TestAnswersAreOAuths(t *testing.T) {
	registered := map[string]bool{"invalid_request": true, "invalid_scope": true, "invalid_target": true, "unsupported_grant_type": true,
		"temporarily_unavailable": true, "server_error": true}
	for _, row := range answers {
		err := row.kind
		if err == nil {
			err = errors.New("something that no row names")
		}
		for _, path := range []string{tokenPath, revokePath} {
			ctx := WithCaller(context.Background(), Caller{RequestID: "R"})
			r := httptest.NewRequestWithContext(ctx, http.MethodPost, path, nil)
			r.Header.Set("Content-Type", "application/grpc") // it is the path that counts
			w := httptest.NewRecorder()
			WriteError(w, r, &Refusal{Kind: err, Reason: "x"})
			var said struct {
				Error       string
				Description string `json:"error_description"`
			}
			if err := json.NewDecoder(w.Body).Decode(&said); err != nil {
				t.Fatal(err)
			}
			if !registered[said.Error] || said.Error != row.oauth || w.Code != row.oauthStatus || said.Description != row.message+" (request R)" {
				t.Errorf("%v: %d %+v", row.kind, w.Code, said)
			}
			if is4xx := w.Code/100 == 4; is4xx != (row.status/100 == 4 || row.kind == errNotPosted) {
				t.Errorf("%v: status %d, and %d on the other wire: whose fault is it?", row.kind, w.Code, row.status)
			}
			if h := w.Header(); h.Get("Cache-Control") != "no-store" || h.Get("Pragma") != "no-cache" || h.Get("Content-Type") != "application/json" || h.Get("WWW-Authenticate") != "" {
				t.Errorf("%v: %v", row.kind, h)
			}
		}
	}
}

// FuzzForm holds what is made of a form against what RFC 6749 has it be.
func FuzzForm(f *testing.F) {
	f.Add("grant_type=" + url.QueryEscape(grantTokenExchange) + "&subject_token=a.b.c&subject_token_type=" + url.QueryEscape(typeIDToken) + "&scope=acme%2Fapp&audience=ci")
	f.Add("grant_type=x&grant_type=x&%zz")
	f.Add("token=a&token_type_hint=&x=1&x=2;y")
	f.Add("scope=%22%5c%0a&audience=%00")
	f.Fuzz(func(t *testing.T, body string) {
		form, err := parseForm(body, exchangeParameters)
		if err != nil {
			if !errors.Is(err, ErrInvalidRequest) {
				t.Errorf("%q: %v", body, err)
			}
			checkDescribable(t, err)
			return
		}
		sent, err := url.ParseQuery(body)
		if err != nil {
			t.Fatalf("%q was taken, and is no form: %v", body, err)
		}
		for _, name := range exchangeParameters {
			if len(sent[name]) > 1 || form.Get(name) != sent.Get(name) {
				t.Errorf("%q: %s is %q", body, name, form[name])
			}
		}
		r := Request{}
		if err := r.takeForm(form); err != nil {
			if r.IDToken != "" || r.Scope != "" || r.Identity != "" {
				t.Errorf("%q is refused and gives %+v", body, r)
			}
			checkDescribable(t, err)
			return
		}
		if r.IDToken == "" || r.IDToken != sent.Get("subject_token") || r.Scope != sent.Get("scope") || r.Identity != sent.Get("audience") || sent.Get("actor_token") != "" {
			t.Errorf("%q gives %+v", body, r)
		}
	})
}

// checkDescribable: RFC 6749, section 5.2, bounds what is in an error_description.
func checkDescribable(t *testing.T, err error) {
	text := describable(publicMessage(answerFor(err), "R"))
	if strings.ContainsFunc(text, func(r rune) bool { return r < ' ' || r > '~' || r == '"' || r == '\\' }) || len(text) > 500 {
		t.Errorf("error_description %q", text)
	}
}
