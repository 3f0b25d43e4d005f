package appliance

import (
	"errors"
	"fmt"
	"net/http"
	"testing"
	"time"

	"github.com/mholt/acmez/v3/acme"
)

// /readyz degrades while there is time to look, and fails when callers are turned
// away.
func TestCertificateCheck(t *testing.T) {
	start := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	end := start.Add(100 * time.Hour)
	after := func(hours int) time.Time { return start.Add(time.Duration(hours) * time.Hour) }
	refused := errors.New("the CA said no")
	for _, c := range []struct {
		name   string
		status certificateStatus
		now    time.Time
		want   check
	}{
		{"none", certificateStatus{}, start, check{"certificate", stateFailing, "there is none yet"}},
		{"none, and why", certificateStatus{lastError: refused, nextAttempt: after(1)}, start,
			check{"certificate", stateFailing, "there is none yet; last attempt: the CA said no; next attempt at 2026-01-01T01:00:00Z"}},
		{"young", certificateStatus{notBefore: start, notAfter: end}, after(74), check{"certificate", stateReady, "valid until 2026-01-05T04:00:00Z"}},
		{"old", certificateStatus{notBefore: start, notAfter: end}, after(76),
			check{"certificate", stateDegraded, "less than a quarter of its life is left: valid until 2026-01-05T04:00:00Z"}},
		{"young, not renewed", certificateStatus{notBefore: start, notAfter: end, lastError: refused}, after(1),
			check{"certificate", stateDegraded, "valid until 2026-01-05T04:00:00Z; last attempt: the CA said no"}},
		{"expired", certificateStatus{notBefore: start, notAfter: end}, after(101), check{"certificate", stateFailing, "expired at 2026-01-05T04:00:00Z"}},
		{"too early", certificateStatus{notBefore: start, notAfter: end}, after(-1), check{"certificate", stateFailing, "not valid before 2026-01-01T00:00:00Z"}},
	} {
		if got := checkCertificate(c.status, c.now); got != c.want {
			t.Errorf("%s: %+v, want %+v", c.name, got, c.want)
		}
	}
}

// A CA that is away is asked again soon, one that says no is not, and one that asks
// for patience gets it.
func TestWhenTheCAIsAskedAgain(t *testing.T) {
	away := errors.New("connection refused")
	no := fmt.Errorf("ordering: %w", acme.Problem{Type: acme.ProblemTypeUnauthorized, Status: http.StatusForbidden})
	broken := acme.Problem{Type: acme.ProblemTypeServerInternal, Status: http.StatusInternalServerError}
	for _, c := range []struct {
		name     string
		failures int
		err      error
		patience time.Duration
		want     time.Duration // and up to a fifth more
	}{
		{"away", 0, away, 0, time.Second},
		{"away for longer", 3, away, 0, 8 * time.Second},
		{"away for days", 4000, away, 0, 5 * time.Minute},
		{"it says no", 0, no, 0, time.Minute},
		{"it says no all day", 40, no, 0, time.Hour},
		{"it is broken", 1, broken, 0, 2 * time.Second},
		{"it asks for patience", 0, no, 3 * time.Hour, 3 * time.Hour},
		{"for too much of it", 0, no, 300 * time.Hour, 24 * time.Hour},
		{"that is over", 0, away, -time.Hour, time.Second},
	} {
		a := &acmeCertificates{}
		if c.patience != 0 {
			a.askedToWait(time.Now().Add(c.patience))
		}
		if got := a.untilRetry(c.failures, c.err); got < c.want-time.Minute || got < c.want/2 || got > c.want*6/5 {
			t.Errorf("%s: %s, want %s", c.name, got, c.want)
		}
	}
}

func TestRetryAfter(t *testing.T) {
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	for value, want := range map[string]time.Time{
		"":                              {},
		"120":                           now.Add(2 * time.Minute),
		"-1":                            {},
		"99999999999999999999":          {},
		"soon":                          {},
		"Thu, 01 Jan 2026 00:05:00 GMT": now.Add(5 * time.Minute),
	} {
		if got := retryAfter(value, now); !got.Equal(want) {
			t.Errorf("%q: %s, want %s", value, got, want)
		}
	}
}

// The key that names a CA in paths never leaves the store.
func TestIssuerKey(t *testing.T) {
	for directory, want := range map[string]string{
		"https://acme-v02.api.letsencrypt.org/directory": "acme-v02.api.letsencrypt.org-directory",
		"https://ca.corp.example:9000/acme/a/directory":  "ca.corp.example-9000-acme-a-directory",
		"https://h/../../etc?x":                          "h-..-..-etc",
		"https://h/%2e%2e%2f":                            "h-..",
	} {
		if got := (&acmeIssuer{config: TLSACME{Directory: directory}}).IssuerKey(); got != want {
			t.Errorf("%s: %q, want %q", directory, got, want)
		}
	}
}
