package main

import (
	"crypto/x509"
	"net/http"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/octo-sts/appliance/signer/signertest"
	"github.com/octo-sts/appliance/sts/ststest"
)

func (r *rig) gitHubRoots() *x509.CertPool {
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(r.GitHub.CAPEM())
	return roots
}

// seeded is something that is wrong, and which check has to find it, in which words.
type seeded struct {
	name  string
	seed  func(r *probeRig) (mend func())
	finds string // target/check
	says  string // in what came
	slow  bool   // it is only seeded where $OCTO_STS_PROBES says how many probes are to be made
}

// must fails the test where a step of a seed does.
func (r *probeRig) must(err error) {
	r.t.Helper()
	if err != nil {
		r.t.Fatal(err)
	}
}

// rewritten has another policy for the probe for a while.
func rewritten(rest string) func(*probeRig) func() {
	return func(r *probeRig) func() {
		r.policy(rest)
		return func() { r.policy("subject: probe\npermissions: {contents: read}\n") }
	}
}

// faulty has GitHub do something wrong for a while.
func faulty(f ststest.Fault) func(*probeRig) func() {
	return func(r *probeRig) func() { return r.GitHub.Fail(f).Clear }
}

// seeds are what can be wrong with an appliance, its policy, its machine and GitHub.
func seeds(shim *signertest.Shim, disk *smallDisk) []seeded {
	all := []seeded{
		{"a policy that grants a write", rewritten("subject: probe\npermissions: {contents: write}\n"), "positive/write", "HTTP status 201", false},
		{"a policy that grants something else, too", rewritten("subject: probe\npermissions: {contents: read, issues: write}\n"), "positive/policy", "issues: write", false},
		{"a policy that is gone", func(r *probeRig) func() {
			r.GitHub.DeleteFile("watch", "probe", ".github/chainguard/probe.sts.yaml")
			return func() { rewritten("")(r)() }
		}, "positive/exchange", "the exchange is not allowed", false},
		{"a policy that lets strangers in", rewritten("subject_pattern: .+\npermissions: {contents: read}\n"), "negative/wrong-subject", "an installation token", false},
		{"an audience that nobody looks at", rewritten("subject: probe\naudience_pattern: .+\npermissions: {contents: read}\n"), "negative/wrong-audience", "an installation token", false},
		{"an identity that should not be there", func(r *probeRig) func() {
			r.GitHub.PutPolicy("watch", "probe", "probe-that-does-not-exist", ststest.ProbePolicy("sts.example.com"))
			return func() {
				r.GitHub.DeleteFile("watch", "probe", ".github/chainguard/probe-that-does-not-exist.sts.yaml")
			}
		}, "negative/missing-identity", "an installation token", false},
		{"a token for more than one repository", faulty(ststest.Fault{Route: "GET /installation/repositories", Status: http.StatusOK,
			Body: `{"total_count":2,"repositories":[{"full_name":"watch/probe"},{"full_name":"watch/other"}]}`}), "positive/reach", "watch/other", false},
		{"GitHub away", faulty(ststest.Fault{Reset: true}), "positive/exchange", "temporarily unavailable", true},
		{"an App that is suspended", func(r *probeRig) func() {
			r.GitHub.Suspend(r.installation)
			return func() { r.GitHub.Unsuspend(r.installation) }
		}, "positive/exchange", "the exchange is not allowed", false},
		{"a token that outlives its revocation", faulty(ststest.Fault{Route: ststest.RevokeRoute, Status: http.StatusNoContent}), "positive/dead", "HTTP status 200", false},
		{"a GitHub that revokes nothing", faulty(ststest.Fault{Route: ststest.RevokeRoute, Status: http.StatusForbidden}), "positive/revoke", "", true},
		{"a clock that is off", func(r *probeRig) func() {
			r.GitHub.SetClockOffset(10 * time.Minute)
			return func() { r.GitHub.SetClockOffset(0) }
		}, "health/clock", "this host's clock is off by", true},
		{"a certificate about to expire", expiring(24*time.Hour, 30*24*time.Hour), "positive/certificate", "less than a quarter of its life left", false},
		{"a certificate that expired", expiring(2*time.Second, 90*24*time.Hour), "positive/certificate", "one that expired at", false},
		{"a signer that is dead", func(r *probeRig) func() {
			r.must(r.Signer.Kill())
			return func() { r.must(r.Signer.Restart(r.t.Context())) }
		}, "health/signer", "exchanges go on with cached App JWTs", false},
		{"checkpoints that stopped", func(r *probeRig) func() {
			state := r.Signer.StateDirectory()
			r.must(os.Rename(state, state+".away"))
			return func() { r.must(os.Rename(state+".away", state)) }
		}, "health/checkpoint", "entries are not since", false},
		{"an HSM whose token is gone", func(r *probeRig) func() {
			r.must(shim.Set("* rv=0xe0"))
			r.must(syscall.Kill(r.Signer.WorkerPID(0), syscall.SIGKILL))
			return func() { r.must(shim.Clear()) }
		}, "health/hsm", "HSM 0: ", true},
		{"deliveries that do not get here", undelivered, "health/webhook", "GitHub's deliveries have failed since", false},
	}
	if disk != nil {
		all = append(all, seeded{"a disk that is full", func(*probeRig) func() {
			disk.fill()
			return disk.empty
		}, "health/disk", "free of", true})
	}
	return all
}

// expiring has a certificate that expires that soon, of a life that long.
func expiring(in, life time.Duration) func(*probeRig) func() {
	return func(r *probeRig) func() {
		until := time.Now().Add(in)
		_, _, err := r.RenewCertificateFor(until.Add(-life), until)
		r.must(err)
		r.forget() // which takes it up
		if in < time.Minute {
			time.Sleep(time.Until(until.Add(time.Second)))
		}
		return func() {
			_, _, err := r.RenewCertificate()
			r.must(err)
		}
	}
}

// undelivered has GitHub find nobody at /webhook, not even when it is asked to try
// again. GitHub is asked at a start.
func undelivered(r *probeRig) func() {
	r.GitHub.LoseDeliveries(ststest.DefaultApp, true)
	r.GitHub.SetClockOffset(-40 * time.Second)
	r.GitHub.Push("acme", "app", "main", []ststest.Change{{Path: "main.go", Content: "package main\n"}})
	r.GitHub.SetClockOffset(0)
	r.must(r.Restart(r.t.Context()))
	r.eventually("GitHub to try again", func() bool {
		for _, d := range r.GitHub.Deliveries(ststest.DefaultApp) {
			if d.Redelivery && d.StatusCode != 0 {
				return true
			}
		}
		return false
	})
	r.GitHub.LoseDeliveries(ststest.DefaultApp, true) // each start of the daemon sets the hook anew
	r.must(r.Restart(r.t.Context()))
	return func() {
		r.GitHub.LoseDeliveries(ststest.DefaultApp, false)
		r.GitHub.Push("acme", "app", "main", []ststest.Change{{Path: "main.go", Content: "package other\n"}})
		r.must(r.Restart(r.t.Context()))
	}
}

// A probe finds whatever is wrong, says what it is and what mends it, and finds
// nothing any more once that is mended.
func TestProbeFindsSeededFaults(t *testing.T) {
	shim, err := signertest.BuildShim(t.Context(), t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	c := ststest.ServiceConfig{Webhook: true, Shim: shim}
	var disk *smallDisk
	if os.Geteuid() == 0 {
		disk = newSmallDisk(t)
		c.Edit = disk.configure
	}
	r := newProbeRig(t, c)
	if disk != nil {
		r.AuditDir = disk.log()
	}
	r.GitHub.SetAppEvents(ststest.DefaultApp, "push")
	r.mustBeWell()
	for _, s := range seeds(shim, disk) {
		if s.slow && os.Getenv("OCTO_STS_PROBES") == "" {
			continue
		}
		began := time.Now()
		mend := s.seed(r)
		var found map[string]string
		r.eventually(s.name+" to be found as "+s.finds, func() bool {
			found = map[string]string{}
			for name, c := range r.probe("--negative").failures() {
				found[name] = c.Came
				if c.Expected == "" || c.Came == "" || c.Do == "" {
					t.Errorf("%s: a failure without words: %+v", s.name, c)
				}
			}
			came, ok := found[s.finds]
			return ok && strings.Contains(came, s.says)
		})
		mend()
		r.mustBeWell()
		t.Logf("%-42s found as %s, with %d more, and well again after %.1f s", s.name, s.finds, len(found)-1, time.Since(began).Seconds())
	}
}
