//go:build packages

package packaging_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// fedora is the heading in docs/install.md for systems with dnf.
const fedora = "RHEL 9, Rocky Linux 9, Fedora"

// The rpm by dnf: installed from the signed repository as docs/install.md says, at work, upgraded and downgraded under
// traffic, and erased.
//
// This is no Fedora: its packages cannot be had here. rpm and dnf run on Debian 12, and what octo-sts requires of a Fedora
// comes from packages that are empty and say so. So this shows the package, its scripts, the signatures and the repository; it does not show
// SELinux, nor the programs of a Fedora or RHEL at work with ours.
func TestRPM(t *testing.T) {
	t.Log("rpm and dnf on Debian 12, with stubs for Fedora's packages: SELinux and a real Fedora or RHEL are not shown")
	rpms := map[string]string{}
	for _, dir := range []string{"before", "."} {
		found, _ := filepath.Glob(filepath.Join(distDir, dir, "octo-sts-[0-9]*."+rpmArch()+".rpm"))
		if len(found) != 1 {
			t.Fatalf("dist/%s has these rpms: %q, want one", dir, found)
		}
		rpms[dir] = found[0]
	}
	older, newer := query(t, rpms["before"]), query(t, rpms["."])
	makeStubs(t, rpms["."])

	a := &appliance{machine: newMachine(t, "rpm"), world: newWorld(t), page: openPage(t, "install.md", debian, fedora)}
	a.write("/etc/yum.repos.d/.keep", "", 0o644)
	a.write("/etc/dnf/vars/releasever", "9", 0o644)
	groups := a.read("/etc/group")
	a.write("/etc/group", groups+strings.ReplaceAll(regexp.MustCompile(`(?m)^softhsm:.*$`).FindString(groups), "softhsm", "ods")+"\n", 0o644)
	a.install("before")
	if out, _ := a.try("systemctl is-active octo-sts.target octo-stsd octo-sts-signer octo-stsd.socket"); strings.Contains("\n"+out, "\nactive") {
		t.Errorf("the installation started something: %s", out)
	}
	if out := a.run("rpm --query octo-sts"); strings.TrimSpace(out) != older {
		t.Errorf("%s is installed, want %s", out, older)
	}
	a.setUp()
	a.exchange()

	if err := publish("before", "."); err != nil {
		t.Fatal(err)
	}
	const file = "/etc/octo-sts/octo-stsd.yaml"
	configuration := a.read(file)
	before := a.grantsInLog()
	x := startTraffic(t, a.world, 100)
	for _, c := range []struct{ command, version string }{
		{"dnf --assumeyes --refresh upgrade octo-sts", newer},
		{"dnf --assumeyes downgrade octo-sts", older},
		{"dnf --assumeyes upgrade octo-sts", newer},
	} {
		old := a.processes()
		a.run(c.command)
		if out := a.run("rpm --query octo-sts"); strings.TrimSpace(out) != c.version {
			t.Errorf("after %s there is %s, want %s", c.command, out, c.version)
		}
		a.renewed(old)
	}
	granted := x.end()
	if got := a.grantsInLog() - before; got != granted {
		t.Errorf("%d tokens were given out, and the audit log has %d", granted, got)
	}
	t.Logf("3 upgrades and downgrades under 100 exchanges a second: %d granted", granted)
	if got := a.read(file); got != configuration {
		t.Errorf("the configuration is now:\n%s", got)
	}
	a.verifyLog()
	out := a.run("dnf --assumeyes remove octo-sts")
	if !strings.Contains(out, "left in place: /var/log/octo-sts") || !strings.Contains(out, "every key in the HSM") {
		t.Errorf("erasing does not say what it leaves:\n%s", out)
	}
	a.run("test -d /var/log/octo-sts/audit && test -s " + file + ".rpmsave")
	if out := a.run("systemctl --failed --no-legend"); out != "" {
		t.Errorf("after erasing failed: %s", out)
	}
}

// query is name, version, release and architecture of an rpm.
func query(t *testing.T, file string) string {
	t.Helper()
	out, err := exec.Command("rpm", "--query", "--package", "--nosignature", file).Output()
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(out))
}

// makeStubs makes an rpm that claims to provide what another requires, and SoftHSM where Fedora has it.
func makeStubs(t *testing.T, file string) {
	t.Helper()
	out, err := exec.Command("rpm", "--query", "--package", "--nosignature", "--requires", file).Output()
	if err != nil {
		t.Fatal(err)
	}
	spec := `Name: debian-stands-in-for-fedora
Version: 1
Release: 1
Summary: Claims to be what Debian has under other names
License: None
BuildArch: noarch
Provides: softhsm
`
	for require := range strings.Lines(string(out)) {
		if !strings.HasPrefix(require, "rpmlib(") && !strings.HasPrefix(require, "config(") {
			spec += "Provides: " + strings.ReplaceAll(strings.TrimSpace(require), ">=", "=") + "\n"
		}
	}
	spec += `%description
For tests. There is nothing in it but a link.
%install
mkdir -p %{buildroot}/usr/lib64/pkcs11
ln -s /usr/lib/softhsm/libsofthsm2.so %{buildroot}/usr/lib64/pkcs11/libsofthsm2.so
%files
/usr/lib64/pkcs11/libsofthsm2.so
`
	dir := "/run/stubs"
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	if err := os.WriteFile(dir+"/stub.spec", []byte(spec), 0o644); err != nil {
		t.Fatal(err)
	}
	build := exec.Command("rpmbuild", "-bb", "--define", "_topdir /run/rpmbuild", "--define", "_rpmdir "+dir, "--define", "_rpmfilename %{NAME}.noarch.rpm",
		"--define", "_build_id_links none", dir+"/stub.spec")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("making a stub: %v\n%s\n%s", err, out, spec)
	}
}
