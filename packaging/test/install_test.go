//go:build packages

package packaging_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// debian is the heading in docs/install.md for systems with apt.
const debian = "Debian 12, Debian 13, Ubuntu 24.04"

// Whoever follows docs/install.md, command by command, has an appliance that exchanges.
func TestInstall(t *testing.T) {
	for _, suite := range suites() {
		t.Run(suite, func(t *testing.T) {
			a := install(t, suite)

			for _, unit := range []string{"octo-sts.target", "octo-stsd.service", "octo-stsd.socket", "octo-stsd-http.socket", "octo-sts-signer.service", "octo-sts-signer.socket"} {
				if out, _ := a.try("systemctl is-active " + unit); out != "inactive\n" {
					t.Errorf("after the installation %s is %s", unit, out)
				}
				if out, _ := a.try("systemctl is-enabled " + unit); out == "enabled\n" {
					t.Errorf("after the installation %s is enabled", unit)
				}
			}
			if out := a.run("systemctl --failed --no-legend"); out != "" {
				t.Errorf("after the installation failed: %s", out)
			}

			a.setUp()
			gitHubToken := strings.TrimSpace(a.page.run(a.machine, "job", a.job()...))
			if !strings.HasPrefix(gitHubToken, "ghs_") {
				t.Errorf("the job got %q", gitHubToken)
			}
			if out := a.page.run(a.machine, "curl", a.job()...); !strings.HasPrefix(out, "ghs_") {
				t.Errorf("curl got %q", out)
			}
			if out := a.run("curl -sS -o /dev/null -w '%{http_code}' -H 'Authorization: Bearer " + gitHubToken + "' https://api.github.com/repos/acme/widgets/contents/"); out != "200" {
				t.Errorf("the token that it got answers %s", out)
			}
			eventually(t, time.Minute, "there is a checkpoint", func() error {
				_, err := os.Stat(filepath.Join(a.root, "/var/log/octo-sts/audit/checkpoint"))
				return err
			})
			out := a.page.run(a.machine, "look", "VERIFIER_KEY="+a.verifierKey)
			t.Log(out)
		})
	}
}
