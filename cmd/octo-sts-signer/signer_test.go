package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"

	"github.com/octo-sts/appliance/signer"
	"github.com/octo-sts/appliance/signer/signertest"
)

func start(t testing.TB, c signertest.Config) *signertest.Signer {
	t.Helper()
	c.Binary = binary
	c.Dir = t.TempDir()
	s, err := signertest.Start(context.Background(), c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = s.Kill() // unless the test ended it
		if t.Failed() {
			t.Log(s.Logs())
		}
	})
	return s
}

// The JWT is what GitHub's documentation asks for, in the eyes of a JOSE library that is not ours.
func TestAppJWT(t *testing.T) {
	s := start(t, signertest.Config{AppIDs: []int64{12, 34}})
	for _, id := range []int64{12, 34} {
		before := time.Now().Truncate(time.Second)
		got, err := s.Client().AppJWT(t.Context(), id)
		if err != nil {
			t.Fatal(err)
		}
		after := time.Now()
		parsed, err := jwt.ParseSigned(got.JWT, []jose.SignatureAlgorithm{jose.RS256})
		if err != nil {
			t.Fatal(err)
		}
		var claims jwt.Claims
		if err := parsed.Claims(s.PublicKey(id), &claims); err != nil {
			t.Fatal(err)
		}
		issued, expiry := claims.IssuedAt.Time(), claims.Expiry.Time()
		if claims.Issuer != strconv.FormatInt(id, 10) || !expiry.Equal(got.Expiry) || expiry.Sub(issued) != 10*time.Minute {
			t.Errorf("App %d: %+v", id, claims)
		}
		if issued.Before(before.Add(-time.Minute)) || issued.After(after.Add(-time.Minute)) {
			t.Errorf("App %d: issued at %v, want a minute before %v", id, issued, before)
		}
		var other jwt.Claims
		if err := parsed.Claims(s.PublicKey(46-id), &other); err == nil {
			t.Errorf("App %d: the other App's key verifies it too", id)
		}
	}
	if err := s.Stop(); err != nil {
		t.Error(err)
	}
}

// A killed signer leaves its socket behind; the next one takes it over, and a client notices nothing but the gap.
func TestKillAndRestart(t *testing.T) {
	s := start(t, signertest.Config{AppIDs: []int64{1}})
	client := s.Client()
	for range 3 {
		if _, err := client.AppJWT(t.Context(), 1); err != nil {
			t.Fatal(err)
		}
		if err := s.Kill(); err != nil {
			t.Fatal(err)
		}
		if _, err := client.AppJWT(t.Context(), 1); !errors.Is(err, signer.ErrUnavailable) {
			t.Errorf("while it is dead: %v", err)
		}
		if _, err := os.Stat(s.Socket()); err != nil {
			t.Errorf("the socket's file: %v", err)
		}
		if err := s.Restart(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := client.AppJWT(t.Context(), 1); err != nil {
		t.Error(err)
	}
	if err := s.Restart(t.Context()); err != nil { // gracefully
		t.Fatal(err)
	}
	if _, err := client.AppJWT(t.Context(), 1); err != nil {
		t.Error(err)
	}
	if n := strings.Count(s.Logs(), `"msg":"signer has stopped"`); n != 1 {
		t.Errorf("it stopped %d times by itself, want 1", n)
	}
}

// More callers than sessions: everyone is served, and the token never sees more than max_sessions.
func TestManyCallersFewSessions(t *testing.T) {
	s := start(t, signertest.Config{AppIDs: []int64{1}, MaxSessions: 3})
	var wg sync.WaitGroup
	for range 16 {
		wg.Go(func() {
			client := s.Client()
			defer client.Close()
			for range 5 {
				if _, err := client.AppJWT(t.Context(), 1); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	status, err := s.Status(t.Context())
	if err != nil || status.Signatures != 80 || !status.Ready {
		t.Errorf("%+v, %v", status, err)
	}
}

func TestUserThatIsNotListed(t *testing.T) {
	s := start(t, signertest.Config{AppIDs: []int64{1}, AllowUsers: []string{strconv.Itoa(os.Getuid() + 1)}})
	if _, err := s.Client().AppJWT(t.Context(), 1); !errors.Is(err, signer.ErrRefused) || !strings.Contains(err.Error(), "allow_users") {
		t.Errorf("the signer's own user: %v", err)
	}
	if want := fmt.Sprintf(`"msg":"peer refused","program":"octo-sts-signer","uid":%d,"pid":%d`, os.Getuid(), os.Getpid()); !strings.Contains(s.Logs(), want) {
		t.Errorf("no %s in the log", want)
	}
}

// The service manager's socket is used instead of the configured one, and not removed at the end.
func TestSocketActivation(t *testing.T) {
	s := start(t, signertest.Config{AppIDs: []int64{1}})
	if err := s.Stop(); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "activated")
	listener, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	passed, err := listener.File()
	if err != nil {
		t.Fatal(err)
	}
	defer passed.Close()
	// LISTEN_PID must be the program's own, so a shell sets it and becomes the program.
	cmd := exec.Command("sh", "-c", `LISTEN_FDS=1 LISTEN_PID=$$ exec "$0" serve --config "$1"`, binary, s.ConfigFile())
	cmd.Env = append(os.Environ(), s.Env()...)
	cmd.ExtraFiles = []*os.File{passed}
	var logs strings.Builder
	cmd.Stderr = &logs
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	client := signer.NewClient(path)
	awaitApp(t, client, 1)
	if _, err := os.Stat(s.Socket()); err == nil {
		t.Error("it listens on the configured socket as well")
	}
	if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Error(err)
	}
	if err := cmd.Wait(); err != nil {
		t.Errorf("%v\n%s", err, logs.String())
	}
	if _, err := os.Stat(path); err != nil {
		t.Errorf("the service manager's socket is gone: %v", err)
	}
}

// awaitApp waits until an App JWT can be had. The deadline is for safety.
func awaitApp(t *testing.T, client *signer.Client, id int64) {
	t.Helper()
	deadline := time.Now().Add(30 * time.Second)
	for {
		_, err := client.AppJWT(t.Context(), id)
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatal(err)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// BenchmarkAppJWT is one App JWT: client, socket, SoftHSM's signature, verification, and back.
func BenchmarkAppJWT(b *testing.B) {
	s := start(b, signertest.Config{AppIDs: []int64{1}})
	client := s.Client()
	for b.Loop() {
		if _, err := client.AppJWT(b.Context(), 1); err != nil {
			b.Fatal(err)
		}
	}
}
