package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/octo-sts/appliance/probe"
	"github.com/octo-sts/appliance/signer"
	"github.com/octo-sts/appliance/sts/ststest"
)

// probeRig is a rig that is probed, with a repository for nothing else.
type probeRig struct {
	*rig
	installation int64 // of DefaultApp on watch
}

const probeScope = "watch/probe"

func newProbeRig(t *testing.T, c ststest.ServiceConfig) *probeRig {
	t.Helper()
	c.Probe, c.TLS = probeScope, true
	edit := c.Edit
	c.Edit = func(config map[string]any) {
		config["github"].(map[string]any)["policy_max_age"] = "0s"
		if edit != nil {
			edit(config)
		}
	}
	r := &probeRig{rig: newRig(t, c)}
	r.GitHub.AddRepository("watch", "probe")
	r.GitHub.AddRepository("watch", "other")
	r.installation = r.GitHub.Install(ststest.DefaultApp, "watch", ststest.InstallOptions{})
	r.policy("subject: probe\npermissions: {contents: read}\n")
	return r
}

// policy writes the probe's, without its issuer.
func (r *probeRig) policy(rest string) {
	r.GitHub.PutPolicy("watch", "probe", "probe", "issuer: "+ststest.ProbeIssuer("sts.example.com")+"\n"+rest)
}

// forget has the daemon forget the results that it would give again: a reload does.
func (r *probeRig) forget() {
	r.t.Helper()
	before := r.lines("configuration taken up")
	if err := r.Signal(syscall.SIGHUP); err != nil {
		r.t.Fatal(err)
	}
	r.eventually("a reload", func() bool { return r.lines("configuration taken up") > before })
}

// probed is the answer of octo-sts probe.
type probed struct {
	Success bool
	Reports []probe.Report
}

// probe runs the command, and holds its exit status against its answer.
func (r *probeRig) probe(args ...string) probed {
	r.t.Helper()
	r.forget()
	dir, err := rigPrograms()
	if err != nil {
		r.t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(r.t.Context(), patience)
	defer cancel()
	args = append([]string{"probe", "--admin", r.AdminURL(), "--output", "json"}, args...)
	out, err := exec.CommandContext(ctx, filepath.Join(dir, "octo-sts"), args...).Output()
	var answer probed
	if jsonErr := json.Unmarshal(out, &answer); jsonErr != nil {
		r.t.Fatalf("octo-sts probe: %v, %v: %s", err, jsonErr, out)
	}
	want := 0
	if !answer.Success {
		want = 1
	}
	if status := exitStatus(err); err != nil && status != want || err == nil && want != 0 {
		r.t.Errorf("octo-sts probe: exit status of %v, and success %t", err, answer.Success)
	}
	return answer
}

// failures are the checks that failed, by "target/name".
func (p probed) failures() map[string]probe.Check {
	found := map[string]probe.Check{}
	for _, report := range p.Reports {
		for _, c := range report.Checks {
			if c.State == probe.Failed {
				found[report.Target+"/"+c.Name] = c
			}
		}
	}
	return found
}

// mustBeWell waits until a probe finds nothing: what was wrong may need a moment.
func (r *probeRig) mustBeWell() {
	r.t.Helper()
	var last map[string]probe.Check
	for until := time.Now().Add(patience); time.Now().Before(until); time.Sleep(500 * time.Millisecond) {
		p := r.probe("--negative")
		if last = p.failures(); p.Success {
			return
		}
	}
	r.t.Fatalf("a probe still finds %+v", last)
}

// What a probe of an appliance in order finds: each check is made, and succeeds; its
// installation tokens are dead afterwards; and the audit log has what it did.
func TestProbe(t *testing.T) {
	r := newProbeRig(t, ststest.ServiceConfig{Webhook: true, HSMs: 2})
	p := r.probe("--negative")
	want := "health/audit health/checkpoint health/signer health/github health/clock health/issuers health/disk health/hsm health/probe health/certificate health/webhook " +
		"positive/certificate positive/id-token positive/exchange positive/use positive/policy positive/write positive/reach positive/revoke positive/dead " +
		"negative/stranger negative/missing-identity negative/wrong-audience negative/wrong-subject negative/alike"
	var made []string
	for _, report := range p.Reports {
		for _, c := range report.Checks {
			made = append(made, report.Target+"/"+c.Name)
			if c.State != probe.OK {
				t.Errorf("%s/%s: %+v", report.Target, c.Name, c)
			}
		}
	}
	if got := strings.Join(made, " "); got != want || !p.Success {
		t.Errorf("checks: %s, want %s", got, want)
	}
	for _, m := range r.GitHub.LiveMints() {
		if !m.AllRepositories {
			t.Errorf("a token of the probe's lives: %+v", m)
		}
	}
	r.probeText(t)
	r.probeMetrics(t)
	r.probeIssuerDocuments(t)
}

// probeText is the same for people.
func (r *probeRig) probeText(t *testing.T) {
	dir, err := rigPrograms()
	if err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command(filepath.Join(dir, "octo-sts"), "probe", "--admin", r.AdminURL()).CombinedOutput()
	if err != nil || strings.Count(string(out), "\nok ") != 19 || strings.Contains(string(out), "negative") {
		t.Errorf("octo-sts probe: %v\n%s", err, out)
	}
}

// probeMetrics is the same for Prometheus.
func (r *probeRig) probeMetrics(t *testing.T) {
	for _, target := range []string{"health", "positive", "negative"} {
		status, text := r.get(t, "/probe?target="+target)
		if status != http.StatusOK || !strings.Contains(text, "\nprobe_success 1\n") || !strings.Contains(text, "\nprobe_duration_seconds ") {
			t.Errorf("/probe?target=%s: %d\n%s", target, status, text)
		}
		if target == "positive" && !strings.Contains(text, `octo_sts_probe_check_success{check="dead"} 1`) {
			t.Errorf("/probe?target=%s: %s", target, text)
		}
		check := exec.Command("promtool", "check", "metrics")
		check.Stdin = strings.NewReader(text)
		if out, err := check.CombinedOutput(); err != nil || len(out) > 0 {
			t.Errorf("promtool check metrics, %s: %v: %s", target, err, out)
		}
	}
	if status, text := r.get(t, "/probe?target=other"); status != http.StatusBadRequest {
		t.Errorf("/probe?target=other: %d %s", status, text)
	}
	mints := len(r.GitHub.Mints())
	for range 50 {
		r.get(t, "/probe?target=positive")
	}
	if more := len(r.GitHub.Mints()) - mints; more > 5 {
		t.Errorf("50 requests were %d exchanges", more)
	}
}

func (r *probeRig) get(t *testing.T, path string) (status int, text string) {
	t.Helper()
	resp, err := http.Get(r.AdminURL() + path)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(body)
}

// probeIssuerDocuments: whoever wants to verify a probe's ID token finds its keys, of
// each HSM its own.
func (r *probeRig) probeIssuerDocuments(t *testing.T) {
	var discovery struct {
		Issuer  string
		JWKSURI string `json:"jwks_uri"`
	}
	var keys struct{ Keys []map[string]string }
	for path, into := range map[string]any{"/probe-issuer/.well-known/openid-configuration": &discovery, "/probe-issuer/jwks": &keys} {
		resp, err := r.Client().Get(r.URL() + path)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		if err := json.NewDecoder(resp.Body).Decode(into); err != nil || resp.StatusCode != http.StatusOK {
			t.Fatalf("%s: %s, %v", path, resp.Status, err)
		}
	}
	if discovery.Issuer != "https://sts.example.com/probe-issuer" || discovery.JWKSURI != discovery.Issuer+"/jwks" {
		t.Errorf("discovery: %+v", discovery)
	}
	if len(keys.Keys) != 2 || keys.Keys[0]["kid"] == keys.Keys[1]["kid"] || keys.Keys[0]["crv"] != "P-256" {
		t.Errorf("keys: %+v, want one of each HSM", keys.Keys)
	}
}

// Without the section probe there is neither a probe nor its issuer.
func TestProbeNotConfigured(t *testing.T) {
	r := &probeRig{rig: newRig(t, ststest.ServiceConfig{})}
	dir, err := rigPrograms()
	if err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command(filepath.Join(dir, "octo-sts"), "probe", "--admin", r.AdminURL()).CombinedOutput()
	if exitStatus(err) != 2 || !strings.Contains(string(out), "no probe is configured") || !strings.Contains(string(out), "health/signer") {
		t.Errorf("octo-sts probe: %v: %s", err, out)
	}
	resp, err := r.Client().Get(r.URL() + "/probe-issuer/jwks")
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != http.StatusNotFound {
		t.Errorf("/probe-issuer/jwks: %s", resp.Status)
	}
	if _, err := r.Signer.Client().ProbeIDToken(t.Context(), signer.ProbeGood); err == nil || !strings.Contains(err.Error(), "signer.yaml has no section probe") {
		t.Errorf("an ID token for a probe: %v", err)
	}
}

// Probe after probe of an appliance in order finds nothing. $OCTO_STS_PROBES says how
// many.
func TestProbesRaiseNoFalseAlarm(t *testing.T) {
	r := newProbeRig(t, ststest.ServiceConfig{Webhook: true})
	runs := 20
	if n, err := strconv.Atoi(os.Getenv("OCTO_STS_PROBES")); err == nil {
		runs = n
	}
	roots := r.Roots()
	client := r.Signer.Client()
	kept := map[probe.Kind]string{}
	prober, err := probe.New(t.Context(), probe.Config{URL: r.URL(), Roots: roots, Scope: probeScope, Identity: "probe",
		GitHubURL: r.GitHub.URL(), GitHubRoots: r.gitHubRoots(),
		IDToken: func(ctx context.Context, kind probe.Kind) (string, error) {
			if old := kept[kind]; old != "" && runs <= 20 { // else this would take longer than all the rest
				return old, nil
			}
			idToken, err := client.ProbeIDToken(ctx, signer.ProbeKind(kind))
			for err != nil && strings.Contains(err.Error(), signer.ErrProbeRate.Error()) { // at most so many a second are made
				time.Sleep(50 * time.Millisecond)
				idToken, err = client.ProbeIDToken(ctx, signer.ProbeKind(kind))
			}
			kept[kind] = idToken.IDToken
			return idToken.IDToken, err
		}})
	if err != nil {
		t.Fatal(err)
	}
	checks, slowest := 0, 0.0
	for i := range runs {
		reports := []probe.Report{prober.Positive(t.Context()), prober.Negative(t.Context())}
		_, state, health := r.readiness()
		if state != "ready" {
			t.Fatalf("run %d: /readyz: %s %v", i, state, health)
		}
		checks += len(health)
		for _, report := range reports {
			checks, slowest = checks+len(report.Checks), max(slowest, report.Seconds)
			for _, c := range report.Checks {
				if c.State != probe.OK {
					t.Fatalf("run %d, %s/%s: %+v", i, report.Target, c.Name, c)
				}
			}
		}
	}
	for _, m := range r.GitHub.LiveMints() {
		if !m.AllRepositories {
			t.Errorf("a token of the probe's lives: %+v", m)
		}
	}
	t.Logf("%d runs, %d checks, no alarm; the slowest probe took %s", runs, checks, fmt.Sprintf("%.2f s", slowest))
}
