// Package systemd_test holds the units to what the documentation says of them. How they behave on a machine is
// tested in packaging/test.
package systemd_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

// Exposure as `systemd-analyze security` computes it, in tenths: 0 is a service that can do nothing, 100 one that can do
// everything.
const (
	daemonExposure = 12
	signerExposure = 5
	probeExposure  = 9
	// networkHSMExposure is the signer's where its HSM is across a network.
	networkHSMExposure = 10
)

// moreExposed lists the drop-ins that open more than their unit's bound, each for the reason that its first lines say.
var moreExposed = map[string]int{
	"octo-sts-signer.service.d/network-hsm.conf":        networkHSMExposure,
	"octo-sts-signer.service.d/network-hsm-direct.conf": networkHSMExposure + 3, // the machine's network, not one of its own
	"octo-sts-signer.service.d/usb-hsm.conf":            signerExposure + 1,     // netlink
	"octo-sts-signer.service.d/writable-code.conf":      signerExposure + 1,
	"octo-stsd.service.d/no-sockets.conf":               daemonExposure + 2, // a capability, and no users of its own
	"system/octo-sts-hsm.service":                       daemonExposure,
}

// How much each service is exposed, alone and with each of the drop-ins.
func TestExposure(t *testing.T) {
	for _, unit := range []struct {
		name  string
		bound int
	}{{"octo-stsd.service", daemonExposure}, {"octo-sts-signer.service", signerExposure}, {"octo-sts-probe.service", probeExposure}} {
		t.Run(unit.name, func(t *testing.T) { exposed(t, unit.bound, unit.name, unit.name, "") })
		if unit.name == "octo-sts-probe.service" {
			continue // has no drop-ins
		}
		for _, dropIn := range glob(t, "drop-ins/"+unit.name+".d/*.conf") {
			name := strings.TrimPrefix(dropIn, "drop-ins/")
			bound := unit.bound
			if more, ok := moreExposed[name]; ok {
				bound = more
			}
			t.Run(name, func(t *testing.T) { exposed(t, bound, unit.name, unit.name, dropIn) })
		}
	}
	for _, unit := range glob(t, "drop-ins/system/*.service") {
		name := strings.TrimPrefix(unit, "drop-ins/")
		t.Run(name, func(t *testing.T) { exposed(t, moreExposed[name], filepath.Base(unit), unit, "") })
	}
}

func exposed(t *testing.T, bound int, name, unit, dropIn string) {
	t.Helper()
	root := t.TempDir()
	copyFile(t, unit, filepath.Join(root, "usr/lib/systemd/system", name))
	if dropIn != "" {
		copyFile(t, dropIn, filepath.Join(root, "usr/lib/systemd/system", name+".d", filepath.Base(dropIn)))
	}
	out, err := exec.Command("systemd-analyze", "security", "--no-pager", "--offline=true", "--root="+root, "--threshold="+strconv.Itoa(bound), name).CombinedOutput()
	if err != nil {
		t.Errorf("more exposed than %d tenths (%v):\n%s", bound, err, out)
	}
	lines := strings.Split(strings.TrimSpace(string(out)), "\n")
	t.Log(lines[len(lines)-1])
}

// systemd knows each directive and each value, says nothing about any of them, and finds no unit that is missing.
// With a drop-in of each kind, too.
func TestVerify(t *testing.T) {
	root := t.TempDir()
	system := filepath.Join(root, "usr/lib/systemd/system")
	for _, there := range glob(t, "/usr/lib/systemd/system/*.target", "/usr/lib/systemd/system/*.slice", "/usr/lib/systemd/system/*.mount") {
		copyFile(t, there, filepath.Join(system, filepath.Base(there)))
	}
	for _, program := range []string{"/usr/bin/octo-stsd", "/usr/bin/octo-sts-signer", "/usr/bin/octo-sts", "/usr/lib/systemd/systemd-socket-proxyd", "/usr/bin/kill"} {
		copyFile(t, "/bin/true", filepath.Join(root, program))
		if err := os.Chmod(filepath.Join(root, program), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	units := glob(t, "*.service", "*.socket", "*.target", "*.timer")
	for _, unit := range units {
		copyFile(t, unit, filepath.Join(system, unit))
	}
	verify(t, root, units...)
	for _, unit := range glob(t, "drop-ins/system/*") {
		copyFile(t, unit, filepath.Join(system, filepath.Base(unit)))
	}
	for _, dropIn := range glob(t, "drop-ins/*.d/*.conf") {
		t.Run(strings.TrimPrefix(dropIn, "drop-ins/"), func(t *testing.T) {
			directory := filepath.Join(system, filepath.Base(filepath.Dir(dropIn)))
			defer os.RemoveAll(directory)
			copyFile(t, dropIn, filepath.Join(directory, filepath.Base(dropIn)))
			verify(t, root, strings.TrimSuffix(filepath.Base(directory), ".d"))
		})
	}
}

func verify(t *testing.T, root string, units ...string) {
	t.Helper()
	out, err := exec.Command("systemd-analyze", append([]string{"verify", "--man=no", "--root=" + root}, units...)...).CombinedOutput()
	if err != nil || len(out) > 0 {
		t.Errorf("systemd-analyze verify: %v\n%s", err, out)
	}
}

func glob(t *testing.T, patterns ...string) []string {
	t.Helper()
	var found []string
	for _, pattern := range patterns {
		files, err := filepath.Glob(pattern)
		if err != nil || len(files) == 0 {
			t.Fatalf("nothing is %s: %v", pattern, err)
		}
		found = append(found, files...)
	}
	return found
}

func copyFile(t *testing.T, from, to string) {
	t.Helper()
	data, err := os.ReadFile(from)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(to, data, 0o644); err != nil {
		t.Fatal(err)
	}
}
