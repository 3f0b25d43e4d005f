package webhook

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.etcd.io/bbolt"
	"go.uber.org/zap"
	"golang.org/x/time/rate"

	"github.com/octo-sts/appliance/sts/audit"
	"github.com/octo-sts/appliance/sts/githubapp"
	"github.com/octo-sts/appliance/sts/ststest"
)

func TestWhatAFailureMeans(t *testing.T) {
	old := giveUpAfter + time.Minute
	for name, c := range map[string]struct {
		err      error
		age      time.Duration
		attempts int // before
		outcome  string
		in       time.Duration // until the next
	}{
		"limited":                    {&githubapp.RateLimitError{RetryAfter: 40 * time.Minute}, 0, 0, OutcomeRetry, 40 * time.Minute},
		"limited for a moment":       {&githubapp.RateLimitError{RetryAfter: 1}, 0, 0, OutcomeRetry, firstRetry},
		"unavailable":                {githubapp.ErrUnavailable, 0, 0, OutcomeRetry, time.Second},
		"unavailable once more":      {githubapp.ErrUnavailable, 0, 3, OutcomeRetry, 8 * time.Second},
		"unavailable for hours":      {githubapp.ErrUnavailable, 0, 100, OutcomeRetry, 5 * time.Minute},
		"no App JWT":                 {githubapp.ErrNoAppJWT, 0, 0, OutcomeRetry, time.Second},
		"the audit log is full":      {audit.ErrFull, 0, 0, OutcomeRetry, time.Second},
		"not installed":              {githubapp.ErrNotInstalled, 0, 0, OutcomeRefused, 0},
		"refused":                    {githubapp.ErrRefused, 0, 0, OutcomeRetry, time.Second},
		"refused again and again":    {githubapp.ErrRefused, 0, doubtedAttempts - 1, OutcomeRefused, 0},
		"too large":                  {githubapp.ErrTooLarge, 0, 0, OutcomeRefused, 0},
		"not there yet":              {githubapp.ErrNotFound, 0, 0, OutcomeRetry, time.Second},
		"not there at all":           {githubapp.ErrNotFound, 0, doubtedAttempts - 1, OutcomeRefused, 0},
		"unavailable for three days": {githubapp.ErrUnavailable, old, 100, OutcomeFailed, 0},
		"limited for three days":     {&githubapp.RateLimitError{RetryAfter: time.Hour}, old, 1, OutcomeFailed, 0},
		"refused after three days":   {githubapp.ErrRefused, old, 100, OutcomeRefused, 0},
	} {
		t.Run(name, func(t *testing.T) {
			r := &Receiver{log: zap.NewNop(), noise: rate.NewLimiter(20, 20)}
			began := time.Now()
			e := &entry{received: began.Add(-c.age), attempts: c.attempts}
			outcome, isFinal := r.failed(&task{entry: e, err: fmt.Errorf("doing: %w", c.err)}, "push")
			if outcome != c.outcome || isFinal != (c.outcome != OutcomeRetry) {
				t.Errorf("%s (final %v), want %s", outcome, isFinal, c.outcome)
			}
			if !isFinal && (e.due.Before(began.Add(c.in)) || e.due.After(time.Now().Add(c.in))) {
				t.Errorf("due in %s, want %s", e.due.Sub(began), c.in)
			}
		})
	}
}

func TestMergedChecks(t *testing.T) {
	branch := checkJob{Head: after}
	always := checkJob{Head: after, Always: true}
	exact := checkJob{Head: after, Exact: true, Base: before}
	for name, c := range map[string]struct {
		jobs []checkJob
		want checkJob
	}{
		"one":                        {[]checkJob{branch}, branch},
		"one must conclude":          {[]checkJob{branch, always, branch}, always},
		"a push to the default":      {[]checkJob{always, exact}, checkJob{Head: after, Exact: true, Base: before, Always: true}},
		"the push comes first":       {[]checkJob{exact, always}, checkJob{Head: after, Exact: true, Base: before, Always: true}},
		"two pushes from one commit": {[]checkJob{exact, exact}, exact},
		"two pushes":                 {[]checkJob{exact, {Head: after, Exact: true, Base: zero}}, checkJob{Head: after, Exact: true}},
	} {
		t.Run(name, func(t *testing.T) {
			var tasks []*task
			for _, j := range c.jobs {
				tasks = append(tasks, &task{item: &item{Check: &j}})
			}
			if diff := cmp.Diff(c.want, merged(tasks)); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestChangeEntries(t *testing.T) {
	var paths []string
	for n := range 150 {
		paths = append(paths, fmt.Sprintf(".github/chainguard/p%03d.sts.yaml", n))
	}
	entriesOf := func(event string, payload object) []audit.Entry {
		e, err := interpretJSON(t, event, payload)
		if err != nil {
			t.Fatal(err)
		}
		return e.item.changeEntries()
	}
	common := audit.Entry{Kind: audit.TrustChange, RequestID: "00000000-0000-0000-0000-000000000000", Scope: "acme/app",
		Sender: "octocat", AppID: testApp, InstallationID: 77}
	entry := func(change func(*audit.Entry)) audit.Entry {
		e := common
		change(&e)
		return e
	}
	one := entry(func(e *audit.Entry) {
		e.PolicyRepository, e.PolicyPath, e.Reason = "acme/app", policy, pushReason+" changed it"
	})
	if diff := cmp.Diff([]audit.Entry{one}, entriesOf("push", pushTo("main", policy))); diff != "" {
		t.Errorf("one policy: %s", diff)
	}
	unlisted := entry(func(e *audit.Entry) {
		e.PolicyRepository = "acme/app"
		e.Reason = pushReason + " may have changed any file in .github/chainguard/: GitHub does not list all that it changed"
	})
	if diff := cmp.Diff([]audit.Entry{one, unlisted}, entriesOf("push", having(pushTo("main", policy), object{"forced": true}))); diff != "" {
		t.Errorf("forced: %s", diff)
	}
	many := entriesOf("push", pushTo("main", paths...))
	if len(many) != 101 || many[99].PolicyPath != paths[99] || many[100].Reason != pushReason+" changed 50 others" {
		t.Errorf("150 policies: %d entries, the last: %+v", len(many), many[len(many)-1])
	}
	added := entry(func(e *audit.Entry) {
		e.Scope, e.Repositories, e.Reason = "acme", []string{"a"}, "repositories were added to the installation"
	})
	if diff := cmp.Diff([]audit.Entry{added}, entriesOf("installation_repositories", aboutInstallation(object{
		"action": "added", "repositories_added": []object{{"name": "a"}}, "repositories_removed": []object{}}))); diff != "" {
		t.Errorf("added: %s", diff)
	}
	nobody := entriesOf("repository", having(deletion("x"), object{"sender": nil}))
	if len(nobody) != 1 || nobody[0].Sender != "" || nobody[0].Reason != "the repository was deleted" {
		t.Errorf("null sender: %+v", nobody)
	}
}

// The log's own bounds must not cut what a check's entry says.
func TestCheckEntry(t *testing.T) {
	i := &item{AppID: testApp, Owner: "acme", Repository: "app", Check: &checkJob{Head: after}}
	v := &verdict{conclusion: "failure", title: strings.Repeat("t", 400)}
	for range 100 {
		v.files = append(v.files, policy)
	}
	e := i.checkEntry(77, v)
	if len(e.Reason) > 1024 || !strings.Contains(e.Reason, "commit 2222222: failure: ttt") || !strings.Contains(e.Reason, "100 files: "+policy) {
		t.Errorf("%d bytes: %s", len(e.Reason), e.Reason)
	}
	v.files = v.files[:1]
	if e := i.checkEntry(77, v); e.PolicyPath != policy || e.InstallationID != 77 {
		t.Errorf("one file: %+v", e)
	}
}

func TestBackoffIsBounded(t *testing.T) {
	for attempts := 1; attempts < 100; attempts++ {
		if d := backoff(attempts); d < firstRetry || d > lastRetry {
			t.Errorf("%s after %d attempts", d, attempts)
		}
	}
}

// After three days an item has failed for good; when GitHub sends the delivery
// again, what was left of it is done, and nothing is written twice.
func TestGivenUpAndRedelivered(t *testing.T) {
	r := newRig(t)
	pushed := r.github.Push("acme", "app", "main", writing(policy, unsoundPolicy))
	stuck := r.receiver.schedule.deliveries()
	if err := r.state.Update(func(tx *bbolt.Tx) error { // it arrived long ago
		key, value := tx.Bucket(bucketQueue).Cursor().First()
		var i item
		if err := json.Unmarshal(value, &i); err != nil {
			return err
		}
		i.Received = i.Received.Add(-giveUpAfter - time.Minute)
		value, err := json.Marshal(i)
		return errors.Join(err, tx.Bucket(bucketQueue).Put(bytes.Clone(key), value))
	}); err != nil {
		t.Fatal(err)
	}
	r.reopen()
	fault := r.github.Fail(ststest.Fault{Status: 503, Match: func(req *http.Request) bool { return strings.Contains(req.URL.Path, "/compare/") }})
	stop := r.run()
	r.idle()
	stop()
	fault.Clear()
	if r.observed("push", OutcomeFailed) != 1 || r.logs.FilterMessageSnippet("given up").Len() != 1 {
		t.Fatalf("observed: %v", r.seen)
	}
	r.reopen()
	r.run()
	for _, d := range pushed.Deliveries {
		if id := must(parseDeliveryID(d.GUID))(t); stuck[deliveryKey{testApp, id}] {
			if again := r.github.Redeliver(testApp, d.ID); again.StatusCode != 202 {
				t.Errorf("redelivered: %d %s", again.StatusCode, again.Body)
			}
		}
	}
	eventually(t, "the check is reported", func() bool { return len(r.github.CheckRuns("acme", "app", pushed.After)) == 1 })
	r.idle()
	if n := len(r.entries(audit.TrustChange)); n != 1 {
		t.Errorf("%d entries about one change", n)
	}
}
