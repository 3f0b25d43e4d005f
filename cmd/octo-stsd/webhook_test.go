package main

import (
	"context"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"net"
	"net/http"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/octo-sts/appliance/sts/audit"
	"github.com/octo-sts/appliance/sts/ststest"
)

// checkName is what a rule of GitHub's that requires the check has to name.
const checkName = "Trust Policy Validation"

// hookRig is a rig to which GitHub delivers events. Policies are used for an hour
// without asking whether they changed: what changes before that, a delivery did.
type hookRig struct {
	*rig
	installation int64    // of DefaultApp on acme
	secrets      []string // what must stand nowhere

	base map[string]int  // what newlyCounted counts from
	seen int             // entries of the audit log before the test began
	pid  int             // the daemon's, since the last start on purpose
	ctx  context.Context // of the whole test, where t is a subtest
}

// hookEvents are those that the Apps of a hookRig are subscribed to. GitHub sends
// those about installations and check suites in any case.
var hookEvents = []string{"push", "pull_request", "merge_group", "repository"}

func newHookRig(t *testing.T, c ststest.ServiceConfig) *hookRig {
	t.Helper()
	address, edit := freeAddress(t), c.Edit
	c.Webhook = true
	c.Edit = func(config map[string]any) {
		config["github"].(map[string]any)["policy_max_age"] = "1h"
		config["listen"].(map[string]any)["https"] = address // GitHub finds the daemon there after a restart, too
		if edit != nil {
			edit(config)
		}
	}
	h := &hookRig{rig: newRig(t, c), base: map[string]int{}, ctx: t.Context()}
	for _, d := range h.GitHub.Deliveries(ststest.DefaultApp) {
		if d.Event == "installation" && d.Action == "created" {
			h.installation = h.installationIn(d)
		}
	}
	for id := range h.apps(c) {
		h.GitHub.SetAppEvents(id, hookEvents...)
	}
	h.secrets = append(h.secrets, h.WebhookSecret)
	h.idle()
	h.base, h.pid, h.seen = h.counted(), h.PID(), len(h.webhookEntries())
	return h
}

func (h *hookRig) apps(c ststest.ServiceConfig) map[int64]bool {
	all := map[int64]bool{ststest.DefaultApp: true}
	for _, a := range c.Apps {
		all[a.ID] = true
	}
	return all
}

// freeAddress is one that stays free while nothing listens at it: below the ports
// that Linux gives to connections (ip_local_port_range, ip(7)).
func freeAddress(t *testing.T) string {
	t.Helper()
	for range 100 {
		address := fmt.Sprintf("127.0.0.1:%d", 20000+rand.IntN(12000))
		l, err := new(net.ListenConfig).Listen(t.Context(), "tcp", address)
		if err != nil {
			continue
		}
		l.Close()
		return address
	}
	t.Fatal("no port is free")
	return ""
}

// installationIn is the installation that the audit log has for a delivery.
func (h *hookRig) installationIn(d ststest.DeliveryRecord) (id int64) {
	h.t.Helper()
	h.eventually("the installation is audited", func() bool {
		for _, e := range h.audited(audit.Filter{RequestID: d.GUID}) {
			id = e.InstallationID
		}
		return id != 0
	})
	return id
}

// counted is how often each event had each outcome, and how often each limit shed
// a request unread ("shed transfer_encoding"), since the daemon's start.
func (h *hookRig) counted() map[string]int {
	h.t.Helper()
	counts := map[string]int{}
	for _, line := range strings.Split(h.metrics(), "\n") {
		var name string
		if found := deliveriesCounted.FindStringSubmatch(line); found != nil {
			name, line = found[1]+" "+found[2], found[3]
		} else if found := shedCounted.FindStringSubmatch(line); found != nil {
			name, line = "shed "+found[1], found[2]
		} else {
			continue
		}
		n, err := strconv.Atoi(line)
		if err != nil {
			h.t.Fatal(err)
		}
		counts[name] = n
	}
	return counts
}

var (
	deliveriesCounted = regexp.MustCompile(`^octo_sts_webhook_deliveries_total\{event="([^"]*)",outcome="([^"]*)"\} (.*)$`)
	shedCounted       = regexp.MustCompile(`^octo_sts_requests_shed_total\{limit="([^"]*)"\} (.*)$`)
)

func (h *hookRig) metrics() string {
	h.t.Helper()
	resp, err := h.Client().Get(h.AdminURL() + "/metrics")
	if err != nil {
		h.t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		h.t.Fatal(err)
	}
	return string(text)
}

// newlyCounted is what was counted since it was asked for last, as "push queued 2",
// sorted, with commas.
func (h *hookRig) newlyCounted() string {
	h.t.Helper()
	now := h.counted()
	var all []string
	for _, what := range slices.Sorted(maps.Keys(now)) {
		if n := now[what] - h.base[what]; n != 0 {
			all = append(all, fmt.Sprint(what, " ", n))
		}
	}
	h.base = now
	return strings.Join(all, ", ")
}

// restart restarts the daemon, whose counts begin anew.
func (h *hookRig) restart() {
	h.t.Helper()
	if err := h.Restart(h.ctx); err != nil {
		h.t.Fatal(err)
	}
	h.base, h.pid = map[string]int{}, h.PID()
}

// idle waits until the daemon is done with all deliveries that it took.
func (h *hookRig) idle() {
	h.t.Helper()
	h.eventually("no delivery waits", func() bool {
		_, _, checks := h.readiness()
		return checks["webhook"] == "ready: 0 deliveries wait"
	})
}

// webhookEntries are the audit entries because of deliveries, since the test began.
func (h *hookRig) webhookEntries() []audit.Entry {
	h.t.Helper()
	return slices.DeleteFunc(h.audited(audit.Filter{}), func(e audit.Entry) bool {
		return e.Kind != audit.TrustChange && e.Kind != audit.PolicyCheck
	})[h.seen:]
}

// refused is an exchange that must be refused, by what is known and not for a
// failure.
func (h *hookRig) refused(scope, identity string) ststest.Exchanged {
	h.t.Helper()
	x := h.exchange(scope, identity, h.job(nil))
	if x.Status != http.StatusForbidden || x.Token != "" {
		h.t.Errorf("%s as %s: %d %s, want 403", scope, identity, x.Status, x.Body)
	}
	return x
}

// warm is granted, and once more without asking GitHub for anything but the token.
func (h *hookRig) warm(scope, identity string) {
	h.t.Helper()
	h.granted(scope, identity)
	before := h.GitHub.Calls()
	x := h.granted(scope, identity)
	h.secrets = append(h.secrets, x.Token)
	for route, n := range h.GitHub.Calls() {
		if n != before[route] && (route == ststest.ContentsRoute || route == ststest.RepoInstallRoute) {
			h.t.Errorf("%s as %s is not warm: %s", scope, identity, route)
		}
	}
}

// put writes a policy of acme/app without telling anybody, and returns its path.
// Rest is the policy without its issuer.
func (h *hookRig) put(identity, rest string) string {
	h.GitHub.PutPolicy("acme", "app", identity, "issuer: "+h.Issuer.URL()+"\n"+rest)
	return policyPath(identity)
}

func policyPath(identity string) string { return ".github/chainguard/" + identity + ".sts.yaml" }

// A policy that is good, and one that nobody could use.
const (
	readerPolicy = "subject: repo:acme/app:ref:refs/heads/main\nclaim_pattern: {repository: acme/app}\npermissions: {contents: read}\n"
	brokenPolicy = "subject_pattern: '('\npermissions: {contents: read}\n"
)

// write is the commit of one policy.
func (h *hookRig) write(identity, rest string) []ststest.Change {
	return []ststest.Change{{Path: policyPath(identity), Content: "issuer: " + h.Issuer.URL() + "\n" + rest}}
}

func remove(identity string) []ststest.Change {
	return []ststest.Change{{Path: policyPath(identity), Delete: true}}
}

// answers is how deliveries were answered, as "push 202, check_suite 200".
func answers(all ...ststest.DeliveryRecord) string {
	var said []string
	for _, d := range all {
		said = append(said, fmt.Sprint(d.Event, " ", d.StatusCode))
	}
	return strings.Join(said, ", ")
}

// pushOf is the delivery of the event push.
func pushOf(t *testing.T, p ststest.Pushed) ststest.DeliveryRecord {
	t.Helper()
	i := slices.IndexFunc(p.Deliveries, func(d ststest.DeliveryRecord) bool { return d.Event == "push" })
	if i < 0 {
		t.Fatalf("no push among %+v", p.Deliveries)
	}
	return p.Deliveries[i]
}

// checkRun is the one check run of a commit of acme/app.
func (h *hookRig) checkRun(sha string) ststest.CheckRun {
	h.t.Helper()
	h.eventually("the commit has a check run", func() bool { return len(h.GitHub.CheckRuns("acme", "app", sha)) > 0 })
	h.idle()
	runs := h.GitHub.CheckRuns("acme", "app", sha)
	if len(runs) != 1 || runs[0].Name != checkName || runs[0].Status != "completed" {
		h.t.Fatalf("the check runs of %s: %+v", sha, runs)
	}
	return runs[0]
}

// checkNoSecretIsWritten looks for webhook secrets, and for tokens of GitHub's and
// of issuers', in the daemon's log and in all its files.
func (h *hookRig) checkNoSecretIsWritten() {
	h.t.Helper()
	written := written(h.t, h.Service)
	if len(written) < 3 {
		h.t.Fatalf("only %d places were looked at", len(written))
	}
	for where, text := range written {
		for _, secret := range append(h.secrets, "ghs_", "eyJ") {
			if strings.Contains(text, secret) {
				h.t.Errorf("%s holds %.8s…", where, secret)
			}
		}
	}
}

// backdated makes what is delivered meanwhile look some seconds older: what is
// younger may be under way still, and is not asked for again.
func (h *hookRig) backdated(do func()) {
	h.GitHub.SetClockOffset(-40 * time.Second)
	defer h.GitHub.SetClockOffset(0)
	do()
}
