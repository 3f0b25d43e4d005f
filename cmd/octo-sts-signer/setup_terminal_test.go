package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/octo-sts/appliance/sts/ststest"
)

// terminal runs setup on a terminal of its own, and is the side of it at which a person sits. Its screen collects what is
// shown.
func (r *setupRig) terminal(screen *syncBuffer) (keyboard *os.File, x *running) {
	r.t.Helper()
	keyboard, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() { _ = keyboard.Close() })
	if err := unix.IoctlSetPointerInt(int(keyboard.Fd()), unix.TIOCSPTLCK, 0); err != nil {
		r.t.Fatal(err)
	}
	number, err := unix.IoctlGetInt(int(keyboard.Fd()), unix.TIOCGPTN)
	if err != nil {
		r.t.Fatal(err)
	}
	line, err := os.OpenFile(filepath.Join("/dev/pts", fmt.Sprint(number)), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		r.t.Fatal(err)
	}
	defer line.Close()
	x = &running{setupRig: r, cmd: exec.CommandContext(r.t.Context(), binary, slices.Concat([]string{"setup"}, r.flags)...), output: screen}
	x.cmd.Env = slices.Concat(os.Environ(), r.env)
	x.cmd.Stdin, x.cmd.Stdout, x.cmd.Stderr = line, line, line
	x.cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	if err := x.cmd.Start(); err != nil {
		r.t.Fatal(err)
	}
	x.shown = make(chan struct{})
	go func() {
		defer close(x.shown)
		buffer := make([]byte, 4096)
		for {
			n, err := keyboard.Read(buffer)
			_, _ = screen.Write(buffer[:n])
			if err != nil {
				return // the program has ended
			}
		}
	}()
	return keyboard, x
}

// shows waits until the screen has text.
func (x *running) shows(text string) {
	x.t.Helper()
	for deadline := time.Now().Add(30 * time.Second); !strings.Contains(x.output.String(), text); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			_ = x.cmd.Process.Kill()
			x.t.Fatalf("no %q on the screen:\n%s", text, x.output)
		}
	}
}

// The PIN is typed at the terminal, which does not show it.
func TestSetupAsksForThePIN(t *testing.T) {
	r := newSetupRig(t, ststest.GitHubConfig{})
	keyboard, x := r.terminal(&syncBuffer{})
	x.shows("PIN of the HSM")
	if _, err := keyboard.WriteString(setupPIN + "\n"); err != nil {
		t.Fatal(err)
	}
	x.agree(nil)
	x.shows("Done.")
	status, screen := x.end()
	if status != 0 || strings.Contains(screen, setupPIN) {
		t.Errorf("exit status %d:\n%s", status, screen)
	}
	if got := r.decrypt("hsm-pin"); got != setupPIN {
		t.Errorf("the credential holds %q", got)
	}
}

// Ctrl-C instead of a PIN ends it, with nothing tried.
func TestSetupIsLeftAtThePIN(t *testing.T) {
	r := newSetupRig(t, ststest.GitHubConfig{})
	keyboard, x := r.terminal(&syncBuffer{})
	x.shows("PIN of the HSM")
	if _, err := keyboard.Write([]byte{3}); err != nil {
		t.Fatal(err)
	}
	if status, screen := x.end(); status != 1 || !strings.Contains(screen, "context canceled") {
		t.Errorf("exit status %d:\n%s", status, screen)
	}
	if state, err := unix.IoctlGetTermios(int(keyboard.Fd()), unix.TCGETS); err != nil || state.Lflag&unix.ECHO == 0 {
		t.Errorf("the terminal does not echo any more: %v", err)
	}
}
