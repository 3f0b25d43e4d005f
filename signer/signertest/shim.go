package signertest

import (
	"context"
	_ "embed"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"time"
)

//go:embed shim/shim.c
var shimSource []byte

// Shim is a PKCS#11 module that stands before SoftHSM, hands every call on, and does wrong what it is told to: see the
// head of shim/shim.c for the faults. Whatever loads Module needs Env in its environment, beside SoftHSM's own.
// Its methods may be called from any goroutine, while the module is in use.
type Shim struct {
	Module string // path

	behind  string // path of SoftHSM's module
	control string // path of the file of faults
	log     string // path of the file of calls

	mu sync.Mutex // serialises Set and Clear, which replace control
}

// BuildShim compiles the shim in dir, which must exist. It needs a C compiler, as cgo does: $CC, or gcc.
func BuildShim(ctx context.Context, dir string) (*Shim, error) {
	behind, err := FindSoftHSM()
	if err != nil {
		return nil, err
	}
	if dir, err = filepath.Abs(dir); err != nil {
		return nil, fmt.Errorf("building the PKCS#11 shim: %w", err)
	}
	compiler := os.Getenv("CC")
	if compiler == "" {
		compiler = "gcc"
	}
	s := &Shim{
		Module:  filepath.Join(dir, "shim.so"),
		behind:  behind,
		control: filepath.Join(dir, "shim.control"),
		log:     filepath.Join(dir, "shim.log"),
	}
	source := filepath.Join(dir, "shim.c")
	if err := os.WriteFile(source, shimSource, 0o600); err != nil {
		return nil, fmt.Errorf("building the PKCS#11 shim: %w", err)
	}
	// nodelete: what is counted must outlast an unloading of the module.
	cmd := exec.CommandContext(ctx, compiler, "-std=gnu11", "-Wall", "-Wextra", "-Werror", "-O1", "-fPIC", "-shared", "-Wl,-z,nodelete",
		"-o", s.Module, source, "-ldl", "-lpthread")
	if output, err := cmd.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("building the PKCS#11 shim: %w\n%s", err, output)
	}
	return s, nil
}

// Env is the environment, as NAME=VALUE, in which Module finds SoftHSM, its faults and its log.
func (s *Shim) Env() []string {
	return []string{"SHIM_MODULE=" + s.behind, "SHIM_CONTROL=" + s.control, "SHIM_LOG=" + s.log}
}

// Set puts lines such as "C_Sign rv=0x30" in the place of all faults before. They are in force for every call that begins
// after it returns; a call that hangs for an earlier line returns.
func (s *Shim) Set(lines ...string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	temporary := s.control + ".tmp"
	if err := os.WriteFile(temporary, []byte(strings.Join(lines, "\n")+"\n"), 0o600); err != nil {
		return fmt.Errorf("writing the PKCS#11 shim's faults: %w", err)
	}
	// The shim tells files apart by inode, size and time, and the kernel's own time for files moves in steps of milliseconds.
	now := time.Now()
	if err := os.Chtimes(temporary, now, now); err != nil {
		return fmt.Errorf("writing the PKCS#11 shim's faults: %w", err)
	}
	if err := os.Rename(temporary, s.control); err != nil {
		return fmt.Errorf("writing the PKCS#11 shim's faults: %w", err)
	}
	return nil
}

// Clear removes all faults.
func (s *Shim) Clear() error { return s.Set() }

// Call is one call that has returned, or that a hang or a crash has met.
type Call struct {
	Function string // for example "C_Sign"
	Result   string // return value in hexadecimal, "0x0" for CKR_OK; or "hang" or "crash"
}

// Calls returns every call since the last ForgetCalls, in the order of their return, or of their meeting a hang or a crash.
func (s *Shim) Calls() ([]Call, error) {
	data, err := os.ReadFile(s.log)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("reading the PKCS#11 shim's log: %w", err)
	}
	var calls []Call
	for line := range strings.Lines(string(data)) {
		function, result, ok := strings.Cut(strings.TrimSuffix(line, "\n"), " ")
		if !ok {
			return nil, fmt.Errorf("reading the PKCS#11 shim's log: line %q", line)
		}
		calls = append(calls, Call{Function: function, Result: result})
	}
	return calls, nil
}

// ForgetCalls empties the log.
func (s *Shim) ForgetCalls() error {
	if err := os.Truncate(s.log, 0); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("emptying the PKCS#11 shim's log: %w", err)
	}
	return nil
}
