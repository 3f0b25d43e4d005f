package appliance

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/octo-sts/appliance/sts"
)

func TestNetworkOf(t *testing.T) {
	for address, want := range map[string]string{
		"192.0.2.1":          "192.0.2.1",
		"2001:db8::1":        "2001:db8::",
		"2001:db8:0:0:ff::9": "2001:db8::", // one machine's, like the one before
		"2001:db8:0:1::1":    "2001:db8:0:1::",
		"fe80::1%eth0":       "fe80::",
		"::ffff:192.0.2.1":   "192.0.2.1",
	} {
		if got := networkOf(netip.MustParseAddr(address)); got != netip.MustParseAddr(want) {
			t.Errorf("%s is in network %s, want %s", address, got, want)
		}
	}
	if got := networkOf(netip.Addr{}); got.IsValid() {
		t.Errorf("a unix socket has network %s", got)
	}
}

func TestReadBody(t *testing.T) {
	for _, size := range []int{0, 1, sts.MaxBody, sts.MaxBody + 1, 10 * sts.MaxBody} {
		r := httptest.NewRequest(http.MethodPost, "/", bytes.NewReader(make([]byte, size)))
		if err := new(bodies).read(httptest.NewRecorder(), r); err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(r.Body)
		if err != nil {
			t.Fatal(err)
		}
		// One byte too many is enough for whoever reads it to refuse it.
		if want := min(size, sts.MaxBody+1); len(body) != want {
			t.Errorf("%d bytes of %d, want %d", len(body), size, want)
		}
	}
}

// Whoever announces a body and does not send it takes nobody's place.
func TestSlowBodiesHoldNoSlots(t *testing.T) {
	answers := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if _, err := io.ReadAll(r.Body); err == nil {
			fmt.Fprint(w, "served")
		}
	})
	edge, err := newEdge(&Config{Limits: Limits{Concurrent: 1, PerAddress: 1000, Burst: 1000}}, newMetrics(), answers, nil)
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewServer(edge)
	t.Cleanup(server.Close)
	for range 10 {
		c, err := (&net.Dialer{}).DialContext(t.Context(), "tcp", server.Listener.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		if _, err := fmt.Fprint(c, "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n"); err != nil {
			t.Fatal(err)
		}
	}
	time.Sleep(50 * time.Millisecond) // for the server to read ten headers
	response, err := http.Get(server.URL)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	if body, err := io.ReadAll(response.Body); err != nil || string(body) != "served" {
		t.Errorf("%s %q, %v", response.Status, body, err)
	}
}

// A unix socket that somebody listens on is not taken away; one that a killed
// daemon left is.
func TestListenOnAUnixSocket(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	open := func(ctx context.Context) (net.Listener, error) { return openSocket(ctx, "unix:"+path) }
	first, err := open(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := open(t.Context()); err == nil || !strings.Contains(err.Error(), "another process is listening") {
		t.Errorf("a second daemon: %v", err)
	}
	first.(*net.UnixListener).SetUnlinkOnClose(false)
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	again, err := open(t.Context())
	if err != nil {
		t.Fatalf("after a daemon that was killed: %v", err)
	}
	again.Close()
}
