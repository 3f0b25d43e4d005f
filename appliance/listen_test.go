package appliance

import (
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"
)

// A panic of a handler is the one thing that net/http has to say which an
// operator must read, whatever strangers do to connections meanwhile.
func TestAHandlersPanicIsLogged(t *testing.T) {
	core, logged := observer.New(zapcore.DebugLevel)
	panics := http.HandlerFunc(func(http.ResponseWriter, *http.Request) { panic("at the disco") })
	on, err := openSocket(t.Context(), "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l := newListener("https", []net.Listener{on}, panics, nil, zap.New(core))
	ended := make(chan error, 1)
	go func() { ended <- l.serve(on) }()
	address := on.Addr().String()
	protocols := new(http.Protocols)
	protocols.SetUnencryptedHTTP2(true)
	for _, client := range []*http.Client{{}, {Transport: &http.Transport{Protocols: protocols}}} {
		request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+address, nil)
		if err != nil {
			t.Fatal(err)
		}
		request.Close = true
		if response, err := client.Do(request); err == nil {
			response.Body.Close()
			t.Errorf("a handler that panics answered %s", response.Status)
		}
	}
	// The server may log after the client has its answer.
	panicked := func() []observer.LoggedEntry { return logged.FilterMessage("a request's handler panicked").All() }
	for deadline := time.Now().Add(30 * time.Second); len(panicked()) < 2 && time.Now().Before(deadline); {
		time.Sleep(time.Millisecond)
	}
	l.server.ErrorLog.Print("http: TLS handshake error from 192.0.2.1: EOF")
	if err := l.server.Close(); err != nil {
		t.Error(err)
	}
	if err := <-ended; err != nil {
		t.Error(err)
	}
	lines := panicked()
	if len(lines) < 2 || logged.Len() != len(lines) {
		t.Fatalf("logged %v, want the two panics alone", logged.All())
	}
	for _, line := range lines {
		if detail := line.ContextMap()["detail"].(string); line.Level != zapcore.ErrorLevel || !strings.Contains(detail, "at the disco") {
			t.Errorf("logged %v", line)
		}
	}
}
