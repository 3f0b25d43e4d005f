package main

import (
	"bufio"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/octo-sts/appliance/sts/ststest"
)

// observed is an appliance of which every metric has something to say: two HSMs, a
// certificate, webhooks, a collector of CloudEvents, a repository to probe with.
func observed(t *testing.T) *hookRig {
	t.Helper()
	collector := &sink{status: http.StatusAccepted, data: map[uint64]string{}}
	server := httptest.NewServer(collector)
	t.Cleanup(server.Close)
	h := newHookRig(t, ststest.ServiceConfig{TLS: true, HSMs: 2, Probe: probeScope, Edit: func(c map[string]any) {
		c["audit"].(map[string]any)["cloudevents_sink"] = server.URL
	}})
	h.GitHub.AddRepository("watch", "probe")
	h.GitHub.Install(ststest.DefaultApp, "watch", ststest.InstallOptions{})
	h.GitHub.PutPolicy("watch", "probe", "probe", "issuer: "+ststest.ProbeIssuer("sts.example.com")+"\nsubject: probe\npermissions: {contents: read}\n")
	return h
}

// scrape is what /metrics answers.
func (r *rig) scrape() string {
	r.t.Helper()
	response, err := r.Client().Get(r.AdminURL() + "/metrics")
	if err != nil {
		r.t.Fatal(err)
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	if err != nil {
		r.t.Fatal(err)
	}
	return string(text)
}

// Each request is counted once, under its endpoint and what became of it, over
// whichever wire; what is no endpoint is "other".
func TestRequestsAreCounted(t *testing.T) {
	r := newRig(t, ststest.ServiceConfig{TLS: true, Webhook: true})
	for _, w := range r.wires() {
		w.ask(t, "acme/app", "reader", r.job(nil))
		w.ask(t, "acme/app", "nobody", r.job(nil))
		w.ask(t, "acme/app", "reader", "no ID token")
	}
	for _, path := range []string{"/", "/metrics", "/sts/exchange/more", "/" + strings.Repeat("x", 1000)} {
		if response, err := r.Client().Get(r.URL() + path); err != nil || response.Body.Close() != nil {
			t.Fatalf("%s: %v", path, err)
		}
	}
	response, err := r.Client().Post(r.URL()+"/webhook", "application/json", strings.NewReader("{}"))
	if err != nil || response.Body.Close() != nil {
		t.Fatal(err)
	}
	want := map[string]float64{
		`{code="200",endpoint="/sts/exchange"}`: 3, `{code="403",endpoint="/sts/exchange"}`: 3, `{code="401",endpoint="/sts/exchange"}`: 3,
		`{code="200",endpoint="grpc"}`: 2, `{code="403",endpoint="grpc"}`: 2, `{code="401",endpoint="grpc"}`: 2,
		`{code="404",endpoint="other"}`: 4, `{code="401",endpoint="/webhook"}`: 1,
	}
	got := map[string]float64{}
	for name, value := range r.gauges() {
		if labels, ok := strings.CutPrefix(name, "octo_sts_requests_total"); ok {
			if _, wanted := want[labels]; wanted {
				got[labels] = value
			} else if value != 0 && !strings.Contains(labels, `"/readyz"`) && !strings.Contains(labels, `"202"`) {
				t.Errorf("%s is %v", name, value)
			}
		}
	}
	if !maps.Equal(got, want) {
		t.Errorf("counted:\n%v\nwant:\n%v", got, want)
	}
}

// A signer that hangs holds up no scrape: what is known of it is left out then.
func TestScrapeWhileTheSignerHangs(t *testing.T) {
	r := newRig(t, ststest.ServiceConfig{})
	r.granted("acme/app", "reader")
	if r.gauge(t, "octo_sts_signer_up") != 1 || r.gauge(t, `octo_sts_hsm_open{hsm="0"}`) != 1 {
		t.Fatal("the signer is not up")
	}
	if err := r.Signer.Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = r.Signer.Signal(syscall.SIGCONT) }()
	slowest := time.Duration(0)
	r.eventually("a scrape to say that the signer is not up", func() bool {
		began := time.Now()
		text := r.scrape()
		slowest = max(slowest, time.Since(began))
		return strings.Contains(text, "\nocto_sts_signer_up 0\n") && !strings.Contains(text, "octo_sts_hsm_open{") &&
			strings.Contains(text, "octo_sts_check_state{check=\"signer\"} 1\n")
	})
	t.Logf("the slowest scrape took %s", slowest)
	if slowest > patience/6 {
		t.Errorf("a scrape took %s", slowest)
	}
	r.granted("acme/app", "reader")
	if err := r.Signer.Signal(syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	r.eventually("the signer to be up again", func() bool { return r.gauge(t, "octo_sts_signer_up") == 1 })
}

// promtool has nothing to say against the metrics, and docs/monitoring.md lists
// them: no other, and none that is not there.
func TestMetricsAreDocumented(t *testing.T) {
	r := observed(t)
	r.granted("acme/app", "reader")
	text := r.scrape()
	promtool := exec.Command(needs(t, "promtool"), "check", "metrics")
	promtool.Stdin = strings.NewReader(text)
	if out, err := promtool.CombinedOutput(); err != nil || len(out) > 0 {
		t.Errorf("promtool check metrics: %v\n%s", err, out)
	}
	document, err := os.ReadFile("../../docs/monitoring.md")
	if err != nil {
		t.Fatal(err)
	}
	var rows []string
	for line := range strings.Lines(string(document)) {
		if strings.HasPrefix(line, "| `octo_sts_") {
			rows = append(rows, strings.TrimSpace(line))
		}
	}
	want := describe(text)
	for _, row := range want {
		if !slices.Contains(rows, row) {
			t.Errorf("docs/monitoring.md lacks\n%s", row)
		}
	}
	for _, row := range rows {
		if !slices.Contains(want, row) {
			t.Errorf("docs/monitoring.md has a row that is not so (any more):\n%s", row)
		}
	}
}

// needs finds a program of Debian's package prometheus.
func needs(t *testing.T, program string) string {
	t.Helper()
	path, err := exec.LookPath(program)
	if err != nil {
		t.Skipf("%s is not installed: run packaging/prerequisites", program)
	}
	return path
}

var sampleLine = regexp.MustCompile(`^(octo_sts_[a-z_]+?)(?:_bucket|_sum|_count)?(?:\{(.*)\})? `)

// describe makes a row of each metric of our own in a scrape.
func describe(text string) (rows []string) {
	type family struct{ kind, help string }
	families, labels := map[string]family{}, map[string]map[string]bool{}
	for lines := bufio.NewScanner(strings.NewReader(text)); lines.Scan(); {
		words := strings.SplitN(lines.Text(), " ", 4)
		switch {
		case len(words) == 4 && words[1] == "HELP":
			families[words[2]] = family{help: words[3]}
		case len(words) == 4 && words[1] == "TYPE":
			families[words[2]] = family{words[3], families[words[2]].help}
		}
		if found := sampleLine.FindStringSubmatch(lines.Text()); found != nil {
			for pair := range strings.SplitSeq(found[2], ",") {
				if name, _, ok := strings.Cut(pair, "="); ok && name != "le" {
					if labels[found[1]] == nil {
						labels[found[1]] = map[string]bool{}
					}
					labels[found[1]][name] = true
				}
			}
		}
	}
	for _, name := range slices.Sorted(maps.Keys(families)) {
		if strings.HasPrefix(name, "octo_sts_") {
			f := families[name]
			rows = append(rows, fmt.Sprintf("| `%s` | %s | %s | %s |", name, f.kind, strings.Join(slices.Sorted(maps.Keys(labels[name])), ", "), f.help))
		}
	}
	return rows
}
