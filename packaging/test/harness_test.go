//go:build packages

package packaging_test

import (
	"os"
	"path/filepath"
	"testing"
)

// What all other tests stand on: a machine boots without failures, starts clean, keeps its disk over a
// reboot, and talks to the world by its name.
func TestMachine(t *testing.T) {
	for _, suite := range suites() {
		t.Run(suite, func(t *testing.T) {
			m := bootMachine(t, suite)
			if out, _ := m.try("systemctl is-system-running"); out != "running\n" {
				t.Errorf("it is %s%s", out, m.run("systemctl --failed"))
			}
			if out, status := m.try("echo hello; exit 3"); out != "hello\n" || status != 3 {
				t.Errorf("a command said %q and ended with %d", out, status)
			}
			m.run("touch /var/lib/kept; ping -c 1 -W 5 " + worldAddress + " 2>/dev/null || curl --silent --head http://" + worldAddress + " || test $? = 7")
			m.reboot()
			m.run("test -e /var/lib/kept")
			m.off()

			fresh := newMachine(t, suite)
			if _, err := os.Stat(filepath.Join(fresh.root, "/var/lib/kept")); err == nil {
				t.Error("a new machine has what another left behind")
			}
		})
	}
}
