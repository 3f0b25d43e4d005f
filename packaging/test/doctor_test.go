//go:build packages

package packaging_test

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"
)

// finding is one of `octo-sts doctor --output json`.
type finding struct{ Check, Severity, What, Why, Command, Advice string }

// examine asks octo-sts doctor, whose exit status has to be what the report says.
func (m *machine) examine() (findings []finding, ok bool) {
	m.t.Helper()
	out, status := m.try("octo-sts doctor --output json")
	var report struct {
		OK       bool
		Findings []finding
	}
	if err := json.Unmarshal([]byte(out), &report); err != nil {
		m.t.Fatalf("octo-sts doctor printed %q: %v", out, err)
	}
	if report.OK != (status == 0) {
		m.t.Fatalf("octo-sts doctor ends with %d and says %s", status, out)
	}
	return report.Findings, report.OK
}

// fault is something that goes wrong on a machine.
type fault struct {
	name, make  string
	check, what string // what octo-sts doctor has to say of it
	stdin       string // what the command that mends it is given
	mend        string // what a person does, where no command does it
}

// faults are seeded one after the other, on a machine that is well.
func faults() []fault {
	const (
		config = "/etc/octo-sts/octo-stsd.yaml"
		saved  = "cp -a " + config + " /root/saved"
		newest = "f=$(find /var/log/octo-sts/audit -name '*.jsonl' -size +0 | sort | tail -1)"
		reload = "cp -a /root/saved " + config + " && systemctl reload-or-restart octo-stsd.service"
	)
	return []fault{
		{name: "not enabled", make: "systemctl disable octo-sts.target", check: "units", what: "octo-sts.target is disabled"},
		{name: "stopped", make: "systemctl stop octo-sts.target octo-stsd.service octo-sts-signer.service", check: "units", what: "octo-sts.target is not active"},
		{name: "signer stopped", make: "systemctl stop octo-sts-signer.socket octo-sts-signer.service", check: "units", what: "octo-sts-signer.s"},
		{name: "a directory for everybody", make: "chmod 777 /var/lib/octo-sts-signer", check: "directories", what: "/var/lib/octo-sts-signer has the mode 0777"},
		{name: "a configuration that is root's", make: "chgrp root " + config, check: "directories", what: config + " belongs to root:root"},
		{name: "a file of root's in the state", make: "touch /var/lib/octo-sts/mine", check: "directories", what: "that are not octo-sts's: mine"},
		{name: "no webhook secret", make: "rm /etc/credstore.encrypted/webhook-secret", check: "credentials", what: "the credential webhook-secret is nowhere", stdin: "another secret"},
		{name: "a PIN that the token refuses", make: "printf 0000-0000 | systemd-creds encrypt --name=hsm-pin - /etc/credstore.encrypted/hsm-pin; systemctl restart octo-sts-signer",
			check: "pin", what: "a token refused the PIN of the credential hsm-pin", stdin: userPIN},
		{name: "a secret that is not loaded", make: saved + "; sed -i 's/secrets: .*/secrets: [webhook-secret, third]/' " + config,
			check: "credentials", what: "octo-stsd.service does not load the credential third", mend: reload + "; rm -r /etc/systemd/system/octo-stsd.service.d; systemctl daemon-reload"},
		{name: "a drop-in that opens the sandbox", make: "mkdir -p /etc/systemd/system/octo-stsd.service.d; printf '[Service]\\nLimitCORE=infinity\\n' > /etc/systemd/system/octo-stsd.service.d/debug.conf; systemctl daemon-reload",
			check: "drop-ins", what: "debug.conf has LimitCORE=infinity"},
		{name: "units that systemd has not read", make: "printf '[Service]\\nMemoryMax=2G\\n' > /etc/systemd/system/octo-stsd.service.d/memory.conf",
			check: "restart", what: "systemd has not read them again"},
		{name: "another server on the port", make: "systemctl stop octo-stsd.socket octo-stsd.service; systemd-run --quiet --unit=squatter systemd-socket-activate -l 443 /bin/cat; sleep 1; systemctl start octo-stsd.socket",
			check: "ports", what: "of squatter.service"},
		{name: "the signer's user left SoftHSM's group", make: "gpasswd --delete octo-sts-signer softhsm; systemctl restart octo-sts-signer", check: "hsm", what: "not in the group softhsm"},
		{name: "the signer's socket for root alone", make: "chmod 600 /run/octo-sts-signer/signer.sock; chgrp root /run/octo-sts-signer/signer.sock", check: "signer socket", what: "/run/octo-sts-signer/signer.sock is"},
		{name: "a program that was replaced", make: "cp /usr/bin/octo-stsd /usr/bin/new && mv /usr/bin/new /usr/bin/octo-stsd", check: "restart", what: "octo-stsd.service runs a program that was replaced"},
		{name: "a mistake in the configuration", make: saved + "; echo 'nonsense: true' >> " + config, check: "configuration", what: `unknown key "nonsense"`, mend: reload},
		{name: "an App that the signer has not", make: saved + "; sed -i 's/^github:/github:\\n  max_concurrent: 50/; s/id: [0-9]*/id: 77/' " + config, check: "agreement", what: "App 77 of octo-stsd.yaml is not among the apps", mend: reload},
		{name: "a name without an address", make: "cp /etc/hosts /root/hosts; sed '/" + domain + "/d' /root/hosts > /etc/hosts", check: "dns", what: domain + " has no address", mend: "cat /root/hosts > /etc/hosts"},
		{name: "a user that is gone", make: "cp -a /etc/passwd /root/passwd; sed -i '/^octo-sts-signer:/d' /etc/passwd", check: "users", what: "there is no user octo-sts-signer", mend: "cp -a /root/passwd /etc/passwd"},
		// In place: the daemon has the file open.
		{name: "a log that somebody changed", make: newest + `; cp -a $f /root/segment; sed 's/"deploy"/"depluy"/' /root/segment > $f`,
			check: "audit log", what: "the audit log is not what was signed", mend: newest + "; cat /root/segment > $f"},
	}
}

// octo-sts doctor tells a fresh installation the next step, finds nothing wrong with one that works, names each fault with
// what mends it, and that does.
func TestDoctor(t *testing.T) {
	a := install(t, suites()[0])
	found, _ := a.examine()
	if len(found) != 1 || found[0].Check != "configuration" || !strings.Contains(found[0].Advice, "octo-sts-signer setup --domain") {
		t.Errorf("of a fresh installation it says %+v", found)
	}
	a.setUp()
	a.page.useAll()
	a.exchange()
	a.isWell()
	if out := a.run("octo-sts doctor"); out != "nothing is wrong\n" {
		t.Errorf("of an appliance that works it says %q", out)
	}
	if out, status := a.try("runuser -u nobody -- octo-sts doctor"); status != 0 || !strings.Contains(out, "nothing is wrong, as far as could be seen, not looked at: ") {
		t.Errorf("to a user it says, with exit status %d:\n%s", status, out)
	}
	for _, f := range faults() {
		t.Run(f.name, func(t *testing.T) { a.of(t).suffers(f) })
	}
	a.awaitReady()
	a.exchange()
}

// isWell waits until nothing is wrong: what was restarted needs a moment.
func (a *appliance) isWell() {
	a.t.Helper()
	eventually(a.t, 90*time.Second, "nothing is wrong", func() error {
		if found, ok := a.examine(); !ok {
			return fmt.Errorf("%+v", found)
		}
		return nil
	})
}

// suffers makes a fault, and mends it as octo-sts doctor says.
func (a *appliance) suffers(f fault) {
	a.t.Helper()
	a.try(f.make)
	var named finding
	eventually(a.t, 30*time.Second, "octo-sts doctor names it", func() error {
		found, _ := a.examine()
		for _, named = range found {
			if named.Check == f.check && strings.Contains(named.What, f.what) {
				return nil
			}
		}
		return fmt.Errorf("%+v", found)
	})
	a.t.Logf("%s: %s; %s | run: %s | do: %s", named.Check, named.What, named.Why, named.Command, named.Advice)
	command := named.Command
	switch {
	case f.mend != "":
		if command+named.Advice == "" {
			a.t.Error("it does not say what to do")
		}
		command = f.mend
	case command == "":
		a.t.Fatal("it names no command")
	}
	if out, status := a.tryWith(f.stdin, command); status != 0 {
		a.t.Errorf("exit status %d of %s\n%s", status, command, out)
	}
	a.isWell()
}
