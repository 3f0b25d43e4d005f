package doctor

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
)

// tmpfiles says how the package's directories and files have to be (tmpfiles.d(5)); the administrator's goes before it.
var tmpfiles = []string{"/etc/tmpfiles.d/octo-sts.conf", "/run/tmpfiles.d/octo-sts.conf", "/usr/lib/tmpfiles.d/octo-sts.conf"}

// place is a directory or a file, and whose it is to be.
type place struct {
	path         string
	mode         fs.FileMode
	owner, group string
	isDirectory  bool
	own          bool // what is in it has to be its owner's, too
}

// checkDirectories holds directories and files against tmpfiles.d, and those that the configuration names against the same rules.
func checkDirectories(_ context.Context, m *machine) []Finding {
	text, err := m.readFirst(tmpfiles)
	if err != nil {
		return []Finding{{Severity: Problem, What: "the package's list of its directories cannot be read: " + err.Error(), Why: "they are made by it", Command: installAgain}}
	}
	places := parseTmpfiles(text)
	listed := func(path string) bool {
		return slices.ContainsFunc(places, func(p place) bool { return p.path == path })
	}
	for path, user := range map[string]string{m.auditDirectory(): daemonUser, m.daemonState(): daemonUser, m.signerState(): signerUser} {
		if !listed(path) {
			places = append(places, place{path: path, owner: user, group: user, isDirectory: true})
		}
	}
	var findings []Finding
	hidden := []string{}
	for _, p := range places {
		p.own = slices.Contains([]string{m.auditDirectory(), m.daemonState(), m.signerState()}, p.path)
		found, err := m.lookAt(p)
		if isHidden(err) {
			hidden = append(hidden, p.path)
			continue
		}
		findings = append(findings, found...)
	}
	if len(hidden) > 0 {
		slices.Sort(hidden)
		findings = append(findings, Finding{Severity: Unseen, What: "whose these are, and what is in them: " + strings.Join(hidden, ", "), Command: "sudo octo-sts doctor"})
	}
	return findings
}

func (m *machine) readFirst(paths []string) (string, error) {
	var err error
	for _, path := range paths {
		var text []byte
		if text, err = os.ReadFile(m.path(path)); err == nil {
			return string(text), nil
		}
	}
	return "", err
}

func parseTmpfiles(text string) []place {
	var places []place
	for line := range strings.Lines(text) {
		fields := strings.Fields(line)
		if len(fields) < 5 || strings.HasPrefix(fields[0], "#") {
			continue
		}
		mode, err := strconv.ParseUint(strings.TrimLeft(fields[2], "~:"), 8, 12)
		if err != nil {
			continue
		}
		places = append(places, place{path: fields[1], mode: fs.FileMode(mode), owner: fields[3], group: fields[4], isDirectory: fields[0][0] == 'd'})
	}
	return places
}

// lookAt says what is wrong with one place. The error says that it is not ours to look at.
func (m *machine) lookAt(p place) ([]Finding, error) {
	make := "systemd-tmpfiles --create octo-sts.conf"
	info, err := os.Lstat(m.path(p.path))
	switch {
	case isHidden(err):
		return nil, err
	case errors.Is(err, fs.ErrNotExist) && !p.isDirectory:
		return nil, nil // the check of the configuration misses it
	case errors.Is(err, fs.ErrNotExist):
		command := make
		if p.mode == 0 {
			command = fmt.Sprintf("install -d -m 0700 -o %s -g %s %s", p.owner, p.group, p.path)
		}
		return []Finding{{Severity: Problem, What: p.path + " is not there", Why: "what needs it does not start", Command: command}}, nil
	case err != nil:
		return []Finding{{Severity: Problem, What: err.Error(), Why: "what needs it does not start", Advice: "find out what became of it"}}, nil
	case info.IsDir() != p.isDirectory:
		return []Finding{{Severity: Problem, What: fmt.Sprintf("%s is %s", p.path, info.Mode().Type()), Why: "something else is expected there", Advice: "move it away, then: " + make}}, nil
	}
	if wrong := m.wrongOwner(info, p); wrong != "" {
		command := fmt.Sprintf("chown %s:%s %s", p.owner, p.group, p.path)
		return []Finding{{Severity: Problem, What: p.path + " " + wrong, Why: "whom it is for cannot use it, or somebody else can", Command: command}}, nil
	}
	mode := info.Mode().Perm()
	if p.mode != 0 && mode != p.mode || p.mode == 0 && mode&0o022 != 0 {
		want := p.mode
		if want == 0 {
			want = mode &^ 0o022
		}
		return []Finding{{
			Severity: Problem, What: fmt.Sprintf("%s has the mode %04o, and not %04o", p.path, mode, want), Why: "whom it is for cannot use it, or somebody else can",
			Command: fmt.Sprintf("chmod %04o %s", want, p.path),
		}}, nil
	}
	if !p.own {
		return nil, nil
	}
	return m.lookInto(p)
}

// wrongOwner says whose a file is, where it is not the one's whose it has to be.
func (m *machine) wrongOwner(info fs.FileInfo, p place) string {
	stat := info.Sys().(*syscall.Stat_t)
	uid, knownUser := m.users[p.owner]
	gid, knownGroup := m.groups[p.group]
	if knownUser && knownGroup && (int(stat.Uid) != uid || int(stat.Gid) != gid) {
		return fmt.Sprintf("belongs to %s:%s, and not to %s:%s", nameOf(m.users, int(stat.Uid)), nameOf(m.groups, int(stat.Gid)), p.owner, p.group)
	}
	return ""
}

func nameOf(ids map[string]int, id int) string {
	for name, other := range ids {
		if other == id {
			return name
		}
	}
	return strconv.Itoa(id)
}

// lookInto looks whose the files in a directory are: one that root made, by running a daemon by hand, stops the daemon.
func (m *machine) lookInto(p place) ([]Finding, error) {
	uid, known := m.users[p.owner]
	if !known {
		return nil, nil
	}
	var strangers []string
	err := filepath.WalkDir(m.path(p.path), func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := entry.Info()
		if errors.Is(err, fs.ErrNotExist) {
			return nil // gone meanwhile
		}
		if err != nil {
			return err
		}
		if int(info.Sys().(*syscall.Stat_t).Uid) != uid {
			strangers = append(strangers, entry.Name())
		}
		if len(strangers) > 2 {
			return filepath.SkipAll
		}
		return nil
	})
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	if len(strangers) == 0 {
		return nil, nil
	}
	return []Finding{{
		Severity: Problem, What: fmt.Sprintf("in %s there are files that are not %s's: %s", p.path, p.owner, strings.Join(strangers, ", ")),
		Why: "its daemon cannot write them", Command: fmt.Sprintf("chown -R %s: %s", p.owner, p.path),
	}}, nil
}

// Of a file system, so much has to be free, in hundredths. Under the first a person has to act, under the second soon.
const (
	almostFull = 5
	filling    = 20
)

// checkDisk looks at the file systems that are written to. A daemon that runs looks at them itself, where it has a check of it.
func checkDisk(_ context.Context, m *machine) []Finding {
	if m.ready.has("disk") {
		return nil
	}
	var findings []Finding
	seen := map[syscall.Fsid]bool{}
	for _, directory := range []string{m.auditDirectory(), m.daemonState(), m.signerState()} {
		var s syscall.Statfs_t
		if err := syscall.Statfs(m.path(directory), &s); err != nil || seen[s.Fsid] {
			continue // the check of directories misses it
		}
		seen[s.Fsid] = true
		if s.Flags&1 != 0 { // ST_RDONLY of statvfs(3)
			findings = append(findings, Finding{
				Severity: Problem, What: "the file system of " + directory + " is read-only", Why: "no exchange is granted that cannot be logged",
				Command: "mount -o remount,rw $(findmnt --noheadings --output TARGET --target " + directory + ")",
			})
		}
		for _, left := range []struct {
			what       string
			free, size uint64
		}{{"space", s.Bavail, s.Blocks - s.Bfree + s.Bavail}, {"inodes", s.Ffree, s.Files}} {
			findings = append(findings, lookAtRoom(directory, left.what, left.free, left.size)...)
		}
	}
	return findings
}

func lookAtRoom(directory, what string, free, size uint64) []Finding {
	if size == 0 || free*100 >= size*filling {
		return nil
	}
	severity := Warning
	if free*100 < size*almostFull {
		severity = Problem
	}
	return []Finding{{
		Severity: severity, What: fmt.Sprintf("the file system of %s has %d%% of its %s free", directory, free*100/size, what),
		Why:    "when it is full, every exchange is refused until there is room",
		Advice: "move the oldest segments of the audit log away (file:///usr/share/doc/octo-sts/audit.md), or make the file system larger; what fills it: du -xh --max-depth=2 " + directory,
	}}
}
