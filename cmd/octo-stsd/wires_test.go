package main

import (
	"context"
	"crypto/tls"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/octo-sts/appliance/sts/stspb"
	"github.com/octo-sts/appliance/sts/ststest"
)

const exchangeMethod = "/chainguard.platform.oidc.SecurityTokenService/Exchange"

// wireAnswer is what a caller learns from an answer, over whichever wire.
type wireAnswer struct {
	Code       codes.Code
	Token      string
	Expiry     time.Time
	Message    string
	RequestID  string
	RetryAfter string
}

// wire is one way of asking for an exchange.
type wire struct {
	name string
	ask  func(t *testing.T, scope, identity, idToken string) wireAnswer
}

// wires are all the ways of asking r: HTTP in its three forms, and gRPC with the
// stock client.
func (r *rig) wires() []wire {
	return []wire{
		{"GET", func(t *testing.T, scope, identity, idToken string) wireAnswer {
			return r.askHTTP(t, http.MethodGet, url.Values{"scope": {scope}, "identity": {identity}}, nil, idToken)
		}},
		{"POST, in the query", func(t *testing.T, scope, identity, idToken string) wireAnswer {
			// Both spellings of the scope, as the public octo-sts action sends it.
			return r.askHTTP(t, http.MethodPost, url.Values{"scope": {scope}, "scopes": {scope}, "identity": {identity}}, nil, idToken)
		}},
		{"POST, in a form", func(t *testing.T, scope, identity, idToken string) wireAnswer {
			return r.askHTTP(t, http.MethodPost, nil, url.Values{"scope": {scope}, "identity": {identity}}, idToken)
		}},
		{"gRPC", func(t *testing.T, scope, identity, idToken string) wireAnswer {
			return r.askGRPC(t, &stspb.ExchangeRequest{Identity: identity, Scopes: []string{scope}}, idToken)
		}},
		{"gRPC, scope in its old field", func(t *testing.T, scope, identity, idToken string) wireAnswer {
			//lint:ignore SA1019 what existing clients send
			return r.askGRPC(t, &stspb.ExchangeRequest{Identity: identity, Scope: scope}, idToken)
		}},
	}
}

// askHTTP and askGRPC may be called from any goroutine: no answer is an error of
// the test, and the code Unknown.
func (r *rig) askHTTP(t *testing.T, method string, query, form url.Values, idToken string) wireAnswer {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, r.URL()+"/sts/exchange?"+query.Encode(), strings.NewReader(form.Encode()))
	if err != nil {
		t.Error(err)
		return wireAnswer{Code: codes.Unknown}
	}
	if form != nil {
		req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	}
	if idToken != "" {
		req.Header.Set("Authorization", "Bearer "+idToken)
	}
	x, err := r.Do(req)
	if err != nil {
		t.Error(err)
		return wireAnswer{Code: codes.Unknown}
	}
	if want := gatewayStatus(codes.Code(x.Code)); x.Status != want {
		t.Errorf("code %d came with HTTP status %d, want %d as grpc-gateway has it", x.Code, x.Status, want)
	}
	return wireAnswer{codes.Code(x.Code), x.Token, x.Expiry, x.Message, x.RequestID, x.Header.Get("Retry-After")}
}

func (r *rig) askGRPC(t *testing.T, in *stspb.ExchangeRequest, idToken string) wireAnswer {
	t.Helper()
	conn, err := r.newGRPC()
	if err != nil {
		t.Error(err)
		return wireAnswer{Code: codes.Unknown}
	}
	defer conn.Close()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if idToken != "" {
		ctx = metadata.AppendToOutgoingContext(ctx, "authorization", "Bearer "+idToken)
	}
	var header, trailer metadata.MD
	out := &stspb.RawToken{}
	err = conn.Invoke(ctx, exchangeMethod, in, out, grpc.Header(&header), grpc.Trailer(&trailer))
	both := metadata.Join(header, trailer)
	a := wireAnswer{Code: status.Code(err), Token: out.GetToken(), Message: status.Convert(err).Message()}
	if ids := both.Get("x-request-id"); len(ids) > 0 {
		a.RequestID = ids[0]
	}
	if after := both.Get("retry-after"); len(after) > 0 {
		a.RetryAfter = after[0]
	}
	if out.GetExpiry() != nil {
		a.Expiry = out.GetExpiry().AsTime()
	}
	if out.GetRefreshToken() != "" {
		t.Errorf("refresh_token %q", out.GetRefreshToken())
	}
	return a
}

// newGRPC is a stock grpc-go client: TLS where the daemon has it, else h2c.
func (r *rig) newGRPC() (*grpc.ClientConn, error) {
	secure := insecure.NewCredentials()
	if roots := r.Roots(); roots != nil {
		secure = credentials.NewTLS(&tls.Config{RootCAs: roots})
	}
	return grpc.NewClient(r.Address(), grpc.WithTransportCredentials(secure))
}

// onBothTransports runs a test in the clear and over TLS. Behind the two are
// GitHub's two forms of tokens, and api.github.com and a GHES.
func onBothTransports(t *testing.T, test func(t *testing.T, r *rig)) {
	t.Run("plaintext", func(t *testing.T) { test(t, newRig(t, ststest.ServiceConfig{})) })
	t.Run("TLS", func(t *testing.T) {
		test(t, newRig(t, ststest.ServiceConfig{
			TLS: true, Issuer: ststest.IssuerConfig{TLS: true},
			GitHub: ststest.GitHubConfig{BasePath: "/api/v3", TokenForm: ststest.JWTTokens},
		}))
	})
}
