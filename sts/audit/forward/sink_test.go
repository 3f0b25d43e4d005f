package forward

import (
	"bufio"
	"context"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/cloudevents/sdk-go/v2/event"
)

const secret = "s3cr3t-that-nobody-logs"

func TestCheckSink(t *testing.T) {
	for raw, want := range map[string]string{
		"https://collector.example.com/":           "",
		"https://collector.example.com:8443/a?b=c": "",
		"http://127.0.0.1:8080/":                   "",
		"http://[::1]:8080/":                       "",
		"http://localhost/":                        "",
		"http://collector.example.com/":            "is not https",
		"http://127.0.0.1.example.com/":            "is not https",
		"https://user:" + secret + "@c.example/":   "a user or a fragment",
		"https://c.example/#" + secret:             "a user or a fragment",
		"collector.example.com":                    "is not a URL",
		"ftp://c.example/":                         "is not a URL",
		"https:///path":                            "is not a URL",
		"https:c.example":                          "is not a URL",
		"https://c.example/%zz?" + secret:          "is not a URL",
		"":                                         "is not a URL",
	} {
		_, err := CheckSink(raw)
		if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("%s: %v, want %q", raw, err, want)
		}
		if err != nil && strings.Contains(err.Error(), secret) {
			t.Errorf("%s: the error repeats the secret: %v", raw, err)
		}
	}
}

// The credential goes to the sink and nowhere else: into no log, no error, no status, to no other host, whatever the
// sink answers. Nor does the URL's query.
func TestCredential(t *testing.T) {
	other := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		t.Errorf("a redirect was followed, with Authorization %q", r.Header.Get("Authorization"))
	}))
	t.Cleanup(other.Close)
	m, c := newMachine(t), newCollector(t)
	echo := func(code int) fault {
		return func(w http.ResponseWriter, r *http.Request, _ []event.Event) {
			w.Header().Set("Location", other.URL)
			w.Header().Set("Retry-After", secret)
			http.Error(w, r.Header.Get("Authorization"), code)
		}
	}
	faults := []fault{echo(301), echo(302), echo(307), echo(308), echo(401), echo(500), reset(""), reset("HTTP/1.1 " + secret + "\r\n\r\n")}
	var wrong atomic.Int32
	inner := c.Config.Handler
	c.Config.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") != "Bearer "+secret {
			wrong.Add(1)
		}
		inner.ServeHTTP(w, r)
	})
	c.setFaults(func(request int, _ []event.Event) fault {
		if request < len(faults) {
			return faults[request]
		}
		return nil
	})
	m.fill(t, 1)
	logger, logs := recorder()
	e := newTestEvents(t, m, EventsConfig{URL: c.URL + "/?code=query-" + secret, Credential: secret, Logger: logger})
	running(t, e.Run)
	c.await(m, 0)
	c.Close()
	m.fill(t, 1)
	eventually(t, "that nobody listens", func() bool { return e.Status().Err != nil })
	if wrong.Load() > 0 {
		t.Errorf("%d requests without the credential", wrong.Load())
	}
	told := fmt.Sprint(e.Status().Err)
	for _, l := range logs.All() {
		told += fmt.Sprint(l.Message, l.ContextMap())
	}
	// What a sink puts into the place of its status is its own to tell, and net/http repeats it.
	told = strings.ReplaceAll(told, `malformed HTTP status code "`+secret+`"`, "")
	if strings.Contains(told, secret) {
		t.Errorf("told: %s", told)
	}
	if _, err := newSink(EventsConfig{URL: "https://c.example/", Credential: secret + "\x7f"}); err == nil || strings.Contains(err.Error(), secret) {
		t.Errorf("a credential that is no header's value: %v", err)
	}
}

// The sink's certificate is held against the file of roots alone.
func TestRoots(t *testing.T) {
	m, c := newMachine(t), unstarted(t)
	c.EnableHTTP2 = true
	c.StartTLS()
	m.fill(t, 3)
	e := newTestEvents(t, m, EventsConfig{URL: c.URL})
	stop := running(t, e.Run)
	eventually(t, "an error about the certificate", func() bool {
		err := e.Status().Err
		return err != nil && strings.Contains(err.Error(), "certificate")
	})
	stop()
	file := rootsOf(t, c)
	running(t, newTestEvents(t, m, EventsConfig{URL: c.URL, CAFile: file}).Run)
	c.await(m, 0)
	for name, content := range map[string]string{"empty": "", "text": "no certificate"} {
		file := filepath.Join(t.TempDir(), name)
		if err := os.WriteFile(file, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := newSink(EventsConfig{URL: c.URL, CAFile: file}); err == nil || !strings.Contains(err.Error(), file) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := newSink(EventsConfig{URL: c.URL, CAFile: "/absent.pem"}); !errors.Is(err, os.ErrNotExist) {
		t.Error(err)
	}
}

func rootsOf(t testing.TB, c *collector) (file string) {
	t.Helper()
	file = filepath.Join(t.TempDir(), "roots.pem")
	block := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Certificate().Raw})
	if err := os.WriteFile(file, block, 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

// HTTPS_PROXY is used: a host name that only the proxy can resolve is reached through it.
func TestProxy(t *testing.T) {
	m, c := newMachine(t), unstarted(t)
	c.StartTLS()
	asked := make(chan string, 100)
	proxy := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked <- r.Method + " " + r.Host
		backend, err := net.Dial("tcp", c.Listener.Addr().String())
		if err != nil {
			t.Error(err)
			return
		}
		defer backend.Close()
		conn, buffer, err := w.(http.Hijacker).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		defer conn.Close()
		_, _ = io.WriteString(conn, "HTTP/1.1 200 OK\r\n\r\n")
		go func() { _, _ = io.Copy(backend, bufio.NewReader(buffer)) }()
		_, _ = io.Copy(conn, backend)
	}))
	t.Cleanup(proxy.Close)
	t.Setenv("HTTPS_PROXY", proxy.URL)
	t.Setenv("NO_PROXY", "")
	m.fill(t, 3)
	stop := running(t, newTestEvents(t, m, EventsConfig{URL: "https://example.com/", CAFile: rootsOf(t, c)}).Run) // the name in httptest's certificate
	c.await(m, 0)
	stop()
	c.CloseClientConnections()
	if got := <-asked; got != "CONNECT example.com:443" {
		t.Error(got)
	}
}

// An attempt has an end, also where the sink takes the connection and then not a byte.
func TestAttemptEnds(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	m := newMachine(t)
	m.fill(t, 100)
	e := newTestEvents(t, m, EventsConfig{URL: "http://" + l.Addr().String()})
	e.pace.attempt = quick.longest
	running(t, e.Run)
	eventually(t, "the end of an attempt", func() bool { return errors.Is(e.Status().Err, context.DeadlineExceeded) })
}
