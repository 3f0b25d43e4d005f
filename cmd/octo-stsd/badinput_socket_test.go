package main

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"
)

// socketRows are requests that no client library sends, over plain connections.
// net/http refuses most of them before the daemon's own code is reached, so they
// have no request ID and no reason to be found; what counts is that nothing is
// granted, that nothing is read as a second request, and that the daemon goes on.
func socketRows(t *testing.T, w *world) {
	raw := w.sign(t, w.Issuer, nil)
	w.remember(raw)
	query := url.Values{"scope": {"acme/app"}, "identity": {anyone}}.Encode()
	t.Run("HTTP/1.1", func(t *testing.T) { malformedHTTP(t, w, query, raw) })
	t.Run("smuggling pairs of Content-Length and Transfer-Encoding", func(t *testing.T) { smuggling(t, w, query, raw) })
	t.Run("HTTP/2", func(t *testing.T) { http2Rows(t, w, raw) })
	t.Run("Slow", func(t *testing.T) { slowRows(t, w, query, raw) })
}

// connection is a plain TCP connection to the daemon. Its deadline is a safety
// limit.
func (w *world) connection(t *testing.T) net.Conn {
	t.Helper()
	return w.connectionFrom(t, "127.0.0.1")
}

// connectionFrom comes from an address of its own: who floods is kept out for a
// while, with all who share the address.
func (w *world) connectionFrom(t *testing.T, address string) net.Conn {
	t.Helper()
	c, err := (&net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(address)}}).DialContext(t.Context(), "tcp", w.Address())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	if err := c.SetDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	return c
}

// rawAnswer is one answer of HTTP/1.
type rawAnswer struct{ status, body string }

// answers sends text and reads all answers until the daemon closes.
func (w *world) answers(t *testing.T, text string) []rawAnswer {
	t.Helper()
	c := w.connection(t)
	go io.WriteString(c, text) // the daemon may answer before it has read everything
	var all []rawAnswer
	for reader := bufio.NewReader(c); ; {
		resp, err := http.ReadResponse(reader, nil)
		if err != nil {
			if timeout, ok := err.(net.Error); ok && timeout.Timeout() {
				t.Error("the daemon left the connection open")
			}
			return all
		}
		// An error here says that the daemon closed before it had read everything.
		body, _ := io.ReadAll(resp.Body)
		all = append(all, rawAnswer{fmt.Sprint(resp.StatusCode), string(body)})
	}
}

// checkRaw holds that text gets one answer, of one of the statuses, and that
// nothing is granted.
func (w *world) checkRaw(t *testing.T, name, text string, statuses ...string) {
	t.Helper()
	t.Run(name, func(t *testing.T) {
		before := w.minted()
		all := w.answers(t, text)
		if len(all) != 1 {
			t.Errorf("%d answers, want one: %+v", len(all), all)
		}
		for _, a := range all {
			if !slices.Contains(statuses, a.status) || strings.Contains(a.body, `"token"`) {
				t.Errorf("status %s, want %v: %.300q", a.status, statuses, a.body)
			}
		}
		if n := w.minted() - before; n != 0 {
			t.Errorf("%d tokens were minted", n)
		}
	})
}

func malformedHTTP(t *testing.T, w *world, query, raw string) {
	get := func(lines ...string) string {
		return "GET /sts/exchange?" + query + " HTTP/1.1\r\nHost: sts.example.com\r\nConnection: close\r\n" + strings.Join(lines, "\r\n") + "\r\n\r\n"
	}
	bearer := "Authorization: Bearer " + raw
	for _, c := range []struct{ name, text, status string }{
		{"a megabyte of dots", get("Authorization: Bearer " + strings.Repeat(".", 1<<20)), "431"},
		{"ten thousand headers", get(strings.Repeat("X-Y: z\r\n", 10_000) + bearer), "431"},
		{"a token with a trailing NUL", get(bearer + "\x00"), "400"},
		{"a token with a trailing carriage return", get(bearer + "\rx"), "400"},
		{"a NUL in another header", get(bearer, "X-Y: \x00"), "400"},
		{"a header without a colon", get(bearer, "X-Y"), "400"},
		{"a space before the colon", get("Authorization : Bearer " + raw), "400"},
		{"two Hosts", get(bearer, "Host: evil.example"), "400"},
		{"no Host", "GET /sts/exchange?" + query + " HTTP/1.1\r\nConnection: close\r\n" + bearer + "\r\n\r\n", "400"},
		{"HTTP/3.0", strings.Replace(get(bearer), "HTTP/1.1", "HTTP/3.0", 1), "505"},
		{"a NUL in the path", strings.Replace(get(bearer), "/sts/", "/sts/\x00", 1), "400"},
		{"dots in the path", strings.Replace(get(bearer), "/sts/exchange", "/sts/../sts/./exchange", 1), "307"},
		{"another method", strings.Replace(get(bearer), "GET", "DELETE", 1), "501"},
		{"CONNECT", strings.Replace(get(bearer), "GET /sts/exchange?"+query, "CONNECT 169.254.169.254:80", 1), "404"},
		{"TLS where there is none", "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", "400"},
	} {
		w.checkRaw(t, c.name, c.text, c.status)
	}
}

// smuggling sends one request whose end two programs might see in two places,
// and behind it one that a proxy would have taken for a body.
func smuggling(t *testing.T, w *world, query, raw string) {
	hidden := "GET /sts/exchange?" + query + " HTTP/1.1\r\nHost: sts.example.com\r\nConnection: close\r\nAuthorization: Bearer " + raw + "\r\n\r\n"
	post := func(version, body string, lines ...string) string {
		return "POST /sts/exchange?" + query + " HTTP/" + version + "\r\nHost: sts.example.com\r\nAuthorization: Bearer " + raw + "\r\n" +
			strings.Join(lines, "\r\n") + "\r\n\r\n" + body + hidden
	}
	const chunked, none = "Transfer-Encoding: chunked", "0\r\n\r\n"
	length := fmt.Sprintf("Content-Length: %d", len(none)+len(hidden))
	for _, c := range []struct{ name, text string }{
		{"Content-Length and Transfer-Encoding", post("1.1", none, length, chunked)},
		{"Transfer-Encoding and Content-Length", post("1.1", none, chunked, length)},
		{"Content-Length: 0 and Transfer-Encoding", post("1.1", none, "Content-Length: 0", chunked)},
		{"two Content-Lengths that differ", post("1.1", "", "Content-Length: 0", fmt.Sprintf("Content-Length: %d", len(hidden)))},
		{"a list of Content-Lengths", post("1.1", "", fmt.Sprintf("Content-Length: 0, %d", len(hidden)))},
		{"Content-Length: +0", post("1.1", "", "Content-Length: +0")},
		{"Content-Length: -1", post("1.1", "", "Content-Length: -1")},
		{"Content-Length: 0x0", post("1.1", "", "Content-Length: 0x0")},
		{"a space before the colon", post("1.1", none, length, "Transfer-Encoding : chunked")},
		{"Transfer-Encoding: xchunked", post("1.1", none, length, "Transfer-Encoding: xchunked")},
		{"Transfer-Encoding: identity", post("1.1", none, length, "Transfer-Encoding: identity")},
		{"Transfer-Encoding: chunked, identity", post("1.1", none, length, "Transfer-Encoding: chunked, identity")},
		{"Transfer-Encoding: gzip, chunked", post("1.1", none, length, "Transfer-Encoding: gzip, chunked")},
		{"two Transfer-Encodings", post("1.1", none, length, chunked, "Transfer-Encoding: identity")},
		{"a vertical tab before chunked", post("1.1", none, length, "Transfer-Encoding: \x0bchunked")},
		{"a chunk with a bad length", post("1.1", "0x0\r\n\r\n", chunked)},
		{"a chunk with a huge length", post("1.1", "FFFFFFFFFFFFFFFFF\r\n\r\n", chunked)},
	} {
		w.checkRaw(t, c.name, c.text, "400", "501")
	}
	// HTTP/1.0 has no Transfer-Encoding, so the Content-Length may count; then the
	// connection has to end (RFC 9112, section 6.1).
	t.Run("a Transfer-Encoding in HTTP/1.0 (accepted, and nothing after it)", func(t *testing.T) {
		all := w.answers(t, post("1.0", none, "Connection: keep-alive", fmt.Sprintf("Content-Length: %d", len(none)), chunked))
		if len(all) != 1 || all[0].status != "200" {
			t.Errorf("%+v, want one answer", all)
		}
	})
}

// slowRows wait for the daemon to lose its patience, all at once. Meanwhile it
// serves others.
func slowRows(t *testing.T, w *world, query, raw string) {
	drip := func(t *testing.T, c net.Conn, text string) []byte {
		stop := make(chan struct{})
		defer close(stop)
		go func() {
			for i := range len(text) {
				select {
				case <-stop:
					return
				case <-time.After(500 * time.Millisecond):
				}
				if _, err := c.Write([]byte{text[i]}); err != nil {
					return
				}
			}
		}()
		got, err := io.ReadAll(c)
		if e, ok := err.(net.Error); ok && e.Timeout() {
			t.Error("the daemon did not close the connection")
		}
		return got
	}
	head := "POST /sts/exchange?" + query + " HTTP/1.1\r\nHost: sts.example.com\r\nAuthorization: Bearer " + raw + "\r\n"
	before := w.minted()
	t.Run("at once", func(t *testing.T) {
		for _, c := range []struct{ name, first, slowly string }{
			{"slow headers", head, strings.Repeat("X-Slow: x\r\n", 100)},
			{"slow bodies", head + "Content-Type: application/x-www-form-urlencoded\r\nContent-Length: 1000\r\n\r\n", strings.Repeat("a", 1000)},
			{"a slow preface of HTTP/2", "PRI * HTTP/2.0\r\n\r\nSM", "\r\n\r\n" + strings.Repeat("\x00", 100)},
			{"nothing at all", "", ""},
		} {
			t.Run(c.name, func(t *testing.T) {
				t.Parallel()
				conn := w.connection(t)
				if _, err := io.WriteString(conn, c.first); err != nil {
					t.Fatal(err)
				}
				if got := drip(t, conn, c.slowly); bytes.Contains(got, []byte(`"token"`)) {
					t.Errorf("%q", got)
				}
			})
		}
		t.Run("many of them, and a good caller (accepted)", func(t *testing.T) {
			t.Parallel()
			for range 300 {
				c := w.connection(t)
				if _, err := io.WriteString(c, head); err != nil {
					t.Fatal(err)
				}
			}
			w.remember(w.overHTTP(t, ask(raw)).token)
			if a := w.overGRPC(t, ask(raw)); a.token == "" {
				t.Errorf("%v %s", a.code, a.message)
			} else {
				w.remember(a.token)
			}
		})
	})
	if n := w.minted() - before; n != 2 {
		t.Errorf("%d tokens were minted, want those of the two good callers", n)
	}
}
