package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/octo-sts/appliance/signer/signertest"
)

// callsOfServe are the calls that a hang or a crash is tried in, each with the way that comes to it.
func callsOfServe() []struct{ function, way string } {
	cut := []struct{ function, way string }{
		{"C_Sign", whileOpen},
		{"C_Login", whileStarts},
		{"C_Initialize", whileReopens},
	}
	if !wholeMatrix() {
		return cut
	}
	all := append(cut, struct{ function, way string }{"C_SignInit", whileOpen})
	for _, function := range []string{"C_CloseSession", "C_Finalize", "C_FindObjects", "C_FindObjectsFinal", "C_FindObjectsInit", "C_GetAttributeValue",
		"C_GetInfo", "C_GetMechanismList", "C_GetSlotInfo", "C_GetSlotList", "C_GetTokenInfo", "C_Login", "C_OpenSession"} {
		all = append(all, struct{ function, way string }{function, whileReopens})
	}
	return append(all, struct{ function, way string }{"C_Initialize", whileStarts}, struct{ function, way string }{"C_GetTokenInfo", whileStarts},
		struct{ function, way string }{"C_OpenSession", whileStarts})
}

// meetsWith is a trial of a hang or a crash.
func meetsWith(kind, function, way string) trial {
	t := trial{
		fault: []string{function + " " + kind},
		struck: func(s *subject) error {
			calls, err := s.shim.Calls()
			if err == nil && !slices.Contains(calls, signertest.Call{Function: function, Result: kind}) {
				err = errors.New("no call has met it yet")
			}
			return err
		},
	}
	switch way {
	case whileReopens:
		t.fault = append(t.fault, reopening)
	case whileStarts:
		t.after = killWorker
	}
	return t
}

// inParallel makes each trial with a signer of its own kind, a few at a time, and prints a table.
func inParallel(t *testing.T, kind string, hsms int, check func(s *subject, function, way string) (*outcome, time.Duration, error)) {
	type result struct {
		*outcome
		replaced time.Duration
	}
	calls := callsOfServe()
	results := make([]result, len(calls))
	queue := make(chan int, len(calls))
	for i := range calls {
		queue <- i
	}
	close(queue)
	var working sync.WaitGroup
	for range 3 {
		s := newSubject(t, hsms)
		working.Go(func() {
			for i := range queue {
				c := calls[i]
				o, replaced, err := check(s, c.function, c.way)
				if err != nil {
					t.Errorf("%s in %s while %s: %v", kind, c.function, c.way, err)
				}
				results[i] = result{o, replaced}
			}
		})
	}
	working.Wait()
	var table strings.Builder
	fmt.Fprintf(&table, "| %s in | while | worker replaced after | slowest call | calls refused | recovery |\n|---|---|--:|--:|--:|--:|\n", kind)
	for i, c := range calls {
		if r := results[i]; r.outcome != nil {
			fmt.Fprintf(&table, "| %s | %s | %.2f s | %.2f s | %d | %.2f s |\n", c.function, c.way, r.replaced.Seconds(), r.slowest.Seconds(), r.refused, r.recovery.Seconds())
		}
	}
	t.Logf("%d HSMs\n%s", hsms, &table)
}

// hangs has a call hang for longer than anybody waits, and notes how long it took until the worker was another process.
func hangs(t *testing.T, s *subject, function, way string) (*outcome, time.Duration, error) {
	var replaced time.Duration
	c := meetsWith("hang", function, way)
	met := c.struck
	c.struck = func(s *subject) error {
		if err := met(s); err != nil {
			return err
		}
		began, worker := time.Now(), s.signer.WorkerPID(0)
		err := await(t.Context(), "replacing the worker", func() error {
			if now := s.signer.WorkerPID(0); now == 0 || now == worker {
				return errors.New("it is still there")
			}
			return nil
		})
		replaced = time.Since(began)
		return err
	}
	c.hold = around(time.Second)
	o, err := s.run(t.Context(), c)
	if err == nil && replaced > replaceLimit {
		err = fmt.Errorf("the worker was replaced after %v only", replaced)
	}
	return o, replaced, err
}

// Ten lasts in any call, with one HSM: callers are answered in time, the process is replaced, and once the fault has
// ended everything is signed again.
func TestHangInEveryCall(t *testing.T) {
	t.Parallel()
	inParallel(t, "hang", 1, func(s *subject, function, way string) (*outcome, time.Duration, error) {
		o, replaced, err := hangs(t, s, function, way)
		if err != nil {
			return o, replaced, err
		}
		return o, replaced, o.verdict("a call into the module has lasted for", "its worker is starting", "it has not been opened yet", "opening it afresh", "did not answer in time")
	})
}

// The same with another HSM: nobody is refused.
func TestHangInEveryCallBesideAnotherHSM(t *testing.T) {
	if !wholeMatrix() {
		t.Skip("OCTO_STS_HSM_MATRIX is not set to all; TestFaultyModuleBesideAGoodOne is the cut of this")
	}
	t.Parallel()
	inParallel(t, "hang", 2, func(s *subject, function, way string) (*outcome, time.Duration, error) {
		o, replaced, err := hangs(t, s, function, way)
		if err != nil {
			return o, replaced, err
		}
		err = o.verdict()
		if o.slowest > 2*time.Second {
			err = errors.Join(err, fmt.Errorf("failover took %v", o.slowest))
		}
		return o, replaced, err
	})
}

// SIGSEGV in any call, again and again: the signer itself never ends, and is left with no zombie and no descriptor more.
func TestCrashInEveryCall(t *testing.T) {
	t.Parallel()
	inParallel(t, "crash", 1, func(s *subject, function, way string) (*outcome, time.Duration, error) {
		pid, before := s.signer.PID(), descriptors(s.signer.PID())
		c := meetsWith("crash", function, way)
		c.hold = around(time.Second)
		if wholeMatrix() {
			c.hold = around(4 * time.Second)
		}
		o, err := s.run(t.Context(), c)
		if err != nil {
			return o, 0, err
		}
		return o, 0, errors.Join(o.verdict("its worker crashed"), s.leftClean(pid, before))
	})
}

// leftClean looks for what crashes may leave behind in the signer.
func (s *subject) leftClean(pid int, descriptorsBefore []string) error {
	if s.signer.PID() != pid || !exists(pid) {
		return errors.New("the signer itself was lost")
	}
	if zombies := zombiesOf(pid); len(zombies) > 0 {
		return fmt.Errorf("zombies: %v", zombies)
	}
	if now := descriptors(pid); len(now) > len(descriptorsBefore)+2 { // callers come and go
		return fmt.Errorf("open descriptors grew from\n%v\nto\n%v", descriptorsBefore, now)
	}
	return nil
}

// descriptors is what a process has open.
func descriptors(pid int) []string {
	entries, _ := os.ReadDir(fmt.Sprintf("/proc/%d/fd", pid))
	var open []string
	for _, e := range entries {
		target, err := os.Readlink(fmt.Sprintf("/proc/%d/fd/%s", pid, e.Name()))
		if err == nil {
			open = append(open, target)
		}
	}
	slices.Sort(open)
	return open
}

// zombiesOf is the children of a process that have ended and were not waited for.
func zombiesOf(pid int) []string {
	var zombies []string
	stats, _ := filepath.Glob("/proc/[0-9]*/stat")
	for _, path := range stats {
		stat, err := os.ReadFile(path)
		if err != nil {
			continue // it is gone
		}
		fields := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:]))
		if len(fields) > 1 && fields[0] == "Z" && fields[1] == fmt.Sprint(pid) {
			zombies = append(zombies, path)
		}
	}
	return zombies
}

// A module that crashes at every signature: the workers follow each other at the longest pause, and leave nothing behind.
func TestManyCrashes(t *testing.T) {
	if !wholeMatrix() {
		t.Skip("OCTO_STS_HSM_MATRIX is not set to all; TestCrashInEveryCall is the cut of this")
	}
	t.Parallel()
	const crashes = 100
	s := newSubject(t, 1)
	pid, before := s.signer.PID(), descriptors(s.signer.PID())
	if err := s.shim.Set("C_Sign crash"); err != nil {
		t.Fatal(err)
	}
	_, _ = s.signer.Client().AppJWT(t.Context(), 1)
	began := time.Now()
	for hsmStatus(t, s.signer, 0).Restarts < crashes {
		if time.Since(began) > crashes*10*time.Second {
			t.Fatalf("only %d restarts", hsmStatus(t, s.signer, 0).Restarts)
		}
		time.Sleep(50 * time.Millisecond)
	}
	took := time.Since(began)
	if err := s.shim.Clear(); err != nil {
		t.Fatal(err)
	}
	end := time.Now()
	awaitApp(t, s.signer.Client(), 1)
	t.Logf("%d crashes in %v; signing again %v after the last; %d descriptors before, %d after", crashes, took.Round(time.Millisecond),
		time.Since(end).Round(time.Millisecond), len(before), len(descriptors(pid)))
	if err := s.leftClean(pid, before); err != nil {
		t.Error(err)
	}
}

// An HSM that comes and goes is left alone until it has been well for a time: callers notice nothing, and there is one
// change of HSM in all.
func TestNoFlapping(t *testing.T) {
	t.Parallel()
	lasts := 5 * time.Second
	if wholeMatrix() {
		lasts = time.Minute
	}
	s := newSubject(t, 2)
	l := startLoad(t, s.signer, 2)
	l.more(t, 20)
	before := switches(s.signer)
	faults := 0
	for end := time.Now().Add(lasts); time.Now().Before(end); faults++ {
		if err := s.shim.Set("C_Sign rv=0x30"); err != nil {
			t.Fatal(err)
		}
		time.Sleep(around(700 * time.Millisecond))
		if err := s.shim.Clear(); err != nil {
			t.Fatal(err)
		}
		time.Sleep(around(700 * time.Millisecond))
	}
	l.noneFailed(t)
	t.Logf("%d faults, %d changes of HSM, %d signatures, the slowest in %v", faults, switches(s.signer)-before, l.signed.Load(), time.Duration(l.slowest.Load()))
	if n := switches(s.signer) - before; n != 1 {
		t.Errorf("%d changes of HSM within %v", n, lasts)
	}
}

// switches counts the changes of HSM in the log.
func switches(s *signertest.Signer) int {
	return strings.Count(s.Logs(), `"msg":"another HSM takes over"`) + strings.Count(s.Logs(), `"msg":"HSM is in use"`)
}
