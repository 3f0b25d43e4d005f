package githubapp_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/octo-sts/appliance/sts/ststest"
)

// deliveryWorld is a world whose App was sent n events, all lost.
func deliveryWorld(t *testing.T, n int) *world {
	w := newWorld(t)
	w.github.SetWebhook(appID, ststest.Webhook{URL: "http://127.0.0.1:9/webhook"})
	w.github.LoseDeliveries(appID, true)
	for i := range n {
		w.github.Deliver(appID, ststest.Event{Name: "push", GUID: fmt.Sprintf("guid-%04d", i), Payload: map[string]any{"action": fmt.Sprint(i)}})
		w.clock.advance(time.Second)
	}
	w.github.ResetCalls()
	return w
}

func TestDeliveries(t *testing.T) {
	t.Parallel()
	w := deliveryWorld(t, 250)
	sent := w.github.Deliveries(appID)
	for _, c := range []struct {
		name         string
		since        time.Time
		count, pages int
	}{
		{"all", time.Time{}, 250, 3},
		{"the last ten", sent[240].DeliveredAt, 10, 1},
		{"none", w.clock.now().Add(time.Hour), 0, 1},
		{"more than a page", sent[149].DeliveredAt, 101, 2},
	} {
		t.Run(c.name, func(t *testing.T) {
			w.github.ResetCalls()
			got, err := w.client.Deliveries(w.ctx, appID, c.since)
			if err != nil || len(got) != c.count {
				t.Fatalf("%d deliveries, %v; want %d", len(got), err, c.count)
			}
			if n := w.github.Calls()[ststest.DeliveriesRoute]; n != c.pages {
				t.Errorf("%d calls, want %d", n, c.pages)
			}
			for i, d := range got {
				want := sent[len(sent)-1-i]
				if d.ID != want.ID || d.GUID != want.GUID || d.Event != "push" || d.StatusCode != want.StatusCode || d.Redelivery || !d.DeliveredAt.Equal(want.DeliveredAt) {
					t.Fatalf("delivery %d is %+v, want %+v", i, d, want)
				}
			}
		})
	}
}

func TestDeliveriesDoubts(t *testing.T) {
	t.Parallel()
	w := deliveryWorld(t, 1)
	_, err := w.client.Deliveries(w.ctx, 4711, time.Time{})
	w.wants(err, "refused", "not configured")
	for name, c := range map[string]struct {
		fault ststest.Fault
		kind  string
	}{
		"no list":    {ststest.Fault{Status: 200, Body: `{"message":"x"}`}, "unavailable"},
		"no ID":      {ststest.Fault{Status: 200, Body: `[{"guid":"x","delivered_at":"2026-01-01T00:00:00Z"}]`}, "unavailable"},
		"no time":    {ststest.Fault{Status: 200, Body: `[{"guid":"x","id":1}]`}, "unavailable"},
		"cut short":  {ststest.Fault{Truncate: true}, "unavailable"},
		"no webhook": {ststest.Fault{Status: 404}, "refused"},
		"limited":    {ststest.SecondaryRateLimit(429, time.Minute), "rate limited"},
	} {
		t.Run(name, func(t *testing.T) {
			w := deliveryWorld(t, 1)
			c.fault.Route = ststest.DeliveriesRoute
			w.github.Fail(c.fault)
			_, err := w.client.Deliveries(w.ctx, appID, time.Time{})
			w.wants(err, c.kind)
		})
	}
}

// A list without end ends, and what was read of it is there.
func TestDeliveriesWithoutEnd(t *testing.T) {
	t.Parallel()
	w := deliveryWorld(t, 1)
	one := `{"guid":"x","id":1,"delivered_at":"2026-01-01T00:00:00Z"},`
	w.github.Fail(ststest.Fault{
		Route: ststest.DeliveriesRoute, Status: 200, Body: "[" + strings.TrimSuffix(strings.Repeat(one, 100), ",") + "]",
		Header: map[string]string{"Link": fmt.Sprintf(`<%s/app/hook/deliveries?per_page=100&cursor=v1_5>; rel="next"`, w.github.URL())},
	})
	got, err := w.client.Deliveries(w.ctx, appID, time.Time{})
	w.wants(err, "too large", "more than 20000")
	if len(got) != 20_000 {
		t.Errorf("%d deliveries, want those that were read", len(got))
	}
}

func TestRedeliver(t *testing.T) {
	t.Parallel()
	w := deliveryWorld(t, 1)
	first := w.github.Deliveries(appID)[0]
	if err := w.client.Redeliver(w.ctx, appID, first.ID); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the event is delivered again", func() bool {
		all := w.github.Deliveries(appID)
		return len(all) == 2 && all[1].GUID == first.GUID && all[1].Redelivery
	})
	w.wants(w.client.Redeliver(w.ctx, appID, first.ID+1000), "not found")
	w.wants(w.client.Redeliver(w.ctx, appID, 0), "refused")
	w.wants(w.client.Redeliver(w.ctx, 4711, first.ID), "refused")
	w.github.Fail(ststest.Fault{Route: ststest.RedeliverRoute, Status: 500})
	w.wants(w.client.Redeliver(w.ctx, appID, first.ID), "unavailable")
}

// GitHub's answer to each is 202, and however many of them in a row say that it is
// there.
func TestRedeliveringManyIsNoSilence(t *testing.T) {
	t.Parallel()
	w := deliveryWorld(t, 1)
	first := w.github.Deliveries(appID)[0]
	for range 30 { // three times what opens the breaker
		if err := w.client.Redeliver(w.ctx, appID, first.ID); err != nil {
			t.Fatal(err)
		}
	}
}

// All calls with an installation's tokens leave the last half of its quota to
// exchanges.
func TestCallsAreInTheBackground(t *testing.T) {
	t.Parallel()
	w, inst, sha := checkWorld(t)
	w.report(inst, checkRun(sha, "success", 0)) // a token for that is at hand
	w.github.SetRateLimit(inst.ID, 1000, 499, w.clock.now().Add(time.Hour))
	if _, err := w.read(inst); err != nil { // an exchange's: it is served, and tells of what is left
		t.Fatal(err)
	}
	w.github.ResetCalls()
	for name, call := range map[string]func() error{
		"Compare":        func() error { _, err := w.client.Compare(w.ctx, inst, "app", "main", sha); return err },
		"Directory":      func() error { _, err := w.client.Directory(w.ctx, inst, "app", policies, sha); return err },
		"FileAt":         func() error { _, err := w.client.FileAt(w.ctx, inst, "app", policyPath, sha); return err },
		"ReportCheckRun": func() error { return w.client.ReportCheckRun(w.ctx, inst, "app", checkRun(sha, "success", 0)) },
	} {
		t.Run(name, func(t *testing.T) { w.wants(call(), "rate limited", "for exchanges") })
	}
	w.calls() // none left
}
