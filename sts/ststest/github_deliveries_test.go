package ststest

import (
	"fmt"
	"net/http"
	"testing"
	"time"
)

type listed struct {
	ID         int64
	GUID       string
	Event      string
	Action     *string
	Redelivery bool
	StatusCode int    `json:"status_code"`
	Delivered  string `json:"delivered_at"`
	Repository *int64 `json:"repository_id"`
}

func TestDeliveriesArePagedNewestFirst(t *testing.T) {
	f, _ := hooked(t)
	var want []int64
	for range 130 {
		want = append(want, f.Deliver(testApp, Event{Name: "ping", Payload: map[string]any{}}).ID)
	}
	want = append([]int64{f.Deliveries(testApp)[0].ID}, want...) // of the fixture's own
	want = want[len(want)-131:]
	var got []listed
	pages, url := 0, "/app/hook/deliveries?per_page=1000" // at most 100
	for ; url != "" && pages < 10; pages++ {
		r := f.do("GET", url, f.jwt(), "")
		var part []listed
		unmarshal(t, r.body, &part)
		if pages == 0 && len(part) != 100 {
			t.Errorf("a page of %d", len(part))
		}
		got = append(got, part...)
		// What comes meanwhile moves no page.
		f.Deliver(testApp, Event{Name: "ping", Payload: map[string]any{}})
		url = next(r.Header.Get("Link"))
	}
	if pages != 2 || len(got) < 130 {
		t.Fatalf("%d pages, %d deliveries", pages, len(got))
	}
	for i := 1; i < len(got); i++ {
		if got[i].ID >= got[i-1].ID {
			t.Fatalf("delivery %d comes after %d", got[i].ID, got[i-1].ID)
		}
	}
	if got[0].ID != want[130] || got[129].ID != want[1] {
		t.Errorf("from %d to %d, want %d to %d", got[0].ID, got[129].ID, want[130], want[1])
	}
	if r := f.do("GET", "/app/hook/deliveries", f.jwt(), ""); len(next(r.Header.Get("Link"))) == 0 {
		t.Error("30 a page where per_page does not say: there is no next page")
	}
	if r := f.do("GET", "/app/hook/deliveries", f.mint(""), ""); r.StatusCode != 401 {
		t.Errorf("with an installation token: %s", r.Status)
	}
}

// A delivery that failed is repeated under its GUID, with the same bytes.
func TestRedelivery(t *testing.T) {
	f, rec := hooked(t)
	rec.answer(http.StatusInternalServerError)
	failed := f.Push("acme", "one", "main", []Change{{Path: "a"}}).Deliveries[0]
	first := rec.all()[0]
	if failed.StatusCode != 500 || failed.Redelivery {
		t.Fatalf("record %+v", failed)
	}
	rec.answer(http.StatusAccepted)
	if r := f.do("POST", fmt.Sprintf("/app/hook/deliveries/%d/attempts", failed.ID), f.jwt(), ""); r.StatusCode != 202 {
		t.Fatalf("asking for it again: %s %s", r.Status, r.body)
	}
	var again []received
	for deadline := time.Now().Add(10 * time.Second); len(again) == 0 && time.Now().Before(deadline); time.Sleep(time.Millisecond) {
		again = rec.all()
	}
	if len(again) != 1 || again[0].header.Get("X-GitHub-Delivery") != failed.GUID || string(again[0].body) != string(first.body) ||
		again[0].header.Get("X-Hub-Signature-256") != first.header.Get("X-Hub-Signature-256") {
		t.Fatalf("again: %+v", again)
	}
	third := f.Redeliver(testApp, failed.ID)
	if third.GUID != failed.GUID || third.ID == failed.ID || !third.Redelivery || third.StatusCode != 202 {
		t.Errorf("Redeliver: %+v", third)
	}
	var v struct {
		listed
		Request struct {
			Headers map[string]string
			Payload struct{ Ref string }
		}
		Response struct{ Payload string }
	}
	unmarshal(t, f.do("GET", fmt.Sprintf("/app/hook/deliveries/%d", third.ID), f.jwt(), "").body, &v)
	if v.GUID != failed.GUID || !v.Redelivery || v.Event != "push" || v.Action != nil || v.StatusCode != 202 || v.Repository == nil ||
		v.Request.Headers["X-Github-Event"] != "push" || v.Request.Payload.Ref != "refs/heads/main" || v.Response.Payload != "noted" {
		t.Errorf("the delivery: %+v", v)
	}
	// Another App's deliveries are not found.
	const second = 99
	f.AddApp(second, &testKey.PublicKey, nil)
	jwt, _, err := AppJWT(testKey, second, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	if r := f.do("POST", fmt.Sprintf("/app/hook/deliveries/%d/attempts", failed.ID), jwt, ""); r.StatusCode != 404 {
		t.Errorf("another App: %s", r.Status)
	}
	if r := f.do("GET", "/app/hook/deliveries", jwt, ""); string(r.body) != "[]" {
		t.Errorf("another App's list: %s", r.body)
	}
}

func TestLostDeliveries(t *testing.T) {
	f, rec := hooked(t)
	rec.all()
	f.LoseDeliveries(testApp, true)
	d := f.Push("acme", "one", "main", []Change{{Path: "a"}}).Deliveries[0]
	if got := rec.all(); len(got) != 0 || d.StatusCode != 502 || d.Error == "" {
		t.Errorf("lost: received %s, record %+v", names(got), d)
	}
	f.LoseDeliveries(testApp, false)
	if d = f.Redeliver(testApp, d.ID); d.StatusCode != 202 || names(rec.all()) != "push" {
		t.Errorf("again: %+v", d)
	}
	rec.Close()
	if d = f.Redeliver(testApp, d.ID); d.StatusCode != 502 || d.Error == "" {
		t.Errorf("nobody listens: %+v", d)
	}
	// Failures can be listed alone.
	var failures []listed
	unmarshal(t, f.do("GET", "/app/hook/deliveries?status=failure&per_page=100", f.jwt(), "").body, &failures)
	if len(failures) != 3 { // push and check_suite lost, and the last
		t.Errorf("%d failures", len(failures))
	}
}

// The world goes on while a receiver does not answer.
func TestNoLockIsHeldWhileDelivering(t *testing.T) {
	f, rec := hooked(t)
	rec.mu.Lock()
	rec.hold = make(chan struct{})
	rec.mu.Unlock()
	done := make(chan Pushed)
	go func() { done <- f.Push("acme", "one", "main", []Change{{Path: "a", Content: "pushed"}}) }()
	for deadline := time.Now().Add(10 * time.Second); len(rec.all()) == 0; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("nothing was delivered")
		}
	}
	// The receiver itself may call the API meanwhile, and see what was pushed.
	r := f.do("GET", "/repos/acme/one/contents/a", f.mint(""), "", "Accept", "application/vnd.github.raw")
	if string(r.body) != "pushed" {
		t.Errorf("during the delivery: %s %s", r.Status, r.body)
	}
	f.PutFile("acme", "one", "b", "1")
	close(rec.hold)
	if p := <-done; p.Deliveries[0].StatusCode != 202 {
		t.Errorf("%+v", p)
	}
}

func TestAppRateLimit(t *testing.T) {
	f, _ := hooked(t)
	f.SetAppRateLimit(testApp, 5000, 1, f.now().Add(time.Hour))
	r := f.do("GET", "/app/hook/deliveries", f.jwt(), "")
	if r.StatusCode != 200 || r.Header.Get("X-RateLimit-Remaining") != "0" || r.Header.Get("X-RateLimit-Limit") != "5000" {
		t.Errorf("the last call: %s %v", r.Status, r.Header)
	}
	if r := f.do("GET", "/app", f.jwt(), ""); r.StatusCode != 403 || r.Header.Get("X-RateLimit-Reset") == "" {
		t.Errorf("beyond: %s %v", r.Status, r.Header)
	}
}

func TestDeliveryTimesOut(t *testing.T) {
	f, rec := hooked(t)
	rec.mu.Lock()
	rec.hold = make(chan struct{})
	rec.mu.Unlock()
	defer close(rec.hold)
	impatient := newClient(nil)
	impatient.Timeout = 50 * time.Millisecond // GitHub's 10 s are too long for a test
	f.SetWebhook(testApp, Webhook{URL: rec.URL, Client: impatient})
	if d := f.Deliver(testApp, Event{Name: "ping", Payload: []byte("{}")}); d.StatusCode != 504 || d.Error == "" {
		t.Errorf("%+v", d)
	}
}

func TestOldDeliveriesAreForgotten(t *testing.T) {
	f, _ := hooked(t)
	f.LoseDeliveries(testApp, true)
	var last DeliveryRecord
	for range maxDeliveries + 5 {
		last = f.Deliver(testApp, Event{Name: "ping", Payload: []byte("{}")})
	}
	if all := f.Deliveries(testApp); len(all) != maxDeliveries || all[len(all)-1].ID != last.ID {
		t.Errorf("%d are kept", len(all))
	}
}
