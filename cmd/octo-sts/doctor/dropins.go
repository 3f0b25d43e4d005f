package doctor

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
)

// examples are the package's own drop-ins: what they open, they say.
const examples = "/usr/share/octo-sts/drop-ins"

// opening says which values of a directive take something of the sandbox away, and what.
type opening struct {
	directive string
	opens     func(value string) bool
	why       string
}

func isOff(value string) bool {
	return slices.Contains([]string{"no", "false", "0", "off", ""}, strings.ToLower(value))
}
func isSet(value string) bool   { return value != "" }
func isEmpty(value string) bool { return value == "" }

func openings() []opening {
	all := []opening{
		{"User", func(v string) bool { return v == "root" || v == "0" || v == "" }, "it runs as root"},
		{"Group", func(v string) bool { return v == "root" || v == "0" || v == "" }, "it runs in root's group"},
		{"LimitCORE", func(v string) bool { return v != "0" }, "a core dump has the secrets of the process in it"},
		{"CapabilityBoundingSet", isSet, "it can have capabilities"},
		{"AmbientCapabilities", isSet, "it has capabilities"},
		{"SystemCallFilter", isEmpty, "it can make every system call"},
		{"RestrictAddressFamilies", isEmpty, "it can open sockets of every kind"},
		{"NoExecPaths", isEmpty, "it can run other programs"},
		{"TemporaryFileSystem", isEmpty, "it sees the whole machine"},
		{"InaccessiblePaths", isEmpty, "it sees what is the signer's"},
		{"ProtectSystem", isOff, "it can write to the whole machine"},
		{"SecureBits", isSet, "it can keep capabilities"},
		{"PermissionsStartOnly", func(v string) bool { return !isOff(v) }, "parts of it run as root"},
	}
	for directive, why := range map[string]string{
		"NoNewPrivileges": "it can gain privileges", "PrivateUsers": "it shares its users with the machine", "PrivateDevices": "it sees the machine's devices",
		"PrivateTmp": "it shares /tmp with others", "PrivateNetwork": "it has the machine's network", "ProtectHome": "it sees the users' homes",
		"MemoryDenyWriteExecute": "it can make code and run it", "RestrictNamespaces": "it can make namespaces", "RestrictSUIDSGID": "it can make setuid files",
		"ProtectKernelTunables": "it can change the kernel's settings", "ProtectKernelModules": "it can load kernel modules", "ProtectKernelLogs": "it can read the kernel's log",
		"ProtectControlGroups": "it can change control groups", "ProtectClock": "it can set the clock", "LockPersonality": "it can change how system calls work",
	} {
		all = append(all, opening{directive, isOff, why})
	}
	return all
}

// secretVariable is the name of a variable that holds a secret: the environment is for everybody of that user to read, and systemd shows it.
var secretVariable = regexp.MustCompile(`(?i)(secret|password|passwd|private_?key|token|(^|_)pin)[a-z_]*=`)

// checkDropIns looks at what the administrator changed of the units.
func checkDropIns(_ context.Context, m *machine) []Finding {
	var files []string
	for _, name := range unitNames {
		for _, store := range []string{"/etc/systemd/system", "/run/systemd/system"} {
			found, err := filepath.Glob(m.path(path.Join(store, name+".d", "*.conf")))
			if err == nil {
				files = append(files, found...)
			}
			if unit := m.path(path.Join(store, name)); isRegular(unit) {
				files = append(files, unit)
			}
		}
	}
	var findings []Finding
	for _, file := range files {
		findings = append(findings, m.lookAtDropIn(file)...)
	}
	return findings
}

func isRegular(file string) bool {
	info, err := os.Lstat(file) // a unit that is masked, or linked, is a link
	return err == nil && info.Mode().IsRegular()
}

func (m *machine) lookAtDropIn(file string) []Finding {
	shown := strings.TrimPrefix(file, strings.TrimSuffix(m.path("/"), "/"))
	name := strings.TrimSuffix(path.Base(path.Dir(shown)), ".d")
	away := fmt.Sprintf("mv %s %[1]s.off && systemctl daemon-reload && systemctl restart %s", shown, name)
	if path.Ext(shown) != ".conf" {
		return []Finding{{
			Severity: Warning, What: shown + " stands in the place of the package's unit", Why: "what an upgrade changes of the unit does not count",
			Command: fmt.Sprintf("mv %s %[1]s.off && systemctl daemon-reload", shown), Advice: "put what you need into a drop-in: systemctl edit " + path.Base(shown),
		}}
	}
	info, err := os.Stat(file)
	if err != nil {
		return []Finding{{Severity: Unseen, What: err.Error(), Command: "sudo octo-sts doctor"}}
	}
	var findings []Finding
	if stat := info.Sys().(*syscall.Stat_t); m.Root == "" && stat.Uid != 0 || info.Mode().Perm()&0o022 != 0 {
		findings = append(findings, Finding{
			Severity: Problem, What: shown + " can be written by others than root", Why: "whoever writes it decides what systemd runs as root", Command: fmt.Sprintf("chown root:root %s && chmod 0644 %[1]s", shown),
		})
	}
	text, err := os.ReadFile(file)
	if err != nil {
		return append(findings, Finding{Severity: Unseen, What: err.Error(), Command: "sudo octo-sts doctor"})
	}
	if m.isExample(text) {
		return findings
	}
	for _, what := range unsafe(string(text)) {
		findings = append(findings, Finding{Severity: Problem, What: shown + " has " + what[0], Why: what[1], Command: away, Advice: "or take that line out of it"})
	}
	return findings
}

// isExample says that a drop-in is one of the package's, unchanged.
func (m *machine) isExample(text []byte) bool {
	found, err := filepath.Glob(m.path(examples + "/*/*.conf"))
	if err != nil {
		return false
	}
	return slices.ContainsFunc(found, func(file string) bool {
		other, err := os.ReadFile(file)
		return err == nil && bytes.Equal(text, other)
	})
}

// unsafe are the lines of a drop-in that open the sandbox, each with what it opens. A directive that is emptied and then
// given anew is as open as what it is given.
func unsafe(text string) [][2]string {
	last := map[string]string{}
	var found [][2]string
	for line := range strings.Lines(text) {
		directive, value, isDirective := strings.Cut(strings.TrimSpace(line), "=")
		directive, value = strings.TrimSpace(directive), strings.TrimSpace(value)
		switch {
		case !isDirective || strings.HasPrefix(directive, "#") || strings.HasPrefix(directive, ";"):
		case directive == "Environment" && secretVariable.MatchString(value):
			name, _, _ := strings.Cut(strings.Trim(value, `"'`), "=")
			found = append(found, [2]string{"a secret in Environment=" + name, "other users can read it: systemctl show; secrets are credentials"})
		case (directive == "ExecStart" || directive == "ExecStartPre" || directive == "ExecStartPost") && value != "" && strings.ContainsAny(value[:1], "+!"):
			found = append(found, [2]string{directive + "=" + value, "it runs outside of the sandbox, as root"})
		default:
			last[directive] = value
		}
	}
	for _, o := range openings() {
		if value, given := last[o.directive]; given && o.opens(value) {
			found = append(found, [2]string{o.directive + "=" + value, o.why})
		}
	}
	slices.SortFunc(found, func(a, b [2]string) int { return strings.Compare(a[0], b[0]) })
	return found
}
