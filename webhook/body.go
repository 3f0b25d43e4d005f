package webhook

import (
	"errors"
	"fmt"
	"io"
)

const (
	// maxBody is GitHub's own bound on a payload
	// (https://docs.github.com/en/webhooks/webhook-events-and-payloads#payload-cap).
	maxBody = 25 << 20
	// firstChunk in bytes: more than most payloads.
	firstChunk = 16 << 10
)

var (
	errTooLarge  = fmt.Errorf("the body is over %d MiB", maxBody>>20)
	errNoRoom    = errors.New("too many deliveries at once")
	errShortBody = errors.New("the body could not be read")
)

// read reads all of a body, taking room as bytes arrive and not as a header
// announces them.
func (g *reading) read(body io.Reader) ([]byte, error) {
	defer g.isRead()
	var buf []byte
	for {
		if len(buf) == cap(buf) {
			grown, err := g.grow(buf)
			if err != nil {
				return buf, err
			}
			buf = grown
		}
		n, err := body.Read(buf[len(buf):cap(buf)])
		buf = buf[:len(buf)+n]
		switch {
		case len(buf) > maxBody:
			return buf, errTooLarge
		case errors.Is(err, io.EOF):
			return buf, nil
		case err != nil && g.gaveWay():
			return buf, errNoRoom
		case err != nil:
			return buf, fmt.Errorf("%w: %w", errShortBody, err)
		}
	}
}

// grow returns a copy of buf that is twice as long. Both count while both exist.
func (g *reading) grow(buf []byte) ([]byte, error) {
	size := min(max(firstChunk, 2*cap(buf)), maxBody+1)
	if !g.take(size) {
		return buf, errNoRoom
	}
	// Not append, which would round the size up.
	grown := make([]byte, len(buf), size)
	copy(grown, buf)
	g.give(cap(buf))
	return grown, nil
}
