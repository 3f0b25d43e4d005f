//go:build packages

package packaging_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// What an operator looks at day by day, and what CI jobs do, on an installed system: probes and their timer in its sandbox,
// metrics as Prometheus reads them, fields in the journal, and a job that clones with git, by octo-sts exec.
func TestDayTwo(t *testing.T) {
	for _, suite := range suites() {
		t.Run(suite, func(t *testing.T) {
			a := install(t, suite)
			a.setUp()
			a.page.useAll()
			t.Run("probe", func(t *testing.T) { a.of(t).probes() })
			t.Run("metrics", func(t *testing.T) { a.of(t).isMeasured() })
			t.Run("journal", func(t *testing.T) { a.of(t).isInJournal() })
			t.Run("a job with git", func(t *testing.T) { a.of(t).clones() })
			t.Run("a refused job", func(t *testing.T) { a.of(t).refuses() })
			a.isWell()
		})
	}
}

// of is the same appliance, for a part of the test.
func (a *appliance) of(t *testing.T) *appliance {
	part := *a
	part.machine = &machine{t: t, root: a.root, init: a.init}
	return &part
}

// probes configures the probe as its documentation says, and makes it by hand and by its unit and timer.
func (a *appliance) probes() {
	t := a.t
	t.Helper()
	a.run("printf 'probe:\\n  scope: acme/probe\\n' >> /etc/octo-sts/octo-stsd.yaml")
	gitHub := a.world.gitHub
	gitHub.AddRepository("acme", "probe")
	gitHub.PutPolicy("acme", "probe", "probe", "issuer: https://"+domain+"/probe-issuer\nsubject: probe\npermissions: {contents: read}\n")
	a.run("systemctl restart octo-stsd")
	a.awaitReady()

	if found, _ := a.examine(); len(found) != 1 || found[0].Check != "probe" || found[0].Command != "systemctl enable --now octo-sts-probe.timer" {
		t.Errorf("of a probe without its timer octo-sts doctor says %+v", found)
	}
	t.Log(a.run("octo-sts probe --negative"))
	a.run("systemctl start octo-sts-probe.service")
	if out := a.run("systemctl show --property=Result --value octo-sts-probe.service"); out != "success\n" {
		t.Errorf("octo-sts-probe.service ended with %s", out)
	}
	// The timer, as it is but for the time that it waits.
	a.write("/etc/systemd/system/octo-sts-probe.timer.d/soon.conf", "[Timer]\nOnActiveSec=\nOnActiveSec=1s\nRandomizedDelaySec=0\nAccuracySec=1s\n", 0o644)
	before := a.run("systemctl show --property=ExecMainStartTimestampMonotonic --value octo-sts-probe.service")
	a.run("systemctl daemon-reload && systemctl enable --now octo-sts-probe.timer")
	eventually(t, time.Minute, "the timer makes a probe, which finds nothing", func() error {
		out := a.run("systemctl show --property=ExecMainStartTimestampMonotonic --property=ActiveState --property=Result octo-sts-probe.service")
		if strings.Contains(out, "="+before) || !strings.Contains(out, "ActiveState=inactive") || !strings.Contains(out, "Result=success") {
			return fmt.Errorf("%s", out)
		}
		return nil
	})
	if out := a.run("curl -sSf 'http://127.0.0.1:9464/probe?target=positive'"); !strings.Contains(out, "probe_success 1") {
		t.Errorf("/probe says:\n%s", out)
	}
	gitHub.PutPolicy("acme", "probe", "probe", "issuer: https://"+domain+"/probe-issuer\nsubject: nobody\npermissions: {contents: read}\n")
	eventually(t, 3*time.Minute, "a probe finds that it is refused, and octo-sts doctor passes that on", func() error {
		a.try("systemctl start octo-sts-probe.service")
		for _, f := range first(a.examine()) {
			if f.Check == "units" && strings.Contains(f.What, "octo-sts-probe.service failed") {
				return nil
			}
		}
		return fmt.Errorf("it does not")
	})
	gitHub.PutPolicy("acme", "probe", "probe", "issuer: https://"+domain+"/probe-issuer\nsubject: probe\npermissions: {contents: read}\n")
	eventually(t, 3*time.Minute, "the probe is granted again", func() error {
		if out, status := a.try("systemctl start octo-sts-probe.service"); status != 0 {
			return fmt.Errorf("%s", out)
		}
		return nil
	})
}

func first[A, B any](a A, _ B) A { return a }

// isMeasured: what a Prometheus on the machine reads, promtool reads; and the package's rules are rules.
func (a *appliance) isMeasured() {
	t := a.t
	t.Helper()
	metrics := a.run("curl -sSf http://127.0.0.1:9464/metrics")
	for _, name := range []string{"octo_sts_exchanges_total", "octo_sts_build_info", "octo_sts_certificate_expiration_timestamp_seconds"} {
		if !strings.Contains(metrics, "\n"+name) {
			t.Errorf("there is no %s", name)
		}
	}
	check := exec.Command("promtool", "check", "metrics")
	check.Stdin = strings.NewReader(metrics)
	if out, err := check.CombinedOutput(); err != nil {
		t.Errorf("promtool check metrics: %v\n%s", err, out)
	}
	rules, err := filepath.Glob(filepath.Join(a.root, "usr/share/octo-sts/prometheus/*.y*ml"))
	if err != nil || len(rules) == 0 {
		t.Fatalf("the package has no rules: %v", err)
	}
	if out, err := exec.Command("promtool", append([]string{"check", "rules"}, rules...)...).CombinedOutput(); err != nil {
		t.Errorf("promtool check rules: %v\n%s", err, out)
	}
	dashboards, err := filepath.Glob(filepath.Join(a.root, "usr/share/octo-sts/grafana/*.json"))
	if err != nil || len(dashboards) == 0 {
		t.Fatalf("the package has no dashboard: %v", err)
	}
	for _, dashboard := range dashboards {
		if text, err := os.ReadFile(dashboard); err != nil || !json.Valid(text) {
			t.Errorf("%s: %v", dashboard, err)
		}
	}
}

// isInJournal: the daemons' own lines have priorities and fields, and an exchange is found by its request ID.
func (a *appliance) isInJournal() {
	t := a.t
	t.Helper()
	a.exchange()
	a.run("journalctl --sync")
	granted := a.grantsInJournal()
	if len(granted) == 0 {
		t.Fatal("the journal has no grant")
	}
	id, _ := granted[len(granted)-1]["OCTO_STS_REQUEST_ID"].(string)
	lines := strings.Split(strings.TrimSpace(a.run("journalctl --no-pager --output=json OCTO_STS_REQUEST_ID="+id)), "\n")
	if len(lines) < 3 { // the intent's copy, the outcome's, and the daemon's own line
		t.Errorf("of request %s the journal has %d lines, want its line and two copies of entries", id, len(lines))
	}
	for _, unit := range []string{"octo-stsd.service", "octo-sts-signer.service"} {
		out := a.run("journalctl --no-pager --output=json --boot _SYSTEMD_UNIT=" + unit)
		native := 0
		for line := range strings.Lines(out) {
			var fields map[string]any
			if err := json.Unmarshal([]byte(line), &fields); err != nil {
				t.Fatal(err)
			}
			if fields["_TRANSPORT"] != "journal" {
				continue
			}
			native++
			if fields["PRIORITY"] == nil || fields["MESSAGE"] == nil {
				t.Errorf("%s: a line has no priority or no message: %s", unit, line)
			}
		}
		if native == 0 {
			t.Errorf("%s writes nothing to the journal with fields", unit)
		}
	}
}

// runner is a machine that runs CI jobs: this one, with the program of the package octo-sts-client.
func (a *appliance) runner() (program string, environment []string) {
	t := a.t
	t.Helper()
	found := debsOf(".", "octo-sts-client")
	if len(found) != 1 {
		t.Fatalf("want one package octo-sts-client, there are %q", found)
	}
	directory := t.TempDir()
	if out, err := exec.Command("dpkg-deb", "-x", found[0], directory).CombinedOutput(); err != nil {
		t.Fatalf("unpacking it: %v\n%s", err, out)
	}
	program = filepath.Join(directory, "usr/bin/octo-sts")
	return program, append(os.Environ(), append(a.job(), "GIT_SSL_CAINFO="+worldRoots, "GIT_TERMINAL_PROMPT=0", "GIT_CONFIG_GLOBAL=/dev/null", "HOME="+directory, "GITHUB_ACTIONS=true")...)
}

// clones: a job has git clone a repository with a token that it never sees, and which is of no use afterwards.
func (a *appliance) clones() {
	t := a.t
	t.Helper()
	a.world.serveGit()
	program, environment := a.runner()
	directory := t.TempDir()
	job := exec.Command(program, "exec", "--url", "https://"+domain, "--scope", "acme/widgets", "--identity", "deploy", "--",
		"sh", "-c", "git clone -q https://github.com/acme/widgets clone && printenv GITHUB_TOKEN > used")
	job.Dir, job.Env = directory, environment
	if out, err := job.CombinedOutput(); err != nil {
		t.Fatalf("the job: %v\n%s", err, out)
	}
	if text, err := os.ReadFile(filepath.Join(directory, "clone/README.md")); err != nil || string(text) != "# widgets\n" {
		t.Errorf("it has cloned %q: %v", text, err)
	}
	used, err := os.ReadFile(filepath.Join(directory, "used"))
	if err != nil || !bytes.HasPrefix(used, []byte("ghs_")) {
		t.Fatalf("the command had no token: %v", err)
	}
	if a.world.mayRead("acme/widgets", strings.TrimSpace(string(used))) {
		t.Error("the token is of use after the job")
	}
	plain := exec.Command("git", "clone", "-q", "https://github.com/acme/widgets", filepath.Join(directory, "other"))
	plain.Env = environment
	if err := plain.Run(); err == nil {
		t.Error("git clones without any token")
	}
	helper := exec.Command("git", "-c", "credential.helper=!"+program+" git-credential --url https://"+domain+" --scope acme/widgets --identity deploy",
		"clone", "-q", "https://github.com/acme/widgets", filepath.Join(directory, "third"))
	helper.Env = environment
	if out, err := helper.CombinedOutput(); err != nil {
		t.Errorf("git with the credential helper: %v\n%s", err, out)
	}
}

// refuses: a job that is refused is told a request ID, with which the operator finds out why.
func (a *appliance) refuses() {
	t := a.t
	t.Helper()
	program, environment := a.runner()
	a.world.gitHub.PutPolicy("acme", "widgets", "other", strings.Replace(a.page.block("policy"), "acme/deployer", "acme/other", 1))
	job := exec.Command(program, "exchange", "--url", "https://"+domain, "--scope", "acme/widgets", "--identity", "other")
	job.Env = environment
	out, err := job.CombinedOutput()
	if err == nil || !strings.Contains(string(out), "repo:acme/deployer:ref:refs/heads/main") || !strings.Contains(string(out), "octo-sts audit show --request-id ") {
		t.Fatalf("it is told %q: %v", out, err)
	}
	_, id, _ := strings.Cut(string(out), "--request-id ")
	id = strings.Fields(id)[0]
	wrong := openPage(t, "operations.md", "When something is wrong")
	said := wrong.run(a.machine, "refused", "REQUEST_ID="+id)
	if !strings.Contains(said, "denied") || !strings.Contains(said, "acme/widgets") {
		t.Errorf("the operator is told %q", said)
	}
	if said = wrong.run(a.machine, "doctor"); said != "nothing is wrong\n" {
		t.Errorf("octo-sts doctor says %q", said)
	}
}
