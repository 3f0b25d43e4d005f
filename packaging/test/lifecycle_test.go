//go:build packages

package packaging_test

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"
)

// An installation's life: upgraded and downgraded under traffic, removed, purged, and installed again. Configuration, log
// and keys are there throughout, what ran goes on, and what was stopped stays so.
func TestLifecycle(t *testing.T) {
	for _, suite := range suites() {
		t.Run(suite, func(t *testing.T) {
			older, newer := versionOf(t, "before"), versionOf(t, ".")
			a := install(t, suite, "before")
			a.setUp()
			a.page.useAll()
			if out := a.run("octo-stsd version"); !strings.Contains(out, strings.TrimSuffix(older, "-1")) {
				t.Fatalf("%s is installed, not %s", out, older)
			}
			const file = "/etc/octo-sts/octo-stsd.yaml"
			edited := a.read(file) + "# of the operator's\n"
			a.edit(file, edited)

			if err := publish("before", "."); err != nil {
				t.Fatal(err)
			}
			upgrade, downgrade := openPage(t, "operations.md", "Upgrade"), openPage(t, "operations.md", "Downgrade")
			soak := campaigns()
			x := startTraffic(t, a.world, soak.crowd)
			for range soak.upgrades {
				before := a.processes()
				upgrade.run(a.machine, "upgrade")
				a.runs(newer, before)
				before = a.processes()
				downgrade.run(a.machine, "downgrade", "VERSION="+older)
				a.runs(older, before)
			}
			for range soak.restarts {
				a.run("systemctl restart octo-stsd")
			}
			granted := x.end()
			if t.Failed() {
				out, _ := a.try(`journalctl --no-pager -u octo-stsd | grep -o ' decision=failed .* duration=' | sort | uniq --count`)
				t.Logf("the reasons: %s", out)
			}
			if got := a.grantsInLog(); got != granted {
				t.Errorf("%d tokens were given out, and the audit log has %d", granted, got)
			}
			t.Logf("%d upgrades and downgrades and %d restarts under %d exchanges a second: %d granted",
				2*soak.upgrades, soak.restarts, soak.crowd, granted)
			a.verifyLog()
			if got := a.read(file); got != edited {
				t.Errorf("the configuration is now:\n%s", got)
			}

			a.run("systemctl stop octo-sts.target octo-stsd.socket octo-stsd-http.socket octo-sts-signer.socket")
			upgrade.run(a.machine, "upgrade")
			if out, _ := a.try("systemctl is-active octo-stsd octo-stsd.socket octo-sts-signer octo-sts-signer.socket"); strings.Contains(out, "\nactive") || strings.HasPrefix(out, "active") {
				t.Errorf("the upgrade started what was stopped: %s", out)
			}
			a.run("systemctl start octo-sts.target")
			a.awaitReady()
			a.leaves(edited)
		})
	}
}

// leaves: removed, purged, installed again, the log goes on where it ended.
func (a *appliance) leaves(edited string) {
	t := a.t
	t.Helper()
	signerConfig := a.read("/etc/octo-sts/signer.yaml")
	uninstall := openPage(t, "operations.md", "Uninstall")
	uninstall.run(a.machine, "remove")
	if out, _ := a.try("curl -sS --max-time 5 https://" + domain + "/"); !strings.Contains(out, "onnect") {
		t.Errorf("somebody answers after the removal: %s", out)
	}
	if got := a.read("/etc/octo-sts/octo-stsd.yaml"); got != edited {
		t.Errorf("after the removal the configuration is:\n%s", got)
	}
	if out := a.run("systemctl --failed --no-legend"); out != "" {
		t.Errorf("after the removal failed: %s", out)
	}
	out := uninstall.run(a.machine, "purge")
	for _, kept := range []string{"/var/log/octo-sts", "/var/lib/octo-sts", "/var/lib/octo-sts-signer", "/etc/credstore.encrypted"} {
		if !strings.Contains(out, "left in place: "+kept) {
			t.Errorf("the purge does not say that it leaves %s:\n%s", kept, out)
		}
		a.run("test -d " + kept)
	}
	if !strings.Contains(out, "every key in the HSM") {
		t.Errorf("the purge does not say that it leaves the HSM's keys:\n%s", out)
	}
	if _, err := os.Stat(a.root + "/etc/octo-sts/octo-stsd.yaml"); err == nil {
		t.Error("the purge left the configuration")
	}
	a.run("apt-get install -y octo-sts")
	a.edit("/etc/octo-sts/octo-stsd.yaml", edited)
	a.edit("/etc/octo-sts/signer.yaml", signerConfig)
	before := a.grantsInLog()
	a.run("systemctl enable --now octo-sts.target")
	a.awaitReady()
	a.exchange()
	if got := a.grantsInLog(); got != before+1 {
		t.Errorf("the log had %d grants before the purge, and has %d after another", before, got)
	}
	a.verifyLog()
}

// versionOf is the version of the packages of a directory below dist/.
func versionOf(t *testing.T, from string) string {
	t.Helper()
	found := debsOf(from, "octo-sts")
	if len(found) != 1 {
		t.Fatalf("dist/%s has these packages: %q, want one", from, found)
	}
	return strings.Split(found[0], "_")[1]
}

// processes are those of both daemons, the signer's workers too.
func (a *appliance) processes() string {
	a.t.Helper()
	return a.run("pgrep --full '^/usr/bin/octo-sts'")
}

// runs: the version is installed, every process is one of its, and none is from before.
func (a *appliance) runs(version, before string) {
	a.t.Helper()
	if out := a.run("dpkg-query --show --showformat='${Version}' octo-sts"); out != version {
		a.t.Errorf("%s is installed, want %s", out, version)
	}
	a.renewed(before)
}

// renewed: every process runs the program that is on the disk, and none is from before.
func (a *appliance) renewed(before string) {
	a.t.Helper()
	eventually(a.t, time.Minute, "every process is a new one", func() error {
		for pid := range strings.FieldsSeq(before) {
			if strings.Contains("\n"+a.processes(), "\n"+pid+"\n") {
				return fmt.Errorf("%s is still there", pid)
			}
		}
		return nil
	})
	a.run("for p in $(pgrep --full '^/usr/bin/octo-sts'); do readlink /proc/$p/exe; done | { ! grep deleted; }")
}

// campaign is how often things are done: UPGRADES and RESTARTS in the environment, for long runs. crowd, CROWD there, is how many
// exchanges a second there are meanwhile, from one address, with the limits as they are by default. As many as come in the
// seconds that a restart takes on a slow machine may be under way at once.
type campaign struct{ upgrades, restarts, crowd int }

func campaigns() campaign {
	number := func(name string, otherwise int) int {
		if n, err := strconv.Atoi(os.Getenv(name)); err == nil {
			return n
		}
		return otherwise
	}
	return campaign{upgrades: number("UPGRADES", 1), restarts: number("RESTARTS", 5), crowd: number("CROWD", 150)}
}
