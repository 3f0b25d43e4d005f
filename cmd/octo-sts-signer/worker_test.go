package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/octo-sts/appliance/signer"
	"github.com/octo-sts/appliance/signer/signertest"
)

// safety is how long a test waits for what must come. It is no assertion on how fast that is.
const safety = 60 * time.Second

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(safety); !ok(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%s: not within %v", what, safety)
		}
	}
}

// load is callers that ask for App JWTs, some 50 a second each, until it is stopped. More would keep a small machine from
// all else, and what fails then is for want of its time.
type load struct {
	signed  atomic.Int64
	slowest atomic.Int64 // nanoseconds that one call took
	mu      sync.Mutex
	failed  []error // guarded by mu
	stop    func()
}

func startLoad(t *testing.T, s *signertest.Signer, callers int) *load {
	l := &load{}
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	for range callers {
		wg.Go(func() {
			client := s.Client()
			defer client.Close()
			for ; ctx.Err() == nil; time.Sleep(20 * time.Millisecond) {
				began := time.Now()
				_, err := client.AppJWT(context.Background(), 1)
				l.slowest.Store(max(l.slowest.Load(), int64(time.Since(began))))
				if err == nil {
					l.signed.Add(1)
					continue
				}
				l.mu.Lock()
				l.failed = append(l.failed, err)
				l.mu.Unlock()
			}
		})
	}
	l.stop = sync.OnceFunc(func() {
		cancel()
		wg.Wait()
	})
	t.Cleanup(l.stop)
	return l
}

// more waits until n further signatures have been made.
func (l *load) more(t *testing.T, n int64) {
	t.Helper()
	before := l.signed.Load()
	eventually(t, "further signatures", func() bool { return l.signed.Load() >= before+n })
}

// noneFailed ends the load.
func (l *load) noneFailed(t *testing.T) {
	t.Helper()
	l.stop()
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.failed) > 0 {
		t.Errorf("%d calls failed beside %d that did not, the first: %v", len(l.failed), l.signed.Load(), l.failed[0])
	}
}

// awaitWorker waits until the worker of an HSM is another process than before.
func awaitWorker(t *testing.T, s *signertest.Signer, hsm, before int) (pid int) {
	t.Helper()
	eventually(t, "another worker", func() bool {
		pid = s.WorkerPID(hsm)
		return pid != 0 && pid != before
	})
	return pid
}

func hsmStatus(t *testing.T, s *signertest.Signer, hsm int) signer.HSMStatus {
	t.Helper()
	status, err := s.Status(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return status.HSMs[hsm]
}

func awaitOpen(t *testing.T, s *signertest.Signer, hsm int) {
	t.Helper()
	eventually(t, fmt.Sprintf("HSM %d open", hsm), func() bool {
		status, err := s.Status(t.Context())
		return err == nil && status.HSMs[hsm].Open
	})
}

// A worker that is killed, or does not move any more, under load costs no request where there is another HSM, and the
// process that holds the socket lives on.
func TestWorkerLostUnderLoad(t *testing.T) {
	t.Parallel()
	for name, signal := range map[string]syscall.Signal{"killed": syscall.SIGKILL, "hanging": syscall.SIGSTOP} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := start(t, signertest.Config{AppIDs: []int64{1}, HSMs: 2})
			signerPID, worker := s.PID(), s.WorkerPID(0)
			l := startLoad(t, s, 4)
			l.more(t, 20)
			if err := syscall.Kill(worker, signal); err != nil {
				t.Fatal(err)
			}
			l.more(t, 50)
			awaitWorker(t, s, 0, worker)
			awaitOpen(t, s, 0)
			l.more(t, 20)
			first, second := hsmStatus(t, s, 0), hsmStatus(t, s, 1)
			if first.Active || first.Restarts != 1 || first.LastFailover.IsZero() || !second.Active || second.Restarts != 0 {
				t.Errorf("HSM 0: %+v\nHSM 1: %+v", first, second)
			}
			l.noneFailed(t)
			if s.PID() != signerPID {
				t.Error("the signer itself was restarted")
			}
		})
	}
}

// The same with one HSM: whoever fails hears it in time, and signing goes on by itself.
func TestOnlyWorkerLost(t *testing.T) {
	t.Parallel()
	s := start(t, signertest.Config{AppIDs: []int64{1}})
	for _, signal := range []syscall.Signal{syscall.SIGKILL, syscall.SIGSTOP, syscall.SIGSEGV} {
		l := startLoad(t, s, 4)
		l.more(t, 20)
		worker := s.WorkerPID(0)
		if err := syscall.Kill(worker, signal); err != nil {
			t.Fatal(err)
		}
		awaitWorker(t, s, 0, worker)
		l.more(t, 20)
		l.stop()
		for _, err := range l.failed {
			if !errors.Is(err, signer.ErrUnavailable) {
				t.Errorf("%v: %v", signal, err)
			}
		}
	}
}

// withShim starts a signer whose first HSM does wrong what the shim is told to.
func withShim(t *testing.T, hsms int) (*signertest.Signer, *signertest.Shim) {
	t.Helper()
	shim, err := signertest.BuildShim(t.Context(), t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	return start(t, signertest.Config{AppIDs: []int64{1}, HSMs: hsms, Shim: shim}), shim
}

// The module crashes, hangs, or signs wrongly: no caller notices while there is another HSM.
func TestFaultyModuleBesideAGoodOne(t *testing.T) {
	t.Parallel()
	for name, fault := range map[string]string{"crash": "C_Sign crash", "hang": "C_Sign hang", "wrong signature": "C_Sign corrupt", "device error": "C_Sign rv=0x30"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s, shim := withShim(t, 2)
			l := startLoad(t, s, 4)
			l.more(t, 20)
			if err := shim.Set(fault); err != nil {
				t.Fatal(err)
			}
			l.more(t, 50)
			eventually(t, "failover", func() bool { return hsmStatus(t, s, 1).Active })
			if err := shim.Clear(); err != nil {
				t.Fatal(err)
			}
			awaitOpen(t, s, 0)
			l.noneFailed(t)
		})
	}
}

func exists(pid int) bool { return syscall.Kill(pid, 0) == nil }

// No worker outlives the signer, however that ends.
func TestWorkersEndWithTheSigner(t *testing.T) {
	t.Parallel()
	s := start(t, signertest.Config{AppIDs: []int64{1}, HSMs: 2})
	for name, end := range map[string]func() error{"killed": s.Kill, "stopped": s.Stop} {
		workers := []int{s.WorkerPID(0), s.WorkerPID(1)}
		if err := end(); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		for _, pid := range workers {
			eventually(t, name+": no worker is left", func() bool { return pid != 0 && !exists(pid) })
		}
		if err := s.Restart(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	// A service manager signals every process of the unit. The worker leaves the answer to the parent.
	worker := s.WorkerPID(0)
	for _, signal := range []syscall.Signal{syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP} {
		if err := syscall.Kill(worker, signal); err != nil {
			t.Fatal(err)
		}
		if _, err := s.Client().AppJWT(t.Context(), 1); err != nil {
			t.Errorf("%v: %v", signal, err)
		}
	}
	if now := hsmStatus(t, s, 0); now.Restarts != 0 || s.WorkerPID(0) != worker {
		t.Errorf("the worker was replaced: %+v", now)
	}
}

// Nobody else runs a worker by hand.
func TestWorkerByHand(t *testing.T) {
	for stdin, want := range map[string]string{"": "reading what this worker is for", "{}": "taking over the socket to the parent"} {
		cmd := exec.Command(binary, "worker", "--hsm", "0")
		cmd.Stdin = strings.NewReader(stdin)
		out, err := cmd.CombinedOutput()
		if cmd.ProcessState.ExitCode() != 2 || !bytes.Contains(out, []byte(want)) {
			t.Errorf("%q: %v\n%s", stdin, err, out)
		}
	}
	out, err := exec.Command(binary, "--help").CombinedOutput()
	if err != nil || bytes.Contains(out, []byte("worker")) {
		t.Errorf("the command is shown, %v:\n%s", err, out)
	}
}

// logins counts the attempts with a PIN that the shim saw, and those that the token refused (CKR_PIN_INCORRECT).
func logins(t *testing.T, shim *signertest.Shim) (all, refused int) {
	t.Helper()
	calls, err := shim.Calls()
	if err != nil {
		t.Fatal(err)
	}
	for _, call := range calls {
		if call.Function == "C_Login" {
			all++
			if call.Result == "0xa0" {
				refused++
			}
		}
	}
	return all, refused
}

// The operator's other way out: the file that the error names.
func TestRefusedPINIsForgotten(t *testing.T) {
	t.Parallel()
	s, shim := withShim(t, 1)
	if err := errors.Join(s.WritePIN(0, "999999"), shim.ForgetCalls()); err != nil {
		t.Fatal(err)
	}
	if err := s.RestartUnready(t.Context()); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the PIN is refused", func() bool { return strings.Contains(hsmStatus(t, s, 0).Error, "the PIN was refused") })
	latch := signer.HSMConfig{Module: shim.Module, TokenLabel: signertest.TokenLabel(0)}.LatchName()
	eventually(t, "one more attempt", func() bool {
		_ = os.Remove(s.StateDirectory() + "/" + latch)
		_, refused := logins(t, shim)
		return refused == 2
	})
}

// tokenFlags is how OpenSC's tool describes the first token.
func tokenFlags(t *testing.T, s *signertest.Signer) string {
	t.Helper()
	cmd := exec.Command("pkcs11-tool", "--module", s.SoftHSM().Module, "--list-token-slots")
	cmd.Env = append(os.Environ(), s.Env()...)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	for line := range strings.Lines(string(out)) {
		if strings.Contains(line, "token flags") {
			return line
		}
	}
	t.Fatalf("no flags in %s", out)
	return ""
}
