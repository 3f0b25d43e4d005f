package main

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"testing"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
	"google.golang.org/protobuf/proto"

	"github.com/octo-sts/appliance/sts/stspb"
)

// field is one header field of HTTP/2.
type field struct{ name, value string }

// h2 is a connection that speaks HTTP/2 frame by frame.
type h2 struct {
	net.Conn
	*http2.Framer
	encoder *hpack.Encoder
	block   bytes.Buffer
}

func (w *world) h2(t *testing.T) *h2 {
	t.Helper()
	return w.h2From(t, "127.0.0.1")
}

func (w *world) h2From(t *testing.T, address string) *h2 {
	t.Helper()
	c := &h2{Conn: w.connectionFrom(t, address)}
	c.Framer = http2.NewFramer(c.Conn, c.Conn)
	c.Framer.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
	c.encoder = hpack.NewEncoder(&c.block)
	if _, err := io.WriteString(c.Conn, http2.ClientPreface); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(c.WriteSettings(), c.WriteSettingsAck()); err != nil {
		t.Fatal(err)
	}
	return c
}

func (c *h2) encode(fields ...field) []byte {
	c.block.Reset()
	for _, f := range fields {
		_ = c.encoder.WriteField(hpack.HeaderField{Name: f.name, Value: f.value}) // into memory
	}
	return bytes.Clone(c.block.Bytes())
}

// grpcCall is the header of a call of Exchange.
func (w *world) grpcCall(authorization string, more ...field) []field {
	return append([]field{
		{":method", "POST"}, {":scheme", "http"}, {":path", exchangeMethod}, {":authority", w.Address()},
		{"content-type", "application/grpc"}, {"te", "trailers"}, {"authorization", authorization},
	}, more...)
}

// call makes one call on stream 1 and returns everything that came back on it as
// text, or how it ended.
func (c *h2) call(t *testing.T, header []field) string {
	t.Helper()
	message, err := proto.Marshal(&stspb.ExchangeRequest{Scopes: []string{"acme/app"}, Identity: anyone})
	if err != nil {
		t.Fatal(err)
	}
	framed := append(binary.BigEndian.AppendUint32([]byte{0}, uint32(len(message))), message...)
	block := c.encode(header...)
	const most = 16 << 10
	first := block[:min(len(block), most)]
	err = c.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: first, EndHeaders: len(first) == len(block)})
	for rest := block[len(first):]; err == nil && len(rest) > 0; {
		next := rest[:min(len(rest), most)]
		rest = rest[len(next):]
		err = c.WriteContinuation(1, len(rest) == 0, next)
	}
	if err == nil {
		err = c.WriteData(1, true, framed)
	}
	if err != nil {
		t.Logf("the daemon stopped reading: %v", err)
	}
	return c.readStream(t)
}

func (c *h2) readStream(t *testing.T) string {
	t.Helper()
	text := ""
	for {
		f, err := c.ReadFrame()
		if e, ok := err.(net.Error); ok && e.Timeout() {
			t.Error("the daemon neither answered nor closed")
		}
		if err != nil {
			return text + fmt.Sprintf("[%v]", err)
		}
		switch f := f.(type) {
		case *http2.MetaHeadersFrame:
			for _, h := range f.Fields {
				text += h.Name + ": " + h.Value + "\n"
			}
			if f.StreamEnded() {
				return text
			}
		case *http2.DataFrame:
			text += string(f.Data())
			if f.StreamEnded() {
				return text
			}
		case *http2.RSTStreamFrame:
			return text + "[reset: " + f.ErrCode.String() + "]"
		case *http2.GoAwayFrame:
			return text + "[goaway: " + f.ErrCode.String() + "]"
		}
	}
}

func http2Rows(t *testing.T, w *world, raw string) {
	bearer := "Bearer " + raw
	before := w.minted()
	for _, c := range []struct {
		name   string
		header []field
		want   string
	}{
		{"a token with a trailing newline", w.grpcCall(bearer + "\n"), "PROTOCOL_ERROR"},
		{"a token with a trailing NUL", w.grpcCall(bearer + "\x00"), "PROTOCOL_ERROR"},
		{"a megabyte of dots", w.grpcCall("Bearer " + strings.Repeat(".", 1<<20)), ""},
		{"a bad grpc-timeout: a word", w.grpcCall(bearer, field{"grpc-timeout", "soon"}), "grpc-status: 3"},
		{"a bad grpc-timeout: negative", w.grpcCall(bearer, field{"grpc-timeout", "-1S"}), "grpc-status: 3"},
		{"a bad grpc-timeout: no unit", w.grpcCall(bearer, field{"grpc-timeout", "1"}), "grpc-status: 3"},
		{"a bad grpc-timeout: too many digits", w.grpcCall(bearer, field{"grpc-timeout", "999999999S"}), "grpc-status: 3"},
		{"a bad grpc-timeout: nothing left", w.grpcCall(bearer, field{"grpc-timeout", "0n"}), "grpc-status: 4"},
		{"Transfer-Encoding", w.grpcCall(bearer, field{"transfer-encoding", "chunked"}), ":status: 400"},
		{"a content-length that lies", w.grpcCall(bearer, field{"content-length", "1"}), "PROTOCOL_ERROR"},
		{"a header in capitals", w.grpcCall(bearer, field{"X-Y", "z"}), "PROTOCOL_ERROR"},
		{"two paths", w.grpcCall(bearer, field{":path", "/healthz"}), "PROTOCOL_ERROR"},
		{"an unknown encoding", w.grpcCall(bearer, field{"grpc-encoding", "zstd"}), "grpc-status: 12"},
	} {
		t.Run(c.name, func(t *testing.T) {
			got := w.h2(t).call(t, c.header)
			if !strings.Contains(got, c.want) || strings.Contains(got, "ghs_") || strings.Contains(got, "grpc-status: 0") || strings.Contains(got, raw) {
				t.Errorf("%.500q, want %q", got, c.want)
			}
			if strings.Contains(got, "grpc-status") && !strings.Contains(got, "x-request-id: ") {
				t.Errorf("no request ID: %.500q", got)
			}
		})
	}
	t.Run("HTTP/2 rapid reset", func(t *testing.T) { rapidReset(t, w) })
	t.Run("CONTINUATION flood", func(t *testing.T) { continuationFlood(t, w) })
	t.Run("a flood of pings and settings", func(t *testing.T) { controlFlood(t, w) })
	if n := w.minted() - before; n != 0 {
		t.Errorf("%d tokens were minted", n)
	}
}

// rapidReset opens streams and takes them back at once, until the daemon closes
// the connection or 20,000 were opened. What is asked for is refused, so that
// whatever is carried out nevertheless mints nothing.
func rapidReset(t *testing.T, w *world) {
	c := w.h2From(t, "127.0.0.2")
	closed := make(chan string, 1)
	go func() { closed <- c.readUntilClosed() }()
	block := c.encode(w.grpcCall("Bearer x.y.z")...)
	opened := 0
	for id := uint32(1); opened < 20_000; id += 2 {
		err := c.WriteHeaders(http2.HeadersFrameParam{StreamID: id, BlockFragment: block, EndHeaders: true})
		if err == nil {
			err = c.WriteRSTStream(id, http2.ErrCodeCancel)
		}
		if err != nil {
			break
		}
		opened++
		block = c.encode(w.grpcCall("Bearer x.y.z")...)
	}
	c.Conn.Close()
	t.Logf("%d streams; the connection ended with %s", opened, <-closed)
}

// continuationFlood goes on with a header that has no end, up to 64 MiB. The
// daemon has to close long before.
func continuationFlood(t *testing.T, w *world) {
	c := w.h2From(t, "127.0.0.3")
	closed := make(chan string, 1)
	go func() { closed <- c.readUntilClosed() }()
	err := c.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: c.encode(w.grpcCall("Bearer x.y.z")...)})
	// Literals that go into no table, so that each block stands for itself.
	var more bytes.Buffer
	for more.Len() < 12<<10 {
		more.Write([]byte{0x00, 1, 'x', 127, 0x81, 0x01}) // a length of 127+129 = 256
		more.Write(bytes.Repeat([]byte("a"), 256))
	}
	sent := 0
	for sent < 64<<20 && err == nil {
		err = c.WriteContinuation(1, false, more.Bytes())
		sent += more.Len()
	}
	if err == nil {
		t.Errorf("the daemon took %d MiB of one header", sent>>20)
	}
	c.Conn.Close()
	t.Logf("%d KiB were sent; the connection ended with %s", sent>>10, <-closed)
}

// controlFlood sends frames that want an answer and reads none, up to 16 MiB.
func controlFlood(t *testing.T, w *world) {
	c := w.h2From(t, "127.0.0.4")
	var frames bytes.Buffer
	f := http2.NewFramer(&frames, nil)
	for range 1000 {
		if err := errors.Join(f.WritePing(false, [8]byte{1}), f.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: 1})); err != nil {
			t.Fatal(err)
		}
	}
	var err error
	sent := 0
	for sent < 16<<20 && err == nil {
		var n int
		n, err = c.Conn.Write(frames.Bytes())
		sent += n
	}
	t.Logf("%d KiB were sent, and it ended with %v", sent>>10, err)
}

// readUntilClosed reads frames until there are no more, and says how it ended.
func (c *h2) readUntilClosed() string {
	last := ""
	for {
		f, err := c.ReadFrame()
		if err != nil {
			return fmt.Sprintf("%s %v", last, err)
		}
		if g, ok := f.(*http2.GoAwayFrame); ok {
			last = "GOAWAY " + g.ErrCode.String()
		}
	}
}
