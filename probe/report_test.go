package probe

import (
	"strings"
	"testing"
	"time"
)

func TestReport(t *testing.T) {
	checks := []Check{
		{Name: "exchange", State: OK, Expected: "a token", Came: "one", Seconds: 0.25},
		{Name: "write", State: Failed, Expected: "403", Came: "201\n  with a\ttoken", Do: "Look.", Seconds: 0.5},
		{Name: "dead", State: Skipped, Came: "no token"},
	}
	r := NewReport(TargetPositive, time.Now(), checks)
	r.Seconds, r.Began, r.CertificateExpiry = 1.5, time.Unix(1700000000, 0), time.Unix(1800000000, 0)
	if r.Success {
		t.Error("it is a success")
	}
	var text, metrics strings.Builder
	if err := r.WriteText(&text); err != nil {
		t.Fatal(err)
	}
	if want := "ok      positive/exchange          one\n" +
		"FAILED  positive/write             expected 403; came 201 with a token. Look.\n" +
		"skipped positive/dead              no token\n"; text.String() != want {
		t.Errorf("%s\nwant\n%s", &text, want)
	}
	if err := r.WriteMetrics(&metrics); err != nil {
		t.Fatal(err)
	}
	for _, line := range []string{"probe_success 0", "probe_duration_seconds 1.5", "octo_sts_probe_timestamp_seconds 1.7e+09", "probe_ssl_earliest_cert_expiry 1.8e+09",
		`octo_sts_probe_check_success{check="exchange"} 1`, `octo_sts_probe_check_success{check="write"} 0`, `octo_sts_probe_check_duration_seconds{check="write"} 0.5`} {
		if !strings.Contains("\n"+metrics.String(), "\n"+line+"\n") {
			t.Errorf("no line %s in\n%s", line, &metrics)
		}
	}
	if strings.Contains(metrics.String(), "dead") {
		t.Error("what was skipped is in the metrics")
	}
	for _, c := range []struct {
		states  string
		success bool
	}{{"ok ok", true}, {"ok skipped", true}, {"skipped skipped", false}, {"", false}, {"ok failed", false}} {
		var all []Check
		for _, state := range strings.Fields(c.states) {
			all = append(all, Check{State: state})
		}
		if got := NewReport("x", time.Now(), all).Success; got != c.success {
			t.Errorf("%q: %t", c.states, got)
		}
	}
}
