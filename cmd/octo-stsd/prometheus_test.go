package main

import (
	"encoding/json"
	"fmt"
	"io"
	"math"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"sigs.k8s.io/yaml"

	"github.com/octo-sts/appliance/sts/ststest"
)

// What the dashboard and the alerts ask, a real Prometheus that scraped the daemon
// under load can answer.
func TestPrometheus(t *testing.T) {
	program := needs(t, "prometheus")
	h := observed(t)
	server := startPrometheus(t, program, h)
	stop := h.exercise()
	server.awaitScrapes("octo_sts_build_info", 6)
	for _, job := range []string{"octo-sts-probe", "octo-sts-probe-negative"} {
		server.awaitScrapes(`probe_success{job="`+job+`"}`, 1)
	}
	stop()
	answered := 0
	for _, panel := range readDashboard(t).Panels {
		for _, target := range panel.Targets {
			replaced := strings.NewReplacer("$__rate_interval", "30s", "$job", "octo-sts", "$instance", ".*").Replace(target.Expr)
			if n := server.ask(replaced); n == 0 {
				t.Errorf("panel %q: no answer to %s", panel.Title, replaced)
			}
			answered++
		}
	}
	seen := map[string]bool{}
	for _, rule := range readRules(t) {
		server.ask(rule.Expr) // most often there is no answer, which is what an alert is for
		for _, selector := range selectors(rule.Expr) {
			if seen[selector] {
				continue
			}
			seen[selector] = true
			if server.ask(selector) == 0 {
				t.Errorf("alert %s: there is no %s", rule.Alert, selector)
			}
		}
	}
	t.Logf("%d queries of the dashboard and %d selectors of the alerts were answered", answered, len(seen))
	server.checkRules(len(readRules(t)))
}

// exercise asks for what is granted, denied, failed, shed and delivered, until it is
// stopped.
func (h *hookRig) exercise() (stop func()) {
	h.t.Helper()
	h.GitHub.Push("acme", "app", "main", h.write("new", readerPolicy))
	load := h.startLoad(4, "reader", "acme/app")
	denied := h.startLoad(1, "nobody", "acme/app")
	h.GitHub.Fail(ststest.Fault{Route: ststest.MintRoute, Count: 3, Status: http.StatusBadGateway})
	for _, w := range h.wires() {
		w.ask(h.t, "acme/app", "reader", h.job(nil))
	}
	for _, admin := range []string{"/healthz", "/readyz"} {
		if response, err := h.Client().Get(h.AdminURL() + admin); err != nil || response.Body.Close() != nil {
			h.t.Fatal(err)
		}
	}
	bad, err := http.NewRequest(http.MethodPost, h.URL()+"/webhook", strings.NewReader("{}"))
	if err != nil {
		h.t.Fatal(err)
	}
	bad.Header.Set("Content-Type", "application/json")
	bad.Header.Set("X-Hub-Signature-256", "sha256="+strings.Repeat("0", 64))
	if response, err := h.Client().Do(bad); err != nil || response.Body.Close() != nil || response.StatusCode != http.StatusUnauthorized {
		h.t.Fatalf("a delivery with a bad signature: %v", err)
	}
	return func() { load.end(); denied.end() }
}

// prometheus is Debian's, with the daemon as its one target.
type prometheus struct {
	t   *testing.T
	url string
}

func startPrometheus(t *testing.T, program string, h *hookRig) *prometheus {
	t.Helper()
	dir, address := t.TempDir(), freeAddress(t)
	rules, err := filepath.Abs(rulesFile)
	if err != nil {
		t.Fatal(err)
	}
	target := []any{map[string]any{"targets": []string{strings.TrimPrefix(h.AdminURL(), "http://")}}}
	probing := func(job, which string) map[string]any {
		return map[string]any{"job_name": job, "metrics_path": "/probe", "params": map[string]any{"target": []string{which}},
			"scrape_interval": "5s", "scrape_timeout": "5s", "static_configs": target}
	}
	config, err := yaml.Marshal(map[string]any{
		"global":     map[string]any{"scrape_interval": "1s", "evaluation_interval": "1s"},
		"rule_files": []string{rules},
		"scrape_configs": []any{map[string]any{"job_name": "octo-sts", "static_configs": target},
			probing("octo-sts-probe", "positive"), probing("octo-sts-probe-negative", "negative")},
	})
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(dir, "prometheus.yml")
	if err := os.WriteFile(file, config, 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(program, "--config.file="+file, "--storage.tsdb.path="+filepath.Join(dir, "data"), "--web.listen-address="+address, "--log.level=warn")
	log, err := os.Create(filepath.Join(dir, "log"))
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		_ = cmd.Wait()
		if text, err := os.ReadFile(log.Name()); err == nil && t.Failed() {
			t.Logf("Prometheus said:\n%s", text)
		}
	})
	return &prometheus{t, "http://" + address}
}

// get decodes the data of an answer of Prometheus's HTTP API into out.
func (p *prometheus) get(path string, out any) error {
	response, err := http.Get(p.url + path)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		return err
	}
	var answer struct {
		Status, Error string
		Data          json.RawMessage
	}
	if err := json.Unmarshal(body, &answer); err != nil || answer.Status != "success" {
		return fmt.Errorf("%s: %s %s %v", path, answer.Status, answer.Error, err)
	}
	return json.Unmarshal(answer.Data, out)
}

// awaitScrapes waits for that many that had the metric.
func (p *prometheus) awaitScrapes(metric string, n int) {
	p.t.Helper()
	for deadline := time.Now().Add(patience); ; time.Sleep(200 * time.Millisecond) {
		var data struct{ Result []struct{ Value [2]any } }
		err := p.get("/api/v1/query?query="+url.QueryEscape("count_over_time("+metric+"[10m])"), &data)
		if err == nil && len(data.Result) == 1 {
			if count, _ := strconv.Atoi(fmt.Sprint(data.Result[0].Value[1])); count >= n {
				return
			}
		}
		if time.Now().After(deadline) {
			p.t.Fatalf("Prometheus did not scrape %s %d times: %v", metric, n, err)
		}
	}
}

// ask returns how many series answer a query with a number.
func (p *prometheus) ask(query string) (n int) {
	p.t.Helper()
	var data struct{ Result []struct{ Value [2]any } }
	if err := p.get("/api/v1/query?query="+url.QueryEscape(query), &data); err != nil {
		p.t.Errorf("%s: %v", query, err)
	}
	for _, sample := range data.Result {
		if value, err := strconv.ParseFloat(fmt.Sprint(sample.Value[1]), 64); err == nil && !math.IsNaN(value) {
			n++
		}
	}
	return n
}

// checkRules makes sure that every rule was evaluated without an error.
func (p *prometheus) checkRules(want int) {
	p.t.Helper()
	var data struct {
		Groups []struct {
			Rules []struct{ Name, Health, LastError string }
		}
	}
	if err := p.get("/api/v1/rules", &data); err != nil {
		p.t.Fatal(err)
	}
	n := 0
	for _, group := range data.Groups {
		for _, rule := range group.Rules {
			if n++; rule.Health != "ok" {
				p.t.Errorf("rule %s: %s %s", rule.Name, rule.Health, rule.LastError)
			}
		}
	}
	if n != want {
		p.t.Errorf("Prometheus has %d rules, want %d", n, want)
	}
}
