package sts

import (
	"context"
	"errors"
	"net/http"

	"github.com/octo-sts/appliance/sts/stspb"
)

// newRequest is what both wires come to: the message, and the ID token from the
// headers. Where it fails, the Request still names its caller.
func newRequest(ctx context.Context, m *stspb.ExchangeRequest, h http.Header) (Request, error) {
	r := Request{Caller: callerFrom(ctx), Identity: m.GetIdentity()}
	scope, err := oneScope(m)
	if err != nil {
		return r, err
	}
	r.Scope = scope
	r.IDToken, err = bearer(h)
	return r, err
}

// oneScope takes the scope from the message's two fields. octo-sts's clients
// send one of them, or both with the same value.
func oneScope(m *stspb.ExchangeRequest) (string, error) {
	//lint:ignore SA1019 the wire's deprecated field, which every octo-sts client sends
	scope := m.GetScope()
	for _, other := range m.GetScopes() {
		if scope == "" {
			scope = other
		}
		if other != scope {
			return "", invalid("several_scopes", errors.New("scope and scopes name more than one scope: an exchange is for one"))
		}
	}
	return scope, nil
}

// refuseUnread counts and logs a request that never became an exchange.
func (s *Service) refuseUnread(r Request, err error) error {
	return s.refuse(context.Background(), s.begin(r), err)
}
