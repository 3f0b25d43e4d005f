//go:build packages

package packaging_test

import (
	"path/filepath"
	"testing"
)

// A backup as docs/operations.md has it, restored on another machine, with the HSM's and the host's secrets that travel
// separately: the log verifies, goes on where it ended, and exchanges go on.
func TestBackup(t *testing.T) {
	suite := suites()[0]
	a := install(t, suite)
	a.setUp()
	a.page.useAll()
	a.exchange()
	openPage(t, "operations.md", "Backup").run(a.machine, "backup")
	a.awaitReady()
	before := a.grantsInLog()
	a.run("systemctl stop octo-sts.target")
	a.run("tar --create --file hsm.tar --directory / var/lib/softhsm/tokens var/lib/systemd/credential.secret")
	a.off()

	b := &appliance{machine: newMachine(t, suite), world: a.world, page: a.page, verifierKey: a.verifierKey}
	b.install()
	b.page.run(b.machine, "softhsm")
	for _, file := range []string{"octo-sts-backup.tar.gz", "hsm.tar"} {
		b.copyIn(filepath.Join(a.root, "root", file), "/root/")
	}
	b.run("tar --extract --file hsm.tar --directory / && chown -R octo-sts-signer: /var/lib/softhsm/tokens")
	openPage(t, "operations.md", "Restore").run(b.machine, "restore")
	b.awaitReady()
	b.exchange()
	if got := b.grantsInLog(); got != before+1 {
		t.Errorf("the log had %d grants, and has %d after one more on the other machine", before, got)
	}
	b.verifyLog()
}
