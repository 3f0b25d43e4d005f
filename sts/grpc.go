package sts

import (
	"context"
	"errors"

	"connectrpc.com/connect"

	"github.com/octo-sts/appliance/sts/stspb"
)

// grpcAdapter puts the exchange on gRPC, on the listener that HTTP has too.
type grpcAdapter struct{ service *Service }

// Exchange answers chainguard.platform.oidc.SecurityTokenService/Exchange. The
// ID token comes in the call's `authorization` metadata.
func (a grpcAdapter) Exchange(ctx context.Context, m *stspb.ExchangeRequest) (*stspb.RawToken, error) {
	call, ok := connect.CallInfoForHandlerContext(ctx)
	if !ok {
		return nil, connectError(errors.New("no call info in the context of a gRPC call"), "")
	}
	request, err := newRequest(ctx, m, call.RequestHeader())
	if err != nil {
		return nil, connectError(a.service.refuseUnread(request, err), request.RequestID)
	}
	grant, err := a.service.Exchange(ctx, request)
	if err != nil {
		return nil, connectError(err, request.RequestID)
	}
	return rawToken(grant), nil
}

// ExchangeRefreshToken is part of the wire and of nothing else.
func (a grpcAdapter) ExchangeRefreshToken(ctx context.Context, _ *stspb.ExchangeRefreshTokenRequest) (*stspb.TokenPair, error) {
	return nil, connectError(ErrUnimplemented, callerFrom(ctx).RequestID)
}
