package main

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"sigs.k8s.io/yaml"
)

// What the package installs for Prometheus and Grafana, and the pages that the alerts
// lead to.
const (
	rulesFile     = "../../packaging/prometheus/octo-sts.rules.yml"
	ruleTestsFile = "../../packaging/prometheus/octo-sts.test.yml"
	dashboardFile = "../../packaging/grafana/octo-sts.json"
	runbooks      = "../../docs/runbooks"
)

// promtool takes the rules, each alert fires when it should and not before, and what
// it then says is whole.
func TestAlerts(t *testing.T) {
	promtool := needs(t, "promtool")
	for _, args := range [][]string{{"check", "rules", rulesFile}, {"test", "rules", ruleTestsFile}} {
		if out, err := exec.Command(promtool, args...).CombinedOutput(); err != nil {
			t.Errorf("promtool %s: %v\n%s", strings.Join(args, " "), err, out)
		}
	}
	var file struct {
		RuleFiles []string         `json:"rule_files"`
		Tests     []map[string]any `json:"tests"`
	}
	data, err := os.ReadFile(ruleTestsFile)
	if err == nil {
		err = yaml.Unmarshal(data, &file)
	}
	rules, absErr := filepath.Abs(rulesFile)
	if err != nil || absErr != nil {
		t.Fatal(err, absErr)
	}
	file.RuleFiles = []string{rules}
	tested := map[string]bool{}
	for _, test := range file.Tests {
		for _, query := range test["promql_expr_test"].([]any) {
			query := query.(map[string]any)
			name := alertIn.FindStringSubmatch(query["expr"].(string))[1]
			tested[name] = true
			// None is expected where one fires, so that promtool shows it.
			test["alert_rule_test"] = []any{map[string]any{"eval_time": query["eval_time"], "alertname": name}}
		}
		delete(test, "promql_expr_test")
	}
	all := readRules(t)
	for _, rule := range all {
		if !tested[rule.Alert] {
			t.Errorf("%s: no test has the alert %s", ruleTestsFile, rule.Alert)
		}
	}
	shown := filepath.Join(t.TempDir(), "shown.yml")
	if data, err = yaml.Marshal(file); err == nil {
		err = os.WriteFile(shown, data, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command(promtool, "test", "rules", shown).CombinedOutput()
	text := string(out)
	if err == nil || strings.Count(text, "runbook_url") != len(all) || strings.Contains(text, "error expanding") || strings.Contains(text, "no value") {
		t.Errorf("%d of %d alerts are shown, or not whole: %v\n%s", strings.Count(text, "runbook_url"), len(all), err, text)
	}
}

var alertIn = regexp.MustCompile(`alertname="([A-Za-z]+)"`)

// Each alert has a page that says what to do, and the page is where the alert says. It
// has the parts that somebody who is woken looks for, and docs/monitoring.md leads to it.
func TestRunbooks(t *testing.T) {
	const base = "https://github.com/octo-sts/appliance/blob/main/docs/runbooks/"
	monitoring, err := os.ReadFile("../../docs/monitoring.md")
	if err != nil {
		t.Fatal(err)
	}
	pages := map[string]bool{}
	for _, rule := range readRules(t) {
		page := rule.Alert + ".md"
		pages[page] = true
		if rule.Annotations["runbook_url"] != base+page || rule.Annotations["summary"] == "" || rule.Annotations["description"] == "" {
			t.Errorf("alert %s: annotations %v", rule.Alert, rule.Annotations)
		}
		if !slices.Contains([]string{"critical", "warning", "info"}, rule.Labels["severity"]) {
			t.Errorf("alert %s: labels %v", rule.Alert, rule.Labels)
		}
		if !strings.Contains(string(monitoring), "| ["+rule.Alert+"](runbooks/"+page+") | "+rule.Labels["severity"]+" | "+strings.TrimSuffix(rule.Annotations["summary"], ".")) {
			t.Errorf("docs/monitoring.md does not list %s as %s: %s", rule.Alert, rule.Labels["severity"], rule.Annotations["summary"])
		}
		text, err := os.ReadFile(filepath.Join(runbooks, page))
		if err != nil {
			t.Error(err)
			continue
		}
		for _, part := range []string{"# " + rule.Alert + "\n", "\n## What it means\n", "\n## Look\n", "\n## Do\n", "```sh\n"} {
			if !strings.Contains(string(text), part) {
				t.Errorf("%s has no %q", page, part)
			}
		}
	}
	found, err := os.ReadDir(runbooks)
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range found {
		if !pages[f.Name()] {
			t.Errorf("docs/runbooks/%s belongs to no alert", f.Name())
		}
	}
}

// The dashboard asks the data source that is chosen on it, for the instances that are,
// and its panels have a place each.
func TestDashboard(t *testing.T) {
	d := readDashboard(t)
	if d.Title != "octo-sts" || d.UID != "octo-sts" || d.SchemaVersion < 30 {
		t.Errorf("%s, %s, schema %d", d.Title, d.UID, d.SchemaVersion)
	}
	if len(d.Templating.List) != 3 || d.Templating.List[0].Name != "datasource" || d.Templating.List[0].Type != "datasource" {
		t.Errorf("variables: %+v", d.Templating.List)
	}
	var rows []string
	ids, taken := map[int]bool{}, map[[2]int]string{}
	for _, p := range d.Panels {
		if ids[p.ID] || p.Title == "" {
			t.Errorf("panel %d %q: its ID or its title is not its own", p.ID, p.Title)
		}
		ids[p.ID] = true
		for x := p.GridPos.X; x < p.GridPos.X+p.GridPos.W; x++ {
			for y := p.GridPos.Y; y < p.GridPos.Y+p.GridPos.H; y++ {
				if other := taken[[2]int{x, y}]; other != "" || x >= 24 {
					t.Fatalf("panel %q lies on %q, or beyond the right edge", p.Title, other)
				}
				taken[[2]int{x, y}] = p.Title
			}
		}
		if p.Type == "row" {
			rows = append(rows, p.Title)
			continue
		}
		if p.Datasource.UID != "${datasource}" || len(p.Targets) == 0 {
			t.Errorf("panel %q: data source %q, %d queries", p.Title, p.Datasource.UID, len(p.Targets))
		}
		for _, target := range p.Targets {
			if target.Datasource.UID != "${datasource}" || target.RefID == "" {
				t.Errorf("panel %q: query %q asks %q", p.Title, target.RefID, target.Datasource.UID)
			}
			for _, s := range selectors(target.Expr) {
				if !strings.Contains(s, `{job="$job", instance=~"$instance"`) {
					t.Errorf("panel %q asks for %s of any instance", p.Title, s)
				}
			}
		}
	}
	want := []string{"Traffic", "Refusals", "GitHub", "Signer and HSM", "Audit log", "Webhook", "Process"}
	if !slices.Equal(rows, want) {
		t.Errorf("rows %q, want %q", rows, want)
	}
}

// dashboard is what is of interest here of a dashboard of Grafana's.
type dashboard struct {
	Title         string
	UID           string
	SchemaVersion int
	Templating    struct{ List []struct{ Name, Type string } }
	Panels        []struct {
		ID         int
		Type       string
		Title      string
		Datasource struct{ UID string }
		GridPos    struct{ X, Y, W, H int }
		Targets    []struct {
			RefID      string
			Expr       string
			Datasource struct{ UID string }
		}
	}
}

func readDashboard(t *testing.T) (d dashboard) {
	t.Helper()
	data, err := os.ReadFile(dashboardFile)
	if err == nil {
		err = json.Unmarshal(data, &d)
	}
	if err != nil {
		t.Fatal(err)
	}
	return d
}

type alertRule struct {
	Alert       string
	Expr        string
	Labels      map[string]string
	Annotations map[string]string
}

func readRules(t *testing.T) (all []alertRule) {
	t.Helper()
	var file struct{ Groups []struct{ Rules []alertRule } }
	data, err := os.ReadFile(rulesFile)
	if err == nil {
		err = yaml.Unmarshal(data, &file)
	}
	if err != nil {
		t.Fatal(err)
	}
	for _, group := range file.Groups {
		all = append(all, group.Rules...)
	}
	return all
}

var selector = regexp.MustCompile(`\b(?:probe_success|octo_sts_[a-z_]+|process_[a-z_]+|go_[a-z_]+|up)\b(?:\{[^}]*\})?`)

// selectors are the series that a query is about.
func selectors(expr string) []string {
	all := selector.FindAllString(expr, -1)
	slices.Sort(all)
	return slices.Compact(all)
}
