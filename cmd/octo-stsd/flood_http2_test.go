package main

import (
	"context"
	"io"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// frames opens a connection that speaks HTTP/2 frame by frame over TLS. What the
// daemon says is read, so that it can go on, until it closes.
func (d daemonAt) frames(ctx context.Context, from string) (*h2, error) {
	secure, err := d.dialTLS(from, http2.NextProtoTLS)
	if err != nil {
		return nil, err
	}
	c := &h2{Conn: secure}
	c.Framer = http2.NewFramer(secure, nil)
	c.encoder = hpack.NewEncoder(&c.block)
	if _, err = io.WriteString(secure, http2.ClientPreface); err == nil {
		err = c.WriteSettings()
	}
	if err != nil {
		secure.Close()
		return nil, err
	}
	go hold(ctx, secure)
	return c, nil
}

// h2Request is the header of a request that is refused.
func (c *h2) request() []byte {
	return c.encode(field{":method", "GET"}, field{":scheme", "https"}, field{":path", "/sts/exchange?scope=acme/app&identity=reader"},
		field{":authority", "127.0.0.1"}, field{"authorization", "Bearer a.b.c"})
}

// each of these ends when the daemon has had enough.
func resetsRapidly(d daemonAt, ctx context.Context, from string) {
	c, err := d.frames(ctx, from)
	if err != nil {
		return
	}
	defer c.Conn.Close()
	for id := uint32(1); err == nil && ctx.Err() == nil; id += 2 {
		err = c.WriteHeaders(http2.HeadersFrameParam{StreamID: id, BlockFragment: c.request(), EndHeaders: true, EndStream: true})
		if err == nil {
			err = c.WriteRSTStream(id, http2.ErrCodeCancel)
		}
	}
}

func continues(empty bool) func(daemonAt, context.Context, string) {
	return func(d daemonAt, ctx context.Context, from string) {
		c, err := d.frames(ctx, from)
		if err != nil {
			return
		}
		defer c.Conn.Close()
		err = c.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: c.request(), EndStream: true})
		fragment := []byte{}
		if !empty {
			fragment = c.encode(field{"x-y", string(make([]byte, 1000))})
		}
		for err == nil && ctx.Err() == nil {
			err = c.WriteContinuation(1, false, fragment)
		}
	}
}

func pings(d daemonAt, ctx context.Context, from string) {
	c, err := d.frames(ctx, from)
	if err != nil {
		return
	}
	defer c.Conn.Close()
	for err == nil && ctx.Err() == nil {
		err = c.WritePing(false, [8]byte{})
	}
}

func sets(d daemonAt, ctx context.Context, from string) {
	c, err := d.frames(ctx, from)
	if err != nil {
		return
	}
	defer c.Conn.Close()
	for err == nil && ctx.Err() == nil {
		err = c.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: 65535})
	}
}
