package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/octo-sts/appliance/sts/audit"
	"github.com/octo-sts/appliance/sts/ststest"
)

// crashScopes are the repositories that the callers of a crash ask tokens for.
var crashScopes = []string{"acme/app", "acme/lib", "acme/three", "acme/four"}

// kill -9 of the daemon under load, now and then of the signer or of both, again and again: whatever a client holds or was
// told, and whatever GitHub ever minted, the audit log accounts for; and whoever verifies it meanwhile, after a kill,
// beside the daemon or at the end, with checkpoints from before, is never told anything but yes.
func TestKilledUnderLoad(t *testing.T) {
	c := newKillCampaign(t)
	stopWatching := c.auditor.watch()
	defer stopWatching()
	for range kills(t, 20) {
		c.round()
	}
	c.load.end()
	stopWatching()
	if err := c.Stop(); err != nil {
		t.Fatal(err)
	}
	c.auditor.keep()
	kept := c.auditor.verifyAll("at the end")
	if signed, all := c.signedSize(), c.entries(); signed != all {
		t.Errorf("at the end %d of %d entries are covered", signed, all)
	}
	c.noFalseAlarm()
	for _, segment := range c.segments() {
		checkWhole(t, segment)
	}
	a := c.account()
	a.checkHeld(t, c.load)
	a.checkMinted(t, c.GitHub.Mints())
	for _, id := range c.told {
		if a.denied[id].RequestID == "" {
			t.Errorf("request %s was denied, and the log does not have it", id)
		}
	}
	t.Logf("kills of: %v; %d tokens received, %d refusals, %d exchanges cut off, others refused: %v; %d mints, %d intents, %d of them without an outcome; %d times verified, %d checkpoints kept, %d entries",
		c.killed, c.load.status[http.StatusOK], len(c.told), len(c.load.lost), c.load.refused, a.mints, len(a.intents), a.open,
		c.auditor.runs, kept, c.entries())
}

// killCampaign is a rig under load whose processes are killed.
type killCampaign struct {
	*rig
	load    *load
	auditor *auditor
	whole   map[string]bool // segments that were looked at
	told    []string        // request IDs of refusals that were answered
	rounds  int
	killed  map[string]int
}

func newKillCampaign(t *testing.T) *killCampaign {
	t.Helper()
	r := newRig(t, ststest.ServiceConfig{Issuer: ststest.IssuerConfig{Alg: "ES256"}})
	r.GitHub.AddRepository("acme", "three")
	r.GitHub.AddRepository("acme", "four")
	for _, scope := range crashScopes {
		r.GitHub.PutPolicy("acme", filepath.Base(scope), "crash", "issuer: "+r.Issuer.URL()+"\nsubject_pattern: repo:acme/app:.*\npermissions: {issues: write}\n")
	}
	r.GitHub.SetLatency(10 * time.Millisecond) // so that kills meet mints under way, too
	return &killCampaign{rig: r, load: r.startLoad(8, "crash", crashScopes...), auditor: r.newAuditor(), whole: map[string]bool{}, killed: map[string]int{}}
}

// round lets some exchanges through, kills, looks, and starts again what was killed.
func (c *killCampaign) round() {
	c.t.Helper()
	enough := c.load.granted() + 1 + rand.IntN(20)
	c.eventually("more grants", func() bool { return c.load.granted() >= enough })
	c.auditor.keep()
	time.Sleep(time.Duration(rand.IntN(10_000)) * time.Microsecond)
	if rand.IntN(2) == 0 { // then a refusal may be the last that was recorded
		if x := c.exchange("acme/app", "nobody", c.job(nil)); x.Status == http.StatusForbidden {
			c.told = append(c.told, x.RequestID)
		}
	}
	victim := "daemon"
	switch c.rounds++; c.rounds % 10 {
	case 5:
		victim = "signer"
	case 0:
		victim = "daemon and signer"
	}
	c.killed[victim]++
	var kill, start []error
	if strings.Contains(victim, "signer") {
		kill = append(kill, c.Signer.Kill())
	}
	if strings.Contains(victim, "daemon") {
		kill = append(kill, c.Kill())
	}
	if err := errors.Join(kill...); err != nil {
		c.t.Fatal(err)
	}
	var verifying sync.WaitGroup
	defer verifying.Wait()
	verifying.Go(func() { c.auditor.verify("after a kill of the " + victim) })
	if strings.Contains(victim, "signer") {
		start = append(start, c.Signer.Restart(c.t.Context()))
	}
	if strings.Contains(victim, "daemon") {
		start = append(start, c.Restart(c.t.Context()))
	}
	if err := errors.Join(start...); err != nil {
		c.t.Fatal(err)
	}
	segments := c.segments()
	for _, segment := range segments[:len(segments)-1] { // the last is being written
		if !c.whole[segment] {
			checkWhole(c.t, segment)
			c.whole[segment] = true
		}
	}
	c.auditor.verify("after a restart of the " + victim)
}

// kills is how often a test kills the daemon: what $OCTO_STS_KILLS says, or a few
// times.
func kills(t *testing.T, few int) int {
	t.Helper()
	v := os.Getenv("OCTO_STS_KILLS")
	if v == "" {
		return few
	}
	n, err := strconv.Atoi(v)
	if err != nil {
		t.Fatalf("OCTO_STS_KILLS: %v", err)
	}
	return n
}

// account is what an audit log says, by request ID and by token.
type account struct {
	intents  map[string]audit.Entry
	outcomes map[string]audit.Entry
	denied   map[string]audit.Entry
	byToken  map[string]audit.Entry // outcomes, by the token's hash

	mints, open int // filled in by checkMinted
}

// account reads the whole log and refuses one that is not well-formed: a line
// that is none, two intents or outcomes of one request, an outcome before its
// intent or of another scope.
func (r *rig) account() *account {
	r.t.Helper()
	a := &account{intents: map[string]audit.Entry{}, outcomes: map[string]audit.Entry{}, denied: map[string]audit.Entry{}, byToken: map[string]audit.Entry{}}
	next := uint64(0)
	for record, err := range audit.Read(r.AuditDir) {
		e := record.Entry
		switch {
		case err != nil:
			r.t.Fatal(err)
		case record.Index != next:
			r.t.Fatalf("entry %d follows entry %d", record.Index, next-1)
		case e.Kind == audit.Intent && a.intents[e.RequestID].RequestID == "":
			a.intents[e.RequestID] = e
		case e.Kind == audit.Outcome && a.outcomes[e.RequestID].RequestID == "" && a.intents[e.RequestID].Scope == e.Scope:
			a.outcomes[e.RequestID] = e
			if e.TokenSHA256 != "" {
				a.byToken[e.TokenSHA256] = e
			}
		case e.Kind == audit.Denied:
			a.denied[e.RequestID] = e
		default:
			r.t.Fatalf("entry %d has no place: %s", record.Index, record.Line)
		}
		next++
	}
	return a
}

// segments are the log's files, in order. There is at least one.
func (r *rig) segments() []string {
	r.t.Helper()
	segments, err := filepath.Glob(filepath.Join(r.AuditDir, "*.jsonl"))
	if err != nil || len(segments) == 0 {
		r.t.Fatalf("segments: %v, %v", segments, err)
	}
	return segments
}

// checkWhole: nothing in a segment is half-written, as it is after a restart.
func checkWhole(t *testing.T, segment string) {
	t.Helper()
	text, err := os.ReadFile(segment)
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		if !strings.HasSuffix(line, "\n") || !json.Valid([]byte(line)) {
			t.Errorf("%s has a line that is not whole: %q", segment, line)
		}
	}
}

// checkHeld: each token that a client received has both its lines.
func (a *account) checkHeld(t *testing.T, l *load) {
	t.Helper()
	for _, x := range l.answers {
		if x.Status != http.StatusOK {
			continue
		}
		hash := tokenSHA256(x.Token)
		_, intended := a.intents[x.RequestID]
		if o := a.outcomes[x.RequestID]; !intended || o.TokenSHA256 != hash || o.Decision != audit.DecisionGranted {
			t.Errorf("a client holds token %s of request %s; intent %t, outcome %+v", hash, x.RequestID, intended, o)
		}
	}
}

// wish is what a token is for, in a form to compare: an intent's, or a mint's
// without the permission that GitHub always adds.
func wish(scope string, permissions map[string]string) string {
	asked := maps.Clone(permissions)
	delete(asked, "metadata")
	return fmt.Sprint(scope, asked) // maps print sorted
}

// checkMinted: each token that GitHub ever minted for a caller was announced by
// an intent, for the same repository and permissions, before it was minted. Which
// intent, an outcome says; where the daemon died before it, there is an intent
// without an outcome for each such token.
func (a *account) checkMinted(t *testing.T, mints []ststest.Mint) {
	t.Helper()
	open := map[string]int{} // intents without an outcome
	for id, e := range a.intents {
		if _, closed := a.outcomes[id]; !closed {
			open[wish(e.Scope, e.Permissions)]++
			a.open++
		}
	}
	unaccounted, exist := map[string]int{}, map[string]bool{}
	for _, m := range mints {
		if m.AllRepositories {
			continue // the daemon's own, for reading policies: no test that accounts grants all
		}
		a.mints++
		exist[m.TokenSHA256] = true
		minted := wish(m.Owner+"/"+strings.Join(m.Repositories, ","), m.Permissions)
		o, closed := a.byToken[m.TokenSHA256]
		if !closed {
			unaccounted[minted]++
			continue
		}
		i := a.intents[o.RequestID]
		if wish(i.Scope, i.Permissions) != minted || !slices.Equal(i.Repositories, m.Repositories) || i.Time.After(m.At) {
			t.Errorf("minted: %+v; announced: %+v", m, i)
		}
	}
	for minted, n := range unaccounted {
		if n > open[minted] {
			t.Errorf("%s: %d tokens were minted that no outcome knows, with %d intents that could be theirs", minted, n, open[minted])
		}
	}
	for hash, o := range a.byToken {
		if !exist[hash] {
			t.Errorf("GitHub never minted what the log says: %+v", o)
		}
	}
}

// An answer of GitHub's that is lost on the way leaves a token that nobody has,
// and an outcome that says so.
func TestLostMintIsAccountedFor(t *testing.T) {
	r := newRig(t, ststest.ServiceConfig{})
	r.granted("acme/app", "issues")
	r.GitHub.Fail(ststest.Fault{Route: ststest.MintRoute, Lost: true, Count: 1})
	x := r.exchange("acme/app", "issues", r.job(nil))
	o := r.account().outcomes[x.RequestID]
	if x.Status != http.StatusServiceUnavailable || o.Decision != audit.DecisionFailed || o.Reason == "" || o.TokenSHA256 != "" {
		t.Errorf("%d %s, audited as %+v", x.Status, x.Body, o)
	}
	if n := len(r.GitHub.Mints()); n != 3 {
		t.Errorf("%d mints, want the one that was lost and no other in its place", n)
	}
}

// A daemon whose audit log was damaged in a way that no crash explains does not
// start.
func TestDamagedAuditLogStopsTheStart(t *testing.T) {
	r := newRig(t, ststest.ServiceConfig{})
	r.granted("acme/app", "issues")
	if err := r.Stop(); err != nil {
		t.Fatal(err)
	}
	segment := r.segments()[0]
	text, err := os.ReadFile(segment)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(segment, append([]byte("no entry\n"), text...), 0o640); err != nil {
		t.Fatal(err)
	}
	if err := r.Restart(t.Context()); err == nil || exitStatus(err) != 1 {
		t.Errorf("Restart: %v, want exit status 1", err)
	}
	if err := errors.Join(os.WriteFile(segment, text, 0o640), r.Restart(t.Context())); err != nil {
		t.Fatal(err)
	}
	r.granted("acme/app", "issues")
}
