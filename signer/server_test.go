package signer

import (
	"bytes"
	"context"
	"crypto"
	"crypto/rsa"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"
	"golang.org/x/sys/unix"
)

// testServer serves App 1, whose key works, and App 2, whose key is missing.
type testServer struct {
	socket string
	key    *rsa.PrivateKey
	hsm    *memoryHSM
	server *Server
	logs   *observer.ObservedLogs
	stop   func() error
}

func serveOn(t *testing.T, allow []uint32) testServer {
	t.Helper()
	core, logs := observer.New(zapcore.InfoLevel)
	working, stopWorkers := context.WithCancel(context.Background())
	hsms, memory := runHSMs(working, 1)
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(time.Millisecond) {
		if _, err := hsms.Public("app-1"); err == nil {
			break
		} else if time.Now().After(deadline) {
			t.Fatal(err)
		}
	}
	service, err := NewService(ServiceConfig{
		Apps:    []AppConfig{{ID: 1, Keys: []string{"app-1", "app-1-next"}}, {ID: 2, Keys: []string{"app-2"}}},
		HSMs:    hsms,
		Version: "test",
		Logger:  zap.New(core),
	})
	if err != nil {
		t.Fatal(err)
	}
	checkpoints, err := NewCountersigner(CountersignerConfig{
		Origin:    "log.example",
		Directory: t.TempDir(),
		UseKey: func(ctx context.Context, use func(crypto.Signer) error) error {
			return hsms.UseKey(ctx, "checkpoint", use)
		},
		Logger: zap.NewNop(),
	})
	if err != nil {
		t.Fatal(err)
	}
	server, err := NewServer(ServerConfig{Service: service, Checkpoints: checkpoints, AllowUIDs: allow, Logger: zap.New(core)})
	if err != nil {
		t.Fatal(err)
	}
	socket := filepath.Join(t.TempDir(), "s")
	listener, err := Listen(socket)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- server.Serve(ctx, listener) }()
	stop := sync.OnceValue(func() error {
		cancel()
		err := <-done
		stopWorkers()
		hsms.Wait()
		return err
	})
	t.Cleanup(func() { _ = stop() })
	return testServer{socket, testKeys()[0], memory[0], server, logs, stop}
}

func pkix(t *testing.T, key *rsa.PublicKey) []byte {
	t.Helper()
	der, err := x509.MarshalPKIXPublicKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return der
}

func self() []uint32 { return []uint32{uint32(os.Getuid())} }

func TestAppJWTThroughTheSocket(t *testing.T) {
	s := serveOn(t, self())
	client := NewClient(s.socket)
	got, err := client.AppJWT(t.Context(), 1)
	if err != nil {
		t.Fatal(err)
	}
	if strings.Count(got.JWT, ".") != 2 || time.Until(got.Expiry) > lifetime || time.Until(got.Expiry) < lifetime-time.Minute {
		t.Errorf("%+v", got)
	}
	if _, err := client.AppJWT(t.Context(), 3); !errors.Is(err, ErrRefused) || !strings.Contains(err.Error(), "App 3: the App is not in this signer's configuration") {
		t.Errorf("App that is not listed: %v", err)
	}
	if _, err := client.AppJWT(t.Context(), 2); !errors.Is(err, ErrUnavailable) || !strings.Contains(err.Error(), "no private key is labelled app-2") {
		t.Errorf("App whose key is missing: %v", err)
	}
	status, err := client.Status(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	ready := Fingerprint(&s.key.PublicKey)
	want := Status{
		Version:    "test",
		Signatures: 1,
		HSMs: []HSMStatus{{
			TokenStatus: TokenStatus{Module: "/lib/module.so", Open: true},
			Active:      true,
			Signatures:  1,
			Keys: []KeyStatus{
				{Key: "app-1", Ready: true, Fingerprint: ready},
				{Key: "app-2", Error: "no private key is labelled app-2"},
				{Key: "checkpoint", Ready: true, Fingerprint: Fingerprint(&testKeys()[1].PublicKey), Public: pkix(t, &testKeys()[1].PublicKey)},
			},
		}},
		Apps: []AppStatus{
			{AppID: 1, Ready: true, Key: "app-1", Fingerprint: ready},
			{AppID: 2, Key: "app-2", Error: "no private key is labelled app-2"},
		},
	}
	want.Checkpoint = status.Checkpoint // its own tests look at it
	if diff := cmp.Diff(want, status); diff != "" {
		t.Error(diff)
	}
	if n := s.logs.FilterMessage("App JWT signed").Len(); n != 1 {
		t.Errorf("%d signatures logged, want 1", n)
	}
	for _, entry := range s.logs.All() {
		if strings.Contains(fmt.Sprint(entry.ContextMap()), got.JWT) {
			t.Error("the JWT is in the log")
		}
	}
}

// raw sends one request as it stands and returns status and body.
func raw(t *testing.T, socket, method, path string, body []byte) (int, string) {
	t.Helper()
	client := http.Client{
		Timeout:   10 * time.Second,
		Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(context.Context, string, string) (net.Conn, error) { return net.Dial("unix", socket) }},
	}
	request, err := http.NewRequestWithContext(t.Context(), method, "http://x"+path, bytes.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	response, err := client.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	answer, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	return response.StatusCode, string(answer)
}

func TestServerRefusesOddRequests(t *testing.T) {
	s := serveOn(t, self())
	for _, test := range []struct {
		method, path, body string
		status             int
		want               string
	}{
		{"POST", "/v1/app-jwt", ``, 400, "expected"},
		{"POST", "/v1/app-jwt", `{`, 400, "expected"},
		{"POST", "/v1/app-jwt", `[]`, 400, "expected"},
		{"POST", "/v1/app-jwt", `null`, 400, "positive"},
		{"POST", "/v1/app-jwt", `{}`, 400, "positive"},
		{"POST", "/v1/app-jwt", `{"app_id": -1}`, 400, "positive"},
		{"POST", "/v1/app-jwt", `{"app_id": "1"}`, 400, "expected"},
		{"POST", "/v1/app-jwt", `{"app_id": 1.5}`, 400, "expected"},
		{"POST", "/v1/app-jwt", `{"app_id": 99999999999999999999}`, 400, "expected"},
		{"POST", "/v1/app-jwt", `{"app_id": 1} {"app_id": 2}`, 400, "something follows"},
		{"POST", "/v1/app-jwt", `{"app_id": 1}x`, 400, "something follows"},
		{"POST", "/v1/app-jwt", `{"app_id": 1, "lifetime": 3600}`, 400, "lifetime"},
		{"POST", "/v1/app-jwt", `{"app_id": 1, "claims": {"iss": "2"}}`, 400, "claims"},
		{"POST", "/v1/app-jwt", strings.Repeat(" ", 2*maxRequest) + `{"app_id": 1}`, 400, "too large"},
		{"GET", "/v1/app-jwt", ``, 405, ""},
		{"POST", "/v1/sign", `{"digest": "AAAA"}`, 404, ""},
		{"GET", "/", ``, 404, ""},
	} {
		status, answer := raw(t, s.socket, test.method, test.path, []byte(test.body))
		if status != test.status || !strings.Contains(answer, test.want) || strings.Contains(answer, "eyJ") {
			t.Errorf("%s %s %.60s: %d %s, want %d %q", test.method, test.path, test.body, status, answer, test.status, test.want)
		}
	}
	if _, err := NewClient(s.socket).AppJWT(t.Context(), 1); err != nil {
		t.Errorf("a good request afterwards: %v", err)
	}
}

func TestPeersThatAreNotAllowed(t *testing.T) {
	other := uint32(os.Getuid()) + 1
	s := serveOn(t, []uint32{other})
	_, err := NewClient(s.socket).AppJWT(t.Context(), 1)
	if !errors.Is(err, ErrRefused) || !strings.Contains(err.Error(), fmt.Sprintf("user ID %d is not among allow_users", os.Getuid())) {
		t.Errorf("AppJWT: %v", err)
	}
	if _, err := NewClient(s.socket).Status(t.Context()); !errors.Is(err, ErrRefused) {
		t.Errorf("Status: %v", err)
	}
	refused := s.logs.FilterMessage("peer refused").All()
	if len(refused) != 2 {
		t.Fatalf("%d refusals logged, want 2", len(refused))
	}
	fields := refused[0].ContextMap()
	if fields["uid"] != uint32(os.Getuid()) || fields["pid"] != int32(os.Getpid()) {
		t.Errorf("logged %v", fields)
	}
}

// A daemon that was taken over cannot write the signer's log full, so that the lines about JWTs that were signed get lost.
func TestFailuresInTheLogAreBounded(t *testing.T) {
	s := serveOn(t, self())
	client := NewClient(s.socket)
	const unlisted = 99
	for range 200 {
		if _, err := client.AppJWT(t.Context(), unlisted); err == nil {
			t.Fatal("an App that is not listed got a JWT")
		}
	}
	if n := s.logs.FilterMessage("App JWT not signed").Len(); n == 0 || n > 50 {
		t.Errorf("%d lines in the log about 200 failures", n)
	}
	if _, err := client.AppJWT(t.Context(), 1); err != nil || s.logs.FilterMessage("App JWT signed").Len() != 1 {
		t.Errorf("what was signed is not in the log: %v", err)
	}
}

// Another user is refused by the kernel's word alone, also where the socket's mode would let it in.
func TestOtherUserIsRefused(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("only root can become another user")
	}
	s := serveOn(t, self())
	for path, mode := range map[string]os.FileMode{s.socket: 0o666, filepath.Dir(s.socket): 0o755, filepath.Dir(filepath.Dir(s.socket)): 0o755} {
		if err := os.Chmod(path, mode); err != nil {
			t.Fatal(err)
		}
	}
	answer := make(chan string, 1)
	go func() {
		// The raw call changes this one thread, and a locked goroutine that ends takes its thread with it.
		runtime.LockOSThread()
		answer <- asUser(65534, s.socket)
	}()
	got := <-answer
	if !strings.HasPrefix(got, "HTTP/1.1 403 ") || !strings.Contains(got, "user ID 65534") {
		t.Errorf("nobody was answered:\n%s", got)
	}
}

func asUser(uid int, socket string) string {
	if _, _, errno := unix.RawSyscall(unix.SYS_SETRESUID, uintptr(uid), uintptr(uid), uintptr(uid)); errno != 0 {
		return errno.Error()
	}
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err.Error()
	}
	defer unix.Close(fd)
	if err := unix.Connect(fd, &unix.SockaddrUnix{Name: socket}); err != nil {
		return err.Error()
	}
	if _, err := unix.Write(fd, []byte("POST /v1/app-jwt HTTP/1.1\r\nHost: x\r\nContent-Length: 12\r\n\r\n{\"app_id\": 1}")); err != nil {
		return err.Error()
	}
	buffer := make([]byte, 4096)
	n, err := unix.Read(fd, buffer)
	if err != nil {
		return err.Error()
	}
	return string(buffer[:n])
}

// A connection that did not come through Serve has no peer, and nobody is not allowed.
func TestHandlerAloneAdmitsNobody(t *testing.T) {
	p := peerFrom(context.Background())
	if p.err == nil {
		t.Error("a peer out of nothing")
	}
	client, server := net.Pipe()
	defer client.Close()
	defer server.Close()
	if peerOf(server).err == nil {
		t.Error("a pipe has credentials")
	}
}

func TestHangingModuleIsAnsweredFor(t *testing.T) {
	s := serveOn(t, self())
	hang := make(chan struct{})
	s.hsm.set(func(m *memoryHSM) { m.hang = hang })
	var wg sync.WaitGroup
	for range 6 {
		wg.Go(func() {
			_, err := NewClient(s.socket).AppJWT(t.Context(), 1)
			if !errors.Is(err, ErrUnavailable) || !strings.Contains(err.Error(), "HTTP 503") {
				t.Errorf("while the module hangs: %v", err)
			}
		})
	}
	wg.Wait()
	if status, err := NewClient(s.socket).Status(t.Context()); err != nil || status.Apps[0].Error == "" {
		t.Errorf("the status tells nothing of it: %+v, %v", status.Apps, err)
	}
	s.hsm.set(func(m *memoryHSM) { m.hang = nil })
	close(hang)
	if _, err := NewClient(s.socket).AppJWT(t.Context(), 1); err != nil {
		t.Errorf("after the hang: %v", err)
	}
}

func TestServerFinishesWhatItBegan(t *testing.T) {
	s := serveOn(t, self())
	hang := make(chan struct{})
	s.hsm.set(func(m *memoryHSM) { m.hang = hang })
	result := make(chan error, 1)
	go func() {
		_, err := NewClient(s.socket).AppJWT(context.Background(), 1)
		result <- err
	}()
	for entered := 0; entered == 0; time.Sleep(time.Millisecond) {
		s.hsm.set(func(m *memoryHSM) { entered = m.entered })
	}
	stopped := make(chan error, 1)
	go func() { stopped <- s.stop() }()
	// The listener closes first: new callers are turned away while the old one waits.
	for {
		if _, err := net.Dial("unix", s.socket); err != nil {
			break
		}
		time.Sleep(time.Millisecond)
	}
	close(hang)
	if err := <-result; err != nil {
		t.Errorf("the request under way: %v", err)
	}
	if err := <-stopped; err != nil {
		t.Errorf("stopping: %v", err)
	}
}

func FuzzAppJWTRequest(f *testing.F) {
	for _, seed := range []string{`{"app_id": 1}`, `{"app_id": -1}`, `{"app_id": 1}{}`, `{"APP_ID": 1}`, `[`, ``} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		request, err := decodeAppJWTRequest(bytes.NewReader(body))
		if err == nil && request.AppID <= 0 {
			t.Errorf("accepted App %d", request.AppID)
		}
	})
}
