package doctor

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
)

// holder is a process that listens at a port.
type holder struct {
	pid  int    // 0: not for us to see
	name string // comm of proc(5)
	unit string // its systemd unit; "" where it is of none, or not to be seen
	user string
}

// checkPorts looks who has the ports of those of our units that did not get them.
func checkPorts(_ context.Context, m *machine) []Finding {
	wanted := map[string]string{} // ports, and the unit that wants each
	for _, name := range []string{"octo-stsd.socket", "octo-stsd-http.socket"} {
		if u := m.units[name]; u.exists() && u["LoadState"] != "masked" && !u.is("active") {
			for _, port := range listening(u) {
				wanted[port] = name
			}
		}
	}
	// The daemon itself listens where it gets no sockets, and for its admin port.
	if u := m.units[daemonService]; u.exists() && !u.is("active") && m.daemon != nil {
		addresses := []string{m.daemon.Listen.Admin}
		if m.units["octo-stsd.socket"]["LoadState"] == "masked" {
			addresses = append(addresses, m.daemon.Listen.HTTPS, m.daemon.Listen.HTTP)
		}
		for _, address := range addresses {
			if _, port, err := net.SplitHostPort(address); err == nil {
				wanted[port] = daemonService
			}
		}
	}
	var findings []Finding
	for port, unit := range wanted {
		holders, err := m.holders(port)
		if err != nil {
			findings = append(findings, Finding{Severity: Unseen, What: "who listens at port " + port + ": " + err.Error(), Command: "ss -ltnp sport = :" + port})
			continue
		}
		for _, h := range holders {
			findings = append(findings, h.finding(port, unit))
		}
	}
	return findings
}

func (h holder) finding(port, unit string) Finding {
	who := "a process of the user " + h.user
	free := "find it: ss -ltnp sport = :" + port + ", and stop it"
	command := ""
	restart := "systemctl reset-failed " + unit + "; systemctl restart " + unit
	if unit != daemonService {
		restart = "systemctl stop " + daemonService + "; " + restart + " && systemctl start " + target + " " + daemonService
	}
	switch {
	case h.unit != "":
		who = fmt.Sprintf("%s (process %d of %s)", h.name, h.pid, h.unit)
		command, free = fmt.Sprintf("systemctl disable --now %s; %s", h.unit, restart), ""
	case h.pid != 0:
		who = fmt.Sprintf("%s (process %d)", h.name, h.pid)
		command, free = fmt.Sprintf("kill %d; sleep 1; %s", h.pid, restart), ""
	}
	if free == "" {
		free = "or have one of the two listen elsewhere: systemctl edit " + unit
	}
	return Finding{
		Severity: Problem, What: fmt.Sprintf("port %s is held by %s", port, who), Why: unit + " cannot listen there", Command: command, Advice: free,
	}
}

const stateListen = "0A" // TCP_LISTEN of the kernel's tcp_states.h, as /proc/net/tcp has it

// holders are the processes that listen at a port, but systemd itself, which listens for our sockets.
func (m *machine) holders(port string) ([]holder, error) {
	number, err := strconv.ParseUint(port, 10, 16)
	if err != nil {
		return nil, err
	}
	sockets := map[string]string{} // inodes, and the user of each
	for _, table := range []string{"/proc/net/tcp", "/proc/net/tcp6"} {
		if err := m.readSockets(table, number, sockets); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
	}
	var found []holder
	for inode, user := range sockets {
		h := m.holderOf(inode)
		h.user = user
		if h.pid != 1 {
			found = append(found, h)
		}
	}
	return found, nil
}

// readSockets reads which sockets listen at a port (proc(5), /proc/net/tcp).
func (m *machine) readSockets(table string, port uint64, sockets map[string]string) error {
	f, err := os.Open(m.path(table))
	if err != nil {
		return err
	}
	defer f.Close()
	for lines := bufio.NewScanner(f); lines.Scan(); {
		fields := strings.Fields(lines.Text())
		if len(fields) < 10 || fields[3] != stateListen || !strings.HasSuffix(fields[1], fmt.Sprintf(":%04X", port)) {
			continue
		}
		uid, err := strconv.Atoi(fields[7])
		if err != nil {
			continue
		}
		sockets[fields[9]] = nameOf(m.users, uid)
	}
	return nil
}

// holderOf finds the process that has a socket open. Where several have, it is the one that passed it on.
func (m *machine) holderOf(inode string) holder {
	links, err := filepath.Glob(m.path("/proc/[0-9]*/fd/*"))
	if err != nil {
		return holder{}
	}
	least := holder{}
	for _, link := range links {
		if to, err := os.Readlink(link); err != nil || to != "socket:["+inode+"]" {
			continue // most processes are not ours to look into, unless we are root
		}
		process := filepath.Dir(filepath.Dir(link))
		pid, err := strconv.Atoi(filepath.Base(process))
		if err != nil || least.pid != 0 && least.pid < pid {
			continue
		}
		comm, _ := os.ReadFile(filepath.Join(process, "comm")) // it may be gone by now
		groups, _ := os.ReadFile(filepath.Join(process, "cgroup"))
		least = holder{pid: pid, name: strings.TrimSpace(string(comm)), unit: unitOf(string(groups))}
	}
	return least
}

// unitOf is the service in a path of control groups, 0::/system.slice/nginx.service. A service of a user's own manager is
// none that root's systemctl knows, and may have the name of another one that it does.
func unitOf(groups string) string {
	for line := range strings.Lines(groups) {
		for segment := range strings.SplitSeq(strings.TrimSpace(line), "/") {
			if strings.HasPrefix(segment, "user@") {
				return ""
			}
			if strings.HasSuffix(segment, ".service") {
				return segment
			}
		}
	}
	return ""
}

// checkSignerSocket looks whether the daemon gets at the signer's socket.
func checkSignerSocket(_ context.Context, m *machine) []Finding {
	socket := defaultSocket
	if m.signer != nil {
		socket = m.signer.Socket
	}
	if u := m.units["octo-sts-signer.socket"]; !u.is("active") {
		return nil // that is told already
	}
	info, err := os.Stat(m.path(socket))
	if err != nil {
		return []Finding{{Severity: Problem, What: err.Error(), Why: "the daemon cannot ask for signatures", Command: socketAgain}}
	}
	stat := info.Sys().(*syscall.Stat_t)
	gid, known := m.groups[daemonUser]
	if info.Mode()&fs.ModeSocket == 0 || known && int(stat.Gid) != gid || info.Mode().Perm() != 0o660 {
		return []Finding{{
			Severity: Problem, What: fmt.Sprintf("%s is %s of the group %s, and not a socket for the group %s alone", socket, info.Mode(), nameOf(m.groups, int(stat.Gid)), daemonUser),
			Why: "the daemon cannot ask for signatures, or others can", Command: socketAgain,
		}}
	}
	directory, err := os.Stat(m.path(path.Dir(socket)))
	if err == nil && directory.Mode().Perm()&0o005 != 0o005 {
		return []Finding{{
			Severity: Problem, What: fmt.Sprintf("%s has the mode %04o", path.Dir(socket), directory.Mode().Perm()), Why: "the daemon cannot get at the signer's socket", Command: "chmod 0755 " + path.Dir(socket),
		}}
	}
	return nil
}
