package signer

import (
	"context"
	"errors"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/mod/sumdb/tlog"

	"github.com/octo-sts/appliance/sts/audit/checkpoint"
)

// adversary is a daemon that wants two contradicting checkpoints signed. It is the witness against the signer too: it
// keeps every note that it got.
type adversary struct {
	client *Client
	trunk  *testLog // what the signer signed last, as far as is known
	round  int

	mu     sync.Mutex
	signed map[uint64]tlog.Hash // guarded by mu
}

func newAdversary(t *testing.T, dir string) *adversary {
	a := &adversary{client: NewClient(filepath.Join(dir, "socket")), trunk: &testLog{}, signed: map[uint64]tlog.Hash{}}
	t.Cleanup(a.client.Close)
	return a
}

// await waits until the signer listens.
func (a *adversary) await(t *testing.T) {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		if _, err := a.client.Status(t.Context()); err == nil {
			return
		} else if time.Now().After(deadline) {
			t.Fatal(err)
		}
	}
}

// got records a signed note, and says where it contradicts another.
func (a *adversary) got(t *testing.T, note []byte) {
	c, err := checkpoint.Open(note, (&testKey{PrivateKey: childKey()}).verifier(t))
	if err != nil {
		t.Errorf("%v\n%s", err, note)
		return
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if root, ok := a.signed[c.Size]; ok && root != c.Root {
		t.Errorf("size %d was signed with the roots %s and %s", c.Size, root, c.Root)
	}
	a.signed[c.Size] = c.Root
}

// fork asks for both branches of one size at once, and returns them.
func (a *adversary) fork(ctx context.Context, t *testing.T) [2]*testLog {
	a.round++
	two, size := a.trunk.branches(a.round), a.trunk.size
	requests := [2]checkpoint.Request{two[0].request(t, size, size+1), two[1].request(t, size, size+1)}
	var wg sync.WaitGroup
	for i := range two {
		wg.Go(func() {
			if note, err := a.client.Checkpoint(ctx, requests[i]); err == nil {
				a.got(t, note)
			}
		})
	}
	wg.Wait()
	return two
}

// settle asks for the second branch once more, and goes on with whichever the signer has signed.
func (a *adversary) settle(t *testing.T, two [2]*testLog) {
	t.Helper()
	size := a.trunk.size
	r := two[1].request(t, size, size+1)
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(time.Millisecond) {
		note, err := a.client.Checkpoint(t.Context(), r)
		var conflict *checkpoint.Conflict
		switch {
		case err == nil:
			a.got(t, note)
			a.trunk = two[1]
			return
		case errors.As(err, &conflict):
			for _, log := range two {
				if conflict.Last == log.request(t, 0, size+1).Checkpoint {
					a.trunk = log
					return
				}
			}
			t.Fatalf("the signer signed what nobody asked for: %v", conflict)
		case !errors.Is(err, ErrUnavailable) || time.Now().After(deadline):
			t.Fatal(err)
		}
	}
}

// check makes sure that everything ever signed is a state of one log.
func (a *adversary) check(t *testing.T) {
	t.Helper()
	for size, root := range a.signed {
		if want := a.trunk.request(t, 0, int64(size)).Root; root != want {
			t.Errorf("size %d was signed with root %s, and the log has %s", size, root, want)
		}
	}
}

// Random kills, many of them between the write of the state and the answer: never two notes that contradict each other.
func TestKilledAtRandom(t *testing.T) {
	dir := t.TempDir()
	begin(t, dir, childKey())
	a := newAdversary(t, dir)
	two := a.trunk.branches(0)
	lost := 0
	for range 100 {
		child := startChild(t, dir)
		answered := len(a.signed)
		a.settle(t, two)
		if _, ok := a.signed[uint64(a.trunk.size)]; !ok && len(a.signed) == answered {
			lost++
		}
		time.AfterFunc(rand.N(2*time.Millisecond), func() { _ = child.Process.Kill() })
		two = a.fork(t.Context(), t)
		_ = child.Wait()
	}
	a.check(t)
	t.Logf("%d sizes were signed; %d times the state was written and no answer came", len(a.signed), lost)
}

// Each system call by which the state is written fails, or is the process's last one: what was asked for is refused, and
// afterwards the signer signs one branch alone.
func TestFaultsOfTheStateDirectory(t *testing.T) {
	if _, err := exec.LookPath("strace"); err != nil {
		t.Fatal("strace is not installed: run packaging/prerequisites")
	}
	for _, fault := range []string{
		"openat:error=EROFS", "openat:error=EMFILE", "write:error=EIO", "write:error=ENOSPC", "write:error=EDQUOT",
		"fsync:error=EIO", "fsync:error=ENOSPC", "renameat:error=EIO", "renameat:error=ENOSPC",
		"openat:signal=KILL", "write:signal=KILL", "fsync:signal=KILL", "renameat:signal=KILL",
	} {
		t.Run(fault, func(t *testing.T) {
			t.Parallel()
			call, _, _ := strings.Cut(fault, ":")
			dir, log := t.TempDir(), filepath.Join(t.TempDir(), "strace")
			temporary := filepath.Join(dir, "checkpoint.tmp") // which a start does not touch
			faulty := startChild(t, dir, "strace", "-f", "-qq", "-o", log, "-e", "trace="+call, "-e", "inject="+fault, "-P", temporary)
			begin(t, dir, childKey())
			a := newAdversary(t, dir)
			a.await(t)
			two := a.fork(t.Context(), t)
			if len(a.signed) > 0 {
				t.Error("a checkpoint left the signer although its state could not be written")
			}
			if text, err := os.ReadFile(log); err != nil || !strings.Contains(string(text), "INJECTED") && !strings.Contains(string(text), "SIGKILL") {
				t.Errorf("the fault never happened: %s, %v", text, err)
			}
			killChild(faulty) // where the fault did not
			child := startChild(t, dir)
			a.settle(t, two)
			a.check(t)
			killChild(child)
		})
	}
}

// The answer leaves after the state has become durable: the file's content, then its name, then the directory.
func TestStateIsDurableBeforeTheAnswer(t *testing.T) {
	if _, err := exec.LookPath("strace"); err != nil {
		t.Fatal("strace is not installed: run packaging/prerequisites")
	}
	dir, log := t.TempDir(), filepath.Join(t.TempDir(), "strace")
	begin(t, dir, childKey())
	child := startChild(t, dir, "strace", "-f", "-y", "-qq", "-o", log, "-e", "trace=fsync,renameat,write")
	a := newAdversary(t, dir)
	a.await(t)
	if _, err := a.client.Checkpoint(t.Context(), a.trunk.request(t, 0, 1)); err != nil {
		t.Fatal(err)
	}
	killChild(child)
	text, err := os.ReadFile(log)
	if err != nil {
		t.Fatal(err)
	}
	rest := string(text)
	for _, call := range []string{
		`write\(\d+<` + dir + `/checkpoint\.tmp>`,
		`fsync\(\d+<` + dir + `/checkpoint\.tmp>`,
		`renameat\(.*/checkpoint\.tmp"`,
		`fsync\(\d+<` + dir + `>`,
		`write\(\d+<socket:\[\d+\]>, "HTTP/1\.1 200`,
	} {
		found := regexp.MustCompile(call).FindStringIndex(rest)
		if found == nil {
			t.Fatalf("no %s follows in its place:\n%s", call, text)
		}
		if before := rest[:found[0]]; strings.Contains(before, "HTTP/1.1 200") && len(rest) < len(text) {
			t.Errorf("an answer left before %s:\n%s", call, text)
		}
		rest = rest[found[1]:]
	}
}
