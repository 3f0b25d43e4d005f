package main

import (
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/octo-sts/appliance/sts/ststest"
)

const alive = "WATCHDOG=1"

// watched is a daemon under a service manager whose watchdog wants to hear of it
// each 600 ms.
func watched(t *testing.T, c ststest.ServiceConfig) (*rig, *serviceManager) {
	t.Helper()
	m := newServiceManager(t)
	m.listen("https", "tcp", "127.0.0.1:0")
	m.manages(&c, "WATCHDOG_USEC=600000")
	return newRig(t, c), m
}

// goesOn waits for some answers to the watchdog.
func (m *serviceManager) goesOn(why string) {
	m.t.Helper()
	from := len(m.all())
	for deadline := time.Now().Add(patience); m.count(from, alive) < 5; time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			m.t.Fatalf("%s: the watchdog was answered %d times", why, m.count(from, alive))
		}
	}
}

// isSilent waits until the watchdog is not answered for longer than it would wait.
func (m *serviceManager) isSilent(why string) {
	m.t.Helper()
	last, since := m.count(0, alive), time.Now()
	for deadline := time.Now().Add(patience); time.Since(since) < 2*time.Second; time.Sleep(20 * time.Millisecond) {
		if n := m.count(0, alive); n != last {
			last, since = n, time.Now()
		}
		if time.Now().After(deadline) {
			m.t.Fatalf("%s: the watchdog goes on being answered", why)
		}
	}
}

// The service manager hears that the daemon serves when it does, how it is, and
// that it stops.
func TestServiceManagerIsTold(t *testing.T) {
	r, m := watched(t, ststest.ServiceConfig{})
	ready := m.await(0, "READY=1")
	m.await(0, "STATUS=starting")
	m.await(ready, "STATUS=serving")
	if err := r.Signer.Stop(); err != nil {
		t.Fatal(err)
	}
	from := m.await(ready, "STATUS=degraded: ", "signer: ")
	if err := r.Signer.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	from = m.await(from, "STATUS=serving")
	if err := r.Stop(); err != nil {
		t.Fatal(err)
	}
	from = m.await(from, "STOPPING=1")
	if n := m.count(from, "READY=1"); n > 0 {
		t.Errorf("READY=1 after STOPPING=1: %q", m.all())
	}
}

// What a restart would not mend is no reason for one.
func TestWatchdogIsAnsweredDuringOutages(t *testing.T) {
	disk := newSmallDisk(t)
	r, m := watched(t, ststest.ServiceConfig{Edit: disk.configure})
	r.AuditDir = disk.log()
	r.granted("acme/app", "issues")
	m.goesOn("all is well")
	if err := r.Signer.Kill(); err != nil {
		t.Fatal(err)
	}
	m.goesOn("the signer is away")
	r.GitHub.Fail(ststest.Fault{Status: http.StatusServiceUnavailable})
	x := r.exchange("acme/app", "reader", r.job(nil))
	m.goesOn(fmt.Sprintf("GitHub is away (%d)", x.Status))
	r.GitHub.ClearFaults()
	r.Issuer.Close()
	m.goesOn("the issuer is away")
	disk.fill()
	r.eventually("a full disk", func() bool {
		return r.exchange("acme/app", "issues", r.job(nil)).Status != http.StatusOK
	})
	m.goesOn("the disk is full")
	disk.empty()
	r.eventually("the disk has room again", func() bool {
		return r.exchange("acme/app", "issues", r.job(nil)).Status == http.StatusOK
	})
	m.goesOn("the disk has room again")
}

// A process that is stopped, or one whose disk takes a write and never ends it or
// failed, is silent: a new one would go on.
func TestWatchdogOfAWedgedDaemon(t *testing.T) {
	if _, err := exec.LookPath("strace"); err != nil {
		t.Fatal("strace is not installed: run packaging/prerequisites")
	}
	wrapper := filepath.Join(t.TempDir(), "wrapper")
	wrapIn := func(command string) {
		if err := os.WriteFile(wrapper, []byte(command), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	wrapIn("")
	r, m := watched(t, ststest.ServiceConfig{Unready: true, Wrap: []string{"/bin/sh", "-c", "exec $(cat " + wrapper + `) "$@"`, "sh"}})
	m.goesOn("all is well")
	if err := r.Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	m.isSilent("the process is stopped")
	if err := r.Signal(syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	m.goesOn("the process goes on")
	faults := map[string]string{"fails": "error=EIO"}
	if os.Getenv("OCTO_STS_RESTARTS") != "" { // half a minute
		faults["hangs"] = "delay_enter=20000000"
	}
	for what, fault := range faults {
		segment := fmt.Sprintf("%020d.jsonl", r.entries())
		wrapIn(fmt.Sprintf("strace -D -f -qq -o /dev/null -P %s -P %s -e trace=fdatasync -e inject=fdatasync:%s",
			segment, filepath.Join(r.AuditDir, segment), fault))
		from := len(m.all())
		if err := r.Restart(t.Context()); err != nil {
			t.Fatal(err)
		}
		m.await(from, "READY=1")
		m.goesOn("the disk was not written to")
		r.eventually("a refusal", func() bool {
			return r.exchange("acme/app", "issues", r.job(nil)).Status != http.StatusOK
		})
		m.isSilent("the disk " + what)
		if !strings.Contains(r.Logs(), "the watchdog is not answered: a restart is needed") {
			t.Error("the log does not say why")
		}
		if err := r.Kill(); err != nil {
			t.Fatal(err)
		}
	}
}
