package sts

import (
	"errors"
	"net/http"
	"net/url"
	"time"
)

// The names of RFC 8693, sections 2.1 and 3.
const (
	grantTokenExchange = "urn:ietf:params:oauth:grant-type:token-exchange"
	typeAccessToken    = "urn:ietf:params:oauth:token-type:access_token"
	typeIDToken        = "urn:ietf:params:oauth:token-type:id_token"
	typeJWT            = "urn:ietf:params:oauth:token-type:jwt"
)

// exchangeParameters are those of section 2.1.
var exchangeParameters = []string{
	"grant_type", "resource", "audience", "scope", "requested_token_type",
	"subject_token", "subject_token_type", "actor_token", "actor_token_type",
}

// tokenAdapter answers POST /sts/token: the exchange as OAuth 2.0 Token Exchange
// (RFC 8693), for clients that know nothing of octo-sts.
//
// The subject token is the ID token, and the scope is the scope. The identity is the
// audience, which is a target's logical name; a resource is a URL, which an identity is
// not, and which many clients would not let their users leave without a scheme.
type tokenAdapter struct{ service *Service }

// tokenResponse is section 2.2.1's. The scope is what was asked for, so it is left out.
type tokenResponse struct {
	AccessToken     string `json:"access_token"`
	IssuedTokenType string `json:"issued_token_type"`
	TokenType       string `json:"token_type"`
	ExpiresIn       int64  `json:"expires_in"` // seconds
}

func (a tokenAdapter) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	request := Request{Caller: callerFrom(r.Context())}
	form, err := readForm(w, r, exchangeParameters)
	if err == nil {
		err = request.takeForm(form)
	}
	if err != nil {
		WriteError(w, r, a.service.refuseUnread(request, err))
		return
	}
	grant, err := a.service.Exchange(r.Context(), request)
	if err != nil {
		WriteError(w, r, err)
		return
	}
	writeOAuth(w, http.StatusOK, tokenResponse{
		AccessToken: grant.InstallationToken, IssuedTokenType: typeAccessToken, TokenType: "Bearer",
		ExpiresIn: int64(time.Until(grant.Expiry).Seconds()),
	})
}

// takeForm fills in what the form asks for. What it leaves empty, the exchange
// refuses.
func (r *Request) takeForm(form url.Values) error {
	malformed := func(text string) error { return invalid("malformed_request", errors.New(text)) }
	switch grant := form.Get("grant_type"); {
	case grant == "":
		return malformed("grant_type is missing: it is " + grantTokenExchange)
	case grant != grantTokenExchange:
		return &Refusal{Kind: ErrUnsupportedGrant, Reason: "malformed_request", Detail: errors.New("grant_type is not " + grantTokenExchange)}
	case form.Get("actor_token") != "" || form.Get("actor_token_type") != "":
		return malformed("there is an actor_token: nobody acts for another here")
	case form.Get("resource") != "":
		return &Refusal{Kind: ErrInvalidTarget, Reason: "malformed_request", Detail: errors.New("there is a resource: the identity goes into audience")}
	case form.Get("requested_token_type") != "" && form.Get("requested_token_type") != typeAccessToken:
		return malformed("requested_token_type is not " + typeAccessToken)
	case form.Get("subject_token") == "":
		return malformed("subject_token is missing: it is the ID token")
	case form.Get("subject_token_type") != typeIDToken && form.Get("subject_token_type") != typeJWT:
		return malformed("subject_token_type is neither " + typeIDToken + " nor " + typeJWT)
	}
	r.IDToken, r.Scope, r.Identity = form.Get("subject_token"), form.Get("scope"), form.Get("audience")
	return nil
}
