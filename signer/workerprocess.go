package signer

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/rpc"
	"net/rpc/jsonrpc"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// stopWait is how long a worker may take to log out of its token before it is killed.
	stopWait = 3 * time.Second
	// maxWorkerAnswer bounds what a worker may send for one request: its C code may have gone mad.
	maxWorkerAnswer = 4 << 20
)

var (
	// errBusy means that every session of the HSM was taken for most of the time that the caller could wait: the HSM may be
	// well.
	errBusy = errors.New("waiting for a free HSM session took too long")
	// errWorkerGone means that the worker ended, or its socket broke, before it answered.
	errWorkerGone = errors.New("its worker is gone")
)

// fairTry is the least time that an HSM must have had for a signature to be blamed for not making it.
const fairTry = 300 * time.Millisecond

// worker is the parent's side of one worker process. It is safe for concurrent use.
type worker struct {
	client *rpc.Client
	// slots holds one element for each signature under way, and keeps it until the worker has answered or is dead.
	slots chan struct{}
	pid   int
	kill  func()
	ended chan struct{} // closed when the process is gone and reaped
	how   error         // how it ended; read after ended is closed
}

// startProcess runs command as the worker of one HSM. The process dies with the thread that calls this, so the caller has
// locked it and keeps it (PR_SET_PDEATHSIG, prctl(2)).
func startProcess(command []string, index int, setup WorkerSetup) (*worker, error) {
	ours, theirs, err := socketPair()
	if err != nil {
		return nil, fmt.Errorf("making a socket for a worker: %w", err)
	}
	defer theirs.Close()
	told, err := json.Marshal(setup)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("encoding a worker's setup: %w", err), ours.Close())
	}
	cmd := exec.Command(command[0], append(slices.Clone(command[1:]), "--hsm", strconv.Itoa(index))...)
	cmd.Env = workerEnvironment(os.Environ())
	cmd.Stdin = bytes.NewReader(told)
	cmd.Stdout, cmd.Stderr = os.Stderr, os.Stderr
	cmd.ExtraFiles = []*os.File{theirs} // becomes WorkerFD
	// A process group of its own: a terminal's interrupt is for the parent, which lets requests finish first.
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setpgid: true}
	cmd.WaitDelay = time.Second
	if err := cmd.Start(); err != nil {
		return nil, errors.Join(fmt.Errorf("starting a worker: %w", err), ours.Close())
	}
	w := newWorker(ours, setup.HSM.ConcurrentSignatures(), func() { _ = cmd.Process.Kill() })
	w.pid = cmd.Process.Pid
	go func() {
		w.how = cmd.Wait()
		close(w.ended)
	}()
	return w, nil
}

func newWorker(conn net.Conn, slots int, kill func()) *worker {
	return &worker{
		// In JSON: a decoder of encoding/gob makes room for as many elements as its peer claims to send.
		client: jsonrpc.NewClient(&boundedConn{Conn: conn}),
		slots:  make(chan struct{}, slots),
		kill:   kill,
		ended:  make(chan struct{}),
	}
}

// ask calls a method of the worker and waits until ctx ends. In a goroutine of its own, since even sending waits where the
// process has been stopped; after is called when the call is over, however late.
func ask[Answer any](ctx context.Context, w *worker, method string, argument any, after func()) (Answer, error) {
	type result struct {
		answer Answer
		err    error
	}
	done := make(chan result, 1)
	go func() {
		var r result
		r.err = w.client.Call(workerService+"."+method, argument, &r.answer)
		after()
		done <- r
	}()
	select {
	case r := <-done:
		var answered rpc.ServerError
		if r.err != nil && !errors.As(r.err, &answered) {
			r.err = fmt.Errorf("%w: %w", errWorkerGone, r.err)
		}
		return r.answer, r.err
	case <-ctx.Done():
		var none Answer
		return none, errors.New("its worker did not answer in time")
	}
}

// status asks the worker for its state.
func (w *worker) status(ctx context.Context) (WorkerStatus, error) {
	return ask[WorkerStatus](ctx, w, "Status", 0, func() {})
}

// setLabels tells the worker which keys to keep usable.
func (w *worker) setLabels(ctx context.Context, labels []string) error {
	_, err := ask[int](ctx, w, "SetLabels", labels, func() {})
	return err
}

// sign has the worker sign. A call that outlasts ctx keeps its slot, so that a hang holds at most as many as there are.
func (w *worker) sign(ctx context.Context, request WorkerSignRequest) ([]byte, error) {
	select {
	case w.slots <- struct{}{}:
	case <-ctx.Done():
		return nil, errBusy
	}
	began := time.Now()
	signature, err := ask[[]byte](ctx, w, "Sign", request, func() { <-w.slots })
	if err != nil && ctx.Err() != nil && time.Since(began) < fairTry {
		return nil, errBusy
	}
	return signature, err
}

// stop has the process log out and end, or kills it, and waits until it is gone. A process that the kernel cannot end,
// because a driver holds it, is not waited for after ctx has ended.
func (w *worker) stop(ctx context.Context, wait time.Duration) {
	_ = w.client.Close() // the worker reads the end of the socket as the order to stop
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case <-w.ended:
		return
	case <-timer.C:
	}
	w.kill()
	select {
	case <-w.ended:
	case <-ctx.Done():
		select {
		case <-w.ended:
		case <-time.After(time.Second):
		}
	}
}

// socketPair makes a pair of connected sockets, one for this process and one to be inherited.
func socketPair() (ours net.Conn, theirs *os.File, err error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, err
	}
	file := os.NewFile(uintptr(fds[0]), "worker")
	theirs = os.NewFile(uintptr(fds[1]), "parent")
	ours, err = net.FileConn(file)
	if err := errors.Join(err, file.Close()); err != nil {
		return nil, nil, errors.Join(err, theirs.Close())
	}
	return ours, theirs, nil
}

// workerEnvironment leaves out what the service manager means for the parent alone. Where nobody asked for more, the Go
// runtime shall say in a few lines only that the module crashed: the registers, which it would show else, may hold a piece
// of the PIN, and a module that crashes at every attempt would fill the log.
func workerEnvironment(environment []string) []string {
	worker := slices.DeleteFunc(slices.Clone(environment), func(variable string) bool {
		name, _, _ := strings.Cut(variable, "=")
		return slices.Contains([]string{"NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID", "LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"}, name)
	})
	return append([]string{"GOTRACEBACK=none"}, worker...) // of two, os/exec takes the last
}

// boundedConn fails where more than maxWorkerAnswer bytes come without anything having been asked in between.
type boundedConn struct {
	net.Conn
	unasked atomic.Int64
}

func (c *boundedConn) Write(p []byte) (int, error) {
	c.unasked.Store(0)
	return c.Conn.Write(p)
}

func (c *boundedConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	if c.unasked.Add(int64(n)) > maxWorkerAnswer {
		return n, fmt.Errorf("a worker sent more than %d bytes for one request", maxWorkerAnswer)
	}
	return n, err
}
