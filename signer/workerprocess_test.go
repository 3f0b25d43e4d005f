package signer

import (
	"context"
	"fmt"
	"os"
	"runtime/debug"
	"slices"
	"strings"
	"testing"
	"time"

	"go.uber.org/zap"
)

func openFiles(t *testing.T) int {
	t.Helper()
	files, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(files)
}

// Hundreds of workers that end in every way leave no open file, no zombie and no goroutine behind.
func TestWorkersLeaveNothingBehind(t *testing.T) {
	setup := WorkerSetup{HSM: HSMConfig{MaxSessions: 4}, Labels: []string{strings.Repeat("x", 100_000)}}
	commands := [][]string{
		{"/bin/false"},                      // ends, and reads nothing of its setup
		{"/bin/sh", "-c", "exec sleep 60"},  // must be killed
		{"/bin/sh", "-c", "cat >/dev/null"}, // ends when it was told all
		{"/no/such/program"},                // does not start
	}
	defer debug.SetGCPercent(debug.SetGCPercent(-1)) // which would close files that nobody did
	before := 0
	for i := range 200 {
		if i == 20 {
			before = openFiles(t) // the runtime's own are open by now
		}
		command := commands[i%len(commands)]
		w, err := startProcess(command, 0, setup)
		if (err != nil) != (command[0] == "/no/such/program") {
			t.Fatalf("%v: %v", command, err)
		}
		if err != nil {
			continue
		}
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
		if _, err := w.status(ctx); err == nil {
			t.Errorf("%v answers", command)
		}
		cancel()
		w.stop(t.Context(), 0)
		if _, err := os.Stat(fmt.Sprintf("/proc/%d", w.pid)); err == nil {
			t.Fatalf("%v: process %d is still there", command, w.pid)
		}
	}
	deadline := time.Now().Add(20 * time.Second)
	for openFiles(t) > before {
		if time.Now().After(deadline) {
			t.Fatalf("%d open files, %d before", openFiles(t), before)
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// A worker that ends at once is started again and again, says so, and stops with its parent.
func TestSupervisorOfABrokenProgram(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	config := &Config{HSMs: []HSMConfig{{Module: "/m", MaxSessions: 3}}, Apps: []AppConfig{{ID: 1, Keys: []string{"k"}}}}
	hsms, err := NewHSMs(ctx, HSMsConfig{Config: config, Command: []string{"/bin/false"}, Logger: zap.NewNop()})
	if err != nil {
		t.Fatal(err)
	}
	deadline := time.Now().Add(20 * time.Second)
	for {
		s := hsms.Status()[0]
		if s.Restarts >= 2 && strings.Contains(s.Error, "exit status 1") {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("%+v", s)
		}
		time.Sleep(time.Millisecond)
	}
	cancel()
	hsms.Wait()
}

func TestWorkerEnvironment(t *testing.T) {
	got := workerEnvironment([]string{"PATH=/bin", "NOTIFY_SOCKET=/run/n", "SOFTHSM2_CONF=x=y", "LISTEN_FDS=1", "WATCHDOG_USEC=1", "CREDENTIALS_DIRECTORY=/c"})
	if want := []string{"GOTRACEBACK=none", "PATH=/bin", "SOFTHSM2_CONF=x=y", "CREDENTIALS_DIRECTORY=/c"}; !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
}
