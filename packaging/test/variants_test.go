//go:build packages

package packaging_test

import (
	"strings"
	"testing"
)

// The other two packages. octo-sts-fips takes the place of octo-sts, and gives it back: the configuration and the log stay.
// octo-sts-client is the command line alone.
func TestVariants(t *testing.T) {
	a := install(t, suites()[0])
	a.setUp()
	a.page.useAll()
	configuration := a.read("/etc/octo-sts/octo-stsd.yaml")
	a.exchange()
	for _, c := range []struct {
		name string
		fips bool
	}{{"octo-sts-fips", true}, {"octo-sts", false}} {
		a.run("apt-get install -y " + c.name)
		if out, _ := a.try("systemctl is-active octo-sts.target octo-stsd.socket octo-stsd octo-sts-signer.socket octo-sts-signer"); strings.Contains("\n"+out, "\nactive") {
			t.Errorf("with %s installed something runs already: %s", c.name, out)
		}
		a.run("systemctl enable --now octo-sts.target")
		a.awaitReady()
		a.exchange()
		for _, program := range []string{"octo-stsd", "octo-sts-signer", "octo-sts"} {
			if out := a.run(program + " version"); strings.Contains(out, "FIPS 140-3") != c.fips {
				t.Errorf("with %s installed: %s", c.name, out)
			}
		}
	}
	if got := a.grantsInLog(); got != 3 {
		t.Errorf("3 tokens were given out, and the audit log has %d", got)
	}
	a.verifyLog()
	if got := a.read("/etc/octo-sts/octo-stsd.yaml"); got != configuration {
		t.Errorf("the configuration is now:\n%s", got)
	}

	a.run("apt-get install -y octo-sts-client")
	a.verifyLog()
	if out, status := a.try("pgrep --full '^/usr/bin/octo-sts' || ls /usr/lib/systemd/system | grep octo-sts"); status == 0 {
		t.Errorf("more than the command line is left: %s", out)
	}
	a.run("octo-sts version && octo-sts policy schema repository | jq --exit-status . > /dev/null")
}
