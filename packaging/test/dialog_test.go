//go:build packages

package packaging_test

import (
	"context"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// answer is what somebody types once the prompt is on the terminal.
type answer struct{ prompt, line string }

// dialog is a command on a terminal of the machine, under way.
type dialog struct {
	m      *machine
	line   string
	output *syncBuffer
	stdin  *os.File
	seen   int // how much of the output was waited for
	ended  chan error
}

// terminal starts a command that talks to a person. What is typed is answered in order.
func (m *machine) terminal(line string, answers ...answer) *dialog {
	m.t.Helper()
	// script(1) makes the terminal; the script's status is the command's.
	cmd := m.command(commandLimit, "script --quiet --return --flush --command 'bash -e /root/dialog' /dev/null")
	m.write("/root/dialog", line+"\n", 0o755)
	read, write, err := os.Pipe()
	if err != nil {
		m.t.Fatal(err)
	}
	d := &dialog{m: m, line: line, output: &syncBuffer{}, stdin: write, ended: make(chan error, 1)}
	cmd.Stdin, cmd.Stdout, cmd.Stderr = read, d.output, d.output
	if err := cmd.Start(); err != nil {
		m.t.Fatal(err)
	}
	read.Close()
	m.t.Cleanup(func() { _ = write.Close() })
	go func() { d.ended <- cmd.Wait() }()
	for _, a := range answers {
		d.wait(a.prompt)
		time.Sleep(300 * time.Millisecond) // getpass(3) shows the prompt and then throws away what was typed before
		if _, err := write.WriteString(a.line + "\n"); err != nil {
			m.t.Fatal(err)
		}
	}
	return d
}

// wait waits until the terminal shows something new that matches, and is that.
func (d *dialog) wait(pattern string) string {
	d.m.t.Helper()
	expression := regexp.MustCompile(pattern)
	for deadline := time.Now().Add(time.Minute); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		text := d.output.String()
		if at := expression.FindStringIndex(text[d.seen:]); at != nil {
			found := text[d.seen+at[0] : d.seen+at[1]]
			d.seen += at[1]
			return found
		}
		select {
		case err := <-d.ended:
			d.m.t.Fatalf("%s ended (%v) and never showed %q:\n%s", d.line, err, pattern, d.output)
		default:
		}
	}
	d.m.t.Fatalf("%s never shows %q:\n%s", d.line, pattern, d.output)
	return ""
}

// end waits for the command, which has to succeed, and is all that the terminal showed.
func (d *dialog) end() string {
	d.m.t.Helper()
	if err := <-d.ended; err != nil {
		d.m.t.Fatalf("%v: %s\n%s", err, d.line, d.output)
	}
	return strings.ReplaceAll(d.output.String(), "\r\n", "\n")
}

// client is an HTTP client that stands on the machine, as a browser there would.
func (m *machine) client() *http.Client {
	return &http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
		if host, _, _ := net.SplitHostPort(address); !strings.HasPrefix(host, "127.") {
			return new(net.Dialer).DialContext(ctx, network, address)
		}
		return m.dial(ctx, network, address)
	}}}
}

// dial connects to an address of the machine's loopback interface: a socket belongs to the network
// namespace that its thread was in.
func (m *machine) dial(ctx context.Context, network, address string) (net.Conn, error) {
	type result struct {
		conn net.Conn
		err  error
	}
	done := make(chan result)
	go func() {
		runtime.LockOSThread() // and never unlock: the thread ends with this goroutine
		namespace, err := os.Open(filepath.Join("/proc", strconv.Itoa(m.init), "ns/net"))
		if err == nil {
			defer namespace.Close()
			err = unix.Setns(int(namespace.Fd()), unix.CLONE_NEWNET)
		}
		if err != nil {
			done <- result{nil, err}
			return
		}
		conn, err := new(net.Dialer).DialContext(ctx, network, address)
		done <- result{conn, err}
	}()
	r := <-done
	return r.conn, r.err
}
