package main

import (
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/octo-sts/appliance/sts/ststest"
)

// Sockets that are passed are served in the place of listen.https and listen.http,
// several under one name, whatever the file says of ports.
func TestPassedSockets(t *testing.T) {
	m := newServiceManager(t)
	addresses := []string{m.listen("https", "tcp", "127.0.0.1:0"), m.listen("https", "tcp", "[::1]:0")}
	plain := m.listen("http", "tcp", "127.0.0.1:0")
	c := ststest.ServiceConfig{TLS: true, Edit: func(c map[string]any) {
		c["listen"].(map[string]any)["https"] = "127.0.0.1:1" // not ours to open
	}}
	m.manages(&c)
	r := newRig(t, c)
	for _, address := range addresses {
		url := "https://" + address + "/sts/exchange?scope=acme/app&identity=reader"
		request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
		if err != nil {
			t.Fatal(err)
		}
		request.Header.Set("Authorization", "Bearer "+r.job(nil))
		if x, err := r.Do(request); err != nil || x.Status != http.StatusOK {
			t.Errorf("%s: %d %s, %v", address, x.Status, x.Body, err)
		}
	}
	response, err := r.Client().Get("http://" + plain + "/")
	if err != nil {
		t.Fatal(err)
	}
	response.Body.Close()
	if response.StatusCode != http.StatusPermanentRedirect {
		t.Errorf("%s: %s", plain, response.Status)
	}
}

// What is passed and cannot be used ends the start, and says what is wrong with the
// socket unit.
func TestPassedSocketsThatCannotBeUsed(t *testing.T) {
	r := newRig(t, ststest.ServiceConfig{})
	if err := r.Stop(); err != nil {
		t.Fatal(err)
	}
	const loopback = "127.0.0.1:0"
	for name, test := range map[string]struct {
		pass func(m *serviceManager)
		want []string
	}{
		"no https": {func(m *serviceManager) { m.listen("http", "tcp", loopback) },
			[]string{"passed no socket named https: a socket unit for the exchange has FileDescriptorName=https"}},
		"unknown names, all of them": {func(m *serviceManager) {
			m.listen("https", "tcp", loopback)
			m.listen("octo-stsd.socket", "tcp", loopback)
			m.listen("admin", "tcp", loopback)
		}, []string{`as "octo-stsd.socket": FileDescriptorName= of a socket unit is https or http`, `as "admin": `}},
		"a datagram socket": {func(m *serviceManager) { m.listen("https", "udp", loopback) },
			[]string{`the service manager passed "https", which is not a stream socket: a socket unit for it has ListenStream=`}},
		"a connection": {func(m *serviceManager) { m.pass("https", connection(m.t)) },
			[]string{`the service manager passed "https", which does not listen: a socket unit for it has Accept=no`}},
		"a file": {func(m *serviceManager) { m.pass("https", plainFile(m.t)) },
			[]string{`the service manager passed "https", which is not a socket`}},
		"one socket twice": {func(m *serviceManager) {
			m.listen("https", "tcp", loopback)
			m.pass("http", m.files[0])
		}, []string{`twice, as "https" and as "http": name it in one socket unit alone`}},
		"without TLS, for everybody": {func(m *serviceManager) { m.listen("https", "tcp", "0.0.0.0:0") },
			[]string{"tls.mode is off, and the socket https that the service manager passed listens on", "it has to be a loopback address or a unix socket"}},
	} {
		t.Run(name, func(t *testing.T) {
			m := newServiceManager(t)
			test.pass(m)
			output, status := m.runDaemon(r.ConfigFile)
			for _, want := range test.want {
				if !strings.Contains(output, want) {
					t.Errorf("it does not say %q: %s", want, output)
				}
			}
			if status != 1 || m.count(0, "READY=1") > 0 {
				t.Errorf("exit status %d, told %q", status, m.all())
			}
		})
	}
}

// listen.http that no socket was passed for stays closed, and that is said.
func TestPassedSocketsWithoutHTTP(t *testing.T) {
	m := newServiceManager(t)
	m.listen("https", "unix", filepath.Join(shortDir(t), "s"))
	c := ststest.ServiceConfig{Unready: true, Edit: func(c map[string]any) {
		c["listen"].(map[string]any)["http"] = "127.0.0.1:0"
	}}
	m.manages(&c)
	r := newRig(t, c)
	m.await(0, "READY=1")
	if strings.Contains(r.Logs(), `"listener":"http"`) || !strings.Contains(r.Logs(), "listen.http is not opened: the service manager passed sockets, and none of them is named http") {
		t.Errorf("listen.http: %s", r.Logs())
	}
}

func connection(t *testing.T) *os.File {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	conn, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	file, err := conn.(*net.TCPConn).File()
	if err != nil {
		t.Fatal(err)
	}
	return file
}

func plainFile(t *testing.T) *os.File {
	t.Helper()
	file, err := os.Create(filepath.Join(t.TempDir(), "file"))
	if err != nil {
		t.Fatal(err)
	}
	return file
}

// shortDir is for unix sockets, whose paths are short.
func shortDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "octo-sts-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}
