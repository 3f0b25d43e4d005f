package doctor

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// shown is what systemd 252 prints of a daemon that failed and a socket that did not get its port.
const shown = `Id=octo-stsd.service
LoadState=loaded
ActiveState=failed
SubState=failed
Result=exit-code
MainPID=0
NeedDaemonReload=no
User=octo-sts
Environment=GOTRACEBACK=crash HTTPS_PROXY=http://proxy.example.com:3128
StatusText=

Id=octo-stsd.socket
LoadState=loaded
ActiveState=failed
SubState=failed
Listen=[::]:443 (Stream)
Listen=127.0.0.1:8443 (Stream)
`

func TestParseUnits(t *testing.T) {
	units := parseUnits(shown)
	if len(units) != 2 || !units[daemonService].is("failed") || units[daemonService]["User"] != "octo-sts" || units["octo-stsd.socket"].exists() != true {
		t.Fatalf("%+v", units)
	}
	if got := fmt.Sprint(listening(units["octo-stsd.socket"])); got != "[443 8443]" {
		t.Errorf("it listens at %s", got)
	}
	if got := proxyOf(units[daemonService]["Environment"])["HTTPS_PROXY"]; got != "http://proxy.example.com:3128" {
		t.Errorf("its proxy is %q", got)
	}
}

// allWell are units of which nothing is to be said.
func allWell() map[string]unit {
	units := map[string]unit{}
	for _, name := range unitNames {
		units[name] = unit{"Id": name, "LoadState": "loaded", "ActiveState": "active", "SubState": "running", "NeedDaemonReload": "no", "UnitFileState": "static"}
	}
	units[target]["UnitFileState"] = "enabled"
	return units
}

func TestUnits(t *testing.T) {
	for _, c := range []struct {
		fault         string
		change        func(map[string]unit)
		what, command string
	}{
		{"nothing", func(map[string]unit) {}, "", ""},
		{"not enabled", func(u map[string]unit) { u[target]["UnitFileState"] = "disabled" }, "octo-sts.target is disabled", "systemctl enable --now octo-sts.target"},
		{"not started", func(u map[string]unit) { u[target]["ActiveState"] = "inactive" }, "octo-sts.target is not active", "systemctl start octo-sts.target"},
		{"failed", func(u map[string]unit) {
			u[daemonService]["ActiveState"], u[daemonService]["Result"] = "failed", "exit-code"
		}, "octo-stsd.service failed (exit-code)", "systemctl restart octo-stsd.service"},
		{"tried again and again", func(u map[string]unit) {
			u[signerService]["ActiveState"], u[signerService]["SubState"], u[signerService]["Result"] = "activating", "auto-restart", "resources"
		}, "octo-sts-signer.service failed (resources)", "systemctl restart octo-sts-signer.service"},
		{"stopped", func(u map[string]unit) { u["octo-sts-signer.socket"]["ActiveState"] = "inactive" }, "octo-sts-signer.socket is inactive", "systemctl start octo-sts-signer.socket"},
		{"masked", func(u map[string]unit) {
			u[daemonService]["LoadState"], u[daemonService]["ActiveState"] = "masked", "inactive"
		}, "octo-stsd.service is masked", "systemctl unmask octo-stsd.service"},
		{"a port closed by will", func(u map[string]unit) {
			u["octo-stsd-http.socket"]["LoadState"], u["octo-stsd-http.socket"]["ActiveState"] = "masked", "inactive"
		}, "", ""},
		{"systemd has not read the files", func(u map[string]unit) { u[daemonService]["NeedDaemonReload"] = "yes" }, "systemd has not read them again", "systemctl daemon-reload && systemctl restart octo-stsd.service"},
		{"keys that wait", func(u map[string]unit) { u[daemonService]["StatusText"] = "serving; needs a restart: listen" }, "not in force: listen", "systemctl restart octo-stsd.service"},
		{"a signer that refused a reload", func(u map[string]unit) {
			u[signerService]["StatusText"] = "HSM 0 signs; the configuration on disk is not in force: signer.yaml:3: x"
		}, "has not taken up its configuration: signer.yaml:3: x", "systemctl reload octo-sts-signer.service"},
		{"a probe without its timer", func(u map[string]unit) { u["octo-sts-probe.timer"]["ActiveState"] = "inactive" }, "octo-sts-probe.timer is inactive", "systemctl enable --now octo-sts-probe.timer"},
		{"a probe that failed", func(u map[string]unit) { u["octo-sts-probe.service"]["ActiveState"] = "failed" }, "octo-sts-probe.service failed", "octo-sts probe"},
	} {
		t.Run(c.fault, func(t *testing.T) {
			units := allWell()
			c.change(units)
			m := &machine{units: units, daemon: &daemonConfig{}}
			m.daemon.Probe.Scope = "acme"
			found := append(append(checkUnits(t.Context(), m), checkRestart(t.Context(), m)...), checkProbe(t.Context(), m)...)
			if c.what == "" {
				if len(found) > 0 {
					t.Errorf("%+v", found)
				}
			} else if len(found) != 1 || !strings.Contains(found[0].What, c.what) || !strings.Contains(found[0].Command, c.command) {
				t.Errorf("want %s and %s; it says %+v", c.what, c.command, found)
			}
		})
	}
}

// A timer without anything to probe fails again and again.
func TestTimerWithoutProbe(t *testing.T) {
	units := allWell()
	units["octo-sts-probe.service"]["ActiveState"] = "failed"
	found := checkUnits(t.Context(), &machine{units: units, daemon: &daemonConfig{}})
	if len(found) != 1 || found[0].Severity != Warning || !strings.HasPrefix(found[0].Command, "systemctl disable --now octo-sts-probe.timer") {
		t.Errorf("%+v", found)
	}
}

func TestLastError(t *testing.T) {
	const journal = `{"MESSAGE":"Started octo-stsd.service","PRIORITY":"6","_SYSTEMD_UNIT":"init.scope"}
{"MESSAGE":"{\"level\":\"error\",\"msg\":\"listening\",\"error\":\"address already in use\"}","PRIORITY":"6","_SYSTEMD_UNIT":"octo-stsd.service"}
{"MESSAGE":[1,2],"PRIORITY":"6"}
{"MESSAGE":"{\"level\":\"info\",\"msg\":\"stopping\"}","PRIORITY":"6","_SYSTEMD_UNIT":"octo-stsd.service"}
`
	for text, want := range map[string]string{
		journal: "listening: address already in use",
		`{"MESSAGE":"the disk is full","PRIORITY":"3","_SYSTEMD_UNIT":"octo-stsd.service"}` + "\n" + `{"MESSAGE":"leaving","PRIORITY":"6","_SYSTEMD_UNIT":"octo-stsd.service"}`: "the disk is full",
		`{"MESSAGE":"octo-stsd: the configuration cannot be used:\n x:1: y","PRIORITY":"6","_SYSTEMD_UNIT":"octo-stsd.service"}`:                                                "octo-stsd: the configuration cannot be used: x:1: y",
		`{"MESSAGE":"only this","_SYSTEMD_UNIT":"octo-stsd.service"}`:                                                                                                           "only this",
		"": "",
	} {
		if got := lastErrorOf(text); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}

func TestParseLoads(t *testing.T) {
	loads := parseLoads("[Service]\nLoadCredentialEncrypted=old\nLoadCredentialEncrypted=\nLoadCredentialEncrypted=hsm-pin\nLoadCredential = collector:/etc/collector\nSetCredential=x:y\n# LoadCredential=no\n")
	if got := fmt.Sprint(loads); got != "map[collector:/etc/collector hsm-pin: x:the unit]" {
		t.Error(got)
	}
	for _, service := range []string{daemonService, signerService} {
		text, err := os.ReadFile("../../../systemd/" + service)
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range map[string][]string{daemonService: {"webhook-secret", "collector", "acme-eab"}, signerService: {"hsm-pin", "hsm-pin-8"}}[service] {
			if _, ok := parseLoads(string(text))[name]; !ok {
				t.Errorf("%s does not load %s", service, name)
			}
		}
	}
}

// The package's own drop-ins are not told of, and an emptied directive that is given anew is what it is given.
func TestUnsafeDropIns(t *testing.T) {
	for text, want := range map[string]string{
		"[Service]\nLimitCORE=infinity\n":                                  "LimitCORE=infinity",
		"[Service]\nEnvironment=\"WEBHOOK_SECRET=x\"\n":                    "a secret in Environment=WEBHOOK_SECRET",
		"[Service]\nEnvironment=HTTPS_PROXY=http://proxy.example.com:80\n": "",
		"[Service]\nEnvironment=SOFTHSM2_CONF=/etc/softhsm2.conf\n":        "",
		"[Service]\nExecStartPre=+/bin/sh -c true\n":                       "ExecStartPre=+/bin/sh -c true",
		"[Service]\nNoNewPrivileges = no\n":                                "NoNewPrivileges=no",
		"[Service]\nNoExecPaths=\nNoExecPaths=/\n":                         "",
		"[Service]\nSystemCallFilter=\n":                                   "SystemCallFilter=",
		"[Socket]\nListenStream=\nListenStream=8443\n":                     "",
		"[Service]\n# User=root\n; PrivateDevices=no\nMemoryMax=2G\n":      "",
	} {
		found := unsafe(text)
		if want == "" && len(found) > 0 || want != "" && (len(found) != 1 || found[0][0] != want || found[0][1] == "") {
			t.Errorf("%q: %q, want %q", text, found, want)
		}
	}
}

// Who listens at a port is found in /proc of the machine that this is.
func TestHolders(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	_, port, _ := net.SplitHostPort(listener.Addr().String())
	m := &machine{users: map[string]int{"me": os.Getuid()}}
	holders, err := m.holders(port)
	if err != nil || len(holders) != 1 || holders[0].pid != os.Getpid() || holders[0].name == "" || holders[0].user != "me" {
		t.Errorf("at port %s: %+v, %v", port, holders, err)
	}
	f := holder{pid: 7, name: "nginx", unit: "nginx.service"}.finding("443", "octo-stsd.socket")
	if f.What != "port 443 is held by nginx (process 7 of nginx.service)" || !strings.HasPrefix(f.Command, "systemctl disable --now nginx.service; ") {
		t.Errorf("%+v", f)
	}
	if f = (holder{user: "www-data"}).finding("443", "octo-stsd.socket"); f.Command != "" || !strings.Contains(f.Advice, "ss -ltnp") {
		t.Errorf("%+v", f)
	}
	for groups, want := range map[string]string{
		"0::/system.slice/nginx.service\n":                                    "nginx.service",
		"0::/user.slice/user-7.slice/user@7.service/app.slice/cron.service\n": "", // not the machine's cron.service
		"0::/user.slice/user-0.slice/session-1.scope\n":                       "",
	} {
		if got := unitOf(groups); got != want {
			t.Errorf("the unit of %q is %q, want %q", groups, got, want)
		}
	}
}

func TestCertificateFile(t *testing.T) {
	now := time.Now()
	for _, c := range []struct {
		domain      string
		from, until time.Time
		want        string
	}{
		{"sts.example.com", now.Add(-time.Hour), now.Add(time.Hour), ""},
		{"other.example.com", now.Add(-time.Hour), now.Add(time.Hour), "is not for sts.example.com, but for other.example.com"},
		{"sts.example.com", now.Add(-2 * time.Hour), now.Add(-time.Hour), "expired at"},
		{"sts.example.com", now.Add(time.Hour), now.Add(2 * time.Hour), "is not valid before"},
		{"sts.example.com", now.Add(-9 * time.Hour), now.Add(time.Hour), "expires at"},
	} {
		r := &fakeRoot{t, Config{Root: t.TempDir()}}
		r.write("/cert.pem", string(certificate(t, c.domain, c.from, c.until)), 0o644)
		m := &machine{Config: r.config, daemon: &daemonConfig{Domain: "sts.example.com"}}
		m.daemon.TLS.Mode, m.daemon.TLS.Files.Certificate = "files", "/cert.pem"
		found := checkCertificate(t.Context(), m)
		if c.want == "" && len(found) > 0 || c.want != "" && (len(found) != 1 || !strings.Contains(found[0].What, c.want)) {
			t.Errorf("want %q; it says %+v", c.want, found)
		}
	}
}

func certificate(t *testing.T, domain string, from, until time.Time) []byte {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), DNSNames: []string{domain}, NotBefore: from, NotAfter: until}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
}

// Clock, disk, DNS and proxy, as far as no machine is needed.
func TestSurroundings(t *testing.T) {
	if f := clockFinding([]string{"inactive", "active"}); !strings.Contains(f[0].What, "chrony.service runs") || f[0].Command != "systemctl restart chrony.service" {
		t.Errorf("%+v", f)
	}
	if f := clockFinding([]string{"inactive"}); f[0].Command != "timedatectl set-ntp true" {
		t.Errorf("%+v", f)
	}
	if f := skewFinding(-2 * time.Minute); len(f) != 1 || !strings.Contains(f[0].What, "-2m0s") || len(skewFinding(20*time.Second)) != 0 {
		t.Errorf("%+v", f)
	}
	for _, c := range []struct {
		free uint64
		want Severity
	}{{1000, ""}, {200, ""}, {199, Warning}, {49, Problem}} {
		f := lookAtRoom("/var/log/octo-sts/audit", "space", c.free, 1000)
		if c.want == "" && len(f) > 0 || c.want != "" && (len(f) != 1 || f[0].Severity != c.want) {
			t.Errorf("%d of 1000 free: %+v", c.free, f)
		}
	}
	m := &machine{daemon: &daemonConfig{Domain: "nobody.invalid"}}
	if f := checkDNS(t.Context(), m); len(f) != 1 || !strings.Contains(f[0].What, "nobody.invalid has no address") {
		t.Errorf("%+v", f)
	}
	r := &fakeRoot{t, Config{Root: t.TempDir()}}
	r.write("/etc/environment", "PATH=/bin\nhttps_proxy=http://proxy.example.com:3128\n", 0o644)
	m.Config = r.config
	if f := checkProxy(t.Context(), m); len(f) != 1 || !strings.Contains(f[0].Command, "Environment=HTTPS_PROXY=http://proxy.example.com:3128") {
		t.Errorf("%+v", f)
	}
	m.units = map[string]unit{daemonService: {"Environment": "HTTPS_PROXY=proxy"}}
	if f := checkProxy(t.Context(), m); len(f) != 1 || !strings.Contains(f[0].What, "is no URL: proxy") {
		t.Errorf("%+v", f)
	}
}

// What /readyz says is put into words, each with what mends it; of a check that is new here, what it said is told.
func TestReady(t *testing.T) {
	for _, c := range []struct {
		check     readyCheck
		want, why string
		mends     string
	}{
		{readyCheck{"audit", "failing", "writing: no space left on device"}, Problem.text(), "logged", "make room"},
		{readyCheck{"checkpoint", "degraded", "THE AUDIT LOG IS NOT THE ONE THAT WAS SIGNED: x"}, Warning.text(), "somebody changed", "audit verify"},
		{readyCheck{"signer", "failing", "dial unix: connect: connection refused"}, Problem.text(), "nothing can be signed", "systemctl start octo-sts-signer.socket"},
		{readyCheck{"github", "degraded", "this host's clock is off by 2m0s"}, Warning.text(), "clock", "timedatectl set-ntp true"},
		{readyCheck{"audit cloudevents", "degraded", "stopped"}, Warning.text(), "collector", "collector"},
		{readyCheck{"news", "degraded", "something"}, Warning.text(), "", "operations.md"},
		{readyCheck{"news", "failing", "something"}, Problem.text(), "no exchange", "operations.md"},
	} {
		f := inWords(c.check)
		if f.Severity.text() != c.want || !strings.Contains(f.Why, c.why) || !strings.Contains(f.Command+f.Advice, c.mends) || !strings.Contains(f.What, c.check.Detail) {
			t.Errorf("%+v: %+v", c.check, f)
		}
	}
	for _, r := range remedies() {
		if r.command == "" && r.advice == "" || r.why == "" {
			t.Errorf("nothing mends %q, or it does not matter", r.check+r.words)
		}
	}
}

func (s Severity) text() string { return string(s) }

// What is asked as another user knows nothing of root's variables.
func TestRunAsAnotherUser(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs root")
	}
	t.Setenv("OCTO_STS_TEST_SECRET", "of root")
	m := &machine{isRoot: true, users: map[string]int{"other": 65534}, groups: map[string]int{"other": 65534}}
	said := m.run(t.Context(), "other", "/bin/sh", "-c", "id -u; env")
	if said.err != nil || !strings.HasPrefix(said.stdout, "65534\n") || strings.Contains(said.stdout, "OCTO_STS_TEST_SECRET") {
		t.Errorf("%+v", said)
	}
}

// What lies in a daemon's directory is read for as long as it is a small file.
func TestReadStrangers(t *testing.T) {
	dir := t.TempDir()
	link, pipe, large := filepath.Join(dir, "link"), filepath.Join(dir, "pipe"), filepath.Join(dir, "large")
	if err := errors.Join(os.Symlink("/dev/zero", link), syscall.Mkfifo(pipe, 0o600), os.WriteFile(large, make([]byte, 2*maxStrangers), 0o600)); err != nil {
		t.Fatal(err)
	}
	for _, file := range []string{link, pipe, dir} {
		if text, err := readStrangers(file); err == nil {
			t.Errorf("%d bytes of %s were read", len(text), file)
		}
	}
	if text, err := readStrangers(large); err != nil || len(text) != maxStrangers {
		t.Errorf("%d bytes of a large one, %v", len(text), err)
	}
}
