package main

import (
	"net/http"
	"strings"
	"syscall"
	"testing"

	"github.com/octo-sts/appliance/sts/audit"
	"github.com/octo-sts/appliance/sts/ststest"
)

// awaitReadiness waits until /readyz answers with a status and a state, and
// returns what it says of the signer.
func (r *rig) awaitReadiness(wantStatus int, wantState string) string {
	r.t.Helper()
	var checks map[string]string
	r.eventually("/readyz says "+wantState, func() bool {
		status, state, c := r.readiness()
		checks = c
		return status == wantStatus && state == wantState
	})
	return checks["signer"]
}

// The signer dies, or hangs, under load: exchanges go on with the App JWT at
// hand, /readyz says so, and all is well once the signer is back.
func TestSignerLostUnderLoad(t *testing.T) {
	r := newRig(t, ststest.ServiceConfig{Issuer: ststest.IssuerConfig{Alg: "ES256"}})
	for _, c := range []struct {
		name       string
		lose, mend func() error
	}{
		{"killed", r.Signer.Kill, func() error { return r.Signer.Restart(t.Context()) }},
		{"stopped", r.Signer.Stop, func() error { return r.Signer.Restart(t.Context()) }},
		{"hanging",
			func() error { return syscall.Kill(r.Signer.PID(), syscall.SIGSTOP) },
			func() error { return syscall.Kill(r.Signer.PID(), syscall.SIGCONT) }},
	} {
		t.Run(c.name, func(t *testing.T) {
			l := r.startLoad(8, "issues", "acme/app")
			r.eventually("load", func() bool { return l.granted() > 20 })
			if err := c.lose(); err != nil {
				t.Fatal(err)
			}
			before := l.granted()
			detail := r.awaitReadiness(http.StatusOK, "degraded")
			if !strings.HasPrefix(detail, "degraded: ") || !strings.Contains(detail, "signer") || !strings.Contains(detail, "exchanges go on with cached App JWTs until") {
				t.Errorf("/readyz without a signer: %q", detail)
			}
			r.eventually("exchanges without a signer", func() bool { return l.granted() > before+100 })
			if err := c.mend(); err != nil {
				t.Fatal(err)
			}
			if detail := r.awaitReadiness(http.StatusOK, "ready"); detail != "ready: " {
				t.Errorf("/readyz with the signer back: %q", detail)
			}
			l.allGranted(t)
		})
	}
}

// A daemon that comes up without a signer listens, refuses with 503, says why,
// and serves as soon as there is one.
func TestDaemonStartedWithoutSigner(t *testing.T) {
	r := newRig(t, ststest.ServiceConfig{Unready: true})
	r.awaitReadiness(http.StatusOK, "ready")
	r.granted("acme/app", "reader")
	if err := r.Signer.Kill(); err != nil {
		t.Fatal(err)
	}
	if err := r.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	detail := r.awaitReadiness(http.StatusServiceUnavailable, "failing")
	if !strings.HasPrefix(detail, "failing: ") || !strings.Contains(detail, "no App has a usable App JWT left") || !strings.Contains(detail, "signer") {
		t.Errorf("/readyz without a signer: %q", detail)
	}
	minted := len(r.GitHub.Mints())
	// The issuer's keys may be a moment away, too, which is not what this test is about.
	r.eventually("the issuer's keys", func() bool {
		_, _, checks := r.readiness()
		return strings.HasPrefix(checks["issuers"], "ready")
	})
	for _, w := range r.wires() {
		a := w.ask(t, "acme/app", "reader", r.job(nil))
		if gatewayStatus(a.Code) != http.StatusServiceUnavailable || a.Message != "temporarily unavailable, try again (request "+a.RequestID+")" || a.Token != "" {
			t.Errorf("%s: %+v", w.name, a)
		}
		lines := r.audited(audit.Filter{RequestID: a.RequestID})
		if len(lines) != 1 || lines[0].Decision != audit.DecisionFailed || !strings.Contains(lines[0].Reason, "signer_unavailable: ") {
			t.Errorf("%s: audit log: %+v", w.name, lines)
		}
	}
	if n := len(r.GitHub.Mints()); n != minted {
		t.Errorf("%d tokens were minted without a signer", n-minted)
	}
	if resp, err := http.Get(r.AdminURL() + "/healthz"); err != nil || resp.StatusCode != http.StatusOK {
		t.Errorf("/healthz: %v, %v: the process is alive, and restarting it would not help", resp, err)
	}
	if err := r.Signer.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	r.awaitReadiness(http.StatusOK, "ready")
	r.granted("acme/app", "reader")
}

// A daemon that asks for an App that the signer does not have says so, and
// serves the others.
func TestAppWithoutKey(t *testing.T) {
	r := newRig(t, ststest.ServiceConfig{Unready: true})
	r.reconfigure(func(c map[string]any) {
		c["github"].(map[string]any)["apps"] = []any{
			map[string]any{"id": ststest.DefaultApp},
			map[string]any{"id": 4321, "organizations": []any{"other"}},
		}
	})
	r.eventually("/readyz names the App", func() bool {
		_, _, checks := r.readiness()
		return strings.Contains(checks["signer"], "App 4321 is not in the signer's configuration")
	})
	r.eventually("exchanges as the other App", func() bool {
		return r.exchange("acme/app", "reader", r.job(nil)).Status == http.StatusOK
	})
}
