package sts

import (
	"errors"
	"fmt"
	"mime"
	"net/http"
	"net/url"
	"strings"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/octo-sts/appliance/sts/stspb"
)

// httpAdapter answers GET and POST /sts/exchange as octo-sts's grpc-gateway
// does: parameters in the query, or in a form of a POST.
type httpAdapter struct{ service *Service }

func (a httpAdapter) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodGet && r.Method != http.MethodPost {
		writeStatus(w, http.StatusNotImplemented, connect.CodeUnimplemented, "Method Not Allowed")
		return
	}
	request, err := readRequest(w, r)
	if err != nil {
		WriteError(w, r, a.service.refuseUnread(request, err))
		return
	}
	grant, err := a.service.Exchange(r.Context(), request)
	if err != nil {
		WriteError(w, r, err)
		return
	}
	body, err := protojson.MarshalOptions{EmitUnpopulated: true}.Marshal(rawToken(grant))
	if err != nil {
		WriteError(w, r, fmt.Errorf("encoding the answer: %w", err))
		return
	}
	writeJSON(w, http.StatusOK, body)
}

func readRequest(w http.ResponseWriter, r *http.Request) (Request, error) {
	caller := Request{Caller: callerFrom(r.Context())}
	query, err := url.ParseQuery(r.URL.RawQuery)
	if err != nil {
		return caller, invalid("malformed_request", errors.New("the query cannot be decoded"))
	}
	if mediaType, _, _ := mime.ParseMediaType(r.Header.Get("Content-Type")); r.Method == http.MethodPost && mediaType == "application/x-www-form-urlencoded" {
		r.Body = http.MaxBytesReader(w, r.Body, maxMessage)
		if err := r.ParseForm(); err != nil {
			return caller, invalid("malformed_request", errors.New("the form cannot be read"))
		}
		query = r.Form // of the query and of the body
	}
	m, err := messageFromQuery(query)
	if err != nil {
		return caller, err
	}
	return newRequest(r.Context(), m, r.Header)
}

// messageFromQuery reads a request out of parameters named as the message's
// fields are, in either of protobuf's spellings. A parameter with another name
// is refused: it may be a token, which belongs in no URL.
func messageFromQuery(query url.Values) (*stspb.ExchangeRequest, error) {
	m := &stspb.ExchangeRequest{}
	for name, values := range query {
		switch name {
		case "scope", "identity":
			if len(values) != 1 {
				return nil, invalid("malformed_request", fmt.Errorf("%s is given %d times", name, len(values)))
			}
			if name == "scope" {
				//lint:ignore SA1019 the wire's deprecated field, which every octo-sts client sends
				m.Scope = values[0]
			} else {
				m.Identity = values[0]
			}
		case "scopes":
			m.Scopes = values
		case "aud", "cap", "identity_provider", "identityProvider": // as in the message: accepted and ignored
		default:
			return nil, invalid("unknown_parameter", errors.New("a parameter has a name that the exchange does not know: it takes scope, scopes and identity, and the ID token in the Authorization header"))
		}
	}
	return m, nil
}

// rawToken is a grant as the wire has it.
func rawToken(g *Grant) *stspb.RawToken {
	return &stspb.RawToken{Token: g.InstallationToken, Expiry: timestamppb.New(g.Expiry)}
}

// bearer takes the ID token out of the one Authorization header (RFC 6750,
// section 2.1). The scheme's letter case does not count (RFC 9110, section 11.1).
func bearer(h http.Header) (string, error) {
	values := h.Values("Authorization")
	if len(values) != 1 {
		return "", unauthenticated("authorization_header", fmt.Errorf("want one Authorization header, have %d", len(values)))
	}
	scheme, token, found := strings.Cut(values[0], " ")
	if !found || !strings.EqualFold(scheme, "Bearer") || token == "" {
		return "", unauthenticated("authorization_header", errors.New("the Authorization header is not `Bearer` and an ID token"))
	}
	return token, nil
}
