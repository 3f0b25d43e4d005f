package signer

import (
	"context"
	"crypto"
	"crypto/ed25519"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"

	"go.uber.org/zap"
	"golang.org/x/time/rate"
)

// The tests run this binary again as another process, to kill it or to have strace fail its system calls.
func TestMain(m *testing.M) {
	if dir := os.Getenv("SIGNER_TEST_CHILD"); dir != "" {
		if err := childCountersigner(dir); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

// childKey is the checkpoint key of child processes, which have no HSM.
func childKey() ed25519.PrivateKey { return ed25519.NewKeyFromSeed(make([]byte, ed25519.SeedSize)) }

// childCountersigner serves checkpoints on DIR/socket until it is killed, as fast as they come.
func childCountersigner(dir string) error {
	checkpoints, err := NewCountersigner(CountersignerConfig{
		Origin:    testOrigin,
		Directory: dir,
		UseKey:    func(_ context.Context, use func(crypto.Signer) error) error { return use(childKey()) },
		Logger:    zap.NewNop(),
	})
	if err != nil {
		return err
	}
	checkpoints.limiter = rate.NewLimiter(rate.Inf, 0)
	return serveCheckpoints(context.Background(), checkpoints, filepath.Join(dir, "socket"))
}

// serveCheckpoints serves a Countersigner, without any App, until ctx ends.
func serveCheckpoints(ctx context.Context, checkpoints *Countersigner, socket string) error {
	service, err := NewService(ServiceConfig{HSMs: newHSMs(&Config{}, zap.NewNop(), nil), Logger: zap.NewNop()})
	if err != nil {
		return err
	}
	server, err := NewServer(ServerConfig{Service: service, Checkpoints: checkpoints, AllowUIDs: []uint32{uint32(os.Getuid())}, Logger: zap.NewNop()})
	if err != nil {
		return err
	}
	listener, err := Listen(socket)
	if err != nil {
		return err
	}
	return server.Serve(ctx, listener)
}

// startChild runs childCountersigner, under wrapper (strace and its options) where there is one.
func startChild(t *testing.T, dir string, wrapper ...string) *exec.Cmd {
	t.Helper()
	program, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	args := append(wrapper, program)
	cmd := exec.CommandContext(t.Context(), args[0], args[1:]...)
	cmd.Env = append(os.Environ(), "SIGNER_TEST_CHILD="+dir)
	cmd.Stderr = os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // strace and what it runs can be killed together
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	return cmd
}

// killChild kills what startChild started, and waits for its end.
func killChild(cmd *exec.Cmd) {
	_ = cmd.Cancel() // it may have ended by itself
	_ = cmd.Wait()
}
