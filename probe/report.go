package probe

import (
	"fmt"
	"io"
	"strings"
	"time"
)

// The states of a Check.
const (
	OK      = "ok"
	Failed  = "failed"
	Skipped = "skipped" // it could not be tried; what it needed failed, or is not there
)

// Check is one thing that was looked at.
type Check struct {
	Name     string  `json:"name"` // out of a fixed set
	State    string  `json:"state"`
	Expected string  `json:"expected,omitempty"`
	Came     string  `json:"came,omitempty"`
	Do       string  `json:"do,omitempty"` // what mends it; only where it failed
	Seconds  float64 `json:"seconds"`
}

// Report is what one probe found.
type Report struct {
	Target  string    `json:"target"` // what was probed: positive, negative, health
	Success bool      `json:"success"`
	Began   time.Time `json:"began"`
	Seconds float64   `json:"seconds"`
	Checks  []Check   `json:"checks"`
	// CertificateExpiry is when the first certificate of the chain that was served
	// expires; zero where none was looked at.
	CertificateExpiry time.Time `json:"certificate_expiry,omitzero"`
}

// NewReport is a report of checks that were made since then.
func NewReport(target string, began time.Time, checks []Check) Report {
	r := Report{Target: target, Began: began.UTC(), Checks: checks, Seconds: time.Since(began).Seconds()}
	for _, c := range checks {
		if c.State == Failed {
			r.Success = false
			return r
		}
		r.Success = r.Success || c.State == OK
	}
	return r
}

// WriteText writes a line a check, and what to do about those that failed.
func (r Report) WriteText(w io.Writer) error {
	var b strings.Builder
	for _, c := range r.Checks {
		name := r.Target + "/" + c.Name
		switch c.State {
		case OK:
			fmt.Fprintf(&b, "ok      %-26s %s\n", name, c.Came)
		case Skipped:
			fmt.Fprintf(&b, "skipped %-26s %s\n", name, c.Came)
		default:
			fmt.Fprintf(&b, "FAILED  %-26s expected %s; came %s. %s\n", name, c.Expected, oneLine(c.Came), c.Do)
		}
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// oneLine is a text of several lines in one.
func oneLine(s string) string { return strings.Join(strings.Fields(s), " ") }

// WriteMetrics writes the report in Prometheus's text format, under the names that
// users of blackbox_exporter know, and a line for each check that was made.
func (r Report) WriteMetrics(w io.Writer) error {
	var b strings.Builder
	gauge := func(name, help string, value float64) {
		fmt.Fprintf(&b, "# HELP %s %s\n# TYPE %s gauge\n%s %g\n", name, help, name, name, value)
	}
	gauge("probe_success", "1 where every check of the probe that was made succeeded, else 0.", number(r.Success))
	gauge("probe_duration_seconds", "How long the probe took.", r.Seconds)
	gauge("octo_sts_probe_timestamp_seconds", "When the probe began, in Unix time: an answer may be some seconds old.", float64(r.Began.UnixMilli())/1000)
	if !r.CertificateExpiry.IsZero() {
		gauge("probe_ssl_earliest_cert_expiry", "When the certificate that was served expires, in Unix time.", float64(r.CertificateExpiry.Unix()))
	}
	each := func(name, help string, value func(Check) float64) {
		fmt.Fprintf(&b, "# HELP %s %s\n# TYPE %s gauge\n", name, help, name)
		for _, c := range r.Checks {
			if c.State != Skipped {
				fmt.Fprintf(&b, "%s{check=%q} %g\n", name, c.Name, value(c))
			}
		}
	}
	each("octo_sts_probe_check_success", "1 where the check succeeded, else 0.", func(c Check) float64 { return number(c.State == OK) })
	each("octo_sts_probe_check_duration_seconds", "How long the check took.", func(c Check) float64 { return c.Seconds })
	_, err := io.WriteString(w, b.String())
	return err
}

func number(yes bool) float64 {
	if yes {
		return 1
	}
	return 0
}
