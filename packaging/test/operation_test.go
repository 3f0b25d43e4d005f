//go:build packages

package packaging_test

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/octo-sts/appliance/sts/ststest"
)

// What docs/operations.md tells an operator to look at shows what happened.
func TestOperation(t *testing.T) {
	for _, suite := range suites() {
		t.Run(suite, func(t *testing.T) {
			a := install(t, suite)
			a.setUp()
			a.page.useAll()
			a.exchange()
			look := openPage(t, "operations.md", "Looking at it")
			out := look.run(a.machine, "look")
			for _, want := range []string{
				"Active: active (running)", `Status: "`,
				"outcome granted: acme/widgets deploy, for repo:acme/deployer:ref:refs/heads/main of https://token.actions.githubusercontent.com",
				"Subject: Audit: token for acme/widgets granted", // the catalogue
			} {
				if !strings.Contains(out, want) {
					t.Errorf("%q is nowhere in:\n%s", want, out)
				}
			}
			a.copiesArrive()
			a.reloads(look)
			a.deliveryCounts()
			a.comesBack()
		})
	}
}

// copiesArrive: the journal's copy of an entry has its fields and its unit, and in a rush of exchanges none is dropped.
func (a *appliance) copiesArrive() {
	a.t.Helper()
	entries := a.grantsInJournal()
	if len(entries) != 1 {
		a.t.Fatalf("the journal has %d entries, want one", len(entries))
	}
	for field, want := range map[string]string{
		"_SYSTEMD_UNIT": "octo-stsd.service", "OCTO_STS_SCOPE": "acme/widgets", "OCTO_STS_IDENTITY": "deploy",
		"OCTO_STS_ISSUER": "https://token.actions.githubusercontent.com", "OCTO_STS_SUBJECT": "repo:acme/deployer:ref:refs/heads/main",
	} {
		if got := entries[0][field]; got != want {
			a.t.Errorf("the journal's %s is %v, want %s", field, got, want)
		}
	}
	const many = 2000
	x := startTraffic(a.t, a.world, 190) // one address may ask 200 times a second
	eventually(a.t, 2*time.Minute, "2,000 exchanges", func() error {
		x.mu.Lock()
		defer x.mu.Unlock()
		if x.granted < many {
			return fmt.Errorf("%d are done", x.granted)
		}
		return nil
	})
	granted := x.end() + 1
	a.run("journalctl --sync")
	if copies, lines := len(a.grantsInJournal()), a.grantsInLog(); copies != granted || lines != granted {
		a.t.Errorf("of %d exchanges the log has %d, and the journal %d", granted, lines, copies)
	}
}

// reloads: a changed file counts after a reload, and a wrong one changes nothing and is told of.
func (a *appliance) reloads(look *page) {
	a.t.Helper()
	const file = "/etc/octo-sts/octo-stsd.yaml"
	good := a.read(file)
	pid := a.mainPID("octo-stsd")
	a.edit(file, strings.Replace(good, "issuers:\n", "issuers:\n  - url: https://gitlab.example.com\n", 1))
	look.run(a.machine, "reload")
	eventually(a.t, time.Minute, "the new issuer is asked for its keys", func() error {
		if out := a.run("journalctl --no-pager -u octo-stsd"); !strings.Contains(out, ` issuer=https://gitlab.example.com`) {
			return fmt.Errorf("the journal does not name it")
		}
		return nil
	})
	a.edit(file, good+"\nnonsense: true\n")
	a.try("systemctl reload octo-stsd")
	eventually(a.t, time.Minute, "the status tells of the mistake", func() error {
		if out := a.run("systemctl show --property=StatusText octo-stsd"); !strings.Contains(out, "nonsense") && !strings.Contains(out, "configuration") {
			return fmt.Errorf("it is %s", out)
		}
		return nil
	})
	a.exchange()
	a.edit(file, good)
	a.run("systemctl reload octo-stsd")
	if now := a.mainPID("octo-stsd"); now != pid {
		a.t.Errorf("reloading made process %s out of %s", now, pid)
	}
}

// edit changes a file in place, as an editor does that keeps owner and mode.
func (a *appliance) edit(file, text string) {
	a.t.Helper()
	if out, status := a.tryWith(text, "cat > "+file); status != 0 {
		a.t.Fatal(out)
	}
}

func (m *machine) mainPID(unit string) string {
	m.t.Helper()
	return strings.TrimSpace(m.run("systemctl show --property=MainPID --value " + unit))
}

// deliveryCounts: a delivery of GitHub's arrives, and a policy that it says is gone grants nothing any more.
func (a *appliance) deliveryCounts() {
	a.t.Helper()
	gitHub := a.world.gitHub
	pushed := gitHub.Push("acme", "widgets", "main", []ststest.Change{{Path: ".github/chainguard/deploy.sts.yaml", Delete: true}})
	if len(pushed.Deliveries) == 0 {
		a.t.Fatal("GitHub has delivered nothing")
	}
	for _, d := range pushed.Deliveries {
		if d.StatusCode/100 != 2 {
			a.t.Errorf("the delivery of %s was answered %d %s %s", d.Event, d.StatusCode, d.Body, d.Error)
		}
	}
	eventually(a.t, 30*time.Second, "the deleted policy grants nothing", func() error {
		if out, status := a.try("octo-sts exchange --url https://" + domain + " --scope acme/widgets --identity deploy --token-file <(echo " + a.world.idToken() + ")"); status != 1 {
			return fmt.Errorf("exit status %d: %s", status, out)
		}
		return nil
	})
	gitHub.PutPolicy("acme", "widgets", "deploy", a.page.block("policy"))
	eventually(a.t, 90*time.Second, "the policy that is there again grants", func() error {
		if out, status := a.try("octo-sts exchange --url https://" + domain + " --scope acme/widgets --identity deploy --token-file <(echo " + a.world.idToken() + ")"); status != 0 {
			return fmt.Errorf("%s", out)
		}
		return nil
	})
}

// comesBack: whatever ends one of the daemons, or the machine, afterwards it exchanges again by itself.
func (a *appliance) comesBack() {
	a.t.Helper()
	for _, c := range []struct{ what, unit, command string }{
		{"the signer is killed", "octo-sts-signer", "systemctl kill --kill-who=main --signal=KILL octo-sts-signer"},
		{"the signer crashes", "octo-sts-signer", "systemctl kill --kill-who=main --signal=ABRT octo-sts-signer"},
		{"the daemon is killed", "octo-stsd", "systemctl kill --kill-who=main --signal=KILL octo-stsd"},
		{"the daemon crashes", "octo-stsd", "systemctl kill --kill-who=main --signal=ABRT octo-stsd"},
		{"both are restarted", "octo-stsd", "systemctl restart octo-sts.target"},
		{"the daemon hangs, and its watchdog notices", "octo-stsd", "systemctl kill --kill-who=main --signal=STOP octo-stsd"},
	} {
		before := a.mainPID(c.unit)
		a.run(c.command)
		eventually(a.t, 2*time.Minute, c.what+", and another process takes its place, though nobody asks for it", func() error {
			if now := a.mainPID(c.unit); now == before || now == "0" {
				return fmt.Errorf("its process is %s, and was %s", now, before)
			}
			return nil
		})
		a.awaitReady()
		a.exchange()
	}
	a.reboot()
	a.awaitReady()
	a.exchange()
	a.verifyLog()
	if out := a.run("curl -sS -o /dev/null -w '%{http_code}' http://" + domain + "/"); !strings.HasPrefix(out, "30") {
		a.t.Errorf("port 80 answers %s, want a redirect (such as %d)", out, http.StatusPermanentRedirect)
	}
}
