package sts

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"strconv"
	"strings"
	"time"

	"connectrpc.com/connect"
	"connectrpc.com/grpchealth"

	"github.com/octo-sts/appliance/sts/span"
	"github.com/octo-sts/appliance/sts/stspb/stspbconnect"
)

// RequestIDHeader is on every answer, over HTTP and, in lower case as gRPC's
// metadata has it, over gRPC.
const RequestIDHeader = "X-Request-Id"

// maxMessage bounds a gRPC message and a form, in bytes, and MaxBody the body of
// a request with either. An exchange request is a scope and an identity: a few
// hundred bytes.
const (
	maxMessage = 64 << 10
	MaxBody    = maxMessage + 5 // a gRPC message has a prefix of 5 bytes
)

// NewHandler serves s on the wire of octo-sts: gRPC (with grpc.health.v1),
// gRPC-Web and Connect, and HTTP GET and POST /sts/exchange; and on OAuth's, POST
// /sts/token and POST /sts/revoke. A request must carry its Caller in its context (WithCaller).
func NewHandler(s *Service) http.Handler {
	mux := http.NewServeMux()
	limit := connect.WithReadMaxBytes(maxMessage)
	mux.Handle(stspbconnect.NewSecurityTokenServiceHandler(grpcAdapter{s}, limit))
	mux.Handle(grpchealth.NewHandler(grpchealth.NewStaticChecker(stspbconnect.SecurityTokenServiceName), limit))
	mux.Handle("/sts/exchange", httpAdapter{s})
	mux.Handle(tokenPath, tokenAdapter{s})
	mux.Handle(revokePath, revokeAdapter{s})
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		writeStatus(w, http.StatusNotFound, connect.CodeNotFound, "Not Found")
	})
	return mux
}

type callerKey struct{}

// WithCaller gives a request's context its caller. The outermost middleware
// calls it, so that whatever answers the request can name its ID.
func WithCaller(ctx context.Context, c Caller) context.Context {
	c.UserAgent = printableASCII(c.UserAgent) // anybody's to write, and read by people
	if looksSecret(c.UserAgent) {
		c.UserAgent = clip(c.UserAgent)
	}
	return context.WithValue(span.WithRequestID(ctx, c.RequestID), callerKey{}, c)
}

func callerFrom(ctx context.Context) Caller {
	c, _ := ctx.Value(callerKey{}).(Caller)
	return c
}

// WriteError answers a request of any wire with what the table of answers
// says of err: for gRPC as its status, for OAuth as RFC 6749 has it, else as the
// JSON that grpc-gateway gives.
func WriteError(w http.ResponseWriter, r *http.Request, err error) {
	setRetryAfter(w.Header(), err)
	id := callerFrom(r.Context()).RequestID
	if r.URL.Path == tokenPath || r.URL.Path == revokePath {
		writeOAuthError(w, answerFor(err), id)
		return
	}
	if strings.HasPrefix(r.Header.Get("Content-Type"), "application/grpc") {
		if grpc := connect.NewErrorWriter(); grpc.IsSupported(r) {
			_ = grpc.Write(w, r, connectError(err, id)) // a caller who is gone needs no answer
			return
		}
	}
	a := answerFor(err)
	if a.code == connect.CodeUnauthenticated {
		w.Header().Set("WWW-Authenticate", "Bearer") // RFC 6750, section 3
	}
	writeStatus(w, a.status, a.code, publicMessage(a, id))
}

// connectError is err as gRPC, gRPC-Web and Connect carry it.
func connectError(err error, requestID string) *connect.Error {
	a := answerFor(err)
	e := connect.NewError(a.code, errors.New(publicMessage(a, requestID)))
	setRetryAfter(e.Meta(), err)
	return e
}

// publicMessage is all that a caller reads: the request ID is how an operator
// finds the rest.
func publicMessage(a answer, requestID string) string {
	return a.message + " (request " + requestID + ")"
}

// setRetryAfter follows RFC 9110, section 10.2.3, in whole seconds.
func setRetryAfter(h http.Header, err error) {
	var r *Refusal
	if errors.As(err, &r) && r.RetryAfter > 0 {
		h.Set("Retry-After", strconv.FormatInt(int64((r.RetryAfter+time.Second-1)/time.Second), 10))
	}
}

// writeStatus writes google.rpc.Status as proto3 JSON, as grpc-gateway does. It is
// most of what a request costs that is shed, so it is put together by hand.
func writeStatus(w http.ResponseWriter, status int, code connect.Code, message string) {
	quoted, err := json.Marshal(message)
	if err != nil {
		panic(err) // a string always encodes
	}
	body := make([]byte, 0, len(quoted)+48)
	body = strconv.AppendUint(append(body, `{"code":`...), uint64(code), 10)
	body = append(append(body, `,"message":`...), quoted...)
	writeJSON(w, status, append(body, `,"details":[]}`...))
}

func writeJSON(w http.ResponseWriter, status int, body []byte) {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	_, _ = w.Write(body) // a caller who is gone needs no answer
}
