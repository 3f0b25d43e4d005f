package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/grpc-ecosystem/grpc-gateway/v2/runtime"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/encoding"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/octo-sts/appliance/sts/stspb"
	"github.com/octo-sts/appliance/sts/ststest"
)

// gatewayStatus is the HTTP status that grpc-gateway gives a code.
func gatewayStatus(c codes.Code) int {
	if c == codes.OK {
		return http.StatusOK
	}
	return runtime.HTTPStatusFromCode(c)
}

// gateway is grpc-gateway's own runtime, serving what the daemon is expected to
// answer, or the error.
func gateway(t *testing.T, grant *stspb.RawToken, refusal error) http.Handler {
	t.Helper()
	mux := runtime.NewServeMux()
	serve := func(w http.ResponseWriter, req *http.Request, _ map[string]string) {
		_, marshaler := runtime.MarshalerForRequest(mux, req)
		ctx := runtime.NewServerMetadataContext(req.Context(), runtime.ServerMetadata{})
		if refusal != nil {
			runtime.HTTPError(ctx, mux, marshaler, w, req, refusal)
			return
		}
		runtime.ForwardResponseMessage(ctx, mux, marshaler, w, req, grant)
	}
	for _, method := range []string{http.MethodGet, http.MethodPost} {
		if err := mux.HandlePath(method, "/sts/exchange", serve); err != nil {
			t.Fatal(err)
		}
	}
	return mux
}

// httpAnswer is the part of an answer that clients of a gateway go by.
type httpAnswer struct {
	Status      int
	ContentType string
	Body        any
}

func httpAnswerOf(t *testing.T, statusCode int, h http.Header, body []byte) httpAnswer {
	t.Helper()
	a := httpAnswer{Status: statusCode, ContentType: h.Get("Content-Type")}
	if err := json.Unmarshal(body, &a.Body); err != nil {
		t.Fatalf("%v: %s", err, body)
	}
	return a
}

// Every answer is, field by field, what grpc-gateway makes of the same message.
func TestAnswersAreThoseOfGRPCGateway(t *testing.T) {
	r := newRig(t, ststest.ServiceConfig{})
	good, stranger := r.job(nil), r.job(map[string]any{"sub": "someone else"})
	for _, c := range []struct{ name, method, target, idToken string }{
		{"a grant", "GET", "/sts/exchange?scope=acme/app&identity=reader", good},
		{"a grant to POST", "POST", "/sts/exchange?scope=acme%2Fapp&scopes=acme%2Fapp&identity=reader", good},
		{"a denial", "GET", "/sts/exchange?scope=acme/app&identity=reader", stranger},
		{"no ID token", "GET", "/sts/exchange?scope=acme/app&identity=reader", ""},
		{"no scope", "GET", "/sts/exchange?identity=reader", good},
		{"another path", "GET", "/sts/exchanges", good},
		{"a longer path", "GET", "/sts/exchange/", good},
		{"the root", "GET", "/", good},
		{"PUT", "PUT", "/sts/exchange?scope=acme/app&identity=reader", good},
		{"DELETE", "DELETE", "/sts/exchange?scope=acme/app&identity=reader", good},
	} {
		t.Run(c.name, func(t *testing.T) {
			req, err := http.NewRequestWithContext(t.Context(), c.method, r.URL()+c.target, nil)
			if err != nil {
				t.Fatal(err)
			}
			if c.idToken != "" {
				req.Header.Set("Authorization", "Bearer "+c.idToken)
			}
			x, err := r.Do(req)
			if err != nil {
				t.Fatal(err)
			}
			var refusal error
			if x.Token == "" {
				refusal = status.Error(codes.Code(x.Code), x.Message)
			}
			recorder := httptest.NewRecorder()
			gateway(t, &stspb.RawToken{Token: x.Token, Expiry: timestamppb.New(x.Expiry)}, refusal).
				ServeHTTP(recorder, httptest.NewRequest(c.method, c.target, nil))
			want := httpAnswerOf(t, recorder.Code, recorder.Header(), recorder.Body.Bytes())
			if d := cmp.Diff(want, httpAnswerOf(t, x.Status, x.Header, x.Body)); d != "" {
				t.Errorf("(-grpc-gateway +ours):\n%s", d)
			}
			if x.RequestID == "" {
				t.Error("no X-Request-Id")
			}
		})
	}
	// And that no gateway may have made a mistake that we copied:
	x := r.granted("acme/app", "reader")
	var fields map[string]any
	if err := json.Unmarshal(x.Body, &fields); err != nil {
		t.Fatal(err)
	}
	want := map[string]any{"token": x.Token, "refreshToken": "", "expiry": x.Expiry.UTC().Format(time.RFC3339)}
	if d := cmp.Diff(want, fields); d != "" {
		t.Errorf("a grant's JSON (-want +got):\n%s", d)
	}
}

// rawCodec sends and receives messages as the bytes that they are.
type rawCodec struct{}

func (rawCodec) Name() string { return "proto" }

func (rawCodec) Marshal(v any) ([]byte, error) {
	b, ok := v.([]byte)
	if !ok {
		return nil, fmt.Errorf("rawCodec: %T", v)
	}
	return b, nil
}

func (rawCodec) Unmarshal(data []byte, v any) error {
	b, ok := v.(*[]byte)
	if !ok {
		return fmt.Errorf("rawCodec: %T", v)
	}
	*b = append([]byte(nil), data...)
	return nil
}

var _ encoding.Codec = rawCodec{}

// An existing client's bytes: the messages are put together and taken apart by
// octo-sts's field numbers, without any of our generated code.
func TestWireOfExistingClients(t *testing.T) {
	onBothTransports(t, func(t *testing.T, r *rig) {
		conn, err := r.newGRPC()
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		ctx := metadata.AppendToOutgoingContext(t.Context(), "authorization", "Bearer "+r.job(nil))
		var in []byte
		for _, f := range []struct {
			number protowire.Number
			value  string
		}{{1, "sts.example.com"}, {2, "acme/app"}, {4, "reader"}, {5, "ignored"}, {7, "ignored"}, {8, "acme/app"}} {
			in = protowire.AppendTag(in, f.number, protowire.BytesType)
			in = protowire.AppendString(in, f.value)
		}
		var out []byte
		if err := conn.Invoke(ctx, exchangeMethod, in, &out, grpc.ForceCodec(rawCodec{})); err != nil {
			t.Fatal(err)
		}
		fields, err := bytesFields(out)
		if err != nil || len(fields) != 2 || !r.GitHub.IsLive(string(fields[1])) {
			t.Fatalf("RawToken has the fields %v, %v: want 1, a token, and 3, its expiry", fields, err)
		}
		number, _, n := protowire.ConsumeTag(fields[3])
		seconds, m := protowire.ConsumeVarint(fields[3][max(n, 0):])
		if left := time.Until(time.Unix(int64(seconds), 0)); number != 1 || n < 0 || m < 0 || left < 55*time.Minute || left > time.Hour {
			t.Errorf("field 3 is %x, want a google.protobuf.Timestamp in an hour", fields[3])
		}

		service := "/chainguard.platform.oidc.SecurityTokenService/"
		for _, method := range []string{"ExchangeRefreshToken", "NoSuchMethod"} {
			err := conn.Invoke(ctx, service+method, []byte(nil), &out, grpc.ForceCodec(rawCodec{}))
			if status.Code(err) != codes.Unimplemented {
				t.Errorf("%s: %v, want Unimplemented", method, err)
			}
		}
		r.checkGRPCHealth(conn)
	})
}

// bytesFields takes a message apart whose fields are all length-delimited.
func bytesFields(message []byte) (map[protowire.Number][]byte, error) {
	fields := map[protowire.Number][]byte{}
	for len(message) > 0 {
		number, kind, n := protowire.ConsumeTag(message)
		if n < 0 || kind != protowire.BytesType {
			return fields, errors.New("not a length-delimited field")
		}
		value, m := protowire.ConsumeBytes(message[n:])
		if m < 0 {
			return fields, protowire.ParseError(m)
		}
		fields[number], message = value, message[n+m:]
	}
	return fields, nil
}

func (r *rig) checkGRPCHealth(conn *grpc.ClientConn) {
	r.t.Helper()
	ctx, cancel := context.WithTimeout(r.t.Context(), patience)
	defer cancel()
	health := healthpb.NewHealthClient(conn)
	for _, service := range []string{"", "chainguard.platform.oidc.SecurityTokenService"} {
		answer, err := health.Check(ctx, &healthpb.HealthCheckRequest{Service: service})
		if err != nil || answer.GetStatus() != healthpb.HealthCheckResponse_SERVING {
			r.t.Errorf("health of %q: %v, %v", service, answer, err)
		}
	}
	if _, err := health.Check(ctx, &healthpb.HealthCheckRequest{Service: "no.such.Service"}); status.Code(err) != codes.NotFound {
		r.t.Errorf("health of a service that is not there: %v, want NotFound", err)
	}
}
