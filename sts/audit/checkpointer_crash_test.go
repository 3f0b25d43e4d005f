package audit

import (
	"bufio"
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/octo-sts/appliance/sts/audit/checkpoint"
)

// diskSigner countersigns as octo-sts-signer does: what it is about to sign is on the disk before the signature is made.
// Its state is beside the log's directory, its key always the same.
type diskSigner struct{ state string }

func diskSignerKey() ed25519.PrivateKey {
	return ed25519.NewKeyFromSeed(make([]byte, ed25519.SeedSize))
}

func (s diskSigner) countersign(_ context.Context, r checkpoint.Request) ([]byte, error) {
	last := checkpoint.Empty(testOrigin)
	text, err := os.ReadFile(s.state)
	if err == nil {
		last, err = checkpoint.ParseText(string(text))
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	if err := r.Extends(last); err != nil {
		return nil, err
	}
	if err := replaceFile(s.state, []byte(r.Text())); err != nil {
		return nil, err
	}
	return checkpoint.Sign(r.Checkpoint, diskSignerKey())
}

// verifier returns a signer in memory with the same key, to check with.
func (s diskSigner) verifier(t testing.TB) *testSigner {
	t.Helper()
	vkey, err := checkpoint.EncodeKey(testOrigin, diskSignerKey().Public())
	if err != nil {
		t.Fatal(err)
	}
	v, err := checkpoint.ParseKey(vkey)
	if err != nil {
		t.Fatal(err)
	}
	return &testSigner{verify: v}
}

// childCheckpointer opens a log and runs a checkpointer for it.
func childCheckpointer() (*Log, *Checkpointer, context.CancelFunc, chan error) {
	dir := os.Getenv("AUDIT_TEST_DIR")
	l, err := Open(context.Background(), Config{Directory: dir, SegmentSize: 20_000})
	if err != nil {
		fmt.Println("error", err)
		os.Exit(1)
	}
	c, err := newCheckpointer(context.Background(), CheckpointerConfig{Log: l, Origin: testOrigin,
		Countersign: diskSigner{dir + ".signer"}.countersign}, 2*time.Millisecond)
	if err != nil {
		fmt.Println("error", err)
		os.Exit(1)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- c.Run(ctx) }()
	return l, c, cancel, done
}

// childSigned appends 300 entries, and prints whether all were accepted and what the checkpointer makes of them.
func childSigned() {
	l, c, cancel, done := childCheckpointer()
	for i := range 300 {
		if _, err := l.Append(context.Background(), Entry{Kind: Intent, RequestID: fmt.Sprint("child", i)}); err != nil {
			fmt.Println("append:", err)
		}
	}
	for s := c.Status(); s.Err == nil && s.Uncovered > 0; s = c.Status() {
		time.Sleep(time.Millisecond)
	}
	if _, err := l.Append(context.Background(), Entry{Kind: Intent, RequestID: "one more"}); err != nil {
		fmt.Println("append:", err)
	}
	fmt.Println("status:", c.Status().Err, c.Status().Contradiction)
	cancel()
	fmt.Println("run:", <-done)
	fmt.Println("close:", l.Close())
}

// childSignedLoad appends until it is killed, and says so if the checkpointer finds fault with the log.
func childSignedLoad() {
	l, c, _, _ := childCheckpointer()
	for range 4 {
		go func() {
			for i := 0; ; i++ {
				if _, err := l.Append(context.Background(), Entry{Kind: Intent, RequestID: fmt.Sprint(i), Reason: strings.Repeat("r", i%500)}); err != nil {
					fmt.Println("error", err)
				}
			}
		}()
	}
	for {
		if s := c.Status(); s.Err != nil {
			fmt.Println("error", s.Err)
			os.Exit(1)
		} else if s.Signed.Size > 0 {
			fmt.Println("signed", s.Signed.Size)
		}
		time.Sleep(time.Millisecond)
	}
}

// settle covers what a killed child left, checks it, and says if that took a false alarm.
func settle(t *testing.T, dir string) {
	t.Helper()
	l := openTest(t, Config{Directory: dir})
	s := diskSigner{dir + ".signer"}
	c, err := newCheckpointer(t.Context(), CheckpointerConfig{Log: l, Origin: testOrigin, Countersign: s.countersign}, time.Millisecond)
	if err != nil {
		t.Fatal(err)
	}
	appendIDs(t, l, "afterwards")
	stop := start(t, c)
	await(t, c, "covered", func(s CheckpointStatus) bool {
		if s.Err != nil {
			t.Fatalf("after a crash: %v", s.Err)
		}
		return s.Uncovered == 0
	})
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	checkSigned(t, dir, s.verifier(t))
}

// Killed at any moment, the checkpointer starts again without a false alarm, signs on from where the signer is, and ends
// with the tree that tlog computes.
func TestCheckpointerKilledUnderLoad(t *testing.T) {
	lives := 30
	if testing.Short() {
		lives = 5
	}
	dir := filepath.Join(t.TempDir(), "log")
	for life := range lives {
		cmd := childCommand(t, "signed load", dir)
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		running := false
		for lines := bufio.NewScanner(out); lines.Scan(); {
			if !strings.HasPrefix(lines.Text(), "signed") {
				t.Errorf("life %d: %s", life, lines.Text())
			}
			if !running {
				running = true
				time.AfterFunc(time.Duration(rand.IntN(60_000))*time.Microsecond, func() { cmd.Process.Kill() })
			}
		}
		cmd.Wait() // "signal: killed" is what was wanted
	}
	settle(t, dir)
	t.Logf("%d kills, %d segments, %d full tiles", lives, len(segmentNames(t, dir)), len(allTiles(t, dir)))
}

// steps are the system calls with which a tile and a checkpoint reach the disk, and the file that each is about.
var steps = []struct{ call, path string }{
	{"mkdirat", "tile/0"},
	{"openat", "tile/0/000.tmp"},
	{"write", "tile/0/000.tmp"},
	{"fsync", "tile/0/000.tmp"},
	{"/^rename", "tile/0/000.tmp"},
	{"fsync", "tile/0"},
	{"openat", "checkpoint.tmp"},
	{"write", "checkpoint.tmp"},
	{"fsync", "checkpoint.tmp"},
	{"/^rename", "checkpoint.tmp"},
}

// Killed at each step, it starts again likewise.
func TestCheckpointerKilledAtEachStep(t *testing.T) {
	t.Parallel()
	for _, step := range steps {
		t.Run(step.call+" "+step.path, func(t *testing.T) {
			t.Parallel()
			dir := filepath.Join(t.TempDir(), "log")
			out, err := underStrace(t, dir, step.call, step.path, "signal=KILL").Output()
			if err == nil {
				t.Fatalf("it was not killed: %s", out)
			}
			settle(t, dir)
		})
	}
}

// A tile or a checkpoint that cannot be written costs no entry. The status says why, and the next start makes up for it.
func TestCheckpointerFaults(t *testing.T) {
	t.Parallel()
	for i, step := range steps {
		fault := []string{"EIO", "ENOSPC", "EROFS", "EDQUOT"}[i%4]
		t.Run(step.call+" "+step.path+" "+fault, func(t *testing.T) {
			t.Parallel()
			dir := filepath.Join(t.TempDir(), "log")
			out, err := underStrace(t, dir, step.call, step.path, "error="+fault).Output()
			if err != nil {
				t.Fatalf("%v: %s", err, out)
			}
			lines := strings.Split(strings.TrimSpace(string(out)), "\n")
			if len(lines) != 3 || lines[2] != "close: <nil>" {
				t.Fatalf("not all entries were accepted: %s", out)
			}
			for _, line := range lines[:2] {
				if !strings.Contains(line, "writing a ") || !strings.Contains(line, filepath.Dir(filepath.Join(dir, step.path))) || strings.HasSuffix(line, "true") {
					t.Errorf("%q does not say what failed", line)
				}
			}
			if n := len(readIDs(t, Read(dir), 0)); n != 301 {
				t.Errorf("%d entries", n)
			}
			settle(t, dir)
		})
	}
}

// underStrace is a child that appends, into whose system calls of the given kind on path, within dir, a fault is injected.
func underStrace(t *testing.T, dir, call, path, fault string) *exec.Cmd {
	t.Helper()
	strace, err := exec.LookPath("strace")
	if err != nil {
		t.Fatal("strace is not installed: run packaging/prerequisites")
	}
	return childCommand(t, "signed", dir, strace, "-f", "-qq", "-o", "/dev/null", "-P", filepath.Join(dir, path),
		"-e", "trace="+call, "-e", "inject="+call+":"+fault)
}

// Closed segments may be moved away at each stop, whatever their length, and torn ends be cut: the tree goes on from its
// tiles, and nobody is accused.
func TestCheckpointerWithoutOldSegments(t *testing.T) {
	dir, away := t.TempDir(), t.TempDir()
	s := newTestSigner(t)
	for round := range 40 {
		l := openTest(t, Config{Directory: dir, SegmentSize: 1 + rand.Int64N(20_000)})
		appendIDs(t, l, numbered(fmt.Sprint(round, "-"), rand.IntN(150))...)
		c := checkpointerOf(t, l, s)
		stop := start(t, c)
		await(t, c, "covered", func(s CheckpointStatus) bool {
			if s.Err != nil {
				t.Fatal(s.Err)
			}
			return s.Uncovered == 0
		})
		if err := errors.Join(l.Close(), stop()); err != nil {
			t.Fatal(err)
		}
		names := segmentNames(t, dir)
		movable := 0
		for movable+1 < len(names) && names[movable+1] < segmentName(c.Status().Signed.Size) {
			movable++
		}
		moveSegments(t, dir, away, names[:rand.IntN(movable+1)]...)
		if round%3 == 0 {
			f, err := os.OpenFile(filepath.Join(dir, names[len(names)-1]), os.O_WRONLY|os.O_APPEND, 0)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := f.WriteString(`{"kind":"int`); err != nil {
				t.Fatal(err)
			}
			f.Close()
		}
	}
	l := openTest(t, Config{Directory: dir})
	appendIDs(t, l, "last")
	run(t, checkpointerOf(t, l, s))
	checkSigned(t, dir, s, away)
	want := referenceOf(t, dir, away)
	sameProofs(t, want, openTree(t, want.size, dir)) // without what was moved away
}

// A full disk stops tiles and checkpoints with the entries, and all come back with the room.
func TestCheckpointerOnAFullDisk(t *testing.T) {
	dir := smallDisk(t, 1<<20)
	l, c, s := openSigned(t, dir)
	stop := start(t, c)
	for round := range 3 {
		free := fill(t, dir)
		for i := 0; ; i++ {
			_, err := l.Append(t.Context(), Entry{Kind: Intent, RequestID: fmt.Sprint(round, "-", i)})
			if errors.Is(err, ErrFull) {
				break
			} else if err != nil {
				t.Fatal(err)
			}
		}
		await(t, c, "failing", func(s CheckpointStatus) bool { return errors.Is(s.Err, unix.ENOSPC) || s.Uncovered == 0 })
		free()
		awaitErr(t, l, nil)
		appendIDs(t, l, numbered(fmt.Sprint(round, "-after-"), 300)...)
		awaitCovered(t, c)
	}
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	checkSigned(t, dir, s)
}
