package signer

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestListenReplacesADeadSocketOnly(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")

	// What a killed process leaves behind.
	dead, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	dead.SetUnlinkOnClose(false)
	if err := dead.Close(); err != nil {
		t.Fatal(err)
	}
	listener, err := Listen(path)
	if err != nil {
		t.Fatalf("over a dead socket: %v", err)
	}
	info, err := os.Stat(path)
	if err != nil || info.Mode().Perm() != 0o660 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
	if _, err := Listen(path); err == nil || !strings.Contains(err.Error(), "another process is listening") {
		t.Errorf("over a live socket: %v", err)
	}
	if err := listener.Close(); err != nil {
		t.Error(err)
	}

	if err := os.WriteFile(path, []byte("precious"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Listen(path); err == nil || !strings.Contains(err.Error(), "not a socket") {
		t.Errorf("over a file: %v", err)
	}
	if content, err := os.ReadFile(path); err != nil || string(content) != "precious" {
		t.Errorf("the file is now %q, %v", content, err)
	}
	if _, err := Listen(filepath.Join(t.TempDir(), "none", "s")); err == nil {
		t.Error("listening in a directory that does not exist")
	}
}

// answering serves one fixed answer on a unix socket.
func answering(t *testing.T, status int, body string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "s")
	listener, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Location", "/v1/status")
		w.WriteHeader(status)
		fmt.Fprint(w, body)
	})}
	go func() { _ = server.Serve(listener) }()
	t.Cleanup(func() { _ = server.Close() })
	return path
}

func TestClientTellsRefusedFromUnavailable(t *testing.T) {
	for name, test := range map[string]struct {
		socket string
		want   error
	}{
		"nobody listens":       {filepath.Join(t.TempDir(), "s"), ErrUnavailable},
		"403":                  {answering(t, 403, `{"error": "not allowed"}`), ErrRefused},
		"404":                  {answering(t, 404, `{"error": "no such App"}`), ErrRefused},
		"404 without a reason": {answering(t, 404, `<html>`), ErrRefused},
		"503":                  {answering(t, 503, `{"error": "no HSM"}`), ErrUnavailable},
		"500":                  {answering(t, 500, ``), ErrUnavailable},
		"redirect":             {answering(t, 302, ``), ErrUnavailable},
		"200 that is no JSON":  {answering(t, 200, `<html>`), ErrUnavailable},
		"200 without a JWT":    {answering(t, 200, `{}`), ErrUnavailable},
		"200 without expiry":   {answering(t, 200, `{"jwt": "a.b.c"}`), ErrUnavailable},
		"200 without an end":   {answering(t, 200, `{"jwt": "`+strings.Repeat("a", maxAnswer)+`"}`), ErrUnavailable},
	} {
		got, err := NewClient(test.socket).AppJWT(t.Context(), 1)
		if !errors.Is(err, test.want) || got != (AppJWT{}) {
			t.Errorf("%s: %+v, %v; want %v", name, got, err, test.want)
		}
		if errors.Is(err, ErrRefused) && errors.Is(err, ErrUnavailable) {
			t.Errorf("%s: both refused and unavailable: %v", name, err)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := NewClient(answering(t, 200, `{}`)).Status(ctx); !errors.Is(err, ErrUnavailable) || !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
}
