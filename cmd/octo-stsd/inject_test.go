package main

import (
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/octo-sts/appliance/sts/ststest"
)

// appendPath is each system call with which the daemon opens its audit log, recovers it, appends to it and writes its
// checkpoint, as strace shows them, in their order; and the file that each is about: the last segment of the daemon before,
// which ends in half a line, or the one that this daemon makes. (What writes tiles is the same code that writes checkpoints,
// and has a test of its own in sts/audit.)
var appendPath = []struct {
	call, file string
	nths       []int // of a thread's calls that meet a fault, where all are tried
}{
	{"openat", "lock", []int{1}}, {"flock", "lock", []int{1}},
	{"openat", "last segment", []int{1}}, {"fsync", "last segment", []int{1}}, {"fadvise64", "last segment", []int{1}},
	{"read", "last segment", []int{1, 2}}, {"pread64", "last segment", []int{1}}, {"ftruncate", "last segment", []int{1}},
	{"openat", "new segment", []int{1}}, {"fstat", "new segment", []int{1}}, {"fsync", "directory", []int{1, 2}},
	{"write", "new segment", []int{1, 2, 7}}, {"fdatasync", "new segment", []int{1, 2, 7}}, {"newfstatat", "new segment", []int{1, 2, 7}},
	{"openat", "checkpoint.tmp", []int{1, 2}}, {"write", "checkpoint.tmp", []int{1, 2}}, {"fsync", "checkpoint.tmp", []int{1, 2}},
	{"renameat", "checkpoint.tmp", []int{1, 2}},
}

// injections are what is done to a system call, as strace has it.
var injections = []string{"signal=KILL", "error=EIO", "error=ENOSPC", "error=EDQUOT", "error=EROFS"}

// injection is one fault for one life of a daemon.
type injection struct {
	call, file, fault string
	nth               int // of each thread's calls
}

func (i injection) String() string {
	return fmt.Sprintf("%s %s %s #%d", i.call, i.file, i.fault, i.nth)
}

// someInjections has one for each system call, each fault in turn; all of them are every combination.
func someInjections(all bool) (cases []injection) {
	for i, step := range appendPath {
		for k, fault := range injections {
			switch {
			case all:
				for _, nth := range step.nths {
					cases = append(cases, injection{step.call, step.file, fault, nth})
				}
			case k == i%len(injections):
				cases = append(cases, injection{step.call, step.file, fault, 1})
			}
		}
	}
	return cases
}

// Whatever a system call on the way of an entry comes to, at the real daemon and again after its restart: what was
// acknowledged is there, no token is out without its two entries, and audit verify says yes. With OCTO_STS_FAULTS=all each
// call meets each fault, at several occurrences.
func TestInjectedFaults(t *testing.T) {
	if _, err := exec.LookPath("strace"); err != nil {
		t.Fatal("strace is not installed: run packaging/prerequisites")
	}
	f := newFaultyRig(t)
	for _, i := range someInjections(os.Getenv("OCTO_STS_FAULTS") == "all") {
		f.live(i.String(), f.strace(i))
	}
	// A short write that is one: the disk takes the first part of a line, and then no more.
	f.live("a segment of 96 KiB may not grow, EFBIG", "prlimit --fsize=98304")
	f.conclude()
}

// A kernel that says that it wrote some bytes, and did not, is found out before anything is acknowledged, and by audit
// verify while the line is there. The next start cuts it off.
func TestLyingWrite(t *testing.T) {
	f := newFaultyRig(t)
	for _, i := range []injection{{"write", "new segment", "retval=1", 1}, {"write", "new segment", "retval=100", 2}} {
		f.wrapIn(f.strace(i))
		if err := f.Restart(t.Context()); err != nil {
			t.Fatal(err)
		}
		f.eventually("refusals", func() bool {
			x := f.exchange("acme/app", "issues", f.job(nil)) // one after the other: each line is a write
			f.load.note(x, nil)
			return x.Status == http.StatusServiceUnavailable
		})
		f.auditor.verifyFinds(i.String())
		f.startWithout(i.String())
	}
	f.conclude()
}

// faultyRig is a rig whose daemon is started in a way that each life may choose.
type faultyRig struct {
	*rig
	auditor *auditor
	load    *load
	wrapper string // file with the command that the daemon is run under
	trace   string // file with what strace says
}

func newFaultyRig(t *testing.T) *faultyRig {
	t.Helper()
	dir := t.TempDir()
	f := &faultyRig{wrapper: filepath.Join(dir, "wrapper"), trace: filepath.Join(dir, "trace"),
		load: &load{status: map[int]int{}, refused: map[string]int{}}}
	f.wrapIn("")
	f.rig = newRig(t, ststest.ServiceConfig{
		Issuer: ststest.IssuerConfig{Alg: "ES256"}, Unready: true,
		Wrap: []string{"/bin/sh", "-c", "exec $(cat " + f.wrapper + `) "$@"`, "sh"},
	})
	f.awaitReadiness(http.StatusOK, "ready")
	f.granted("acme/app", "issues")
	f.auditor = f.newAuditor()
	f.eventually("a checkpoint", func() bool { return f.signedSize() > 0 })
	f.auditor.keep()
	return f
}

func (f *faultyRig) wrapIn(command string) {
	if err := os.WriteFile(f.wrapper, []byte(command), 0o600); err != nil {
		panic(err)
	}
}

// strace is the command that injects a fault. The daemon is its parent, so that it can be killed and waited for.
func (f *faultyRig) strace(i injection) string {
	next := fmt.Sprintf("%020d.jsonl", f.entries())
	segments := f.segments()
	paths := map[string][]string{
		"lock":         {filepath.Join(f.AuditDir, "lock")},
		"last segment": {segments[len(segments)-1]},
		// By which name it is made, and by which it is looked for.
		"new segment":    {next, filepath.Join(f.AuditDir, next)},
		"directory":      {f.AuditDir},
		"checkpoint.tmp": {filepath.Join(f.AuditDir, "checkpoint.tmp")},
	}[i.file]
	return fmt.Sprintf("strace -D -f -qq -o %s -P %s -e trace=%s -e inject=%s:%s:when=%d",
		f.trace, strings.Join(paths, " -P "), i.call, i.call, i.fault, i.nth)
}

// live starts the daemon in a command, over a log that ends in half a line, has it do exchanges until the fault was met and
// some more, ends it, and looks at the log before, meanwhile and after a start without the fault.
func (f *faultyRig) live(name, command string) {
	f.t.Helper()
	granted, answered, lost := f.load.status[http.StatusOK], len(f.load.answers), len(f.load.lost)
	if err := f.Kill(); err != nil {
		f.t.Fatal(err)
	}
	f.tear()
	f.auditor.verify(name + ", before it")
	if err := os.Remove(f.trace); err != nil && !errors.Is(err, os.ErrNotExist) {
		f.t.Fatal(err)
	}
	f.wrapIn(command)
	became := "did not start"
	if err := f.Restart(f.t.Context()); err != nil {
		f.eventually(name+": the fault is met", func() bool { return f.met(command) })
	} else {
		f.eventually(name+": the fault is met", func() bool {
			f.burst()
			return f.met(command)
		})
		for range 3 {
			f.burst()
		}
		became = f.condition()
		f.auditor.keep()
		f.auditor.verify(name + ", beside it")
	}
	granted = f.load.status[http.StatusOK] - granted
	answered = len(f.load.answers) - answered
	f.startWithout(name)
	f.t.Logf("%-44s it %s; %d granted, %d refused, %d not answered", name, became, granted, answered-granted, len(f.load.lost)-lost)
}

// startWithout ends the daemon where it runs and starts it without a fault.
func (f *faultyRig) startWithout(name string) {
	f.t.Helper()
	if f.PID() != 0 {
		if err := f.Kill(); err != nil {
			f.t.Fatal(err)
		}
	}
	f.auditor.keep()
	f.wrapIn("")
	if err := f.Restart(f.t.Context()); err != nil {
		f.t.Fatalf("%s: after it: %v", name, err)
	}
	f.awaitReadiness(http.StatusOK, "ready")
	f.load.note(f.granted("acme/app", "issues"), nil)
	f.auditor.verify(name + ", after a start without it")
}

// condition says what became of a daemon that had started.
func (f *faultyRig) condition() string {
	resp, err := f.Client().Get(f.AdminURL() + "/healthz")
	if err != nil {
		return "was killed"
	}
	resp.Body.Close()
	if err := f.Ready(f.t.Context()); err != nil {
		return "refused"
	}
	return "went on"
}

// tear leaves half a line at the end of the log, as a crash does.
func (f *faultyRig) tear() {
	f.t.Helper()
	segments := f.segments()
	last, err := os.OpenFile(segments[len(segments)-1], os.O_WRONLY|os.O_APPEND, 0)
	if err != nil {
		f.t.Fatal(err)
	}
	if _, err := last.WriteString(`{"kind":"int`); err != nil {
		f.t.Fatal(err)
	}
	if err := last.Close(); err != nil {
		f.t.Fatal(err)
	}
}

// burst makes some exchanges at once.
func (f *faultyRig) burst() {
	var callers sync.WaitGroup
	for range 4 {
		callers.Go(func() { f.load.note(f.oneOfLoad("acme/app", "issues")) })
	}
	callers.Wait()
}

// met says whether the daemon has met its fault.
func (f *faultyRig) met(command string) bool {
	f.t.Helper()
	if !strings.HasPrefix(command, "strace") {
		return f.Ready(f.t.Context()) != nil
	}
	trace, err := os.ReadFile(f.trace)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		f.t.Fatal(err)
	}
	return strings.Contains(string(trace), "(INJECTED)") || strings.Contains(string(trace), "killed by SIGKILL")
}

// conclude looks at everything that ever happened.
func (f *faultyRig) conclude() {
	f.t.Helper()
	if err := f.Stop(); err != nil {
		f.t.Fatal(err)
	}
	f.auditor.keep()
	kept := f.auditor.verifyAll("at the end")
	f.noFalseAlarm()
	a := f.account()
	a.checkHeld(f.t, f.load)
	a.checkMinted(f.t, f.GitHub.Mints())
	f.t.Logf("%d tokens received, %d mints, %d intents, %d of them without an outcome; refused: %v; %d times verified, %d checkpoints kept",
		f.load.status[http.StatusOK], a.mints, len(a.intents), a.open, f.load.refused, f.auditor.runs, kept)
}
