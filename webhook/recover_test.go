package webhook

import (
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/octo-sts/appliance/sts/audit"
	"github.com/octo-sts/appliance/sts/githubapp"
	"github.com/octo-sts/appliance/sts/ststest"
)

func TestMissed(t *testing.T) {
	now := time.Now()
	attempt := func(id int64, n int, event string, status int, ago time.Duration) githubapp.Delivery {
		return githubapp.Delivery{ID: id, GUID: guid(n), Event: event, StatusCode: status, DeliveredAt: now.Add(-ago)}
	}
	again := func(id int64, n int, event string, status int, ago time.Duration) githubapp.Delivery {
		a := attempt(id, n, event, status, ago)
		a.Redelivery = true
		return a
	}
	type due struct {
		Newest int64
		In     time.Duration // from now; less than zero: it was
	}
	for name, c := range map[string]struct {
		attempts []githubapp.Delivery // newest first
		want     []due                // in order
	}{
		"delivered":                 {[]githubapp.Delivery{attempt(1, 1, "push", 202, time.Hour)}, nil},
		"not connected":             {[]githubapp.Delivery{attempt(1, 1, "push", 0, time.Hour)}, []due{{1, 30*time.Second - time.Hour}}},
		"timed out":                 {[]githubapp.Delivery{attempt(1, 1, "push", 504, time.Hour)}, []due{{1, 30*time.Second - time.Hour}}},
		"refused":                   {[]githubapp.Delivery{attempt(1, 1, "push", 401, time.Hour)}, []due{{1, 30*time.Second - time.Hour}}},
		"an event that is not used": {[]githubapp.Delivery{attempt(1, 1, "star", 502, time.Hour)}, nil},
		"under way, perhaps":        {[]githubapp.Delivery{attempt(1, 1, "push", 0, 20*time.Second)}, []due{{1, 10 * time.Second}}},
		"delivered the second time": {[]githubapp.Delivery{again(2, 1, "push", 200, time.Hour), attempt(1, 1, "push", 502, 2*time.Hour)}, nil},
		"delivered the first time":  {[]githubapp.Delivery{again(2, 1, "push", 502, time.Hour), attempt(1, 1, "push", 202, 2*time.Hour)}, nil},
		"asked for again just now":  {[]githubapp.Delivery{again(2, 1, "push", 0, 0), attempt(1, 1, "push", 502, time.Hour)}, []due{{2, 30 * time.Second}}},
		"failed five times": {append(slices.Repeat([]githubapp.Delivery{again(2, 1, "push", 502, time.Minute)}, 4),
			attempt(1, 1, "push", 502, time.Hour)), []due{{2, 9 * time.Minute}}},
		"failed seven times": {append(slices.Repeat([]githubapp.Delivery{again(2, 1, "push", 502, time.Minute)}, 6),
			attempt(1, 1, "push", 502, time.Hour)), []due{{2, 39 * time.Minute}}},
		"failed fifty times": {append(slices.Repeat([]githubapp.Delivery{again(2, 1, "push", 502, 0)}, 49),
			attempt(1, 1, "push", 502, time.Hour)), []due{{2, 4 * time.Hour}}},
		"what GitHub sent of itself is not listed": {[]githubapp.Delivery{again(2, 1, "push", 502, time.Hour)}, nil},
		"the oldest is repeated first": {[]githubapp.Delivery{again(3, 1, "push", 502, 0), attempt(2, 2, "push", 502, 0),
			attempt(1, 1, "push", 502, time.Hour)}, []due{{3, 30 * time.Second}, {2, 30 * time.Second}}},
	} {
		t.Run(name, func(t *testing.T) {
			var got []due
			for _, m := range missed(c.attempts) {
				got = append(got, due{m.newest.ID, m.due().Sub(now)})
			}
			if diff := cmp.Diff(c.want, got); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// soon is when what was just delivered is old enough to be missed.
func soon() time.Time { return time.Now().Add(recoverSettle + time.Second) }

func TestRecovery(t *testing.T) {
	r := newRig(t)
	r.run()
	eventually(t, "the first sweep", func() bool { return !r.receiver.Status().Recovery.Last.IsZero() })
	r.github.LoseDeliveries(testApp, true)
	pushed := r.github.Push("acme", "app", "main", writing(policy, unsoundPolicy))
	if status := pushed.Deliveries[0].StatusCode; status != 502 {
		t.Fatalf("the push was delivered: %d", status)
	}
	r.github.LoseDeliveries(testApp, false)
	if n, _, err := r.receiver.recoverApp(t.Context(), testApp, soon()); err != nil || n == 0 {
		t.Fatalf("%d asked for, %v", n, err)
	}
	if run := r.concluded(pushed.After); run.Conclusion != "failure" {
		t.Errorf("check run: %+v", run)
	}
	if n, _, err := r.receiver.recoverApp(t.Context(), testApp, soon()); err != nil || n != 0 {
		t.Errorf("the next time: %d asked for, %v", n, err)
	}
	if n := len(r.entries(audit.TrustChange)); n != 1 {
		t.Errorf("%d entries about one change", n)
	}
	if r.observed("push", OutcomeRedelivered) != 1 {
		t.Errorf("observed: %v", r.seen)
	}
}

// A delivery that is known is not asked for, although GitHub had no answer.
func TestRecoveryKnowsWhatIsQueued(t *testing.T) {
	r := newRig(t)
	r.github.LoseDeliveries(testApp, true)
	pushed := r.github.Push("acme", "app", "main", writing(policy, unsoundPolicy))
	id := must(parseDeliveryID(pushed.Deliveries[0].GUID))(t)
	added, err := r.receiver.enqueue(item{Delivery: id, AppID: testApp, Event: "push", Owner: "acme", Received: time.Now()})
	if !added || err != nil {
		t.Fatal(added, err)
	}
	if _, _, err := r.receiver.recoverApp(t.Context(), testApp, soon()); err != nil {
		t.Fatal(err)
	}
	if n := r.observed("push", OutcomeRedelivered); n != 0 {
		t.Errorf("asked for %d times", n)
	}
}

// However long nothing comes in, what was missed meanwhile is asked for, less and
// less often, and comes in once it can. Nothing of that is forgotten in a restart.
func TestRecoveryDoesNotGiveUp(t *testing.T) {
	r := newRig(t)
	r.github.LoseDeliveries(testApp, true)
	pushed := r.github.Push("acme", "app", "main", writing(policy, unsoundPolicy))
	attempts := func() (n int, newest time.Time) {
		for _, d := range r.github.Deliveries(testApp) {
			if d.GUID == pushed.Deliveries[0].GUID {
				n, newest = n+1, d.DeliveredAt
			}
		}
		return n, newest
	}
	sweep := func(at time.Time) int {
		t.Helper()
		asked := r.observed("push", OutcomeRedelivered)
		if _, _, err := r.receiver.recoverApp(t.Context(), testApp, at); err != nil {
			t.Fatal(err)
		}
		return r.observed("push", OutcomeRedelivered) - asked
	}
	const broken = 12
	for n := 1; n < broken; n++ {
		_, newest := attempts()
		for early := range 3 {
			if sweep(newest.Add(spacing(n)-time.Duration(early+1)*time.Second)) != 0 {
				t.Fatalf("asked again too early after %d attempts", n)
			}
		}
		due := newest.Add(spacing(n) + time.Second)
		if sweep(due) != 1 || sweep(due.Add(time.Second)) != 0 {
			t.Fatalf("not asked for once after %d attempts", n)
		}
		eventually(t, "GitHub tried again", func() bool { made, _ := attempts(); return made == n+1 })
		r.reopen()
	}
	r.github.LoseDeliveries(testApp, false)
	r.run()
	eventually(t, "the first sweep", func() bool { return !r.receiver.Status().Recovery.Last.IsZero() })
	_, newest := attempts()
	at := newest.Add(spacing(broken) + time.Second)
	if sweep(at) != 1 {
		t.Fatal("not asked for after the path was mended")
	}
	if run := r.concluded(pushed.After); run.Conclusion != "failure" {
		t.Errorf("check run: %+v", run)
	}
	if sweep(at.Add(lastSpacing)) != 0 {
		t.Error("asked for what came")
	}
	if to := must(r.receiver.store.recovered(testApp))(t); !to.Equal(at.Add(lastSpacing)) {
		t.Errorf("complete up to %s", to)
	}
}

// What GitHub does not send again is not asked for at each sweep.
func TestRecoveryOfWhatGitHubRefuses(t *testing.T) {
	r := newRig(t)
	r.github.LoseDeliveries(testApp, true)
	r.github.Push("acme", "app", "main", writing(policy, unsoundPolicy))
	fault := r.github.Fail(ststest.Fault{Status: 422, Match: func(req *http.Request) bool { return strings.HasSuffix(req.URL.Path, "/attempts") }})
	now := soon()
	refused := func(at time.Time) int {
		t.Helper()
		before := r.logs.FilterMessageSnippet("does not send a missed delivery again").Len()
		if _, _, err := r.receiver.recoverApp(t.Context(), testApp, at); err != nil {
			t.Fatal(err)
		}
		return r.logs.FilterMessageSnippet("does not send a missed delivery again").Len() - before
	}
	missing := refused(now)
	if missing == 0 || refused(now.Add(recoverInterval)) != 0 || refused(now.Add(lastSpacing)) != missing {
		t.Errorf("asked for %d, and not once more after %s", missing, lastSpacing)
	}
	fault.Clear()
}

// A clock that was wrong must not hide what was missed.
func TestRecoveryAfterAClockThatWasAhead(t *testing.T) {
	r := newRig(t)
	r.github.LoseDeliveries(testApp, true)
	r.github.Push("acme", "app", "main", writing(policy, unsoundPolicy))
	if err := r.receiver.store.setRecovered(testApp, time.Now().Add(24*time.Hour)); err != nil {
		t.Fatal(err)
	}
	if _, _, err := r.receiver.recoverApp(t.Context(), testApp, soon()); err != nil {
		t.Fatal(err)
	}
	if n := r.observed("push", OutcomeRedelivered); n != 1 {
		t.Errorf("asked for %d times", n)
	}
}

func TestRecoveryGoesOnWhereItWas(t *testing.T) {
	r := newRig(t)
	now := time.Now().Truncate(time.Second)
	if n, _, err := r.receiver.recoverApp(t.Context(), testApp, now); err != nil || n != 0 {
		t.Fatal(n, err)
	}
	r.reopen()
	if at := must(r.receiver.store.recovered(testApp))(t); !at.Equal(now) {
		t.Errorf("complete up to %s, want %s", at, now)
	}
	// A sweep that GitHub does not answer, or not to the end, moves nothing.
	r.github.LoseDeliveries(testApp, true)
	r.github.Push("acme", "app", "main", writing(policy, unsoundPolicy))
	r.github.LoseDeliveries(testApp, false)
	for _, path := range []string{"/app/hook/deliveries", "/attempts"} {
		fault := r.github.Fail(ststest.Fault{Status: 503, Match: func(req *http.Request) bool { return strings.HasSuffix(req.URL.Path, path) }})
		if _, _, err := r.receiver.recoverApp(t.Context(), testApp, soon()); err == nil {
			t.Errorf("%s: no error", path)
		}
		if at := must(r.receiver.store.recovered(testApp))(t); !at.Equal(now) {
			t.Errorf("%s: complete up to %s, want %s", path, at, now)
		}
		fault.Clear()
	}
	r.github.Close()
	r.receiver.recoverAll(t.Context())
	if status := r.receiver.Status().Recovery; status.Error == "" || status.Last.IsZero() {
		t.Errorf("without GitHub: %+v", status)
	}
}

// What GitHub cannot be asked at a start is asked some seconds later, not at the
// next sweep.
func TestRecoveryIsTriedAgainSoon(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	fault := r.github.Fail(ststest.Fault{Route: ststest.DeliveriesRoute, Status: 503})
	stop := r.run()
	defer stop()
	eventually(t, "GitHub was asked", func() bool { return fault.Hits() > 0 })
	fault.Clear()
	eventually(t, "GitHub was asked again", func() bool {
		s := r.receiver.Status().Recovery
		return !s.Last.IsZero() && s.Error == ""
	})
}
