package ststest

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"time"
)

// Exchanged is the daemon's answer to an exchange over HTTP.
type Exchanged struct {
	Status    int // of HTTP
	Header    http.Header
	Body      []byte
	RequestID string // the X-Request-Id header

	Token  string // "" where refused
	Expiry time.Time

	Code    int    // gRPC's code; 0 where granted
	Message string // of a refusal
}

// Exchange does what a CI job does: GET /sts/exchange with an ID token. A
// refusal is no error; an error says that there was no answer, or none that
// makes sense.
func (s *Service) Exchange(ctx context.Context, scope, identity, idToken string) (Exchanged, error) {
	query := url.Values{"scope": {scope}, "identity": {identity}}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, s.URL()+"/sts/exchange?"+query.Encode(), nil)
	if err != nil {
		return Exchanged{}, fmt.Errorf("asking for an exchange: %w", err)
	}
	if idToken != "" {
		req.Header.Set("Authorization", "Bearer "+idToken)
	}
	return s.Do(req)
}

// Do sends any request of an exchange and reads the answer as one.
func (s *Service) Do(req *http.Request) (Exchanged, error) {
	resp, err := s.client.Do(req)
	if err != nil {
		return Exchanged{}, fmt.Errorf("asking for an exchange: %w", err)
	}
	defer resp.Body.Close()
	x := Exchanged{Status: resp.StatusCode, Header: resp.Header, RequestID: resp.Header.Get("X-Request-Id")}
	if x.Body, err = io.ReadAll(resp.Body); err != nil {
		return x, fmt.Errorf("reading the answer to an exchange: %w", err)
	}
	var answer struct {
		Token   string
		Expiry  *time.Time
		Code    int
		Message string
	}
	if err := json.Unmarshal(x.Body, &answer); err != nil {
		return x, fmt.Errorf("reading the answer to an exchange (%s, %q): %w", resp.Status, x.Body, err)
	}
	x.Token, x.Code, x.Message = answer.Token, answer.Code, answer.Message
	if answer.Expiry != nil {
		x.Expiry = *answer.Expiry
	}
	return x, nil
}

// Client is the HTTP client that Exchange uses: it trusts the daemon's
// certificate and follows no redirect.
func (s *Service) Client() *http.Client { return s.client }

// PutPolicy writes the trust policy of an identity into a repository of the
// fake GitHub.
func (g *GitHub) PutPolicy(ownerLogin, repo, identity, policy string) {
	g.PutFile(ownerLogin, repo, ".github/chainguard/"+identity+".sts.yaml", policy)
}
