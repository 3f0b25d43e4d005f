package idsource

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"time"

	"google.golang.org/protobuf/encoding/protowire"
)

const spiffeVariable = "SPIFFE_ENDPOINT_SOCKET"

func (f *finder) inSPIFFE() bool { return f.Environ(spiffeVariable) != "" }

func (f *finder) checkSPIFFE() error {
	if !f.inSPIFFE() {
		return fmt.Errorf("%s is not set: give the agent's socket, as unix:///run/spire/agent/public/api.sock", spiffeVariable)
	}
	_, _, err := spiffeAddress(f.Environ(spiffeVariable))
	return err
}

// spiffeAddress reads the address of a Workload API (SPIFFE Workload Endpoint,
// section 4): unix:///path, or tcp:// with an IP address and a port.
func spiffeAddress(text string) (network, address string, err error) {
	u, err := url.Parse(text)
	if err == nil && u.Scheme == "unix" && u.Host == "" && u.Path != "" {
		return "unix", u.Path, nil
	}
	if err == nil && u.Scheme == "unix" && u.Opaque != "" { // unix:/path has a path, unix:path this
		return "unix", u.Opaque, nil
	}
	if err == nil && u.Scheme == "tcp" && u.Path == "" {
		if _, err := netip.ParseAddrPort(u.Host); err == nil {
			return "tcp", u.Host, nil
		}
	}
	return "", "", fmt.Errorf("%s is %q: want unix:///PATH or tcp://ADDRESS:PORT", spiffeVariable, text)
}

// fromSPIFFE calls SpiffeWorkloadAPI.FetchJWTSVID (SPIFFE Workload API, section
// 6.2.1) and takes the first, which is the default one. It is one unary gRPC call
// of one field each way, and so it is written out here: a gRPC library would be half
// the program.
func (f *finder) fromSPIFFE(ctx context.Context) (string, error) {
	network, address, err := spiffeAddress(f.Environ(spiffeVariable))
	if err != nil {
		return "", err
	}
	message := protowire.AppendString(protowire.AppendTag(nil, 1, protowire.BytesType), f.Audience)
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://localhost/SpiffeWorkloadAPI/FetchJWTSVID", bytes.NewReader(grpcFrame(message)))
	if err != nil {
		return "", err
	}
	r.Header.Set("Content-Type", "application/grpc")
	r.Header.Set("TE", "trailers")
	r.Header.Set("Workload.Spiffe.Io", "true") // section 4.2 of SPIFFE Workload Endpoint, against request forgery

	transport := &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return (&net.Dialer{Timeout: 5 * time.Second}).DialContext(ctx, network, address)
		},
		Protocols: new(http.Protocols),
	}
	transport.Protocols.SetUnencryptedHTTP2(true)
	defer transport.CloseIdleConnections()
	response, err := (&http.Client{Transport: transport, Timeout: 30 * time.Second}).Do(r)
	if err != nil {
		return "", fmt.Errorf("asking the Workload API at %s: %w", address, errors.Unwrap(err))
	}
	defer response.Body.Close()
	body, err := io.ReadAll(io.LimitReader(response.Body, maxAnswer+1))
	if err != nil {
		return "", fmt.Errorf("reading the answer of the Workload API: %w", err)
	}
	status, said := response.Trailer.Get("Grpc-Status"), response.Trailer.Get("Grpc-Message")
	if status == "" { // a refusal may have headers alone
		status, said = response.Header.Get("Grpc-Status"), response.Header.Get("Grpc-Message")
	}
	if response.StatusCode != http.StatusOK || status != "0" {
		return "", fmt.Errorf("the Workload API answered HTTP status %d, gRPC status %q: %s (PermissionDenied, 7, says that no registration entry matches this process)",
			response.StatusCode, status, withoutTokens(said))
	}
	return firstSVID(body)
}

// grpcFrame is a message as gRPC sends one, not compressed.
func grpcFrame(message []byte) []byte {
	frame := binary.BigEndian.AppendUint32([]byte{0}, uint32(len(message)))
	return append(frame, message...)
}

// firstSVID reads a framed JWTSVIDResponse: its field 1 is a JWTSVID, whose field 2
// is the token.
func firstSVID(frame []byte) (string, error) {
	if len(frame) < 5 || frame[0] != 0 || uint64(binary.BigEndian.Uint32(frame[1:5])) != uint64(len(frame)-5) {
		return "", errors.New("the answer of the Workload API is not one gRPC message")
	}
	svid, err := bytesField(frame[5:], 1)
	if err != nil {
		return "", err
	}
	idToken, err := bytesField(svid, 2)
	return string(idToken), err
}

// bytesField is the first field of that number in a protobuf message.
func bytesField(message []byte, number protowire.Number) ([]byte, error) {
	for len(message) > 0 {
		n, kind, size := protowire.ConsumeTag(message)
		if size < 0 {
			break
		}
		message = message[size:]
		if n == number && kind == protowire.BytesType {
			if value, size := protowire.ConsumeBytes(message); size >= 0 {
				return value, nil
			}
			break
		}
		if size = protowire.ConsumeFieldValue(n, kind, message); size < 0 {
			break
		}
		message = message[size:]
	}
	return nil, errors.New("the answer of the Workload API holds no JWT-SVID")
}
