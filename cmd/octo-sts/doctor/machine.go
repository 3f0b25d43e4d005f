package doctor

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/octo-sts/appliance/signer"
)

// The packages' names for things.
const (
	daemonFile    = "/etc/octo-sts/octo-stsd.yaml"
	signerFile    = "/etc/octo-sts/signer.yaml"
	daemonUser    = "octo-sts"
	signerUser    = "octo-sts-signer"
	daemonService = "octo-stsd.service"
	signerService = "octo-sts-signer.service"
	target        = "octo-sts.target"
)

// socketAgain makes the signer's socket anew. systemd does not restart a socket whose service runs.
const socketAgain = "systemctl stop octo-sts-signer.socket octo-sts-signer.service; systemctl start octo-sts-signer.socket octo-sts-signer.service"

// commandLimit bounds each program that is asked something.
const commandLimit = 20 * time.Second

// machine is what the checks look at: the files below Root, and what was found out at the beginning.
type machine struct {
	Config
	isRoot        bool
	users, groups map[string]int // IDs by name
	members       map[string][]string
	daemonText    configFile
	signerText    configFile
	daemon        *daemonConfig  // nil: it cannot be used, or not be read
	signer        *signer.Config // likewise
	unconfigured  bool           // neither file holds more than comments
	units         map[string]unit
	ready         *readiness // nil: the daemon does not answer
}

func newMachine(ctx context.Context, c Config) *machine {
	if c.Programs == "" {
		c.Programs = "/usr/bin"
	}
	m := &machine{Config: c, isRoot: os.Getuid() == 0}
	m.readAccounts()
	m.readConfigurations(ctx)
	m.units = m.readUnits(ctx)
	if c.Root == "" && !m.unconfigured {
		m.ready = askReady(ctx, m.admin())
	}
	return m
}

// path is where a path of the machine is found.
func (m *machine) path(p string) string { return filepath.Join("/", m.Root, p) }

// maxStrangers bounds what is read of a file that is not root's, in bytes.
const maxStrangers = 64 << 10

// readStrangers reads a small file out of a directory that is a daemon's: somebody who got hold of that daemon may have put
// anything there, and we may be root.
func readStrangers(file string) ([]byte, error) {
	f, err := os.OpenFile(file, os.O_RDONLY|syscall.O_NOFOLLOW|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if info, err := f.Stat(); err != nil || !info.Mode().IsRegular() {
		return nil, errors.Join(err, errors.New(file+" is no file"))
	}
	return io.ReadAll(io.LimitReader(f, maxStrangers))
}

// readAccounts reads users and groups as the daemons do: from the files.
func (m *machine) readAccounts() {
	m.users, m.groups, m.members = map[string]int{}, map[string]int{}, map[string][]string{}
	for _, database := range []struct {
		file string
		ids  map[string]int
	}{{"/etc/passwd", m.users}, {"/etc/group", m.groups}} {
		text, err := os.ReadFile(m.path(database.file))
		if err != nil {
			continue // nobody is in it, and the check of users says so
		}
		for line := range strings.Lines(string(text)) {
			fields := strings.Split(strings.TrimSpace(line), ":")
			if len(fields) < 4 {
				continue
			}
			if id, err := strconv.Atoi(fields[2]); err == nil {
				database.ids[fields[0]] = id
			}
			if database.file == "/etc/group" {
				m.members[fields[0]] = strings.Split(fields[3], ",")
			}
		}
	}
}

// answer is what a program said.
type answer struct {
	stdout, stderr string
	status         int // -1: it could not be run, or was ended
	err            error
}

// run asks a program. as is the user to be, where we are root; "": nobody else.
func (m *machine) run(ctx context.Context, as, name string, args ...string) answer {
	ctx, cancel := context.WithTimeout(ctx, commandLimit)
	defer cancel()
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Env = append(os.Environ(), "LC_ALL=C.UTF-8", "SYSTEMD_PAGER=", "SYSTEMD_COLORS=0")
	cmd.WaitDelay = time.Second
	if uid, known := m.users[as]; known && m.isRoot && m.Root == "" {
		groups := []uint32{}
		for group, members := range m.members {
			for _, member := range members {
				if member == as {
					groups = append(groups, uint32(m.groups[group]))
				}
			}
		}
		// What runs as another user gets neither root's variables nor a way to root's terminal.
		cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "LC_ALL=C.UTF-8"}
		cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Credential: &syscall.Credential{Uid: uint32(uid), Gid: uint32(m.groups[as]), Groups: groups}}
	}
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err := cmd.Run()
	a := answer{stdout: stdout.String(), stderr: strings.TrimSpace(stderr.String()), err: err}
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		a.status = exit.ExitCode()
	} else if err != nil {
		a.status = -1
	}
	return a
}

// program is the path of one of ours.
func (m *machine) program(name string) string { return filepath.Join(m.Programs, name) }

// isHidden says that a file may be there, but not for us to see.
func isHidden(err error) bool { return errors.Is(err, os.ErrPermission) }
