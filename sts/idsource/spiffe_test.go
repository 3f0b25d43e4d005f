package idsource

import (
	"context"
	"encoding/base64"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/spiffe/go-spiffe/v2/proto/spiffe/workload"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

// agent is a SPIFFE Workload API: SPIRE's agent is not at hand, so this is a gRPC
// server of the official protobuf, with the official gRPC library, that refuses what
// the standard has an agent refuse.
type agent struct {
	workload.UnimplementedSpiffeWorkloadAPIServer
}

func (agent) FetchJWTSVID(ctx context.Context, r *workload.JWTSVIDRequest) (*workload.JWTSVIDResponse, error) {
	header, _ := metadata.FromIncomingContext(ctx)
	switch {
	case strings.Join(header.Get("workload.spiffe.io"), "") != "true":
		return nil, status.Error(codes.InvalidArgument, "security header missing from request")
	case len(r.Audience) != 1 || r.SpiffeId != "":
		return nil, status.Error(codes.InvalidArgument, "audience must be specified")
	case r.Audience[0] == "stranger":
		return nil, status.Error(codes.PermissionDenied, "no identity issued")
	case r.Audience[0] == "empty":
		return &workload.JWTSVIDResponse{}, nil
	}
	return &workload.JWTSVIDResponse{Svids: []*workload.JWTSVID{
		{SpiffeId: "spiffe://example.org/job", Svid: testJWT(r.Audience), Hint: "first"},
		{SpiffeId: "spiffe://example.org/other", Svid: "not this one"},
	}}, nil
}

func startAgent(t *testing.T, network, address string) net.Addr {
	t.Helper()
	listener, err := net.Listen(network, address)
	if err != nil {
		t.Fatal(err)
	}
	server := grpc.NewServer()
	workload.RegisterSpiffeWorkloadAPIServer(server, agent{})
	go server.Serve(listener)
	t.Cleanup(server.Stop)
	return listener.Addr()
}

func TestSPIFFE(t *testing.T) {
	dir, err := os.MkdirTemp("", "spiffe") // t.TempDir's names are too long for a socket
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	socket := filepath.Join(dir, "api.sock")
	startAgent(t, "unix", socket)
	tcp := startAgent(t, "tcp", "127.0.0.1:0")
	for _, address := range []string{"unix://" + socket, "unix:" + socket, "tcp://" + tcp.String()} {
		got, err := get(t, newTest(t, Config{}, map[string]string{spiffeVariable: address}))
		if got != testJWT([]string{wanted}) {
			t.Errorf("%s: %q, %v", address, got, err)
		}
	}
	for audience, says := range map[string]string{
		"stranger": `gRPC status "7": no identity issued`, "empty": "holds no JWT-SVID",
	} {
		_, err := get(t, newTest(t, Config{Audience: audience}, map[string]string{spiffeVariable: "unix://" + socket}))
		mustSay(t, err, says)
	}
	_, err = get(t, newTest(t, Config{}, map[string]string{spiffeVariable: "unix://" + socket + ".none"}))
	mustSay(t, err, "asking the Workload API at "+socket+".none", "no such file")
}

// FuzzFirstSVID: whatever an agent answers, reading it ends, and what is taken out of
// it was in it.
func FuzzFirstSVID(f *testing.F) {
	f.Add(grpcFrame([]byte("\x0a\x07\x0a\x01x\x12\x02ab")))
	f.Add([]byte{0, 0, 0, 0, 0})
	f.Add([]byte("\x00\x00\x00\x00\x02\x0a\xff"))
	f.Fuzz(func(t *testing.T, frame []byte) {
		if svid, err := firstSVID(frame); err == nil && !strings.Contains(string(frame), svid) {
			t.Errorf("%q is not in %q", svid, frame)
		}
	})
}

// FuzzMeantFor: what is accepted is the same bytes, but for white space around them.
func FuzzMeantFor(f *testing.F) {
	f.Add(testJWT(wanted))
	f.Add(testJWT([]string{"a", wanted}))
	f.Add("eyJh.eyJh.eyJh")
	f.Add(base64.RawURLEncoding.EncodeToString([]byte("a")) + "..")
	f.Fuzz(func(t *testing.T, raw string) {
		got, err := meantFor(raw, wanted)
		if err == nil && (got != strings.TrimSpace(raw) || strings.Count(got, ".") != 2) {
			t.Errorf("%q became %q", raw, got)
		}
		if err != nil && len(raw) > 30 && strings.Contains(err.Error(), raw) {
			t.Errorf("the error holds what was read: %v", err)
		}
	})
}
