package main

import (
	"context"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"sigs.k8s.io/yaml"

	"github.com/octo-sts/appliance/signer"
	"github.com/octo-sts/appliance/signer/signertest"
)

// edit changes the signer's configuration file.
func edit(t *testing.T, s *signertest.Signer, change func(c map[string]any)) {
	t.Helper()
	text, err := os.ReadFile(s.ConfigFile())
	if err != nil {
		t.Fatal(err)
	}
	c := map[string]any{}
	if err := yaml.Unmarshal(text, &c); err != nil {
		t.Fatal(err)
	}
	change(c)
	if text, err = yaml.Marshal(c); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(s.ConfigFile(), text, 0o600); err != nil {
		t.Fatal(err)
	}
}

// hangUp sends SIGHUP and waits until the log has text once more.
func hangUp(t *testing.T, s *signertest.Signer, text string) {
	t.Helper()
	before := strings.Count(s.Logs(), text)
	if err := s.Signal(syscall.SIGHUP); err != nil {
		t.Fatal(err)
	}
	eventually(t, text, func() bool { return strings.Count(s.Logs(), text) > before })
}

// importApp puts a fresh key into every HSM for an App of the configuration.
func importApp(t *testing.T, s *signertest.Signer, id int64) *rsa.PublicKey {
	t.Helper()
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	block := &pem.Block{Type: "RSA PRIVATE KEY", Bytes: x509.MarshalPKCS1PrivateKey(key)}
	cmd := exec.Command(binary, "key", "import", "--config", s.ConfigFile(), "--app", strconv.FormatInt(id, 10), "--pem", "-")
	cmd.Env = append(os.Environ(), s.Env()...)
	cmd.Stdin = strings.NewReader(string(pem.EncodeToMemory(block)))
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return &key.PublicKey
}

// Under load: another App comes, the first one's key changes, mistakes change nothing, and no request is lost.
func TestReload(t *testing.T) {
	t.Parallel()
	s := start(t, signertest.Config{AppIDs: []int64{1}, HSMs: 2})
	workers := []int{s.WorkerPID(0), s.WorkerPID(1)}
	l := startLoad(t, s, 4)

	app := func(id int64, keys ...string) any { return map[string]any{"id": id, "keys": keys} }
	edit(t, s, func(c map[string]any) {
		c["apps"] = []any{app(1, signertest.KeyLabel(1), "app-1-next"), app(2, signertest.KeyLabel(2))}
	})
	importApp(t, s, 2)
	next := importApp(t, s, 1)
	hangUp(t, s, "configuration taken up")
	for id := range int64(2) {
		awaitApp(t, s.Client(), id+1)
	}
	eventually(t, "the new keys in each HSM", func() bool {
		for i := range 2 {
			for _, key := range hsmStatus(t, s, i).Keys {
				if !key.Ready {
					return false
				}
			}
		}
		return true
	})

	edit(t, s, func(c map[string]any) {
		c["apps"] = []any{app(1, "app-1-next", signertest.KeyLabel(1)), app(2, signertest.KeyLabel(2))}
	})
	hangUp(t, s, "configuration taken up")
	status, err := s.Status(t.Context())
	if err != nil || !status.Ready || status.Apps[0].Fingerprint != signer.Fingerprint(next) {
		t.Errorf("after the keys changed places: %+v, %v", status.Apps, err)
	}

	for mistake, change := range map[string]func(c map[string]any){
		"allow_users is empty": func(c map[string]any) { c["allow_users"] = []string{} },
		"did you mean apps":    func(c map[string]any) { c["app"] = c["apps"] },
		"which signs checkpoints until a res": func(c map[string]any) {
			c["apps"] = []any{app(1, "audit-checkpoint")}
			c["checkpoint"].(map[string]any)["key"] = "other"
		},
	} {
		good, err := os.ReadFile(s.ConfigFile())
		if err != nil {
			t.Fatal(err)
		}
		edit(t, s, change)
		hangUp(t, s, "the configuration is not taken up, the one before stays in force")
		if !strings.Contains(s.Logs(), mistake) {
			t.Errorf("no %q in the log", mistake)
		}
		if _, err := s.Client().AppJWT(t.Context(), 2); err != nil {
			t.Errorf("%s: %v", mistake, err)
		}
		if err := os.WriteFile(s.ConfigFile(), good, 0o600); err != nil {
			t.Fatal(err)
		}
	}

	edit(t, s, func(c map[string]any) { c["socket"] = "/run/other.sock" })
	hangUp(t, s, `a change of the configuration waits for a restart","program":"octo-sts-signer","key":"socket"`)

	l.noneFailed(t)
	edit(t, s, func(c map[string]any) { c["allow_users"] = []string{strconv.Itoa(os.Getuid() + 1)} })
	hangUp(t, s, "configuration taken up")
	if _, err := s.Client().AppJWT(t.Context(), 1); !errors.Is(err, signer.ErrRefused) {
		t.Errorf("a user who is not allowed any more: %v", err)
	}
	if s.WorkerPID(0) != workers[0] || s.WorkerPID(1) != workers[1] {
		t.Error("a reload replaced a worker")
	}
}

// An App's key makes way for one that the signer has never heard of only when that one signs: no request is lost while
// the HSM looks for it, and where it is not there the file changes nothing.
func TestReloadToAKeyThatWasNotLookedForYet(t *testing.T) {
	t.Parallel()
	s := start(t, signertest.Config{AppIDs: []int64{1}})
	signsWith := func(label string) {
		t.Helper()
		if status, err := s.Status(t.Context()); err != nil || !status.Ready || status.Apps[0].Key != label {
			t.Errorf("it is to sign with %s: %+v, %v", label, status.Apps, err)
		}
	}
	l := startLoad(t, s, 4)
	l.more(t, 20)
	first := func(label string) {
		edit(t, s, func(c map[string]any) {
			c["apps"] = []any{map[string]any{"id": 1, "keys": []any{label, signertest.KeyLabel(1)}}}
		})
	}
	first("absent")
	hangUp(t, s, `which signs, to \"absent\", which does not`)
	signsWith(signertest.KeyLabel(1))

	first("app-1-next")
	importApp(t, s, 1)
	hangUp(t, s, "configuration taken up")
	signsWith("app-1-next")
	l.more(t, 20)
	l.noneFailed(t)
}

// What systemd hears of a start, a reload with and without a mistake, and a stop (sd_notify(3)).
func TestServiceManagerIsTold(t *testing.T) {
	t.Parallel()
	s := start(t, signertest.Config{AppIDs: []int64{1}})
	if err := s.Stop(); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "notify")
	socket, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer socket.Close()
	ctx, cancel := context.WithTimeout(t.Context(), safety)
	defer cancel()
	// WATCHDOG_PID is left out: it would have to be the program's own.
	cmd := exec.CommandContext(ctx, binary, "serve", "--config", s.ConfigFile())
	cmd.Env = append(os.Environ(), append(s.Env(), "NOTIFY_SOCKET="+path, "WATCHDOG_USEC=300000")...)
	var logs strings.Builder
	cmd.Stderr = &logs
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	await := func(want string) {
		t.Helper()
		buffer := make([]byte, 4096)
		_ = socket.SetReadDeadline(time.Now().Add(safety))
		for {
			n, err := socket.Read(buffer)
			if err != nil {
				t.Fatalf("no %q: %v", want, err)
			}
			if strings.Contains(string(buffer[:n]), want) {
				return
			}
		}
	}
	await("READY=1")
	await("WATCHDOG=1")
	await("STATUS=HSM 0 signs")
	await("WATCHDOG=1")
	if err := cmd.Process.Signal(syscall.SIGHUP); err != nil {
		t.Fatal(err)
	}
	await("RELOADING=1\nMONOTONIC_USEC=")
	await("READY=1")
	if err := os.WriteFile(s.ConfigFile(), []byte("socket: 1\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Process.Signal(syscall.SIGHUP); err != nil {
		t.Fatal(err)
	}
	await("RELOADING=1\nMONOTONIC_USEC=")
	await("READY=1")
	await("STATUS=HSM 0 signs; the configuration on disk is not in force")
	if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	await("STOPPING=1")
	if err := cmd.Wait(); err != nil {
		t.Error(fmt.Errorf("%w\n%s", err, logs.String()))
	}
}
