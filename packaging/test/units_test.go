//go:build packages

package packaging_test

import (
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

const daemonOfUnits = `domain: sts.example.com
listen:
  https: ":443"
  http: ":80"
tls:
  mode: files
  files: {certificate: /etc/octo-sts/certificate.pem, key: /etc/octo-sts/key.pem}
github:
  apps: [{id: 1234}]
issuers: []
audit:
  directory: /var/log/octo-sts/audit
`

var allUnits = []string{"octo-stsd.service", "octo-stsd.socket", "octo-stsd-http.socket", "octo-sts-signer.service", "octo-sts-signer.socket"}

// The units as an operator meets them: not configured, configured, killed, restarted, stopped.
func TestUnits(t *testing.T) {
	m := bootSandboxes(t)
	m.run("systemctl stop stand-in.service")
	m.run("systemctl enable --now octo-sts.target")
	t.Run("a configuration that is refused is not tried over and over", func(t *testing.T) {
		m.run(`for i in $(seq 60); do curl --silent --max-time 0.1 http://127.0.0.1/ https://127.0.0.1/; done || true; sleep 3`)
		m.is("octo-stsd.service", "Result", "exit-code")
		m.is("octo-stsd.service", "ExecMainStatus", "2")
		starts := strings.Count(m.run("journalctl --no-pager --unit=octo-stsd.service --output=cat"), "Starting octo-stsd.service")
		if starts > 100 {
			t.Errorf("it was started %d times", starts)
		}
		t.Logf("it was started %d times for 120 connections", starts)
	})
	m.configureUnits()
	t.Run("the target starts everything", func(t *testing.T) {
		m.run("systemctl start octo-sts.target")
		m.allAre("active")
		m.answers()
	})
	t.Run("reload", func(t *testing.T) { m.run("systemctl reload octo-stsd.service octo-sts-signer.service") })
	t.Run("a daemon that dies comes back", func(t *testing.T) {
		for _, unit := range []string{"octo-stsd.service", "octo-sts-signer.service"} {
			m.comesBackAfter(unit, "KILL")
			m.comesBackAfter(unit, "ABRT") // as the watchdog does it
		}
		m.allAre("active")
		m.answers()
	})
	t.Run("a restart of the services keeps the sockets", func(t *testing.T) {
		since := func(unit string) string {
			return m.run("systemctl show --property=ActiveEnterTimestampMonotonic --value " + unit)
		}
		before := map[string]string{}
		for _, unit := range allUnits {
			before[unit] = since(unit)
		}
		m.run("systemctl restart octo-stsd octo-sts-signer")
		for _, unit := range allUnits {
			if isNew := since(unit) != before[unit]; isNew != strings.HasSuffix(unit, ".service") {
				t.Errorf("%s was restarted: %t", unit, isNew)
			}
		}
		m.allAre("active")
		m.answers()
	})
	t.Run("a restart of the target", func(t *testing.T) {
		m.run("systemctl restart octo-sts.target")
		m.allAre("active")
		m.answers()
	})
	t.Run("stopping the target stops everything", func(t *testing.T) {
		m.stopAll()
		if out := m.run("ss --listening --tcp --numeric --no-header"); strings.Contains(out, ":443 ") || strings.Contains(out, ":80 ") {
			t.Errorf("somebody still listens:\n%s", out)
		}
	})
	t.Run("nothing is wrong with any directive", func(t *testing.T) {
		if out := m.run("journalctl --no-pager --boot --output=cat _PID=1 | grep -i -e 'octo-sts.*\\(unknown\\|ignoring\\|deprecated\\|obsolete\\)' || true"); out != "" {
			t.Errorf("systemd says:\n%s", out)
		}
	})
	t.Run("drop-ins", func(t *testing.T) { testDropIns(t, m) })
}

// testDropIns starts the units with each drop-in. Of the devices there are stand-ins: nothing but their names is right.
func testDropIns(t *testing.T, m *sandboxes) {
	m.run("mkdir -p /opt/nfast /dev/nfast /dev/bus/usb && touch /dev/tpmrm0")
	m.run(`cd /usr/share/octo-sts/drop-ins/system && cp octo-sts-hsm.socket /etc/systemd/system/
		sed 's/192.0.2.10:1792/127.0.0.1:9464/; s/=192.0.2.10/=localhost/' octo-sts-hsm.service > /etc/systemd/system/octo-sts-hsm.service`)
	for _, unit := range []string{"octo-sts-signer.service", "octo-stsd.service", "octo-stsd.socket"} {
		found := strings.Fields(m.run("ls /usr/share/octo-sts/drop-ins/" + unit + ".d/*.conf"))
		for _, file := range found {
			if strings.HasSuffix(file, "/softhsm.conf") {
				continue // it is in force all the time
			}
			t.Run(filepath.Base(file), func(t *testing.T) {
				m.run("install -D -m 644 -t /etc/systemd/system/" + unit + ".d " + file + " && systemctl daemon-reload")
				if strings.Contains(file, "no-sockets") {
					m.run("systemctl mask octo-stsd.socket octo-stsd-http.socket")
				}
				m.run("systemctl start octo-sts.target")
				service := strings.Replace(unit, ".socket", ".service", 1)
				if strings.Contains(file, "behind-proxy") { // and the configuration still wants TLS of its own
					m.run("ss --listening --tcp --numeric --no-header | grep -q 127.0.0.1:8443")
				} else {
					m.is(service, "ActiveState", "active")
				}
				if strings.HasSuffix(file, "network-hsm.conf") {
					m.run("systemctl kill --kill-whom=main --signal=KILL octo-sts-signer.service; sleep 3; systemctl is-active octo-sts-signer.service")
					out := m.run("nsenter --net --target $(systemctl show --property=MainPID --value octo-sts-signer) sh -c 'ip -brief address; ss -ltn; curl --silent --show-error http://127.0.0.1:1792/healthz'")
					t.Logf("what is at the other end of the relay says %q", out)
				}
				m.stopAll()
				m.run("systemctl unmask octo-stsd.socket octo-stsd-http.socket; rm /etc/systemd/system/" + unit + ".d/" + filepath.Base(file))
			})
		}
	}
}

// configureUnits makes a certificate and the daemon's configuration.
func (m *sandboxes) configureUnits() {
	m.t.Helper()
	m.run(`cd /etc/octo-sts && openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=sts.example.com \
		-addext subjectAltName=DNS:sts.example.com -keyout key.pem -out certificate.pem 2>&1 && chgrp octo-sts key.pem && chmod 640 key.pem`)
	m.write("/etc/octo-sts/octo-stsd.yaml", daemonOfUnits, 0o640)
	m.run("chgrp octo-sts /etc/octo-sts/octo-stsd.yaml")
}

func (m *sandboxes) is(unit, property, want string) {
	m.t.Helper()
	if got := strings.TrimSpace(m.run("systemctl show --property=" + property + " --value " + unit)); got != want {
		m.t.Errorf("%s of %s is %q, not %q:\n%s", property, unit, got, want, m.run("journalctl --no-pager --lines=20 --unit="+unit))
	}
}

func (m *sandboxes) allAre(state string) {
	m.t.Helper()
	for _, unit := range allUnits {
		m.is(unit, "ActiveState", state)
	}
}

// stopAll stops the target. systemctl does not wait for what stops with it.
func (m *sandboxes) stopAll() {
	m.t.Helper()
	m.run("systemctl stop octo-sts.target")
	eventually(m.t, time.Minute, "everything has stopped", func() error {
		states := m.run("systemctl show --property=ActiveState --value " + strings.Join(allUnits, " "))
		if strings.Contains(states, "active\n") && strings.Count(states, "inactive") != len(allUnits) || strings.Contains(states, "ing") {
			return fmt.Errorf("they are %q", states)
		}
		return nil
	})
}

// comesBackAfter kills a unit's main process, and waits for another.
func (m *sandboxes) comesBackAfter(unit, signal string) {
	m.t.Helper()
	before := strings.TrimSpace(m.run("systemctl show --property=MainPID --value " + unit))
	m.run("systemctl kill --kill-whom=main --signal=" + signal + " " + unit)
	eventually(m.t, time.Minute, unit+" is there again", func() error {
		state := strings.Fields(m.run("systemctl show --property=ActiveState --property=MainPID --value " + unit))
		if slices.Contains(state, before) || !slices.Contains(state, "active") {
			return fmt.Errorf("it is %q", state)
		}
		return nil
	})
}

// answers wants an answer on each port.
func (m *sandboxes) answers() {
	m.t.Helper()
	m.run("curl --silent --show-error --cacert /etc/octo-sts/certificate.pem --output /dev/null https://sts.example.com/")
	m.run("curl --silent --show-error --head http://sts.example.com/ | grep -q '^HTTP/1.1 308'")
}
